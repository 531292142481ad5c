"""Conversations as OpenAI, ShareGPT and TRL write them, as turns of ours.

Owns names of roles and shapes of contents. Pure. Invariant: a turn is taken whole, as text, or refused by a DataError
that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from semievol.errors import DataError
from semievol.examples.records import kind_of

Turns: TypeAlias = list[dict[str, str]]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
}


def ends_with_answer(value: Any) -> bool:
    """Whether the last turn is the assistant's."""
    if not isinstance(value, (list, tuple)) or not value or not isinstance(value[-1], Mapping):
        return False
    role = value[-1].get("role", value[-1].get("from"))
    return _role(role) == "assistant"


def plain_turns(value: Any, field: str) -> Turns:
    """Turns as `{"role", "content"}` of texts, from `{"role", "content"}` or `{"from", "value"}`.

    Raises:
        DataError: naming the turn.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": text_of(value, field)}]
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"field {field!r}: expected a list of turns, found {kind_of(value)}")
    turns: Turns = []
    for number, turn in enumerate(value):
        where = f"{field}[{number}]"
        if not isinstance(turn, Mapping):
            raise DataError(f"field {where!r}: expected an object, found {kind_of(turn)}")
        said, spoken = ("role", "content") if "role" in turn else ("from", "value")
        name = turn.get(said)
        role = _role(name)
        if role is None:
            raise DataError(
                f"field '{where}.{said}': {name!r} is none of {', '.join(_ROLES)}; calls of tools are not learned from"
            )
        turns.append({"role": role, "content": text_of(turn.get(spoken), f"{where}.{spoken}")})
    return turns


def _role(name: Any) -> str | None:
    return _ROLES.get(name.strip().lower()) if isinstance(name, str) else None


def asking(turns: Turns, column: str, instruction: str | None) -> dict[str, Any]:
    """What turns ask, as fields of a record: a single one is a question, more are a conversation.

    Args:
        turns: all but the answer.
        column: where they stand, for errors.
        instruction: task.instruction, which is no context where the conversation begins with it.

    Raises:
        DataError: the last one is not the user's.
    """
    if not turns or turns[-1]["role"] != "user":
        raise DataError(f"field {column!r}: the last turn before the answer must be the user's, which is the question")
    own = turns[1:] if turns[0] == {"role": "system", "content": instruction} else turns
    return {"question": own[0]["content"]} if len(own) == 1 else {"messages": turns}


def earlier_turns(row: Mapping[str, Any]) -> Turns:
    """What Alpaca's files may have beside an instruction: `system`, and `history` as pairs of question and answer.

    Raises:
        DataError: naming the field.
    """
    turns: Turns = []
    if row.get("system"):
        turns.append({"role": "system", "content": text_of(row["system"], "system")})
    history = row.get("history") or ()
    if not isinstance(history, (list, tuple)):
        raise DataError(f"field 'history': expected a list of pairs, found {kind_of(history)}")
    for number, pair in enumerate(history):
        where = f"history[{number}]"
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise DataError(f"field {where!r}: expected a pair, question and answer")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            turns.append({"role": role, "content": text_of(said, where)})
    return turns


def text_of(content: Any, field: str) -> str:
    """The text of a turn, also of one in parts of type `text`.

    Raises:
        DataError: it is no text, or has another part.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, int) and not isinstance(content, bool):
        return str(content)
    if isinstance(content, (list, tuple)) and content:
        parts = [
            each.get("text") if isinstance(each, Mapping) and each.get("type") == "text" else None for each in content
        ]
        if all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
        raise DataError(f"field {field!r}: has a part that is no text; only text is learned from")
    raise DataError(f"field {field!r}: expected a string, found {kind_of(content)}")
