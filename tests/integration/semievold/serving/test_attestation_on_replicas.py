"""What must be caught before traffic moves, on real servers: each time the error says which replica and why."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from semievol import adapter_directory
from semievol.errors import AdapterError
from semievold.serving.adapter_servers import HeldAdapter
from tests.replica_world import World, held, replica_world
from tests.servers.vllm import MAX_RANK, START_S, VllmServer, make_served_model, running

pytestmark = pytest.mark.timeout(START_S + 120)

PATIENCE_S = 4.0


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def with_the_tensors_of(other: HeldAdapter, adapter: HeldAdapter, directory: Path) -> Path:
    """A copy of `adapter` under its own name, holding another adapter's tensors of the same shapes."""
    copy = directory / adapter.name
    shutil.copytree(adapter.path, copy)
    shutil.copyfile(other.path / adapter_directory.WEIGHTS_FILE, copy / adapter_directory.WEIGHTS_FILE)
    return copy


async def refused(world: World, adapter: HeldAdapter) -> str:
    with pytest.raises(AdapterError) as caught:
        await world.replicas.load(adapter)
    return str(caught.value)


async def test_wrong_weights_under_the_right_name_take_the_replica_out_until_they_are_right(
    vllm_pair: list[VllmServer], adapters: Path, tmp_path: Path
) -> None:
    serving, candidate, other = [await held(vllm_pair[0].model, adapters, seed) for seed in (1, 2, 3)]
    wrong, right = vllm_pair
    path = with_the_tensors_of(other, candidate, tmp_path / "wrong")
    async with replica_world(vllm_pair, adapters) as world:
        await world.replicas.keep(serving, None)
        wrong.load(candidate.name, path)
        await world.replicas.load(candidate)  # the other replica passes, and that is half of them
        proof = await world.replicas.prove(candidate)
        assert proof.passed
        attestations = {name.rpartition(":")[2]: each for name, each in proof.replicas.items()}
        assert attestations[str(right.port)].passed
        # It is loaded afresh from the right directory at the next try, so it may have passed meanwhile.
        await world.wait_until(lambda: world.view(wrong).state == "up" and candidate.name in world.view(wrong).adapters)
        assert world.view(wrong).adapters[candidate.name].passed


async def test_a_replica_that_keeps_serving_wrong_weights_is_quarantined_and_named(
    vllm_pair: list[VllmServer], adapters: Path, tmp_path: Path
) -> None:
    serving, candidate, other = [await held(vllm_pair[0].model, adapters, seed) for seed in (1, 2, 3)]
    wrong, right = vllm_pair
    path = with_the_tensors_of(other, candidate, tmp_path / "wrong")
    for adapter, server, source in ((serving, wrong, serving.path), (serving, right, serving.path)):
        server.load(adapter.name, source)
    wrong.load(candidate.name, path)
    right.load(candidate.name, candidate.path)
    async with replica_world(vllm_pair, adapters, loads=False) as world:  # it cannot mend what it finds
        await world.replicas.keep(serving, None)
        await world.replicas.load(candidate)
        assert world.view(wrong).state == "quarantined"
        assert "wrong weights: answers deviate by" in world.view(wrong).reason
        assert candidate.name in world.view(wrong).reason
        for _ in range(8):  # not even for what it serves rightly
            async with world.replicas.lend(serving.name) as lent:
                assert lent.name.endswith(f":{right.port}")


async def test_where_every_replica_fails_the_adapter_is_at_fault_and_traffic_stays(
    vllm_pair: list[VllmServer], adapters: Path, tmp_path: Path
) -> None:
    serving, candidate, other = [await held(vllm_pair[0].model, adapters, seed) for seed in (1, 2, 3)]
    shutil.copyfile(other.path / adapter_directory.WEIGHTS_FILE, candidate.path / adapter_directory.WEIGHTS_FILE)
    async with replica_world(vllm_pair, adapters, timeout_s=PATIENCE_S) as world:
        await world.replicas.keep(serving, None)
        text = await refused(world, candidate)
        for server in vllm_pair:
            assert f"127.0.0.1:{server.port}: wrong weights" in text
            assert world.view(server).state == "up"
        async with world.replicas.lend(serving.name):
            pass


