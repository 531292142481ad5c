"""The gateway over replicas: forwards an admitted request to one healthy replica, and to another when that one fails.

Owns the connections and the moment from which no other replica is tried: the first byte that the client gets. Not who
is healthy (the pool). Invariant: every byte of an answer comes from one replica and one adapter version.
"""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace

import aiohttp
from aiohttp import web

from semievol.engines.plain.control_texts import COMMON, ControlTexts
from semievol.errors import TransientError
from semievol.http.server_address import ServerAddress
from semievold.config.fronts import GatewayConfig
from semievold.gateway.call import ASKED, BROKE_OFF, Call, presentable, refusal
from semievold.gateway.dialect.fields import ClientMistake
from semievold.gateway.plain_messages import neutral_call, taken_by_vllm
from semievold.gateway.replica.answers import (
    ANSWER_BYTES,
    SLOW,
    Mistaken,
    ReplicaFailed,
    TooLarge,
    first_events,
    in_short,
    next_events,
    whole_body,
)
from semievold.gateway.replica.errors import ReplicaError, context_in, replica_error
from semievold.gateway.replica.fields import ServerFields
from semievold.gateway.replica.stream_time import StreamTime
from semievold.gateway.rewriting import (
    StreamRewriter,
    StreamText,
    answer_id,
    quoted,
    replace_model,
    text_of,
)
from semievold.gateway.usage import StreamMeter, asking_for_usage, usage_in
from semievold.monitoring.metrics import Metrics
from semievold.serving.lending import ReplicaPool, ReservedError, RestingError
from semievold.web.errors import error_body

log = logging.getLogger(__name__)

# Below the 5 s after which vLLM closes an idle connection: a request must not meet that moment.
KEEP_ALIVE_S = 3.0
WAIT_S = 0.05
"""How often a request that waits for a replica asks for one."""
_LARGE_BYTES = 1024 * 1024
_ERROR_BYTES = 65_536


