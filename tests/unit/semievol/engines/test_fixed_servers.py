"""Servers that nobody watches: what a run loaded there is unloaded again, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from semievol import adapter_directory
from semievol.engines.vllm import FixedServers
from semievol.engines.vllm_client import VllmClient
from semievol.errors import TransientError
from semievol.http.client import HttpClient
from semievol.http.server_address import ServerAddress


class Servers:
    """Three servers a, b and c, and what each has loaded; those in `down` do not answer."""

    def __init__(self) -> None:
        self.loaded: dict[str, set[str]] = {"a": {"base"}, "b": {"base"}, "c": {"base"}}
        self.down: set[str] = set()
        self.client = VllmClient(HttpClient(transport=httpx.MockTransport(self._answer)))
        self.pool = FixedServers(self.client, [ServerAddress(name, f"http://{name}") for name in self.loaded])

    def _answer(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if host in self.down:
            raise httpx.ConnectError("refused")
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": name} for name in self.loaded[host]]})
        name = json.loads(request.content)["lora_name"]
        change = self.loaded[host].add if request.url.path == "/v1/load_lora_adapter" else self.loaded[host].discard
        change(name)
        return httpx.Response(200)


@pytest.fixture
async def servers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Servers]:
    monkeypatch.setattr(adapter_directory, "verify_weights", lambda path: None)
    made = Servers()
    yield made
    await made.client.close()


async def test_a_server_that_had_the_adapter_before_keeps_it(servers: Servers, tmp_path: Path) -> None:
    servers.loaded["b"].add("r0001")
    await servers.pool.load_adapter("r0001", tmp_path)
    assert await servers.pool.loaded_adapters() == {"r0001"}
    await servers.pool.unload_adapter("r0001")
    assert servers.loaded == {"a": {"base"}, "b": {"base", "r0001"}, "c": {"base"}}


async def test_a_server_that_does_not_answer_keeps_nothing_loaded_on_the_others(
    servers: Servers, tmp_path: Path
) -> None:
    for name in ("r0001", "r0002"):
        await servers.pool.load_adapter(name, tmp_path)
    servers.down = {"a"}
    with pytest.raises(TransientError, match="a: ConnectError"):
        await servers.pool.unload_all()
    assert (servers.loaded["b"], servers.loaded["c"]) == ({"base"}, {"base"})
    servers.down = set()
    await servers.pool.unload_all()
    assert servers.loaded["a"] == {"base"}


async def test_what_was_loaded_before_a_server_failed_is_unloaded_too(servers: Servers, tmp_path: Path) -> None:
    servers.down = {"b"}
    with pytest.raises(TransientError):
        await servers.pool.load_adapter("r0001", tmp_path)
    assert "r0001" in servers.loaded["a"]
    await servers.pool.unload_all()
    assert servers.loaded["a"] == {"base"}
