"""The OpenAI-compatible front: clients ask the alias, and each request is answered whole by one adapter version.

Owns admission: token, limits, the binding to a version, the deadline, and the drain at the stop. Not answers: a backend
gives them, generated here or forwarded. Invariant: a request is bound when it is admitted and finishes there, however
the alias moves meanwhile; `x-semievol-adapter` says where that was.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from semievol.engines.server_address import ServerAddress
from semievol.errors import AdapterError, SemiEvolError, TransientError
from semievol.protocols import Generator
from semievold.config.daemon import DaemonConfig
from semievold.config.fronts import GatewayConfig
from semievold.gateway.call import BASE, CHAT, COMPLETIONS, EMBEDDINGS, Backend, Call, refusal
from semievold.gateway.capture import Capture
from semievold.gateway.feedback import Feedback
from semievold.gateway.local import LocalBackend
from semievold.gateway.proxy import OneServer, ProxyBackend
from semievold.intake.messages import RecordParser
from semievold.monitoring.metrics import Metrics
from semievold.serving.alias import Alias
from semievold.serving.lending import ReplicaPool
from semievold.store.pseudo_labels import PseudoLabelStore
from semievold.streams.protocol import StreamProducer
from semievold.web.access import guarded
from semievold.web.body_limits import limited_app, read_json
from semievold.web.errors import error
from semievold.web.server import serve

OPEN_PATHS = frozenset({"/healthz"})
CLIENT_GONE = "499"
LAST_BYTES_S = 0.5
"""After the drain: what whole answers get to leave the buffers."""


@dataclass(frozen=True, slots=True)
class GatewayTools:
    """What the gateway hands requests to.

    embeddings: another server for /v1/embeddings; None: the backend.
    capture: None: no query is captured.
    """

    backend: Backend
    feedback: Feedback
    embeddings: Backend | None = None
    capture: Capture | None = None


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
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    async def run(self, bound: Callable[[str, int], None], stop: asyncio.Event) -> None:
        """An eternal task: serve until `stop`, then let running requests finish while new ones are sent away."""
        runner = await serve(
            self.app(), self._config, "gateway", bound, cancel_when_gone=True, shutdown_timeout_s=LAST_BYTES_S
        )
        try:
            await stop.wait()
            self._draining = True
            await self._drained()
        finally:
            await runner.cleanup()

    async def _drained(self) -> None:
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._idle.wait()
        except TimeoutError:
            return  # what still runs is cut

    def app(self) -> web.Application:
        middlewares = [self._measured, guarded(self._token, OPEN_PATHS), self._open_to_new]
        app = limited_app(self._config, middlewares)
        add = app.router
        add.add_get("/healthz", self._healthz)
        add.add_get("/v1/models", self._models)
        add.add_post(CHAT, functools.partial(self._ask, CHAT))
        add.add_post(COMPLETIONS, functools.partial(self._ask, COMPLETIONS))
        add.add_post(EMBEDDINGS, self._ask_embeddings)
        add.add_post("/v1/feedback", self._feedback)
        return app

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
            self._metrics.requests.labels(self._metrics.workload, code).inc()
            self._metrics.latency.labels(self._metrics.workload).observe(time.perf_counter() - started)

    @web.middleware
    async def _open_to_new(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """While draining, send the client to another gateway, on another connection."""
        gone = self._draining
        response: web.StreamResponse
        response = error(503, "stopping", "this gateway is stopping; ask again") if gone else await handler(request)
        if self._draining and not response.prepared:
            response.force_close()
        return response

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, _request: web.Request) -> web.Response:
        serving = {
            "id": self._served_alias,
            "object": "model",
            "owned_by": "semievol",
            "root": self._alias.adapter or BASE,
        }
        return web.json_response({"object": "list", "data": [serving]})

    async def _feedback(self, request: web.Request) -> web.Response:
        return await self._tools.feedback(await self._object(request))

    async def _ask(self, path: str, request: web.Request) -> web.StreamResponse:
        """Admit a request for the alias, bind it, and have it answered."""
        body = await self._object(request)
        if body.get("model") != self._served_alias:
            name = str(body.get("model"))[:100]
            return error(404, "model_not_found", f"model: {name!r} is not served; ask {self._served_alias!r}")
        self._check_limits(body)
        return await self._admitted(path, request, body, self._tools.backend, self._served_alias)

    async def _ask_embeddings(self, request: web.Request) -> web.StreamResponse:
        """To the embeddings server, which has models of its own; without one, to the served model."""
        if self._tools.embeddings is None:
            return await self._ask(EMBEDDINGS, request)
        return await self._admitted(EMBEDDINGS, request, await self._object(request), self._tools.embeddings, None)

    async def _admitted(
        self, path: str, request: web.Request, body: Mapping[str, Any], backend: Backend, served: str | None
    ) -> web.StreamResponse:
        if self._in_flight >= self._config.max_in_flight:
            busy = error(429, "busy", f"{self._in_flight} requests are in flight; try again")
            busy.headers["Retry-After"] = "1"
            return busy
        self._in_flight += 1
        self._idle.clear()
        try:
            async with self._alias.bind() as adapter:
                deadline = asyncio.get_running_loop().time() + self._config.timeout_s
                captured = functools.partial(self._captured, path, request, body, adapter)
                return await _answered(backend, Call(request, path, body, adapter, served, deadline, captured))
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()

    def _captured(
        self, path: str, request: web.Request, body: Mapping[str, Any], adapter: str | None, answer_id: str | None
    ) -> str | None:
        if self._tools.capture is None or path != CHAT:
            return None
        return self._tools.capture.offer(body, request.headers, answer_id, adapter)

    async def _object(self, request: web.Request) -> dict[str, Any]:
        _check_content_type(request)
        try:
            async with asyncio.timeout(self._config.idle_timeout_s):
                body = await read_json(request)
        except TimeoutError as late:
            raise web.HTTPRequestTimeout(text="body: it did not come within gateway.idle_timeout_s") from late
        if not isinstance(body, dict):
            raise web.HTTPBadRequest(text="body: not a JSON object")
        return body

    def _check_limits(self, body: Mapping[str, Any]) -> None:
        if not isinstance(body.get("stream"), (bool, type(None))):
            raise web.HTTPBadRequest(text="stream: not true or false")
        limits = {
            "n": self._config.max_n,
            "best_of": self._config.max_n,
            "max_tokens": self._config.max_tokens,
            "max_completion_tokens": self._config.max_tokens,
        }
        for name, limit in limits.items():
            value = body.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise web.HTTPBadRequest(text=f"{name}: not a whole number from 1 to {limit}")


def open_gateway_tools(
    config: DaemonConfig,
    generator: Generator,
    replicas: ReplicaPool | None,
    pseudo_labels: PseudoLabelStore,
    parser: RecordParser,
    producer: StreamProducer,
    metrics: Metrics,
) -> GatewayTools:
    """What the settings ask for; requests go to `replicas`, or without them to `generator`."""
    settings = config.gateway
    backend = LocalBackend(generator) if replicas is None else ProxyBackend(replicas, settings, metrics)
    capture = embeddings = None
    if settings.capture.share > 0:
        instruction = config.task.instruction
        capture = Capture(settings.capture, config.stream.queries, instruction, parser, producer, metrics)
    if settings.embeddings_url is not None:
        token = settings.embeddings_token
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        server = OneServer(ServerAddress("embeddings", settings.embeddings_url, headers))
        embeddings = ProxyBackend(server, settings, metrics)
    return GatewayTools(backend, Feedback(config.stream.labels, pseudo_labels, parser, producer), embeddings, capture)


async def _answered(backend: Backend, call: Call) -> web.StreamResponse:
    """The backend's answer, or its failure as an answer that names the version too."""
    try:
        return await backend.answer(call)
    except AdapterError as missing:
        return refusal(503, "adapter_unavailable", str(missing), call)
    except TransientError as failure:
        return refusal(503, "unavailable", str(failure), call)
    except TimeoutError:
        return refusal(504, "timeout", "no answer within the gateway's time limit", call)
    except web.HTTPException as refused:
        return refusal(refused.status, "invalid_request", refused.text or refused.reason, call)
    except SemiEvolError as failure:
        return refusal(400, "bad_request", str(failure), call)


def _check_content_type(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Content-Type: send application/json")
