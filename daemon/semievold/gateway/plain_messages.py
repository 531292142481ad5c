"""A client's messages on their way to a replica, whose tokenizer would take control texts in them for its own.

Owns which parts of a request's body the server's chat template may write into the prompt. A replica renders and reads
them itself (tools, streaming and its template are its own), so that their control texts are broken by a space: what it
then writes between them is the template's. Not touched: `/v1/completions`, whose prompt has no template around it and
is captured by nobody, and embeddings. Invariant: a body without control texts passes unchanged, but for what OpenAI
takes and vLLM does not (`taken_by_vllm`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from semievol.engines.plain.control_texts import ControlTexts
from semievol.engines.plain.tally import NEUTRALISED
from semievold.gateway.call import COMPLETIONS, EMBEDDINGS, Call

_RENDERED = ("messages", "tools", "functions", "documents", "chat_template_kwargs", "input", "instructions")
_NAME_CHARS = 16
"""Names of fields and roles are no longer, and few."""
_LIKELIEST_ALONE = 1e-6
"""A `top_p` that leaves the likeliest token alone; vLLM refuses 0."""


def neutral_call(call: Call, texts: ControlTexts) -> Call:
    """The call with every control text broken in what the template may write."""
    if call.path in (COMPLETIONS, EMBEDDINGS):
        return call
    if not _may_hold((call.body[name] for name in _RENDERED if name in call.body), texts):
        return call  # as nearly all are, and looking is a fraction of writing anew
    body = {name: _mapped(value, texts.broken) if name in _RENDERED else value for name, value in call.body.items()}
    if body == dict(call.body):
        return call
    NEUTRALISED.add("gateway")
    return replace(call, body=body)


def taken_by_vllm(call: Call) -> Call:
    """The call with what OpenAI takes and vLLM does not, written as vLLM takes it: no tools at all, a `top_p` of 0, and
    a `best_of` that leaves nothing to choose.
    """
    body = call.body
    if body.get("tools") == []:
        left_out = {"tools", *(("tool_choice",) if body.get("tool_choice") in (None, "none", "auto") else ())}
        body = {name: value for name, value in body.items() if name not in left_out}
    if (top_p := body.get("top_p")) == 0 and not isinstance(top_p, bool):
        body = {**body, "top_p": _LIKELIEST_ALONE}
    if body.get("best_of") is not None and body["best_of"] == (body.get("n") or 1):
        body = {name: value for name, value in body.items() if name != "best_of"}
    return call if body is call.body else replace(call, body=body)


def _may_hold(values: Iterable[Any], texts: ControlTexts) -> bool:
    """Whether JSON values hold a control text; a tool call's arguments may hold anything until they are read."""
    waiting = list(values)
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if texts.holds_name(each) if len(each) <= _NAME_CHARS else texts.holds(each):
                return True
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, dict):
            if "arguments" in each:
                return True
            waiting += each
            waiting += each.values()
    return False


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with all its texts changed, names of members included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    if isinstance(value, dict):
        return {
            change(name): _mapped(_arguments(each, change) if name == "arguments" else each, change)
            for name, each in value.items()
        }
    return value


def _arguments(value: Any, change: Callable[[str], str]) -> Any:
    """A tool call's arguments are JSON in a text, which servers parse for the template: it may hold escapes."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return value
    changed = _mapped(parsed, change)
    return value if changed == parsed else json.dumps(changed, ensure_ascii=False)
