"""How many tokens a request may use, and how many an answer says that it did.

Owns the reading of `usage` in answers and streams, on whichever engine. Invariant: a client that did not ask for the
usage of a stream does not see it, though it is asked for to count it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from semievold.gateway.call import CHAT, COMPLETIONS, EMBEDDINGS, LIMIT_NAMES

CHARS_A_TOKEN = 4
"""About; a prompt is counted exactly when the answer says how long it was."""


def tokens_at_most(path: str, body: Mapping[str, Any], max_tokens: int, count: int, body_bytes: int) -> int:
    """Prompt (about) and answers (at most) of a request, or of `count` in one."""
    prompt = body_bytes // CHARS_A_TOKEN
    if path == EMBEDDINGS:
        return max(1, prompt)
    limits = [body.get(name) for name in LIMIT_NAMES]
    limit = next((each for each in limits if isinstance(each, int)), max_tokens)
    answers = max([each for each in (body.get("n"), body.get("best_of")) if isinstance(each, int)], default=1)
    return prompt + limit * answers * count


def tokens_of(usage: object) -> int | None:
    """Prompt and completion together, in the words of any of OpenAI's addresses; None: it does not say."""
    if not isinstance(usage, Mapping):
        return None
    total = usage.get("total_tokens")
    if isinstance(total, int):
        return total
    names = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    parts = [part for name in names if isinstance(part := usage.get(name), int)]
    return sum(parts) if parts else None


def usage_in(document: bytes) -> int | None:
    """The tokens that an answer says it used; None: it does not say."""
    try:
        value = json.loads(document)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    inner = value.get("response")  # of an event of /v1/responses
    return tokens_of(value.get("usage") or (inner.get("usage") if isinstance(inner, dict) else None))


def asking_for_usage(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A streamed request that will be told its usage."""
    if path not in (CHAT, COMPLETIONS):
        return body
    options = body.get("stream_options")
    if not isinstance(options, (Mapping, type(None))):
        return body  # the server says what is wrong with it
    options = options or {}
    return {**body, "stream_options": {**options, "include_usage": True}}


class StreamMeter:
    """Counts a stream's tokens as its events pass; `hidden`: the client has not asked to be told."""

    def __init__(self, path: str, body: Mapping[str, Any]) -> None:
        options = body.get("stream_options")
        asked = isinstance(options, Mapping) and options.get("include_usage") is True
        self._hidden = path in (CHAT, COMPLETIONS) and not asked
        self.tokens: int | None = None

    def feed(self, events: bytes) -> bytes:
        """Whole events, without the one that the client has not asked for."""
        if b'"usage"' not in events:
            return events
        passed = []
        for event in events.split(b"\n\n"):
            payload = event[5:] if event.startswith(b"data:") else event.partition(b"\ndata:")[2]
            found = usage_in(payload) if b'"usage"' in payload else None
            if found is not None:
                self.tokens = found
            if found is None or not self._hidden or b'"choices":[]' not in payload.replace(b" ", b""):
                passed.append(event)
        return b"\n\n".join(passed)
