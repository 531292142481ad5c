"""One admitted request on its way to whatever answers it, and the protocol of what does.

Owns what the gateway and its backends agree on: the call, the headers of its answer, and errors that are fit for
clients. Invariant: a call names one adapter version from its admission to its last byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from typing import Any, Protocol

import pydantic_core
from aiohttp import web

from semievol.types import value
from semievold.web.errors import error

ADAPTER_HEADER = "x-semievol-adapter"
REPLICA_HEADER = "x-semievol-replica"
QUERY_ID_HEADER = "x-semievol-query-id"
BASE = "base"

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"

_TOKEN_LIMITS = {
    CHAT: ("max_completion_tokens", "max_tokens"),
    COMPLETIONS: ("max_tokens",),
    RESPONSES: ("max_output_tokens",),
}
"""How a server takes the limit at each address, first the name that is set; another's name is no limit there."""
LIMIT_NAMES = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""All of them; where a request has several, the first counts."""
_COMPLETION_TOKENS = 16
"""What OpenAI and vLLM generate at `/v1/completions` where `max_tokens` is left out; null is all there is room for."""

ASKED = web.RequestKey("asked", bool)
"""Under this name a backend says that an engine was asked to answer the request."""

BROKE_OFF = web.RequestKey("broke_off", bool)
"""Under this name a backend says that the answer ended before its end, and not by the client's will."""

TOO_LONG = "context_length_exceeded"
"""OpenAI's code, by which libraries know that a shorter conversation would be answered."""
_PROMPT_FIELDS = {CHAT: "messages", COMPLETIONS: "prompt", RESPONSES: "input"}

MAX_MESSAGE_CHARS = 2_000

_LOOKED_AT_CHARS = 2 * MAX_MESSAGE_CHARS
"""Of a message: a server may echo all that a client sent, and what an expression costs grows with it."""
_ADDRESS_CHARS = 256
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{0,31}://[^\s'\"<>)]+|\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\[[0-9a-f]*:[0-9a-f:.]+\](?::\d+)?"
    r"|\b[a-z][a-z0-9-]{0,62}(?:\.[a-z0-9-]{1,63}){0,32}:\d{2,5}\b",
    re.I,
)
_PATH = re.compile(r"(?<![\w.~/])~?/[\w.@+-]+(?:/[\w.@+-]*)+")


@value
class Call:
    """An admitted request.

    adapter: the version that it is bound to; None: the base model.
    alias: the name under which the client asked and is answered; None: the body's model is none of ours, keep it.
    deadline: of the event loop's clock.
    captured: told the answer's id when the answer has begun; the query's id when the query was captured.
    answered: told the query's id and the text of the answer, when that was captured and the answer is whole; None: it
        is not one text.
    ended: told that the call is over, however it ended.
    spent: told how many tokens the answer took, prompt and all; None: they are not counted.
    read: told the text of an answer that is whole; None: it is not one text, or nobody reads it.
    trace: headers by which a replica, and the record of a captured query, join the trace of the request.
    """

    request: web.Request
    path: str
    body: Mapping[str, Any]
    adapter: str | None
    alias: str | None
    deadline: float
    captured: Callable[[str | None], str | None]
    answered: Callable[[str, str | None], None] = lambda _id, _text: None
    spent: Callable[[int], None] | None = None
    ended: Callable[[], None] = lambda: None
    read: Callable[[str | None], None] | None = None
    trace: Mapping[str, str] = field(default_factory=dict)

    limited: bool = False
    """The limit of the answer's tokens is ours: the client gave none."""

    def within(self, max_tokens: int) -> Call:
        """The same call, with the most tokens that the gateway allows where the client left them out."""
        names = _TOKEN_LIMITS.get(self.path)
        if names is None or any(self.body.get(each) is not None for each in names):
            return self
        if self.path == COMPLETIONS and names[0] not in self.body and max_tokens >= _COMPLETION_TOKENS:
            return self
        return replace(self, body={**self.body, names[0]: max_tokens}, limited=True)

    @property
    def streamed(self) -> bool:
        return self.body.get("stream") is True

    def payload(self, model: str) -> bytes:
        """The body, asking for `model`. Written anew: what two parsers might read differently does not pass.

        Raises:
            web.HTTPBadRequest: a text is none (half of a surrogate pair). Numbers are finite: `read_json` sees to it.
        """
        body = self.body if self.alias is None else {**self.body, "model": model}
        try:
            return pydantic_core.to_json(body)
        except ValueError as failure:
            raise web.HTTPBadRequest(text=f"body: {failure}") from failure

    def headers(self, answer_id: str | None, replica: str | None = None) -> dict[str, str]:
        """The headers of an answer that has begun."""
        headers = {} if self.alias is None else {ADAPTER_HEADER: self.adapter or BASE}
        if replica is not None:
            headers[REPLICA_HEADER] = replica
        query_id = self.captured(answer_id)
        if query_id is not None:
            headers[QUERY_ID_HEADER] = query_id
        return headers

    def is_read(self, headers: Mapping[str, str]) -> bool:
        """Whether somebody is to be told what an answer with these headers says."""
        return self.read is not None or QUERY_ID_HEADER in headers

    def tell_answer(self, headers: Mapping[str, str], text: str | None) -> None:
        """Of an answer with these headers, what was answered; None: not one text."""
        if self.read is not None:
            self.read(text)
        query_id = headers.get(QUERY_ID_HEADER)
        if query_id is not None:
            self.answered(query_id, text)


class Backend(Protocol):
    """Answers admitted requests."""

    async def answer(self, call: Call) -> web.StreamResponse:
        """The answer, whole, or streamed to its end.

        Raises:
            TransientError: nothing could answer, and the client got no byte.
            TimeoutError: not within the deadline, and the client got no byte.
        """
        ...

    async def close(self) -> None: ...


def refusal(
    status: int, code: str, message: str, call: Call, replica: str | None = None, *, param: str | None = None
) -> web.Response:
    """An error after admission; it names the version like any answer."""
    response = error(status, code, message, param)
    if call.alias is not None:
        response.headers[ADAPTER_HEADER] = call.adapter or BASE
    if replica is not None:
        response.headers[REPLICA_HEADER] = replica
    return response


def prompt_field(path: str) -> str:
    """The field that holds what the model is to read."""
    return _PROMPT_FIELDS.get(path, "input")


def presentable(text: str, secrets: Iterable[str] = ()) -> str:
    """A server's message without secrets, addresses and file paths, which are not the client's business."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    if len(text) > _LOOKED_AT_CHARS:
        text = text[:_LOOKED_AT_CHARS]
        before, _, last = text.rpartition(" ")
        text = before if len(last) <= _ADDRESS_CHARS else text  # half an address is none to the expressions
    return _PATH.sub("[path]", _ADDRESS.sub("[address]", text))[:MAX_MESSAGE_CHARS]
