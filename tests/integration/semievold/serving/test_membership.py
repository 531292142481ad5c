"""Who the replicas are, where real vLLM servers answer and where nobody does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from semievol.errors import TransientError
from semievol.types import GenerationRequest, Message
from tests.replica_world import held, replica_world
from tests.servers import free_port
from tests.servers.vllm import START_S, VllmServer

pytestmark = pytest.mark.timeout(START_S + 60)


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def ask(number: int, adapter: str | None) -> GenerationRequest:
    return GenerationRequest((Message("user", f"red {number}"),), adapter, max_tokens=4)


async def test_a_name_stands_for_all_its_addresses(vllm_server: VllmServer, adapters: Path) -> None:
    async with replica_world(
        [], adapters, dns=f"http://localhost:{vllm_server.port}", dns_interval_s=0.2, replicas=[]
    ) as world:
        await world.replicas.keep(None, None)
        assert "127.0.0.1" in " ".join(view.name for view in world.replicas.show())
        assert len(await world.generator.generate([ask(1, None)])) == 1


async def test_a_replica_that_never_answers_is_said_to_be_down(vllm_server: VllmServer, adapters: Path) -> None:
    dead = VllmServer(vllm_server.model, adapters.parent)
    async with replica_world([vllm_server, dead], adapters) as world:
        await world.replicas.keep(None, None)
        assert world.view(dead).state == "down"
        assert "ConnectError" in world.view(dead).reason
        await asyncio.gather(*(world.generator.generate([ask(number, None)]) for number in range(4)))


async def test_nobody_there_is_a_matter_of_time(adapters: Path, vllm_server: VllmServer) -> None:
    dead = VllmServer(vllm_server.model, adapters.parent)
    dead.port = free_port()
    serving = await held(vllm_server.model, adapters, 1)
    async with replica_world([dead], adapters, timeout_s=1.0) as world:
        with pytest.raises(TransientError, match="no replica answers"):
            await world.replicas.load(serving)
