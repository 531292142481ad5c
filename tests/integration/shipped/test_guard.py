"""The guard before vLLM, as k8s/ ships it, run by HAProxy: what passes, for whom, and that nothing else does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.manifests import K8S
from tests.servers.guard import Guard, guarding

CONFIG = K8S / "components" / "vllm" / "haproxy.cfg"
EMBEDDING = K8S / "components" / "embedding" / "haproxy.cfg"
CONTROL, SERVING = "token-of-control-0123", "token-of-serving-0123"
TOKENS = {"control": CONTROL + "\n", "serving": SERVING}  # files end as they were written

COMPLETIONS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
SLEEPING = (("POST", "/sleep?level=1&mode=wait"), ("POST", "/wake_up"), ("GET", "/is_sleeping"))
LOADING = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
ADMINISTRATIVE = (
    ("POST", "/adapters"),
    ("DELETE", "/adapters/x"),
    ("GET", "/adapters"),
    ("GET", "/sleep"),
    ("GET", "/wake_up"),
    ("POST", "/is_sleeping"),
    ("POST", "/release_kv_cache_memory"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/update_weights"),
    ("POST", "/tokenize"),
    ("GET", "/docs"),
    ("POST", "/openapi.json"),
    ("GET", "/version"),
    ("GET", "/"),
    ("GET", "/v1/responses/resp_1"),
    ("GET", "/v1/models/base"),
    ("PUT", "/v1/load_lora_adapter"),
    ("GET", "/v1/load_lora_adapter"),
    ("GET", "/v1/chat/completions"),
    ("POST", "/health"),
    ("POST", "/v1/models"),
    ("DELETE", "/v1/models"),
)
SPELLINGS = (
    "//v1/load_lora_adapter",
    "/v1//load_lora_adapter",
    "/v1/load_lora_adapter/",
    "/v1/./load_lora_adapter",
    "/v1/models/../load_lora_adapter",
    "/v1/%6coad_lora_adapter",
    "/v1/load_lora_adapter%20",
    "/V1/load_lora_adapter",
    "/v1/load_lora_adapter;x",
)


class Behind:
    """Stands for vLLM: answers everything, and remembers what came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, str]] = []
        self.headers: list[Any] = []
        self.go_on = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.came.append((request.method, request.raw_path))
        self.headers.append(request.headers.copy())
        if b"stream" not in await request.read():
            return web.json_response({"answered": request.path})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await self.go_on.wait()
        await response.write(b"data: last\n\n")
        return response


@pytest.fixture
async def behind() -> AsyncIterator[tuple[Behind, int]]:
    it = Behind()
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", it.answer)
    async with TestServer(app) as server:
        assert server.port is not None
        yield it, server.port


@pytest.fixture
async def guard(behind: tuple[Behind, int], tmp_path: Path) -> AsyncIterator[Guard]:
    with guarding(CONFIG, behind[1], TOKENS, tmp_path) as guard:
        yield guard


async def status(guard: Guard, method: str, path: str, token: str | None, body: object = None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=guard.url, timeout=10.0) as client:
        return (await client.request(method, path, headers=headers, json=body)).status_code


