"""What a field is made of is checked before an engine is asked: vLLM reads `true` as 1, or fails with 500."""

from __future__ import annotations

from typing import Any

import pytest

from semievold.gateway.call import CHAT, COMPLETIONS, RESPONSES
from semievold.gateway.dialect.fields import ClientMistake
from semievold.gateway.dialect.kinds import check_kinds

UNSUPPORTED, UNKNOWN = "unsupported_parameter", "unknown_parameter"


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        *((CHAT, {name: True}, name, "invalid_value") for name in ("temperature", "top_p", "seed", "top_k", "min_p")),
        *((CHAT, {name: "1"}, name, "invalid_value") for name in ("temperature", "presence_penalty", "top_logprobs")),
        *((CHAT, {name: "x"}, name, "invalid_value") for name in ("structured_outputs", "metadata", "response_format")),
        *((CHAT, {"messages": value}, "messages", "invalid_value") for value in (-1, "x", True, [None], {})),
        (RESPONSES, {"tools": 1}, "tools", "invalid_value"),
        (RESPONSES, {"instructions": 1}, "instructions", "invalid_value"),
        (CHAT, {"seed": 1.0}, "seed", "invalid_value"),
        (CHAT, {"logprobs": 2}, "logprobs", "invalid_value"),
        (COMPLETIONS, {"logprobs": True}, "logprobs", "invalid_value"),
        (RESPONSES, {"top_logprobs": -1}, "top_logprobs", "invalid_value"),
        (CHAT, {"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value"),
        (CHAT, {"logit_bias": {"5": "1"}}, "logit_bias.5", "invalid_value"),
        (CHAT, {"stream_options": {}}, "stream_options", "invalid_value"),
        (CHAT, {"stream": True, "stream_options": {"chunks": 1}}, "stream_options.chunks", UNKNOWN),
        (
            CHAT,
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_value",
        ),
        (RESPONSES, {"text": {"a": 1}}, "text.a", UNKNOWN),
        (RESPONSES, {"text": {"verbosity": "low"}}, "text.verbosity", UNSUPPORTED),
        (RESPONSES, {"reasoning": {"efort": "low"}}, "reasoning.efort", UNKNOWN),
    ],
    ids=str,
)
def test_another_kind_is_refused_by_name(path: str, body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ClientMistake) as refused:
        check_kinds(body, path)
    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"temperature": 1, "top_p": 0.5, "seed": -(2**63), "logprobs": True, "top_logprobs": 0}),
        (CHAT, {"messages": [{"role": "user"}], "logit_bias": {"5": -100}, "tools": [], "metadata": {}}),
        (CHAT, {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": None}}),
        (CHAT, dict.fromkeys(("temperature", "messages", "stream_options", "text", "logit_bias", "reasoning"))),
        (COMPLETIONS, {"logprobs": 2, "echo": True, "suffix": "", "prompt": [1, 2]}),
        (RESPONSES, {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": {"effort": "low"}}),
        (RESPONSES, {"input": [], "include": [], "store": False}),
        (CHAT, {"a_field_of_the_servers": "x"}),
    ],
    ids=str,
)
def test_what_has_its_kind_passes(path: str, body: dict[str, Any]) -> None:
    check_kinds(body, path)