class _ShortContext(Exception):  # noqa: N818 - named by meaning
    """The replica's context, in tokens, is shorter than the limit that the gateway had set."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


class ProxyBackend:
    """Answers by asking a replica of the pool. Made inside the event loop that uses it."""

    def __init__(
        self, pool: ReplicaPool, settings: GatewayConfig, metrics: Metrics, texts: ControlTexts = COMMON
    ) -> None:
        """Open nothing yet; `texts` are the control texts of the model that the replicas serve."""
        self._pool = pool
        self._texts = texts
        self._settings = settings
        self._metrics = metrics
        self._contexts: dict[str, int] = {}
        """Tokens of the replicas that said how long their context is."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
        )
        self._fields = ServerFields(self._session)
        whole = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s)
        streamed = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.idle_timeout_s
        )
        self._timeouts = {False: whole, True: streamed}
        self._now = asyncio.get_running_loop().time  # in Python 3.11 each asking for the loop is a system call

    async def close(self) -> None:
        await self._fields.close()
        await self._session.close()

    async def answer(self, call: Call) -> web.StreamResponse:
        call = neutral_call(taken_by_vllm(call), self._texts)
        now = self._now
        patience = min(call.deadline, now() + self._settings.replica_wait_s)
        failed: list[str] = []
        reasons: list[str] = []
        while len(failed) <= self._settings.retries:
            try:
                async with self._pool.lend(call.adapter, avoid=failed) as replica:
                    try:
                        if call.alias is not None:
                            await self._fields.check(call, replica)
                        return await self._within_limits(call, replica)
                    except ClientMistake as mistake:
                        return refusal(400, mistake.code, str(mistake), call, replica.name, param=mistake.param)
                    except ReplicaFailed as failure:
                        self._count(replica, failure, "did not answer a request")
                        failed.append(replica.name)
                        if failure.of_request is not None and failure.of_request in reasons:
                            # Two replicas fail on it in the same words: it is the request, and a third would too.
                            return refusal(500, "request_failed", failure.of_request, call, replica.name)
                        reasons.append(failure.of_request or "")
            except RestingError as resting:
                if not resting.returns or now() >= patience:
                    raise  # a rest is for longer than a request waits
                await asyncio.sleep(WAIT_S)
            except ReservedError:  # it ends by itself: longer on a slow server, where patience would be over before
                await asyncio.sleep(WAIT_S)
            except TransientError as none:
                if now() >= patience:
                    raise TransientError(presentable(str(none))) from none
                await asyncio.sleep(WAIT_S)
            if now() >= call.deadline:
                raise TimeoutError
        raise TransientError(f"{len(failed)} attempts failed; try again")

    async def _within_limits(self, call: Call, replica: ServerAddress) -> web.StreamResponse:
        """One attempt, with the gateway's limit of tokens where the client gave none.

        A server whose context is shorter refuses that number, and then holds the limit by itself.
        """
        most = self._settings.max_tokens
        short = self._contexts.get(replica.name, most + 1) <= most
        try:
            return await self._forward(call if short else call.within(most), replica)
        except _ShortContext as told:
            self._contexts[replica.name] = told.tokens
            return await self._forward(call, replica)

    async def _forward(self, call: Call, replica: ServerAddress) -> web.StreamResponse:
        """One attempt.

        Raises:
            ReplicaFailed: the client got no byte.
        """
        call.request[ASKED] = True
        answer: aiohttp.ClientResponse | None = None
        try:
            try:
                async with asyncio.timeout_at(call.deadline):
                    answer = await self._post(call, replica)
                    if answer.status != 200:
                        return await _refused(call, replica, answer)
                    rewriter = None
                    if answer.content_type == "text/event-stream":
                        on_error = functools.partial(_error_event, call, replica)
                        rewriter = StreamRewriter(quoted(call.alias or ""), on_error)
                    begin = await whole_body(answer) if rewriter is None else await first_events(answer, rewriter)
            except Mistaken as mistake:
                code = mistake.said["code"] or "bad_request"
                return refusal(400, code, str(mistake), call, replica.name, param=mistake.said["param"])
            except TooLarge:
                why = (
                    f"the answer has more than {ANSWER_BYTES} bytes; ask for fewer answers, tokens, inputs or logprobs"
                )
                return refusal(502, "answer_too_large", why, call, replica.name)
            except TimeoutError as failure:
                late = "it answered" if answer is None else "its first byte"
                raise ReplicaFailed(f"timed out before {late}", down=True) from failure
            except (aiohttp.ClientError, OSError, ValueError) as failure:
                if answer is None and not isinstance(failure, (aiohttp.ClientError, OSError)):
                    raise  # of a request that cannot be written no replica is to blame
                when = "connection failed" if answer is None else "broke off before its first byte"
                raise ReplicaFailed(f"{when}: {in_short(failure)}", down=True) from failure
            headers = call.headers(answer_id(begin), replica.name)
            if rewriter is not None:
                return await self._stream(call, replica, answer, rewriter, begin, headers)
            if call.spent is not None and (tokens := usage_in(begin)) is not None:
                call.spent(tokens)
            if call.is_read(headers):
                call.tell_answer(headers, text_of(begin))
            body = begin if call.alias is None else replace_model(begin, quoted(call.alias))
            return web.Response(body=body, content_type=answer.content_type, headers=headers)
        finally:
            if answer is not None and not answer.closed:  # it was not read to its end
                answer.release()
                await answer.wait_for_close()

    async def _post(self, call: Call, replica: ServerAddress) -> aiohttp.ClientResponse:
        if call.spent is not None and call.streamed:
            asked = replace(call, body=asking_for_usage(call.path, call.body))
        else:
            asked = call
        body = asked.payload(call.adapter or replica.base_model)
        return await self._session.post(
            replica.base_url + call.path,
            data=io.BytesIO(body) if len(body) >= _LARGE_BYTES else body,
            headers={**call.trace, **replica.headers, "Content-Type": "application/json"},
            allow_redirects=False,
            timeout=self._timeouts[call.streamed],
        )

    async def _stream(
        self,
        call: Call,
        replica: ServerAddress,
        answer: aiohttp.ClientResponse,
        rewriter: StreamRewriter,
        begin: bytes,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Send events as they come. Whatever fails now ends the stream: no other replica may go on with it."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", **headers}
        )
        said = StreamText() if call.is_read(headers) else None
        meter = None if call.spent is None else StreamMeter(call.path, call.body)
        time = StreamTime(call.deadline, self._settings.connect_timeout_s)
        try:
            async with time:
                await response.prepare(call.request)
                events = begin
                while events:
                    if said is not None:
                        said.feed(events)
                    await response.write(events if meter is None else meter.feed(events))
                    events = await next_events(answer, rewriter, time)
                if said is not None:
                    call.tell_answer(headers, said.text())
                if call.spent is not None and meter is not None and meter.tokens is not None:
                    call.spent(meter.tokens)
                await response.write_eof()
        except ReplicaFailed as failure:
            await self._break_off(call, replica, response, failure)
        except (ConnectionResetError, TimeoutError):
            if time.slow:
                await self._break_off(call, replica, response, ReplicaFailed(SLOW, down=False))
            else:
                _hang_up(call.request)  # the client has left, or does not read
        return response

    async def _break_off(
        self, call: Call, replica: ServerAddress, response: web.StreamResponse, failure: ReplicaFailed
    ) -> None:
        call.request[BROKE_OFF] = True
        self._count(replica, failure, "broke off a stream")
        await _end_with_error(response)

    def _count(self, replica: ServerAddress, failure: ReplicaFailed, what: str) -> None:
        self._contexts.pop(replica.name, None)  # it may come back with another
        self._fields.forget(replica.name)
        log.warning("replica %s %s: %s", replica.name, what, failure)
        self._metrics.upstream_failures.labels(self._metrics.workload, replica.name).inc()
        if failure.down:
            self._pool.failed(replica.name, str(failure))


