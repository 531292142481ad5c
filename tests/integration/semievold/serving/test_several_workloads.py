"""Two workloads on the same real vLLM servers: each has its own share, and neither touches what is the other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from semievol.errors import AdapterError
from tests.replica_world import held
from tests.servers.vllm import START_S, VllmServer
from tests.workload_fleet import WorkloadFleet, workload_fleet

pytestmark = pytest.mark.timeout(START_S + 120)

# One name begins as the other one does, and may end as a version does: neither is to be taken for the other's.
DESK, OTHER = "desk", "desk-r0001"
QUESTIONS = [f"what of {number}?" for number in range(6)]


async def trained(it: WorkloadFleet, server: VllmServer, seed: int) -> str:
    """A version of the workload that a round has registered."""
    return it.register((await held(server.model, it.directory, seed, workload=it.name)).path)


def loaded(server: VllmServer, it: WorkloadFleet) -> set[str]:
    """What the server has of a workload, by the directory that it was published in."""
    return {name for name in server.models() if (it.directory / name).is_dir()}


async def answers(it: WorkloadFleet) -> list[tuple[str | None, tuple[int, ...]]]:
    return [await it.answer(question) for question in QUESTIONS]


@asynccontextmanager
async def asking(it: WorkloadFleet) -> AsyncIterator[None]:
    """Clients of a workload ask all through the block, and get what they got before it."""
    expected, ended, asked = await answers(it), asyncio.Event(), 0

    async def client(number: int) -> None:
        nonlocal asked
        while not ended.is_set():
            place = (number + asked) % len(QUESTIONS)
            asked += 1
            assert await it.answer(QUESTIONS[place]) == expected[place]

    clients = [asyncio.create_task(client(number)) for number in range(4)]
    try:
        yield
        before = asked
        while asked < before + len(QUESTIONS) and not any(each.done() for each in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    finally:
        ended.set()
        await asyncio.gather(*clients)


async def test_each_workload_loads_proves_and_unloads_its_own_and_one_that_stops_or_goes_back_leaves_the_others(
    vllm_pair: list[VllmServer], tmp_path: Path
) -> None:
    async with workload_fleet(OTHER, vllm_pair, tmp_path) as other:
        async with workload_fleet(DESK, vllm_pair, tmp_path) as desk:
            first, second = [await trained(desk, vllm_pair[0], seed) for seed in (1, 2)]
            others = await trained(other, vllm_pair[0], 3)
            await other.serve(others)
            await desk.serve(first)
            assert [server.models() for server in vllm_pair] == [{"base", first, others}] * 2
            for view in desk.world.replicas.show():
                assert set(view.adapters) == {first}  # proved by itself, and nobody else's
            assert await desk.world.replicas.loaded() == {first}
            with pytest.raises(AdapterError, match="there is no adapter"):
                await desk.fleet.load(others)  # not even when somebody asks for it by name
            await desk.serve(second)
            async with asking(other):
                await desk.move(first)  # a rollback
                await desk.fleet.release(5.0)
                await desk.move(None)
                await desk.fleet.release(5.0)
                for server in vllm_pair:
                    assert loaded(server, desk) == {first}  # the version before, for another rollback
                await desk.move(first)
        async with asking(other):  # it has stopped, and what it left is nobody's to clear away
            await other.fleet.reconcile()
            await other.fleet.release(5.0)
            await other.world.replicas.looked()
            for server in vllm_pair:
                assert (loaded(server, desk), loaded(server, other)) == ({first}, {others})
            async with workload_fleet(DESK, vllm_pair, tmp_path) as again:
                assert again.alias.adapter == first
            assert [server.models() for server in vllm_pair] == [{"base", first, others}] * 2


async def test_max_adapters_is_a_share_that_others_do_not_use_up(vllm_server: VllmServer, tmp_path: Path) -> None:
    settings = {"max_adapters": 3, "timeout_s": 3.0}
    async with (
        workload_fleet(DESK, [vllm_server], tmp_path, **settings) as desk,
        workload_fleet(OTHER, [vllm_server], tmp_path, **settings) as other,
    ):
        versions = [await trained(desk, vllm_server, seed) for seed in (1, 2, 3, 4)]
        others = await trained(other, vllm_server, 5)
        for name in versions[:3]:
            await desk.fleet.load(name)
        await other.serve(others)  # what the server holds of both is more than one's share
        desk.fleet.propose(versions[2])
        async with desk.world.replicas.lend(versions[0]), desk.world.replicas.lend(versions[1]):
            with pytest.raises(AdapterError, match=r"no room: generation\.max_adapters is 3") as caught:
                await desk.fleet.load(versions[3])
        assert others not in str(caught.value)
        assert loaded(vllm_server, desk) == set(versions[:3])
        assert loaded(vllm_server, other) == {others}