async def test_the_incumbents_weights_under_the_new_name_are_caught(vllm_server: VllmServer, adapters: Path) -> None:
    serving, candidate = [await held(vllm_server.model, adapters, seed) for seed in (1, 2)]
    async with replica_world([vllm_server], adapters, loads=False, timeout_s=PATIENCE_S) as world:
        vllm_server.load(serving.name, serving.path)
        vllm_server.load(candidate.name, serving.path)
        await world.replicas.keep(serving, None)
        await world.wait_until(lambda: world.replicas.defect is None)
        assert "the old weights are served under the new name" in await refused(world, candidate)


async def test_a_replica_without_the_adapter_is_named(vllm_server: VllmServer, adapters: Path, tmp_path: Path) -> None:
    candidate = await held(vllm_server.model, adapters, 2)
    elsewhere = str(tmp_path / "not-mounted")
    async with replica_world([vllm_server], adapters, timeout_s=PATIENCE_S, adapters_path=elsewhere) as world:
        await world.replicas.keep(None, None)
        text = await refused(world, candidate)
        assert f"127.0.0.1:{vllm_server.port}: cannot load {candidate.name} from {elsewhere}" in text
        assert "No adapter found" in text


async def test_an_adapter_of_too_high_a_rank_is_named(vllm_server: VllmServer, adapters: Path) -> None:
    candidate = await held(vllm_server.model, adapters, 2, rank=2 * MAX_RANK)
    async with replica_world([vllm_server], adapters, timeout_s=PATIENCE_S) as world:
        await world.replicas.keep(None, None)
        text = await refused(world, candidate)
        assert f"127.0.0.1:{vllm_server.port}: cannot load {candidate.name}" in text
        assert f"rank {2 * MAX_RANK} is greater than max_lora_rank {MAX_RANK}" in text


async def test_a_file_that_a_replica_sees_truncated_is_named(
    vllm_server: VllmServer, adapters: Path, tmp_path: Path
) -> None:
    candidate = await held(vllm_server.model, adapters, 2)
    seen = tmp_path / "seen"
    shutil.copytree(adapters, seen)
    weights = seen / candidate.name / adapter_directory.WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    async with replica_world([vllm_server], adapters, timeout_s=PATIENCE_S, adapters_path=str(seen)) as world:
        await world.replicas.keep(None, None)
        text = await refused(world, candidate)
        assert f"127.0.0.1:{vllm_server.port}: cannot load {candidate.name}" in text
        assert "incomplete metadata" in text


async def test_a_replica_with_another_base_model_is_named_and_gets_nothing(
    vllm_server: VllmServer, adapters: Path, tmp_path: Path
) -> None:
    candidate = await held(vllm_server.model, adapters, 2)
    stranger = VllmServer(make_served_model(tmp_path / "other", seed=9), tmp_path)
    with running(stranger):
        async with replica_world([vllm_server, stranger], adapters) as world:
            await world.replicas.keep(None, None)
            await world.replicas.load(candidate)
            assert world.view(stranger).state == "quarantined"
            assert "another base model" in world.view(stranger).reason
            async with world.replicas.lend(None) as lent:
                assert lent.name.endswith(f":{vllm_server.port}")


async def test_without_a_fingerprint_an_adapter_is_never_served(vllm_server: VllmServer, adapters: Path) -> None:
    candidate = replace(await held(vllm_server.model, adapters, 2), fingerprint=())
    async with replica_world([vllm_server], adapters, timeout_s=PATIENCE_S) as world:
        await world.replicas.keep(None, None)
        assert "holds no fingerprint" in await refused(world, candidate)
