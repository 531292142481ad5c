"""A gateway whose database and broker are away: it serves the version that it knows, stays ready, and says so."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from semievold.config.daemon import DaemonConfig
from semievold.service import Service
from tests.servers.postgres import PostgresServer

TOKEN = "token-of-the-tests"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


async def replica(request: web.Request) -> web.Response:
    """What of vLLM a gateway needs that serves the base model."""
    if request.path == "/health":
        return web.Response()
    if request.path == "/v1/models":
        return web.json_response({"data": [{"id": "base"}]})
    choice = {"index": 0, "message": {"role": "assistant", "content": "red"}, "finish_reason": "stop"}
    token = {"token": "token_id:1", "logprob": -0.1}
    body = await request.json()
    return web.json_response(
        {
            "id": f"chatcmpl-{id(request)}",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice | {"token_ids": [1], "logprobs": {"content": [token]}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
    )


class Gateway:
    """One process of the gateway role, in this one."""

    def __init__(self, directory: Path, session: aiohttp.ClientSession) -> None:
        self._file = directory / "endpoints-gateway.json"
        self._session = session

    async def get(self, path: str) -> tuple[int, Any]:
        addresses = json.loads(await asyncio.to_thread(self._file.read_text))
        async with self._session.get(addresses["api"] + path, headers=AUTHORIZED) as answer:
            return answer.status, await (answer.text() if path == "/metrics" else answer.json())

    async def ask(self) -> tuple[int, str]:
        addresses = json.loads(await asyncio.to_thread(self._file.read_text))
        body = {"model": "tiny", "messages": [{"role": "user", "content": "which colour?"}]}
        url = f"{addresses['gateway']}/v1/chat/completions"
        async with self._session.post(url, json=body, headers=AUTHORIZED) as answer:
            return answer.status, answer.headers.get("x-semievol-adapter", "")

    async def until(self, what: Callable[[Any], bool], running: asyncio.Task[int], within_s: float = 30.0) -> None:
        async with asyncio.timeout(within_s):
            while True:
                assert not running.done(), running.result()
                if self._file.exists() and what((await self.get("/readyz"))[1]):
                    return
                await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_a_gateway_serves_and_is_ready_without_database_and_broker(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", replica)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        config = DaemonConfig.model_validate(
            {
                "workload": "tiny",
                "model": {"name": str(tmp_path / "no-model-here")},
                "task": {"labels": ["red", "blue"]},
                "store": {"url": own_postgres.create_database()},
                # Nobody listens there.
                "stream": {"kind": "kafka", "kafka": {"bootstrap_servers": ["127.0.0.1:9"]}},
                "generation": {"kind": "vllm", "replicas": [str(server.make_url("/")).rstrip("/")]},
                "api": {"port": 0, "token": TOKEN},
                "gateway": {"port": 0, "token": TOKEN},
                "artifacts": {"directory": str(tmp_path)},
                "stop_deadline_s": 2.0,
            }
        )
        running = asyncio.create_task(Service(config, ("gateway",)).run())
        gateway = Gateway(tmp_path, session)
        try:
            await gateway.until(lambda seen: seen["ready"] and not seen["held"], running)
            assert await gateway.ask() == (200, "base")
            await asyncio.to_thread(own_postgres.stop)
            await gateway.until(lambda seen: "alias" in seen["held"], running)
            for _ in range(20):
                assert await gateway.ask() == (200, "base")
            status, seen = await gateway.get("/readyz")
            assert (status, seen["ready"], seen["waiting_for"]) == (200, True, {})
            assert "stands for the base model still" in seen["held"]["alias"]
            assert 'semievol_alias_followed{workload="tiny"} 0.0' in (await gateway.get("/metrics"))[1]
            await asyncio.to_thread(own_postgres.start)
            await gateway.until(lambda seen: "alias" not in seen["held"], running)
            assert 'semievol_alias_followed{workload="tiny"} 1.0' in (await gateway.get("/metrics"))[1]
        finally:
            if not running.done():
                signal.raise_signal(signal.SIGTERM)
            code = await running
    assert code == 0
