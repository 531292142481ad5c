"""The gateway over the embedded generator: answers whole, or in the shape of a stream.

Owns which dialect an address speaks and how an answer leaves; shapes and fields are the dialects', tokens the
generator's. The generator answers whole, so a stream is its finished answer in a few events. Invariant: an answer comes
from the one version that its call names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest
from semievold.gateway.call import ASKED, CHAT, COMPLETIONS, RESPONSES, Call, refusal
from semievold.gateway.dialect.chat import ChatDialect
from semievold.gateway.dialect.completions import CompletionDialect
from semievold.gateway.dialect.fields import ClientMistake
from semievold.gateway.dialect.responses import ResponseDialect
from semievold.gateway.turns import generated
from semievold.gateway.usage import tokens_of


class Dialect(Protocol):
    """One request in the shapes of one address."""

    requests: list[GenerationRequest]
    streamed: bool

    def answer(self, model: str, answers: Sequence[Sequence[Completion]]) -> dict[str, Any]: ...

    def events(self, body: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """The events of a finished answer, each with its name where its dialect names them."""
        ...


def _dialect(call: Call) -> Dialect | None:
    if call.path == CHAT:
        return ChatDialect(call.body, call.adapter)
    if call.path == COMPLETIONS:
        return CompletionDialect(call.body, call.adapter)
    return ResponseDialect(call.body, call.adapter) if call.path == RESPONSES else None


class LocalBackend:
    """Answers with the generator of this process."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def close(self) -> None:
        """The generator is not ours to close."""

    async def answer(self, call: Call) -> web.StreamResponse:
        try:
            dialect = _dialect(call)
        except ClientMistake as mistake:
            return refusal(400, mistake.code, str(mistake), call, param=mistake.param)
        if dialect is None:
            message = "the generator in this process makes no embeddings; set gateway.embeddings_url"
            return refusal(404, "not_offered", message, call)
        call.request[ASKED] = True
        answers = await generated(self._generator, dialect.requests, call)
        body = dialect.answer(call.alias or "", answers)
        headers = call.headers(body["id"])
        if call.spent is not None and (tokens := tokens_of(body["usage"])) is not None:
            call.spent(tokens)
        one = len(answers) == len(answers[0]) == 1
        call.tell_answer(headers, answers[0][0].text if one else None)
        if not dialect.streamed:
            return web.json_response(body, headers=headers)
        return await _stream(call, dialect.events(body), call.path != RESPONSES, headers)


async def _stream(
    call: Call, events: Iterator[tuple[str | None, dict[str, Any]]], ends: bool, headers: dict[str, str]
) -> web.StreamResponse:
    """Send the events; `ends`: with the line by which this dialect's streams end."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", **headers}
    )
    try:
        await response.prepare(call.request)
        for name, event in events:
            line = b"" if name is None else f"event: {name}\n".encode()
            await response.write(line + b"data: " + json.dumps(event).encode() + b"\n\n")
        if ends:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has left
    return response
