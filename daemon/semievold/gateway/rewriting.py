"""The model's name in answers: the replica's name for a version becomes the alias again, and nothing else changes.

Owns the bytes of answers and of event streams, no I/O. The usual answer has its `model` before anything nested, and is
cut there without being parsed; any other is parsed. Invariant: parsed, an answer differs from what came in the value of
its top-level `model` alone, and in the name of the event that ends one that was cut short, however the stream was cut
into chunks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MAX_EVENT_BYTES = 16 * 1024 * 1024

_STRING = rb'"(?:[^"\\]|\\.)*+"'
_FLAT_MEMBER = rb'(?!"model")"[^"\\]*+"\s*:\s*(?:' + _STRING + rb"|[-+.\w]++)\s*,\s*"
_MODEL = re.compile(rb"\s*\{\s*(?:" + _FLAT_MEMBER + rb')*+"model"\s*:\s*(' + _STRING + rb")", re.DOTALL)
_ID = re.compile(rb'\s*(?:data:\s*)?\{\s*"id"\s*:\s*"([\w.:-]{1,200})"')
_ERROR_EVENT = re.compile(rb'\s*\{\s*"error"')
_ABORTED = re.compile(rb'"finish_reason"\s*:\s*"abort"')  # within a text its quotes would be escaped
_EVENT_ENDS = (b"\n\n", b"\n\r\n")
_COMPLETED, _INCOMPLETE = b"response.completed", b"response.incomplete"


@lru_cache(maxsize=16)  # the alias, in every answer
def quoted(name: str) -> bytes:
    """The name as a JSON string."""
    return json.dumps(name).encode()


def replace_model(document: bytes, name: bytes) -> bytes:
    """The JSON object with `name` (a JSON string) as its top-level `model`, where it has one that is a string."""
    if found := _MODEL.match(document):
        return b"".join((document[: found.start(1)], name, document[found.end(1) :]))
    if b"model" not in document and b"\\" not in document:
        return document
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        return document
    if not isinstance(value, dict):
        return document
    inner = value.get("response")  # the events of /v1/responses hold the answer so far
    named = [each for each in (value, inner) if isinstance(each, dict) and isinstance(each.get("model"), str)]
    if not named:
        return document
    for each in named:
        each["model"] = json.loads(name)
    return json.dumps(value, separators=(",", ":")).encode()


def answer_id(start: bytes) -> str | None:
    """The id at the start of an answer or of a stream's first event, when it is where servers put it."""
    found = _ID.match(start)
    return None if found is None else found[1].decode()


def begins_with_error(event: bytes) -> bool:
    """Whether the first event of a stream says that there will be no answer."""
    return event.startswith(b"data:") and _ERROR_EVENT.match(event[5:]) is not None


def was_aborted(answer: bytes) -> bool:
    """Whether the engine has cut off this answer, or one within these events, as vLLM does with all that waits when it
    is told to sleep: what there is of it is no answer.
    """
    return b'"abort"' in answer and _ABORTED.search(answer) is not None


def text_of(document: bytes) -> str | None:
    """The text of a chat answer that has one choice; None: it has several, or says something else."""
    choice = _only_choice(document)
    message = choice.get("message") if choice else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else None


def _cut_ones_named(events: bytes) -> bytes:
    """Whole events, where an answer of /v1/responses that was cut short ends in OpenAI's words: vLLM says of it that it
    is completed, with the status incomplete.
    """
    return b"\n\n".join(map(_cut_one_named, events.split(b"\n\n")))


def _cut_one_named(event: bytes) -> bytes:
    name, _, payload = event.partition(b"\ndata:")
    if name != b"event: " + _COMPLETED:
        return event
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return event
    answer = value.get("response") if isinstance(value, dict) else None
    if not isinstance(answer, dict) or answer.get("status") != "incomplete":
        return event
    told = json.dumps({**value, "type": _INCOMPLETE.decode()}, separators=(",", ":"))
    return b"event: " + _INCOMPLETE + b"\ndata: " + told.encode()


def _only_choice(document: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        return None
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    return choices[0] if choices[0].get("index") in (None, 0) else None


class StreamText:
    """The text of a chat answer that comes as events, as long as there is one choice and no error."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._whole = False
        self._one = True

    def feed(self, events: bytes) -> None:
        """Whole events, as `StreamRewriter.feed` gives them."""
        for line in events.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self._whole = True
            elif (choice := _only_choice(payload)) is not None:
                delta = choice.get("delta")
                content = delta.get("content") if isinstance(delta, dict) else None
                self._parts.append(content if isinstance(content, str) else "")
            elif b'"choices":[]' not in payload.replace(b" ", b""):  # usage, at the end
                self._one = False

    def text(self) -> str | None:
        """All of it; None: it has not come to its end, or is not one text."""
        return "".join(self._parts) if self._whole and self._one else None


class StreamRewriter:
    """Rewrites the events of one stream as their bytes arrive; only whole events come out.

    Args:
        name: what to put for `model`, as a JSON string.
        on_error: rewrites the JSON of an error event.
    """

    def __init__(self, name: bytes, on_error: Callable[[bytes], bytes]) -> None:
        self._name = name
        self._on_error = on_error
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The events that are whole now.

        Raises:
            ValueError: an event is larger than any that a server of this kind sends.
        """
        data = self._rest + data
        cut = max(data.rfind(end) + len(end) if end in data else 0 for end in _EVENT_ENDS)
        if len(data) - cut > MAX_EVENT_BYTES:
            raise ValueError("an event of the stream does not end")
        self._rest = data[cut:]
        events = _cut_ones_named(data[:cut]) if _COMPLETED in data else data[:cut]
        return b"\n".join(map(self._line, events.split(b"\n"))) if cut else b""

    def end(self) -> bytes:
        """What came after the last whole event."""
        rest, self._rest = self._rest, b""
        return b"\n".join(map(self._line, rest.split(b"\n"))) if rest else b""

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line
        payload = line[5:]
        if _ERROR_EVENT.match(payload):
            return b"data: " + self._on_error(payload)
        return b"data: " + replace_model(payload.lstrip(b" "), self._name)
