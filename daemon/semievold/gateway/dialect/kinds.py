"""What OpenAI's fields are made of: a number is no text, and no truth is a number, whichever engine answers.

Owns the kinds of the fields that both engines know, and what both refuse in them. vLLM takes `true` for 1, fails with
500 on some texts where an object belongs, and overlooks members that it does not know. Invariant: a field of another
kind is refused by name before anything is asked; null is as left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from semievold.gateway.call import CHAT, COMPLETIONS
from semievold.gateway.dialect.fields import MAX_BIAS, REFUSED, ClientMistake, check_known, checked_stream_options

_Kind = tuple[str, Callable[[Any], bool]]

_NUMBER: _Kind = ("a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))
_WHOLE: _Kind = ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_TRUTH: _Kind = ("true or false", lambda value: isinstance(value, bool))
_TEXT: _Kind = ("a text", lambda value: isinstance(value, str))
_OBJECT: _Kind = ("an object", lambda value: isinstance(value, dict))
_LIST: _Kind = ("a list", lambda value: isinstance(value, list))
_OBJECTS: _Kind = (
    "a list of objects",
    lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
)

_KINDS: Mapping[str, _Kind] = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"), _NUMBER),
    **dict.fromkeys(("seed", "top_k", "top_logprobs"), _WHOLE),
    **dict.fromkeys(("parallel_tool_calls", "store", "background"), _TRUTH),
    **dict.fromkeys(("user", "suffix", "instructions", "prompt_cache_key", "safety_identifier"), _TEXT),
    **dict.fromkeys(("logit_bias", "response_format", "structured_outputs", "stream_options", "metadata"), _OBJECT),
    **dict.fromkeys(("text", "reasoning", "chat_template_kwargs"), _OBJECT),
    **dict.fromkeys(("messages", "tools"), _OBJECTS),
    "include": _LIST,
}
_AT: Mapping[str, Mapping[str, _Kind]] = {
    CHAT: {**_KINDS, "logprobs": _TRUTH},
    COMPLETIONS: {**_KINDS, "logprobs": _WHOLE, "echo": _TRUTH},
}
_WITH_MEMBERS = frozenset(("top_logprobs", "logit_bias", "text", "reasoning", "stream_options"))
"""Of these more than the kind is known; most requests have none."""
_STREAM_OPTIONS = ("include_usage", "continuous_usage_stats")
_REASONING = ("effort", "summary", "generate_summary")


def check_kinds(body: Mapping[str, Any], path: str) -> None:
    """That every field that is known here has its kind, and its members are known.

    Raises:
        ClientMistake: names the field.
    """
    kinds = _AT.get(path, _KINDS)
    for name, value in body.items():
        if value is not None and (kind := kinds.get(name)) is not None and not kind[1](value):
            raise ClientMistake(name, f"not {kind[0]}")
    if _WITH_MEMBERS.isdisjoint(body):
        return
    if (body.get("top_logprobs") or 0) < 0:  # to vLLM's responses, -1 is the whole vocabulary
        raise ClientMistake("top_logprobs", "below 0")
    for token, bias in (body.get("logit_bias") or {}).items():
        param = f"logit_bias.{token[:100]}"
        if not _NUMBER[1](bias):
            raise ClientMistake(param, "not a number")
        if not -MAX_BIAS <= bias <= MAX_BIAS:  # vLLM cuts it, in silence
            raise ClientMistake(param, f"not from -{MAX_BIAS} to {MAX_BIAS}")
    check_text(body.get("text"))
    check_known(body.get("reasoning") or {}, _REASONING, "reasoning")
    options = checked_stream_options(body.get("stream_options"), body.get("stream") is True, _STREAM_OPTIONS)
    for name, value in options.items():
        if not isinstance(value, (bool, type(None))):
            raise ClientMistake(f"stream_options.{name}", "not true or false")


def check_text(text: Any) -> None:
    """Members of `text`, of /v1/responses.

    Raises:
        ClientMistake: names the member that nobody honours.
    """
    check_known(text or {}, ("format", "verbosity"), "text")
    if (text or {}).get("verbosity") not in (None, "medium"):
        raise ClientMistake("text.verbosity", REFUSED["verbosity"], "unsupported_parameter")
