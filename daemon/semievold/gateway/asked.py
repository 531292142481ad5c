"""A chat request's messages in the words of a query: what capture keeps, and what feedback recognises it by.

Owns what of a request is text, and which requests are a single question. Pure. Invariant: the same messages are the
same query, whoever looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Turn = dict[str, str]


def text_turns(messages: object) -> list[Turn] | None:
    """The turns as role and text; None when one of them is something else (images, tool calls)."""
    if not isinstance(messages, list):
        return None
    turns = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            return None
        text = _text(message.get("content"))
        if text is None or message.get("tool_calls"):
            return None
        turns.append({"role": message["role"], "content": text})
    return turns


def asked_fields(turns: Sequence[Turn], instruction: str | None) -> dict[str, Any]:
    """A question, when the intake would ask it in the same words by itself; else the whole conversation."""
    own = turns[1:] if turns and turns[0] == {"role": "system", "content": instruction} else turns
    if len(own) == 1 and own[0]["role"] == "user":
        return {"question": own[0]["content"]}
    return {"messages": list(turns)}


def _text(content: object) -> str | None:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if len(texts) == len(parts) else None
