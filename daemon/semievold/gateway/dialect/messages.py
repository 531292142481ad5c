"""Turns as clients write them, as turns of the model.

Owns roles and the forms of content: `developer` is a system turn; calls of tools in an earlier answer and their results
become text, as the model here was given no tools. Invariant: what is said is passed on in full or refused by the
place where it stands; nothing is dropped. Who said it is told by the role alone: a speaker's `name` is taken and has no
effect, for the models' templates have no place for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from semievol.types import Message
from semievold.gateway.dialect.fields import ClientMistake, check_known

_TEXT_PARTS = ("text", "input_text", "output_text")
# What clients send back of an answer and what says nothing; null is taken everywhere.
_EMPTY: tuple[Any, ...] = (None, [], "")
_SENT_BACK = ("refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning", "reasoning_content")


def messages_of(turns: Any, field: str = "messages") -> tuple[Message, ...]:
    """The conversation.

    Raises:
        ClientMistake: names the turn and its field.
    """
    if not isinstance(turns, list) or not turns:
        raise ClientMistake(field, "not a list of messages")
    result: list[Message] = []
    told = False  # the turn before was the result of a tool
    for place, turn in enumerate(turns):
        where = f"{field}[{place}]"
        if not isinstance(turn, dict):
            raise ClientMistake(where, "not an object")
        message = _message(turn, where)
        if told and message.role == "user":  # templates want turns to take turns
            result[-1] = Message("user", f"{result[-1].content}\n\n{message.content}")
        else:
            result.append(message)
        told = turn.get("role") == "tool"
    return tuple(result)


def content_text(content: Any, where: str) -> str:
    """A content that is a text, or a list of parts that are texts.

    Raises:
        ClientMistake: a part is something else.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ClientMistake(where, "not a text")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS:
            raise ClientMistake(
                f"{where}[{place}]",
                f"the generator in this process reads text alone, not {str(kind)[:40]!r}",
                "unsupported_parameter",
            )
        if not isinstance(part.get("text"), str):
            raise ClientMistake(f"{where}[{place}].text", "not a text")
        left = {name: value for name, value in part.items() if value not in _EMPTY}
        check_known(left, ("type", "text", "annotations", "logprobs"), f"{where}[{place}]")
        texts.append(part["text"])
    return "\n".join(texts)


def _message(turn: Mapping[str, Any], where: str) -> Message:
    role, content = turn.get("role"), turn.get("content")
    left = {name: value for name, value in turn.items() if name not in _SENT_BACK or value not in _EMPTY}
    if not isinstance(left.pop("name", None), (str, type(None))):
        raise ClientMistake(f"{where}.name", "not a text")
    if role in ("system", "developer", "user"):
        check_known(left, ("role", "content"), where)
        return Message("user" if role == "user" else "system", content_text(content, f"{where}.content"))
    if role == "tool":
        check_known(left, ("role", "content", "tool_call_id"), where)
        called = turn.get("tool_call_id")
        name = f" of {called}" if isinstance(called, str) else ""
        return Message("user", f"Result{name}:\n{content_text(content, f'{where}.content')}")
    if role != "assistant":
        raise ClientMistake(f"{where}.role", "not one of system, developer, user, assistant, tool")
    check_known(left, ("role", "content", "tool_calls"), where)
    text = "" if content is None else content_text(content, f"{where}.content")
    calls = _calls(turn.get("tool_calls") or [], f"{where}.tool_calls")
    return Message("assistant", "\n".join(part for part in (text, *calls) if part))


def _calls(calls: Any, where: str) -> Sequence[str]:
    """Calls of an earlier answer as text: the name, and the arguments as the model wrote them."""
    if not isinstance(calls, list):
        raise ClientMistake(where, "not a list")
    texts = []
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(arguments, str):
            raise ClientMistake(f"{where}[{place}].function", "not a name and arguments")
        texts.append(json.dumps({"call": call.get("id"), "name": name, "arguments": arguments}, ensure_ascii=False))
    return texts