def raw(guard: Guard, request: str) -> str:
    with socket.create_connection(("127.0.0.1", guard.port), 5.0) as connection:
        connection.settimeout(5.0)
        connection.sendall(request.encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode()


@pytest.mark.parametrize("config", [CONFIG, EMBEDDING], ids=["vllm", "embedding"])
def test_haproxy_finds_no_fault_in_what_is_shipped(config: Path, tmp_path: Path) -> None:
    assert Guard(config, 1, {**TOKENS, "token": SERVING}, tmp_path).faults() == ""


async def test_health_metrics_models_and_completions_pass(guard: Guard, behind: tuple[Behind, int]) -> None:
    for path in ("/health", "/metrics"):
        assert await status(guard, "GET", path, None) == 200
    for token in (CONTROL, SERVING):
        assert await status(guard, "GET", "/health", token) == 200
        assert await status(guard, "GET", "/v1/models", token) == 200
        for path in COMPLETIONS:
            assert await status(guard, "POST", path, token, {}) == 200
    assert len(behind[0].came) == 2 + 2 * (2 + len(COMPLETIONS))


async def test_adapters_are_loaded_by_control_alone(guard: Guard, behind: tuple[Behind, int]) -> None:
    for path in LOADING:
        assert await status(guard, "POST", path, SERVING, {}) == 403
        assert await status(guard, "POST", path, None, {}) == 401
    assert behind[0].came == []
    for path in LOADING:
        assert await status(guard, "POST", path, CONTROL, {}) == 200
    assert behind[0].came == [("POST", path) for path in LOADING]


async def test_control_alone_puts_to_sleep_and_wakes(guard: Guard, behind: tuple[Behind, int]) -> None:
    for method, path in SLEEPING:
        assert await status(guard, method, path, SERVING) == 403
        assert await status(guard, method, path, None) == 401
    assert behind[0].came == []
    for method, path in SLEEPING:
        assert await status(guard, method, path, CONTROL) == 200
    assert behind[0].came == list(SLEEPING)


@pytest.mark.parametrize("token", [None, SERVING, CONTROL])
async def test_nothing_else_passes_whoever_asks(guard: Guard, behind: tuple[Behind, int], token: str | None) -> None:
    for method, path in ADMINISTRATIVE:
        assert await status(guard, method, path, token) == 404, (method, path)
    for path in SPELLINGS:
        # As it stands: a client would tidy it.
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n"
        answer = await asyncio.to_thread(raw, guard, f"{head}Authorization: Bearer {token or CONTROL}\r\n\r\n")
        assert answer.split()[1] == "404", path
    assert behind[0].came == []


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer x", f"Bearer {SERVING}x", SERVING, f"Basic {SERVING}", f"Bearer {SERVING[:-1]}"]
)
async def test_a_wrong_token_opens_nothing(guard: Guard, behind: tuple[Behind, int], header: str) -> None:
    async with httpx.AsyncClient(base_url=guard.url, headers={"Authorization": header}) as client:
        assert (await client.post("/v1/completions", json={})).status_code == 401
        assert (await client.get("/v1/models")).status_code == 401
    assert behind[0].came == []


async def test_vllm_sees_no_token_and_is_offered_no_other_protocol(guard: Guard, behind: tuple[Behind, int]) -> None:
    headers = {
        "Authorization": f"Bearer {SERVING}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    async with httpx.AsyncClient(base_url=guard.url, headers=headers) as client:
        assert (await client.get("/v1/models")).status_code == 200
    (seen,) = behind[0].headers
    assert not {"Authorization", "Upgrade"} & set(seen)


async def test_a_request_cannot_hide_another_one(guard: Guard, behind: tuple[Behind, int]) -> None:
    inner = "POST /v1/load_lora_adapter HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    asked = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {SERVING}\r\n"
    for framing in (
        f"Content-Length: {len(inner) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        f"Transfer-Encoding : chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{inner}",
        f"Content-Length: 0\r\nContent-Length: {len(inner)}\r\n\r\n{inner}",
    ):
        await asyncio.to_thread(raw, guard, asked + framing)
    absolute = "POST http://x/v1/load_lora_adapter HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n"
    assert " 403 " in (await asyncio.to_thread(raw, guard, f"{absolute}Authorization: Bearer {SERVING}\r\n\r\n"))[:20]
    assert all("load_lora" not in path for _, path in behind[0].came)


async def test_a_stream_passes_as_it_comes_and_ends_before_a_soft_stop(
    guard: Guard, behind: tuple[Behind, int]
) -> None:
    headers = {"Authorization": f"Bearer {SERVING}"}
    async with (
        httpx.AsyncClient(base_url=guard.url, headers=headers, timeout=10.0) as client,
        client.stream("POST", "/v1/chat/completions", json={"stream": True}) as answer,
    ):
        chunks = answer.aiter_bytes()
        assert await anext(chunks) == b"data: first\n\n"
        guard.soft_stop()
        assert not await asyncio.to_thread(guard.ended, 0.2)
        behind[0].go_on.set()
        assert b"".join([chunk async for chunk in chunks]) == b"data: last\n\n"
    assert await asyncio.to_thread(guard.ended, 5.0)


async def test_a_server_that_is_not_there_is_a_503_at_once_and_the_guard_itself_is_well(tmp_path: Path) -> None:
    with guarding(CONFIG, 1, TOKENS, tmp_path) as guard:
        assert await status(guard, "GET", "/health", None) == 503
        assert await status(guard, "GET", "/guardz", None) == 200


async def test_before_the_embedder_embeddings_alone_pass(behind: tuple[Behind, int], tmp_path: Path) -> None:
    with guarding(EMBEDDING, behind[1], {"token": SERVING}, tmp_path) as guard:
        assert await status(guard, "POST", "/v1/embeddings", SERVING, {}) == 200
        assert await status(guard, "POST", "/v1/embeddings", None, {}) == 401
        assert await status(guard, "GET", "/health", None) == 200
        for path in (*LOADING, *COMPLETIONS[:-1], "/adapters"):
            assert await status(guard, "POST", path, SERVING, {}) == 404, path
    assert behind[0].came == [("POST", "/v1/embeddings"), ("GET", "/health")]
