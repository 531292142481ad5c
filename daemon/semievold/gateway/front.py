"""The OpenAI-compatible front: clients ask the alias, and each request is answered whole by one adapter version.

Owns the routes, the binding to a version and the deadline. Not who comes in (admission), nor answers: a backend gives
them, generated here or forwarded. Invariant: a request is bound when it is admitted and finishes there, however
the alias moves meanwhile; `x-semievol-adapter` says where that was. Only what a version on trial does not answer at all
is answered by the one that serves.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import hdrs, web

from semievol.errors import AdapterError, BusyError, SemiEvolError, TooLongError, TransientError
from semievold.config.fronts import DEFAULT, NOBODY, GatewayConfig
from semievold.errors import Dropped
from semievold.gateway.admission import Admission
from semievold.gateway.call import (
    ADAPTER_HEADER,
    ASKED,
    BASE,
    BROKE_OFF,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    QUERY_ID_HEADER,
    RESPONSES,
    TOO_LONG,
    Backend,
    Call,
    presentable,
    prompt_field,
    refusal,
)
from semievold.gateway.capture import Capture, Drawn
from semievold.gateway.clients import client_of
from semievold.gateway.dialect.fields import ClientMistake, check_honoured
from semievold.gateway.dialect.kinds import check_kinds
from semievold.gateway.feedback import Feedback
from semievold.gateway.headers import NOT_CAPTURED, RATE_LIMITS, AnswerHeaders
from semievold.gateway.quotas import Reservation, requests_in
from semievold.gateway.shadow.offers import ShadowOffers
from semievold.gateway.trial import trial_name
from semievold.gateway.usage import tokens_at_most
from semievold.gateway.words import WaitingWords
from semievold.monitoring.metrics import Metrics
from semievold.rollout.answers import AnswerCounts
from semievold.serving.alias import Alias
from semievold.serving.lending import RestingError
from semievold.tracing import PARENT, STATE, Span, Tracing
from semievold.web.access import guarded
from semievold.web.body_limits import BODY_BYTES, limited_app
from semievold.web.connection import connection_of
from semievold.web.errors import error, retry_later
from semievold.web.server import serve, take_leave
from semievold.web.tokens import HOLDER, Tokens

OPEN_PATHS = frozenset({"/healthz"})
FEEDBACK_PATH = "/v1/feedback"
CLIENT_GONE = "499"
ADMITTED = web.RequestKey("admitted", bool)
"""Under this name a request that was admitted to a model says so, for the metrics."""
ANSWERED_BY: web.RequestKey[str | None] = web.RequestKey("answered_by", object)  # type: ignore[arg-type]
"""Under this name a request says which version answers it, where that is another than it was bound to."""
RESTING = web.RequestKey("resting", bool)
"""Under this name a request says whether it was sent away last because all replicas rest."""
UNANSWERED = frozenset({500, 502, 503})
"""What a version on trial may answer without having answered."""
LAST_BYTES_S = 0.5
"""After the drain: what whole answers get to leave the buffers."""


@dataclass(frozen=True, slots=True)
class GatewayTools:
    """What the gateway hands requests to.

    embeddings: another server for /v1/embeddings; None: the backend.
    capture: None: no query is captured.
    words: what joins feedback that waits.
    counts: how the answers of a version on trial went; None: nobody counts.
    shadow: None: no request becomes a shadow pair, unless it is captured.
    tracing: None: no request is traced here; what the client says of its trace is passed on all the same.
    """

    backend: Backend
    feedback: Feedback
    embeddings: Backend | None = None
    capture: Capture | None = None
    words: WaitingWords | None = None
    counts: AnswerCounts | None = None
    shadow: ShadowOffers | None = None
    tracing: Tracing | None = None


class Gateway:
    """Answers clients with the adapter that the alias stands for."""

    def __init__(
        self, config: GatewayConfig, served_alias: str, tools: GatewayTools, alias: Alias, metrics: Metrics, token: str
    ) -> None:
        self._config = config
        self._served_alias = served_alias
        self._tools = tools
        self._alias = alias
        self._metrics = metrics
        self._token = token
        self._admission = Admission(config)
        self._created = int(time.time())

    async def run(self, bound: Callable[[str, int], None], stop: asyncio.Event) -> None:
        """An eternal task: serve until `stop`, then take leave, and let finish what was asked; what still runs after
        `drain_s` is cut.
        """
        runner = await serve(
            self.app(), self._config, "gateway", bound, cancel_when_gone=True, shutdown_timeout_s=LAST_BYTES_S
        )
        try:
            await stop.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.drain_s):
                    await take_leave(runner)
        finally:
            await runner.cleanup()

    def app(self) -> web.Application:
        headers = AnswerHeaders(self._config.cors_origins)
        own = self._config.feedback.token
        others = {} if own is None else {FEEDBACK_PATH: Tokens({DEFAULT: own})}
        access = guarded(Tokens(self._config.secrets(self._token)), OPEN_PATHS, presentable, others)
        preflight = [headers.preflight] if self._config.cors_origins else []
        middlewares = [self._measured, *preflight, access]
        app = limited_app(self._config, middlewares)
        app.on_response_prepare.append(headers.put)
        add = app.router
        add.add_get("/healthz", self._healthz)
        add.add_get("/v1/models", self._models)
        add.add_get("/v1/models/{name:.+}", self._model)
        add.add_post(CHAT, functools.partial(self._ask, CHAT))
        add.add_post(COMPLETIONS, functools.partial(self._ask, COMPLETIONS))
        add.add_post(RESPONSES, functools.partial(self._ask, RESPONSES))
        add.add_post(EMBEDDINGS, self._ask_embeddings)
        add.add_post(FEEDBACK_PATH, self._feedback)
        add.add_get(FEEDBACK_PATH, self._feedback, allow_head=False)
        return app

    @functools.cached_property
    def _now(self) -> Callable[[], float]:
        """The loop's clock. In Python 3.11 each asking for the loop is a system call."""
        return asyncio.get_running_loop().time

    @web.middleware
    async def _measured(self, request: web.Request, handler: Any) -> web.StreamResponse:
        started = time.perf_counter()
        code = "500"
        try:
            response: web.StreamResponse = await handler(request)
            code = str(response.status)
            return response
        except asyncio.CancelledError:
            code = CLIENT_GONE
            raise
        finally:
            self._metrics.ended(request.get(HOLDER, NOBODY), code, time.perf_counter() - started)
            if ADMITTED in request:
                self._metrics.answered(int(code), resting=request.get(RESTING, False))

    async def _healthz(self, request: web.Request) -> web.Response:
        connection = connection_of(request)
        if connection is not None and connection.parts():  # for a balancer that looks here
            return web.json_response({"status": "stopping"}, status=503)
        return web.json_response({"status": "ok"})

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._served()]})

    async def _model(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != self._served_alias:
            return self._not_served(request.match_info["name"])
        return web.json_response(self._served())

    def _served(self) -> dict[str, Any]:
        return {
            "id": self._served_alias,
            "object": "model",
            "created": self._created,
            "owned_by": "semievol",
            "root": self._alias.adapter or BASE,
        }

    def _not_served(self, name: object) -> web.Response:
        message = f"model: {str(name)[:100]!r} is not served; ask {self._served_alias!r}"
        return error(404, "model_not_found", message)

    async def _feedback(self, request: web.Request) -> web.Response:
        excess = self._admission.excess(request.get(HOLDER, DEFAULT))
        if not isinstance(excess, Reservation):
            return excess
        if (refused := self._tools.feedback.refused(request)) is not None:
            return refused
        if request.method == hdrs.METH_GET:
            return await self._tools.feedback.standing(request)
        return await self._tools.feedback(await self._admission.read_object(request), request)

    async def _ask(self, path: str, request: web.Request) -> web.StreamResponse:
        """Admit a request for the alias, bind it, and have it answered."""
        body = await self._admission.read_object(request)
        if body.get("model") != self._served_alias:
            return self._not_served(body.get("model"))
        self._admission.check(body, request[BODY_BYTES])
        try:
            check_honoured(body)
            check_kinds(body, path)
        except ClientMistake as mistake:
            return error(400, mistake.code, str(mistake), mistake.param)
        return await self._admitted(path, request, body, self._tools.backend, self._served_alias)

    async def _ask_embeddings(self, request: web.Request) -> web.StreamResponse:
        """To the embeddings server, which has models of its own; without one, to the served model."""
        if self._tools.embeddings is None:
            return await self._ask(EMBEDDINGS, request)
        return await self._admitted(
            EMBEDDINGS, request, await self._admission.read_object(request), self._tools.embeddings, None
        )

    async def _admitted(
        self, path: str, request: web.Request, body: Mapping[str, Any], backend: Backend, served: str | None
    ) -> web.StreamResponse:
        """Have it answered within a span of its own, if it is traced."""
        trace = {name: request.headers[name] for name in (PARENT, STATE) if name in request.headers}
        if (tracing := self._tools.tracing) is None:
            return await self._bound(path, request, body, backend, served, trace)
        named = {"http__request__method": request.method, "url__path": path}
        span = tracing.begin(f"{request.method} {path}", "server", trace, **named)
        if span is None:
            return await self._bound(path, request, body, backend, served, trace)
        try:
            response = await self._bound(path, request, body, backend, served, span.headers())
            _tell(span, response)
            return response
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()

    async def _bound(
        self,
        path: str,
        request: web.Request,
        body: Mapping[str, Any],
        backend: Backend,
        served: str | None,
        trace: Mapping[str, str],
    ) -> web.StreamResponse:
        holder, count = request.get(HOLDER, DEFAULT), requests_in(body)
        metered = self._admission.metered(holder)
        tokens = tokens_at_most(path, body, self._config.max_tokens, count, request[BODY_BYTES]) if metered else 0
        taken = self._admission.full(holder, count, tokens)
        if rates := self._admission.rate_headers(holder):
            request[RATE_LIMITS] = rates
        if not isinstance(taken, Reservation):
            return taken
        request[ADMITTED] = True
        # Nobody has a name here while nothing is on trial.
        client = trial_name(request, path, body) if served is not None and self._alias.canary is not None else None
        with self._admission.counted(holder, count):
            async with self._alias.bind(client=client) as adapter:
                tried = adapter != self._alias.adapter
                deadline = self._now() + self._config.timeout_s
                capture = self._tools.capture if path == CHAT else None
                spent = taken.spent if metered else None
                call = Call(request, path, body, adapter, served, deadline, _not_at_all, spent=spent, trace=trace)
                if capture is not None:
                    call = await _watched(capture, call)
                try:
                    response = await self._answered(backend, call)
                    if tried and response.status in UNANSWERED and not response.prepared:
                        response = await self._answered_by_what_serves(backend, call)
                finally:
                    call.ended()
                if spent is not None and (
                    400 <= response.status < 500 or (response.status >= 500 and ASKED not in request)
                ):
                    spent(0)  # nothing was generated; of what failed later nobody knows how much was
                # What is captured is drawn where the intake has labelled it.
                drawn_elsewhere = path != CHAT or response.status >= 400 or QUERY_ID_HEADER in response.headers
                if self._tools.shadow is not None and not drawn_elsewhere:
                    self._tools.shadow.offer(body, request.headers)
                return response

    async def _answered(self, backend: Backend, call: Call) -> web.StreamResponse:
        """The answer, counted for its version."""
        counts = self._tools.counts
        counted = counts is not None and call.alias is not None and counts.active
        said: list[str | None] = []
        started = time.perf_counter()
        read = counted and call.path == CHAT
        response = await _answered(backend, replace(call, read=said.append) if read else call)
        resting = call.request[RESTING]
        if call.alias is not None:
            self._metrics.answered_by(call.adapter, response.status, resting=resting)
        if counts is None or not counted or resting:
            return response
        failed = response.status >= 500 or BROKE_OFF in call.request
        if failed or response.status < 400:
            seconds = time.perf_counter() - started
            counts.answered(call.adapter, failed=failed, seconds=seconds, text=said[0] if said else None)
        return response

    async def _answered_by_what_serves(self, backend: Backend, call: Call) -> web.StreamResponse:
        async with self._alias.bind() as serving:
            call.request[ANSWERED_BY] = serving
            return await self._answered(backend, replace(call, adapter=serving))


async def _watched(capture: Capture, call: Call) -> Call:
    """The call, with what captures its query and notes its answer."""
    client = client_of(call.request, capture.secret)
    drawn = capture.drawn(call.body, client)
    if drawn is None:
        left_out = functools.partial(capture.not_drawn, client, call.request.headers)
        return replace(call, captured=left_out)
    # Only who is drawn may wait for the state.
    claimed = await capture.claimed(drawn, call.request.headers)
    captured = functools.partial(_captured, capture, call, drawn, claimed)
    ended = functools.partial(capture.ended, drawn, call.request.headers, claimed)
    return replace(call, captured=captured, answered=capture.answered, ended=ended)


def _captured(capture: Capture, call: Call, drawn: Drawn, claimed: str | None, answer_id: str | None) -> str | None:
    request = call.request

    def tell(reason: Dropped) -> None:
        request[NOT_CAPTURED] = reason.value

    by = request.get(ANSWERED_BY, call.adapter)
    return capture.offer(drawn, request.headers, answer_id, by, claimed=claimed, dropped=tell, trace=call.trace)


def _tell(span: Span, response: web.StreamResponse) -> None:
    adapter, query_id = (response.headers.get(name) for name in (ADAPTER_HEADER, QUERY_ID_HEADER))
    span.tell(http__response__status_code=response.status, semievol__adapter=adapter, messaging__message__id=query_id)
    if response.status >= 500:
        span.fail(str(response.status))


def _not_at_all(_answer_id: str | None) -> None:
    """Nothing is captured."""


async def _answered(backend: Backend, call: Call) -> web.StreamResponse:
    """The backend's answer, or its failure as an answer that names the version too."""
    call.request[RESTING] = False
    try:
        return await backend.answer(call)
    except TooLongError as long:
        message = f"This model's maximum context length is exceeded: {presentable(str(long))}"
        return refusal(400, TOO_LONG, message, call, param=prompt_field(call.path))
    except AdapterError as missing:
        return refusal(503, "adapter_unavailable", presentable(str(missing)), call)
    except BusyError as busy:
        return retry_later(refusal(429, "busy", str(busy), call))
    except RestingError as resting:
        call.request[RESTING] = True
        does = "has woken, and is proved anew" if resting.returns else "rests while a new version is trained on its GPU"
        why = f"the engine {does}; try again in {resting.again_s} s"
        return retry_later(refusal(503, "unavailable", why, call), resting.again_s)
    except TransientError as failure:
        return retry_later(refusal(503, "unavailable", presentable(str(failure)), call))
    except TimeoutError:
        return refusal(504, "timeout", "no answer within the gateway's time limit", call)
    except web.HTTPException as refused:
        return refusal(refused.status, "bad_request", refused.text or refused.reason, call)
    except SemiEvolError as failure:
        return refusal(400, "bad_request", presentable(str(failure)), call)
