"""Fields of OpenAI's that clients send beside their question: without effect, or refused by name, and read at once."""

from __future__ import annotations

from typing import Any

import pytest

from semievol.types import Message
from semievold.gateway.dialect.chat import ChatDialect
from semievold.gateway.dialect.fields import ClientMistake
from semievold.gateway.dialect.messages import messages_of
from semievold.gateway.dialect.responses import ResponseDialect

UNSUPPORTED = "unsupported_parameter"


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
@pytest.mark.parametrize("name", ["Ann", "", None])
def test_the_name_of_a_speaker_is_taken_and_says_nothing(role: str, name: str | None) -> None:
    (turn,) = messages_of([{"role": role, "content": "hello", "name": name}])
    assert turn == Message("system" if role == "developer" else role, "hello")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [7, ["Ann"], {}, True])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(ClientMistake) as refused:
        messages_of([{"role": "user", "content": "hello", "name": name}])
    assert (refused.value.param, refused.value.code) == ("messages[0].name", "invalid_value")


@pytest.mark.parametrize(
    "taken",
    [
        {"prompt_cache_retention": "in_memory"},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"stream": True, "stream_options": None},
        {"text": {"verbosity": "medium"}},
        {"text": {"format": {"type": "text"}, "verbosity": None}},
        {"context_management": []},
    ],
    ids=str,
)
def test_what_changes_no_answer_is_taken_by_responses(taken: dict[str, Any]) -> None:
    ResponseDialect({"input": "hello", **taken}, None)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt_cache_retention": "for ever"}, "prompt_cache_retention", UNSUPPORTED),
        ({"prompt_cache_retention": 24}, "prompt_cache_retention", UNSUPPORTED),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": 1}, "stream_options", "invalid_value"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            UNSUPPORTED,
        ),
        (
            {"stream": True, "stream_options": {"include_obfuscation": "no"}},
            "stream_options.include_obfuscation",
            "invalid_value",
        ),
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage", None),
        ({"text": {"verbosity": "low"}}, "text.verbosity", UNSUPPORTED),
        ({"text": {"verbosity": ["low"]}}, "text.verbosity", UNSUPPORTED),
        ({"text": {"form": {}}}, "text.form", "unknown_parameter"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", UNSUPPORTED),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_responses(body: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(ClientMistake) as refused:
        ResponseDialect({"input": "hello", **body}, None)
    assert (refused.value.param, refused.value.code) == (param, code or "unknown_parameter")


def test_the_usage_of_a_chat_stream_is_still_asked_for() -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "stream_options": options}
    assert ChatDialect(body, None)._asked.include_usage
