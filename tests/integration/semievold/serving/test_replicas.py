"""The replica set over two real vLLM servers: it converges by itself and lends only what was proved."""

from __future__ import annotations

from pathlib import Path

import pytest

from semievol.errors import AdapterError
from semievol.types import GenerationRequest, Message
from semievold.serving.adapter_servers import HeldAdapter
from tests.replica_world import held, replica_world
from tests.servers.vllm import START_S, VllmServer

pytestmark = pytest.mark.timeout(START_S + 60)


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


async def two(servers: list[VllmServer], adapters: Path) -> tuple[HeldAdapter, HeldAdapter]:
    first, second = [await held(servers[0].model, adapters, seed) for seed in (1, 2)]
    return first, second


def ask(number: int, adapter: str | None) -> GenerationRequest:
    return GenerationRequest((Message("user", f"red {number}"),), adapter, max_tokens=4)


async def test_wanted_adapters_are_loaded_proved_and_lent_on_every_replica(
    vllm_pair: list[VllmServer], adapters: Path
) -> None:
    serving, candidate = await two(vllm_pair, adapters)
    async with replica_world(vllm_pair, adapters) as world:
        await world.replicas.keep(serving, None)
        assert world.replicas.defect is None
        with pytest.raises(AdapterError, match="is not loaded"):
            await world.generator.generate([ask(1, candidate.name)])
        await world.replicas.load(candidate)
        proof = await world.replicas.prove(candidate)
        assert proof.passed, proof
        assert len(proof.replicas) == 2
        assert all(each.passed and each.noise is not None for each in proof.replicas.values())
        assert [server.models() for server in vllm_pair] == [{"base", serving.name, candidate.name}] * 2
        await world.generator.generate([ask(number, candidate.name) for number in range(8)])
        await world.replicas.unload(candidate.name)
        assert [server.models() for server in vllm_pair] == [{"base", serving.name}] * 2


async def test_an_adapter_that_somebody_unloads_comes_back(vllm_pair: list[VllmServer], adapters: Path) -> None:
    serving, _ = await two(vllm_pair, adapters)
    async with replica_world(vllm_pair, adapters) as world:
        await world.replicas.keep(serving, None)
        vllm_pair[0].unload_all()
        await world.wait_until(lambda: serving.name in vllm_pair[0].models())
        await world.wait_until(lambda: serving.name in world.view(vllm_pair[0]).adapters)


async def test_versions_left_over_are_unloaded_but_never_those_of_another_workload(
    vllm_pair: list[VllmServer], adapters: Path
) -> None:
    serving, left_over = await two(vllm_pair, adapters)
    for name in (left_over.name, "other-r0001-0a1b2c3d"):
        vllm_pair[0].load(name, left_over.path)
    async with replica_world(vllm_pair, adapters) as world:
        await world.replicas.keep(serving, None)
        await world.wait_until(lambda: left_over.name not in vllm_pair[0].models())
        assert "other-r0001-0a1b2c3d" in vllm_pair[0].models()


async def test_more_versions_than_allowed_are_never_loaded(vllm_server: VllmServer, adapters: Path) -> None:
    held_ones = [await held(vllm_server.model, adapters, seed) for seed in (1, 2, 3, 4)]
    async with replica_world([vllm_server], adapters, timeout_s=3.0, max_adapters=3) as world:
        await world.replicas.keep(held_ones[0], held_ones[1])
        await world.replicas.load(held_ones[2])
        async with world.replicas.lend(held_ones[2].name):  # it is in use, and gives way to nobody
            with pytest.raises(AdapterError, match=r"no room: generation.max_adapters is 3"):
                await world.replicas.load(held_ones[3])
        assert len(vllm_server.models() - {"base"}) == 3


async def test_a_process_without_the_control_role_attests_for_itself_and_loads_nothing(
    vllm_pair: list[VllmServer], adapters: Path
) -> None:
    serving, _ = await two(vllm_pair, adapters)
    async with replica_world(vllm_pair, adapters, loads=False, timeout_s=2.0) as follower:
        await follower.replicas.keep(serving, None)
        assert "no replica can answer" in str(follower.replicas.defect)
        assert serving.name not in vllm_pair[0].models()
        async with replica_world(vllm_pair, adapters) as leader:
            await leader.replicas.keep(serving, None)
        await follower.wait_until(lambda: follower.replicas.defect is None)


async def test_names_and_paths_outside_the_directory_are_refused(vllm_server: VllmServer, adapters: Path) -> None:
    serving = await held(vllm_server.model, adapters, 1)
    elsewhere = await held(vllm_server.model, adapters.parent / "elsewhere", 2)
    async with replica_world([vllm_server], adapters) as world:
        with pytest.raises(AdapterError, match=r"is not in .*never loaded"):
            await world.replicas.load(elsewhere)
        with pytest.raises(AdapterError, match="not usable"):
            await world.replicas.load(HeldAdapter("../x", serving.path, serving.fingerprint))
    assert vllm_server.models() == {"base"}


async def test_the_servers_may_see_the_directory_under_another_path(
    vllm_server: VllmServer, adapters: Path, tmp_path: Path
) -> None:
    serving = await held(vllm_server.model, adapters, 1)
    mounted = tmp_path / "mounted"
    mounted.symlink_to(adapters)
    async with replica_world([vllm_server], adapters, adapters_path=str(mounted)) as world:
        await world.replicas.keep(serving, None)
        assert world.replicas.defect is None
