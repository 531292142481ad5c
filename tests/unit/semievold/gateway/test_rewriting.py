import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievold.gateway.call import presentable
from semievold.gateway.rewriting import (
    MAX_EVENT_BYTES,
    StreamRewriter,
    StreamText,
    answer_id,
    begins_with_error,
    quoted,
    replace_model,
    text_of,
)

ALIAS = 'ali"as\\é'
NAME = quoted(ALIAS)

TEXT = st.text(st.characters(exclude_categories=("Cs",))) | st.sampled_from(
    ['"model":"x"', '\\"model\\": \\"x\\"', "\n\ndata: x", "data: ", '{"model"', "[DONE]", "é\u2028\x85", "\\", '"']
)
KEYS = TEXT | st.sampled_from(["model", "id", "object", "choices", "usage", "mod\\u0065l", "Model", "error"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
LAYOUTS = st.sampled_from([{"separators": (",", ":")}, {}, {"ensure_ascii": False}])


def expected(value: Any) -> Any:
    return {**value, "model": ALIAS} if isinstance(value.get("model"), str) else value


@given(OBJECTS, st.dictionaries(st.just("model"), TEXT), OBJECTS, LAYOUTS | st.just({"indent": 2}))
def test_only_the_top_level_model_changes(before: Any, model: Any, after: Any, layout: Any) -> None:
    value = {**before, **model, **after}
    document = json.dumps(value, **layout).encode()
    assert json.loads(replace_model(document, NAME)) == expected(value)


@given(st.binary() | st.text().map(str.encode))
def test_what_is_no_object_with_a_model_stays_byte_by_byte(document: bytes) -> None:
    assert b'"model"' in document or replace_model(document, NAME) == document


def test_an_ordinary_answer_is_cut_and_not_parsed_so_that_every_other_byte_stays() -> None:
    document = b'{"id": "chatcmpl-1" ,"created":1.50e3, "model" : "v1\\"", "x": 1e5, "nested": {"model": "v1"}}'
    assert replace_model(document, b'"a"') == document.replace(b'"v1\\""', b'"a"', 1)


@given(
    st.lists(OBJECTS.filter(lambda value: "error" not in value), max_size=6),
    LAYOUTS,
    st.sampled_from([b"\n\n", b"\r\n\r\n"]),
    st.sampled_from([b"data: ", b"data:"]),
    st.booleans(),
    st.data(),
)
def test_a_stream_is_rewritten_alike_however_it_is_cut(
    values: list[Any], layout: Any, end: bytes, prefix: bytes, closed: bool, data: st.DataObject
) -> None:
    payloads = [json.dumps(value, **layout).encode() for value in values] + [b"[DONE]"]
    stream = b": a comment" + end + end.join(prefix + payload for payload in payloads) + (end if closed else b"")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    rewriter = StreamRewriter(NAME, lambda payload: payload)
    pieces = [rewriter.feed(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert all(piece == b"" or piece.endswith(b"\n") for piece in pieces)  # whole events alone
    lines = (b"".join(pieces) + rewriter.end()).replace(b"\r\n", b"\n").split(b"\n\n")
    found = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
    assert found.pop() == b"[DONE]"
    assert [json.loads(payload) for payload in found] == [expected(value) for value in values]


def test_an_event_that_never_ends_is_an_error_and_not_a_full_memory() -> None:
    rewriter = StreamRewriter(NAME, lambda payload: payload)
    assert rewriter.feed(b"x" * MAX_EVENT_BYTES) == b""
    with pytest.raises(ValueError, match="does not end"):
        rewriter.feed(b"x")


@pytest.mark.parametrize(("status", "name"), [("completed", "completed"), ("incomplete", "incomplete")])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_response_that_was_cut_short_ends_in_openais_words(status: str, name: str, size: int) -> None:
    said = {"type": "response.completed", "response": {"status": status, "model": "w-r0001", "output": []}}
    before = b'event: response.created\ndata: {"type": "response.created"}\n\n'
    stream = before + b"event: response.completed\ndata: " + json.dumps(said).encode() + b"\n\ndata: [DONE]\n\n"
    rewriter = StreamRewriter(NAME, lambda error: error)
    came = (
        b"".join(rewriter.feed(stream[start : start + size]) for start in range(0, len(stream), size)) + rewriter.end()
    )
    first, last, done, _ = came.split(b"\n\n")
    assert first == before.strip()
    assert done == b"data: [DONE]"
    event, data = last.split(b"\n")
    assert event == f"event: response.{name}".encode()
    told = json.loads(data.removeprefix(b"data: "))
    assert told == {"type": f"response.{name}", "response": {**said["response"], "model": ALIAS}}  # type: ignore[dict-item]


def test_the_answers_id_is_read_where_servers_put_it() -> None:
    assert answer_id(b'{"id":"chatcmpl-1f","model":"m"}') == "chatcmpl-1f"
    assert answer_id(b'data: {"id": "chatcmpl-2", "choices": []}\n\n') == "chatcmpl-2"
    assert answer_id(b'{"object":"x","id":"chatcmpl-1"}') is None
    assert answer_id(b'{"id":"bad\\nid"}') is None


def test_a_stream_that_begins_with_an_error_is_recognised() -> None:
    assert begins_with_error(b'data: {"error": {"message": "x"}}\n\n')
    assert not begins_with_error(b'data: {"id": "1", "error": null}\n\n')


def test_addresses_and_paths_are_taken_out_of_messages() -> None:
    text = "at http://10.0.0.1:8000/v1 and localhost:8000 or 10.0.0.2, file '/srv/models/x.bin', ~/secret/y, either/or"
    shown = presentable(text)
    assert shown == "at [address] and [address] or [address], file '[path]', [path], either/or"
    assert len(presentable("x" * 10_000)) == 2_000


def told(*deltas: object, done: bool = True, index: int = 0) -> bytes:
    lines = [{"choices": [{"index": index, "delta": delta}]} for delta in deltas]
    body = b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines)
    return body + (b'data: {"choices": [], "usage": {}}\n\ndata: [DONE]\n\n' if done else b"")


@pytest.mark.parametrize(
    ("events", "text"),
    [
        (told({"role": "assistant", "content": ""}, {"content": "re"}, {"content": "d"}, {}), "red"),
        (told({"content": "re"}, {"content": "d"}, done=False), None),
        (told({"content": "red"}, done=False) + told({"content": "blue"}, index=1), None),
        (told({"content": "red"}, done=False) + b'data: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n', None),
        (b"", None),
    ],
    ids=["whole", "broken off", "two choices", "an error", "nothing"],
)
def test_a_streams_text_is_known_when_it_came_to_its_end_as_one(events: bytes, text: str | None) -> None:
    said = StreamText()
    for event in events.split(b"\n\n"):
        said.feed(event + b"\n\n")
    assert said.text() == text


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ([{"index": 0, "message": {"content": "red"}}], "red"),
        ([{"index": 0, "message": {"content": None, "tool_calls": []}}], None),
        ([{"index": 0, "message": {"content": "a"}}, {"index": 1, "message": {"content": "b"}}], None),
        ([], None),
        ("x", None),
    ],
)
def test_an_answers_text_is_that_of_its_only_choice(choices: object, text: str | None) -> None:
    assert text_of(json.dumps({"id": "x", "choices": choices}).encode()) == text
    assert text_of(b"[") is None