class OneServer:
    """A pool of one server that is not ours to watch (`gateway.embeddings_url`)."""

    def __init__(self, server: ServerAddress) -> None:
        self._server = server

    def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AbstractAsyncContextManager[ServerAddress]:
        return nullcontext(self._server)

    def failed(self, name: str, reason: str) -> None:
        """It is tried again."""


async def _refused(call: Call, replica: ServerAddress, answer: aiohttp.ClientResponse) -> web.Response:
    """What the client did wrong, in the replica's words.

    Raises:
        ReplicaFailed: it is the replica's fault.
        _ShortContext: it cannot hold as many tokens as the gateway allowed.
    """
    body = await answer.content.read(_ERROR_BYTES)
    status = answer.status
    if not 400 <= status < 500:
        # A request may be what made it fail: 500 alone does not take the replica from the others.
        said = _explained(body, status, call, replica).message if status == 500 else None
        raise ReplicaFailed(f"answered {status}", down=status != 500, of_request=said)
    if status in (401, 403):
        raise ReplicaFailed(f"answered {status}: it does not accept our token", down=True)
    if status == 404 and call.alias is not None and (call.adapter or replica.base_model).encode() in body:
        raise ReplicaFailed(f"does not have {call.adapter or replica.base_model}", down=True)
    if call.limited and (context := context_in(body, call.body)) is not None:
        raise _ShortContext(context)
    told = _explained(body, status, call, replica)
    response = refusal(status, told.code, told.message, call, replica.name, param=told.param)
    if "Retry-After" in answer.headers:
        response.headers["Retry-After"] = answer.headers["Retry-After"]
    return response


def _explained(body: bytes, status: int, call: Call, replica: ServerAddress) -> ReplicaError:
    secrets = [each.removeprefix("Bearer ") for each in replica.headers.values()]
    return replica_error(body, status, call.path, secrets, call.body)


def _error_event(call: Call, replica: ServerAddress, payload: bytes) -> bytes:
    """An error within a stream, with a message that is fit for clients."""
    said = json.loads(payload)["error"] if payload else None
    status = said.get("code") if isinstance(said, dict) else None
    status = status if isinstance(status, int) and 400 <= status < 500 else 500
    told = _explained(payload, status, call, replica)
    return json.dumps(error_body(status, told.code, told.message, told.param)).encode()


async def _end_with_error(response: web.StreamResponse) -> None:
    body = error_body(502, "stream_broken", "the answer broke off; ask again")
    try:
        await response.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        await response.write_eof()
    except ConnectionResetError:
        log.debug("the client left before its stream ended")


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
