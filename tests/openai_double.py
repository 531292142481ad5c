"""A small server in OpenAI's shapes that fails on command, and a pool of such servers: for what no real one can be made
to show (it dies within a stream, hangs, answers 500), and for nothing else.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from semievol.errors import TransientError
from semievol.http.server_address import ServerAddress
from semievold.config.fronts import GatewayConfig
from semievold.gateway.call import Backend
from semievold.gateway.capture import Capture
from semievold.gateway.feedback import Feedback
from semievold.gateway.front import Gateway, GatewayTools
from semievold.gateway.proxy import OneServer, ProxyBackend
from semievold.monitoring.metrics import Metrics
from semievold.rollout.answers import AnswerCounts
from semievold.serving.alias import Alias
from semievold.serving.lending import ReservedError
from semievold.store.aliases import AliasState
from semievold.tracing import Tracing

ALIAS = "support"
GATEWAY_TOKEN = "token-of-the-gateway"
REPLICA_TOKEN = "token-of-the-replicas"
WORDS = 6


@dataclass
class Double:
    """One server. `fault` says what goes wrong with the next requests."""

    name: str
    fault: str = ""
    adapters: set[str] = field(default_factory=lambda: {"base", "v1", "v2"})
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    gone: int = 0
    running: int = 0
    error_body: dict[str, Any] = field(default_factory=dict)
    pause_s: float = 0.0
    usage: dict[str, int] | None = None
    fields: Collection[str] | None = None
    """Which fields of chat its `/openapi.json` lists; None: it shows none."""
    told: int = 0
    shown: asyncio.Event = field(default_factory=asyncio.Event)
    """With the fault `fields late`: when it shows them."""
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._any)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", int(self.url.rpartition(":")[2]) if self.url else 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """As a killed process: connections are reset, and nothing listens any more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def paths(self) -> Counter[str]:
        return Counter(path for path, _, _ in self.asked)

    async def _any(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/openapi.json":
            if self.fault == "fields late":
                await self.shown.wait()
            return self._openapi()
        body = json.loads(await request.read() or b"{}")
        self.asked.append((request.raw_path, body, dict(request.headers)))
        self.running += 1
        try:
            return await self._answer(request, body)
        except asyncio.CancelledError:
            self.gone += 1
            raise
        finally:
            self.running -= 1

    def _openapi(self) -> web.Response:
        if self.fields is None:
            return web.json_response({"detail": "Not Found"}, status=404)
        self.told += 1
        schema = {"properties": {name: {} for name in self.fields}}
        content = {"application/json": {"schema": schema}}
        paths = {"/v1/chat/completions": {"post": {"requestBody": {"content": content}}}}
        # As large as vLLM's: it comes in several pieces.
        return web.json_response({"info": {"description": "x" * 300_000}, "paths": paths})

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "reset":
            request.transport.abort()
        if self.fault.isdigit():
            return web.json_response(self.error_body, status=int(self.fault))
        if body.get("model") not in self.adapters:
            message = f"The model `{body.get('model')}` does not exist."
            return web.json_response({"error": {"message": message, "code": 404}}, status=404)
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        if body.get("stream"):
            return await self._stream(request, body)
        aborted = self.fault == "abort"
        text = " ".join(f"{body['model']}@{self.name}:{number}" for number in range(0 if aborted else WORDS))
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "abort" if aborted else "stop",
        }
        return web.json_response(
            {
                "id": f"chatcmpl-{time.monotonic_ns()}",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [choice],
                "echo": body,
                **({} if self.usage is None else {"usage": self.usage}),
            },
            headers={"x-internal": "secret", "Set-Cookie": "a=b"},
        )

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if self.fault == "mistake first":
            mistake = {"error": {"message": "Invalid regex", "type": "BadRequestError", "param": None, "code": 400}}
            await response.write(b"data: " + json.dumps(mistake).encode() + b"\n\ndata: [DONE]\n\n")
            return response
        if self.fault == "error first":
            await response.write(b'data: {"error": {"message": "the engine is dead", "code": 500}}\n\ndata: [DONE]\n\n')
            return response
        answer = {"id": f"chatcmpl-{time.monotonic_ns()}", "object": "chat.completion.chunk", "created": 1}
        for number in range(WORDS):
            if number == 2 and self.fault == "error within":
                await response.write(b'data: {"error": {"message": "see http://10.0.0.7:8000/x", "code": 500}}\n\n')
            if number == 3 and self.fault == "die within":
                await response.write(b'data: {"id": "half an ev')
                request.transport.abort()
            if number == 3 and self.fault == "hang within":
                await asyncio.sleep(3600)
            choice: dict[str, Any] = {"index": 0, "delta": {"content": f"{body['model']}@{self.name}:{number} "}}
            if self.fault == "abort" or (number == 3 and self.fault == "abort within"):
                choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "abort"}
            chunk = {**answer, "model": body["model"], "choices": [choice]}
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            if "finish_reason" in choice:
                break
            await asyncio.sleep(self.pause_s / WORDS)
        if self.usage is not None and (body.get("stream_options") or {}).get("include_usage"):
            last = {**answer, "model": body["model"], "choices": [], "usage": self.usage}
            await response.write(b"data: " + json.dumps(last).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


class Server(Protocol):
    """Something that listens."""

    @property
    def url(self) -> str: ...


class ListPool:
    """The servers that are not known to be down, least busy first."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self.servers = servers
        self.down: dict[str, str] = {}
        self.busy: Counter[str] = Counter()
        self.reserved = False
        """All are asked something alone, for a moment."""

    @asynccontextmanager
    async def lend(self, adapter: str | None, *, avoid: Collection[str] = ()) -> AsyncIterator[ServerAddress]:
        if self.reserved:
            raise ReservedError("asked alone for a moment")
        up = [name for name in self.servers if name not in self.down]
        candidates = [name for name in up if name not in avoid] or up
        if not candidates:
            raise TransientError(f"no replica at http://127.0.0.1:1234 answers with {adapter}")
        name = min(candidates, key=lambda candidate: self.busy[candidate])
        self.busy[name] += 1
        try:
            yield ServerAddress(name, self.servers[name].url, {"Authorization": f"Bearer {REPLICA_TOKEN}"})
        finally:
            self.busy[name] -= 1

    def failed(self, name: str, reason: str) -> None:
        self.down[name] = reason


class Front:
    """A gateway over doubles, listening."""

    def __init__(self, doubles: list[Double], pool: ListPool, session: aiohttp.ClientSession) -> None:
        self.doubles = doubles
        self.pool = pool
        self.alias = Alias(AliasState("v1", None, 1))
        self.metrics = Metrics("tests")
        self.stop = asyncio.Event()
        self.session = session
        self.url = ""

    def move(self, adapter: str) -> None:
        state = self.alias.state
        self.alias.follow(AliasState(adapter, state.adapter, state.generation + 1))

    def move_to_base(self) -> None:
        self.alias.follow(AliasState(None, None, self.alias.state.generation + 1))

    def ask(self, path: str = "/v1/chat/completions", **body: Any) -> Any:
        """`async with front.ask(...) as response`."""
        asked = {"model": ALIAS, "messages": [{"role": "user", "content": "hello"}], **body}
        return self.session.post(self.url + path, json=asked)

    def failures(self, replica: str) -> float:
        return self.metrics.upstream_failures.labels("tests", replica)._value.get()


@asynccontextmanager
async def front(
    doubles: list[Double],
    servers: Mapping[str, Server] | None = None,
    *,
    feedback: Feedback | None = None,
    capture: Capture | None = None,
    embeddings: ServerAddress | None = None,
    answering: Backend | None = None,
    counts: Callable[[Alias], AnswerCounts] | None = None,
    tracing: Tracing | None = None,
    **settings: Any,
) -> AsyncIterator[Front]:
    """A running gateway over doubles, which are started, over servers that run, or `answering`; stopped at the end."""
    async with AsyncExitStack() as stack:
        for double in doubles:
            await double.start()
            stack.push_async_callback(double.stop)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {GATEWAY_TOKEN}"})
        )
        made = Front(doubles, ListPool(servers or {double.name: double for double in doubles}), session)
        config = GatewayConfig(port=0, **settings)
        backend = ProxyBackend(made.pool, config, made.metrics)
        stack.push_async_callback(backend.close)
        other = None
        if embeddings is not None:
            other = ProxyBackend(OneServer(embeddings), config, made.metrics)
            stack.push_async_callback(other.close)
        tools = GatewayTools(
            answering or backend,
            feedback,  # type: ignore[arg-type]
            other,
            capture,
            counts=None if counts is None else counts(made.alias),
            tracing=tracing,
        )
        gateway = Gateway(config, ALIAS, tools, made.alias, made.metrics, GATEWAY_TOKEN)
        listening = asyncio.Event()

        def bound(host: str, port: int) -> None:
            made.url = f"http://{host}:{port}"
            listening.set()

        running = asyncio.create_task(gateway.run(bound, made.stop))
        await listening.wait()
        try:
            yield made
        finally:
            await session.close()  # a stop waits a while for who keeps a connection
            made.stop.set()
            await running


def events(body: bytes) -> list[Any]:
    """The events of a stream, parsed; `[DONE]` as it is."""
    found = []
    for event in body.decode().split("\n\n"):
        if event:
            assert event.startswith("data: "), event
            data = event.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found
