"""OpenAI's dialect over the generator in this process, by plain HTTP: honoured or refused by name, never ignored."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from semievol.config.method import ModelConfig
from semievol.engines.local import LocalGenerator
from semievold.gateway.local import LocalBackend
from tests.openai_double import ALIAS, GATEWAY_TOKEN, Front, events, front
from tests.tiny_model import make_tiny_model

pytest.importorskip("torch")

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SAID = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("dialect") / "model", positions=512)


@asynccontextmanager
async def gateway(model: Path, **settings: Any) -> AsyncIterator[Front]:
    generator = LocalGenerator(ModelConfig(name=str(model), dtype="float32", device="cpu"), threads=1)
    try:
        async with front([], {}, answering=LocalBackend(generator), **settings) as it:
            it.move_to_base()
            yield it
    finally:
        await generator.close()


@pytest.fixture
async def it(model: Path) -> AsyncIterator[Front]:
    async with gateway(model) as made:
        yield made


async def asked(it: Front, path: str = CHAT, **body: Any) -> dict[str, Any]:
    async with it.session.post(it.url + path, json={"model": ALIAS, **body}) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
    assert answer["model"] == ALIAS
    return answer


async def chat(it: Front, **body: Any) -> dict[str, Any]:
    return await asked(it, **{"messages": SAID, "max_tokens": 12, "seed": 1, **body})


async def refused(it: Front, path: str = CHAT, **body: Any) -> dict[str, Any]:
    async with it.session.post(it.url + path, json={"model": ALIAS, **body}) as response:
        assert response.status == 400, await response.text()
        found: dict[str, Any] = (await response.json())["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["type"] == "invalid_request_error"
    return found


async def test_what_is_asked_of_the_drawing_changes_the_answer(it: Front) -> None:
    free = (await chat(it))["choices"][0]["message"]["content"]
    assert free == (await chat(it))["choices"][0]["message"]["content"], "a seed repeats itself"
    for change in (
        {"seed": -1},
        {"top_p": 0.01},
        {"top_k": 1},
        {"logit_bias": {"70": 100}},
        {"presence_penalty": 2.0, "temperature": 0.1},
        {"stop": free[4:6]},
        {"structured_outputs": {"choice": ["red", "blue"]}},
    ):
        assert (await chat(it, **change))["choices"][0]["message"]["content"] != free, change
    cut = (await chat(it, stop=[free[4:6]]))["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == (free[: free.find(free[4:6])], "stop")


async def test_log_probabilities_name_tokens_by_text_and_bytes(it: Front) -> None:
    choice = (await chat(it, logprobs=True, top_logprobs=2, temperature=0))["choices"][0]
    told = choice["logprobs"]["content"]
    assert b"".join(bytes(each["bytes"]) for each in told).decode(errors="replace") == choice["message"]["content"]
    assert all(set(each) == {"token", "logprob", "bytes", "top_logprobs"} for each in told)
    assert all(len(each["top_logprobs"]) == 2 for each in told)
    assert (await chat(it))["choices"][0]["logprobs"] is None


async def test_a_schema_is_held_to_in_chat_and_in_responses(it: Front) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = await chat(it, response_format=form, max_tokens=60)
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"ok"}
    text = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
    answer = await asked(it, RESPONSES, input="hello", text=text, max_output_tokens=60)
    assert set(json.loads(answer["output"][0]["content"][0]["text"])) == {"ok"}


REFUSALS: list[tuple[dict[str, Any], str | None]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"guided_json": {}}, "guided_json"),
    ({"logits_processors": ["x"]}, "logits_processors"),
    ({"best_of": 2}, "best_of"),
    ({"repetition_penalty": 1.1}, "repetition_penalty"),
    ({"temprature": 0}, "temprature"),
    ({"temperature": "0.5"}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"stop": ""}, "stop[0]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"seed": 2**64}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"n": 2, "temperature": 0}, "n"),
    ({"n": 100}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"chunks": 1}}, "stream_options.chunks"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}},
        "response_format",
    ),
    ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "critic", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": "x", "name": 7}]}, "messages[0].name"),
    ({"messages": [{"role": "user", "content": "x", "nome": "Ann"}]}, "messages[0].nome"),
    ({"prompt_cache_retention": "for ever"}, "prompt_cache_retention"),
    ({"verbosity": "low"}, "verbosity"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0]",
    ),
]


async def test_what_cannot_be_honoured_is_refused_by_name(it: Front) -> None:
    for body, param in REFUSALS:
        found = await refused(it, **{"messages": SAID, "max_tokens": 4, **body})
        assert found["param"] == param, (body, found)
        assert param is None or found["message"].startswith(f"{param}: ")


async def test_a_prompt_beyond_the_context_has_openais_code(it: Front) -> None:
    for path, body, field in (
        (CHAT, {"messages": SAID, "max_tokens": 510}, "messages"),
        (COMPLETIONS, {"prompt": "hello", "max_tokens": 510}, "prompt"),
        (RESPONSES, {"input": "hello", "max_output_tokens": 510}, "input"),
    ):
        found = await refused(it, path, **body)
        assert (found["code"], found["param"]) == ("context_length_exceeded", field)
        assert found["message"].startswith("This model's maximum context length is exceeded: ")


async def test_a_mistake_has_one_code_whoever_finds_it(it: Front) -> None:
    for body in ({"n": 0}, {"temperature": 9}, {"stream": "true"}, {"logit_bias": {"99999": 1}}, {"seed": 2**64}):
        assert (await refused(it, **{"messages": SAID, "max_tokens": 4, **body}))["code"] == "invalid_value", body


async def test_what_says_nothing_is_taken(it: Front) -> None:
    await chat(
        it,
        tools=[],
        tool_choice="none",
        parallel_tool_calls=True,
        modalities=["text"],
        user="ann",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        prompt_cache_retention="24h",
        verbosity="medium",
        stop=None,
        logit_bias=None,
        response_format={"type": "text"},
        n=None,
    )


async def test_turns_in_every_form_that_clients_write(it: Front) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "developer", "content": "be brief", "name": "house"},
        {"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "text", "text": "now"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "audio": None, "name": "helper"},
        {"role": "tool", "tool_call_id": "c1", "content": "7", "name": "f"},
        {"role": "user", "content": "and?", "name": "Ann"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "go on"},
    ]
    assert (await chat(it, messages=turns))["choices"][0]["message"]["role"] == "assistant"


async def test_completions_go_on_from_texts_and_tokens_and_count_them(it: Front) -> None:
    answer = await asked(it, COMPLETIONS, prompt=["ab", "abc"], n=2, max_tokens=4, logprobs=2, seed=-3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == sum(len(c["logprobs"]["tokens"]) for c in answer["choices"])
    ids = [6 + number for number in (1, 2, 3)]
    same = [await asked(it, COMPLETIONS, prompt=prompt, max_tokens=4, temperature=0) for prompt in (ids, [ids])]
    assert same[0]["choices"][0]["text"] == same[1]["choices"][0]["text"]
    for wrong, param in (({"echo": True}, "echo"), ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of")):
        assert (await refused(it, COMPLETIONS, prompt="a", **wrong))["param"] == param
    for prompt in ("", [], [""], [[]], [1.5], None, [10**6]):
        assert (await refused(it, COMPLETIONS, prompt=prompt))["param"] == "prompt"


async def test_responses_take_text_and_refuse_what_needs_memory_or_tools(it: Front) -> None:
    given = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    ]
    first = await asked(it, RESPONSES, input=given, instructions="answer", max_output_tokens=6, metadata={"k": "v"})
    assert first["status"] in ("completed", "incomplete")
    assert first["usage"]["total_tokens"] == first["usage"]["input_tokens"] + first["usage"]["output_tokens"]
    await asked(it, RESPONSES, input=[*given, *first["output"], {"role": "user", "content": "more"}])
    for wrong in (
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"store": True},
        {"conversation": "c"},
        {"tools": [{"type": "web_search"}]},
        {"reasoning": {"effort": "low"}},
        {"truncation": "auto"},
        {"include": ["file_search_call.results"]},
        {"prompt": {"id": "p"}},
    ):
        assert (await refused(it, RESPONSES, input="hello", **wrong))["param"].startswith(next(iter(wrong)))


async def test_streams_have_the_events_of_their_dialect(it: Front) -> None:
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    async with it.ask(messages=SAID, max_tokens=4, **usage) as response:
        found = events(await response.read())
    assert found.pop() == "[DONE]"
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] > 0
    async with it.session.post(
        it.url + COMPLETIONS, json={"model": ALIAS, "prompt": "ab", "max_tokens": 4, **usage}
    ) as response:
        found = events(await response.read())
    assert [each["object"] for each in found[:-1]] == ["text_completion"] * 2
    async with it.session.post(it.url + RESPONSES, json={"model": ALIAS, "input": "hello", "stream": True}) as response:
        lines = (await response.text()).split("\n\n")
    parts = [dict(line.split(": ", 1) for line in event.split("\n")) for event in lines if event]
    data = [json.loads(part["data"]) for part in parts]
    assert [part["event"] for part in parts] == [each["type"] for each in data]
    assert data[0]["type"] == "response.created"
    assert data[-1]["type"] in ("response.completed", "response.incomplete")
    assert [each["sequence_number"] for each in data] == list(range(len(data)))
    assert (
        "".join(each["delta"] for each in data if each["type"] == "response.output_text.delta")
        == (data[-1]["response"]["output"][0]["content"][0]["text"])
    )


async def test_no_two_requests_have_one_id(it: Front) -> None:
    ids = set()
    for _ in range(600):  # random bytes are fetched for 256 at a time
        async with it.session.get(f"{it.url}/healthz") as response:
            ids.add(response.headers["x-request-id"])
    assert len(ids) == 600
    assert {len(each) for each in ids} == {36}


async def test_models_request_ids_and_the_scheme_in_any_case(it: Front) -> None:
    async with it.session.get(f"{it.url}/v1/models/{ALIAS}") as response:
        model = await response.json()
        assert response.headers["x-request-id"].startswith("req_")
    assert (model["id"], model["object"]) == (ALIAS, "model")
    assert model["created"] > 1_700_000_000
    async with it.session.get(f"{it.url}/v1/models/other/one") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, "model_not_found")
    for given, kept in (("abc-1:2", True), ("a b", False), ("x" * 200, False), ("ä", False)):
        headers = {"x-request-id": given, "Authorization": f"bearer {GATEWAY_TOKEN}"}
        async with it.session.get(f"{it.url}/v1/models", headers=headers) as response:
            assert response.status == 200
            assert (response.headers["x-request-id"] == given) is kept


async def test_every_error_has_the_one_shape(it: Front) -> None:
    body = {"model": ALIAS, "messages": SAID}
    for method, path, status, extra in (
        ("GET", "/v1/nothing", 404, {}),
        ("GET", CHAT, 405, {}),
        ("DELETE", "/v1/models", 405, {}),
        ("POST", CHAT, 401, {"headers": {"Authorization": "Bearer wrong"}, "json": body}),
        ("POST", CHAT, 401, {"headers": {"Authorization": f"Basic {GATEWAY_TOKEN}"}, "json": body}),
        ("POST", CHAT, 413, {"data": io.BytesIO(b" " * 2_000_000), "headers": {"Content-Type": "application/json"}}),
        ("POST", CHAT, 415, {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
        ("POST", CHAT, 400, {"data": b"{", "headers": {"Content-Type": "application/json"}}),
        ("POST", CHAT, 404, {"json": {**body, "model": "other"}}),
        ("POST", "/v1/embeddings", 404, {"json": {"model": ALIAS, "input": "x"}}),
    ):
        async with it.session.request(method, it.url + path, **extra) as response:
            assert response.status == status, (method, path, await response.text())
            assert set((await response.json())["error"]) == {"message", "type", "param", "code"}
            assert "x-request-id" in response.headers
            if status == 405:
                assert response.headers["Allow"]


async def test_browsers_of_named_origins_may_ask_and_no_others(model: Path) -> None:
    async with gateway(model, cors_origins=("https://app.example.org",)) as it:
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-a,b d"}
        for origin, status in (("https://app.example.org", 204), ("https://evil.example.org", 401)):
            headers = {"Origin": origin, "Authorization": "", **asking}
            async with it.session.options(it.url + CHAT, headers=headers) as response:
                assert response.status == status
                assert response.headers.get("Access-Control-Allow-Origin") == (origin if status == 204 else None)
                if status == 204:
                    assert response.headers["Access-Control-Allow-Headers"] == "authorization, x-a"
        headers = {"Origin": "https://app.example.org"}
        async with it.session.get(f"{it.url}/v1/models", headers=headers) as response:
            assert response.headers["Access-Control-Allow-Origin"] == headers["Origin"]
            assert "x-request-id" in response.headers["Access-Control-Expose-Headers"]
        # curl expects an invitation before every larger body
        for changed, status in (({}, 200), ({"Authorization": ""}, 401), ({"Expect": "a-miracle"}, 417)):
            sent = {**headers, "Expect": "100-continue", "x-request-id": "abc", **changed}
            body = {"model": ALIAS, "messages": SAID, "max_tokens": 2}
            async with it.session.post(it.url + CHAT, headers=sent, json=body) as response:
                assert response.status == status
                assert response.headers["x-request-id"] == "abc"
                assert response.headers["Access-Control-Allow-Origin"] == headers["Origin"]
    async with gateway(model) as it, it.session.get(f"{it.url}/v1/models", headers=headers) as response:
        assert "Access-Control-Allow-Origin" not in response.headers
