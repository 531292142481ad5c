"""Which versions are loaded, what keeps one from serving, and when one is unloaded and deleted."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from semievol.errors import AdapterError, TransientError
from semievold.errors import LeaseLost, StateConflict
from semievold.round_states import RoundState
from semievold.serving import fleet
from semievold.serving.adapter_servers import HeldAdapter
from semievold.serving.alias import Alias
from semievold.serving.attestation import Proof
from semievold.serving.fleet import AdapterFleet
from semievold.store.adapters import IDLE
from semievold.store.aliases import AliasState
from tests.control_world import ControlWorld, OpenWorld, failing


async def versions(world: ControlWorld, *rights: int) -> list[str]:
    """As many versions, none loaded; the process `here` leads."""
    await world.here.lead()
    return [await world.version(right=right) for right in rights]


async def loaded(world: ControlWorld) -> frozenset[str]:
    return await world.here.generator.loaded_adapters()


def break_weights(world: ControlWorld, name: str) -> None:
    (world.place.adapters / name / "adapter_model.safetensors").write_bytes(b"")


class RecordingServers:
    """AdapterServers that write down what they are told."""

    defect: str | None = None

    def __init__(self) -> None:
        self.told: list[str] = []
        self.away = False

    def protect(self, names: frozenset[str]) -> None:
        self.told.append(f"protect {', '.join(sorted(names))}")

    async def keep(
        self, serving: HeldAdapter | None, previous: HeldAdapter | None, canary: HeldAdapter | None = None
    ) -> None:
        self.told.append("keep")
        if self.away:
            raise TransientError("the servers are away")

    async def load(self, adapter: HeldAdapter) -> None: ...

    async def prove(self, adapter: HeldAdapter) -> Proof:
        return Proof(True, "")

    async def unload(self, name: str) -> None:
        self.told.append(f"unload {name}")

    async def loaded(self) -> frozenset[str]:
        return frozenset()


# --- loading --------------------------------------------------------------------------------------------------------


async def test_the_serving_and_the_previous_version_are_loaded_when_the_alias_is_followed(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    first, second, third = await versions(world, 4, 7, 10)
    world.here.stores.alias.move(first)
    world.here.stores.alias.move(third)
    await world.here.fleet.follow()
    assert world.here.alias.adapter == third
    assert await loaded(world) == {first, third}
    assert second not in await loaded(world)
    assert world.here.fleet.defect is None


async def test_an_alias_that_did_not_move_is_not_reconciled_again(open_world: OpenWorld) -> None:
    world = open_world()
    (name,) = await versions(world, 7)
    servers = RecordingServers()
    fleet = AdapterFleet(world.stores, servers, Alias(world.stores.alias.get()), world.place.adapters)
    for _ in range(3):
        await fleet.follow()
    assert servers.told == ["protect ", "keep"]
    world.here.stores.alias.move(name)
    for _ in range(3):
        await fleet.follow()
    assert servers.told == ["protect ", "keep", f"protect {name}", "keep"]


async def test_what_the_alias_names_is_protected_before_anything_can_fail(open_world: OpenWorld) -> None:
    world = open_world()
    (name,) = await versions(world, 7)
    world.here.stores.alias.move(name)
    servers = RecordingServers()
    servers.away = True
    fleet = AdapterFleet(world.stores, servers, Alias(world.stores.alias.get()), world.place.adapters)
    with pytest.raises(TransientError):
        await fleet.settle()
    assert servers.told == [f"protect {name}", "keep"]
    servers.away = False
    await fleet.settle()  # what is left is done by the next call
    assert servers.told[2:] == [f"protect {name}", "keep"]


async def test_a_serving_version_that_is_damaged_is_a_defect_until_it_is_mended(
    open_world: OpenWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = open_world()
    (name,) = await versions(world, 7)
    weights = world.place.adapters / name / "adapter_model.safetensors"
    sound = weights.read_bytes()
    break_weights(world, name)
    world.here.stores.alias.move(name)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await world.here.fleet.follow()
    assert world.here.fleet.defect is not None
    assert "adapter_model.safetensors is truncated, 0 of" in world.here.fleet.defect
    assert len(caplog.records) == 1  # said once, not at every look
    weights.write_bytes(sound)
    await world.here.fleet.follow()
    assert world.here.fleet.defect is None
    assert await loaded(world) == {name}


async def test_a_previous_version_that_is_damaged_is_no_defect(open_world: OpenWorld) -> None:
    world = open_world()
    first, second = await versions(world, 7, 10)
    world.here.stores.alias.move(first)
    world.here.stores.alias.move(second)
    break_weights(world, first)
    await world.here.fleet.follow()
    assert world.here.fleet.defect is None
    assert await loaded(world) == {second}


async def test_a_serving_version_that_the_engine_refuses_is_a_defect_and_a_previous_one_is_none(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    first, second = await versions(world, 7, 10)
    world.here.stores.alias.move(first)
    world.here.generator.before_load = failing(AdapterError("rank 64 is too large"))
    await world.here.fleet.follow()
    assert world.here.fleet.defect == "rank 64 is too large"
    world.here.stores.alias.move(second)
    world.here.generator.before_load = failing()
    await world.here.fleet.follow()
    assert world.here.fleet.defect is None


async def test_what_cannot_be_trusted_is_not_loaded(open_world: OpenWorld) -> None:
    world = open_world()
    replaced, unreadable, deleted = await versions(world, 4, 7, 10)
    with pytest.raises(AdapterError, match="there is no adapter 'w-r0099-00000000'; `semievol adapters list`"):
        await world.here.fleet.load("w-r0099-00000000")
    world.here.stores.adapters.mark(deleted, "deleted")
    with pytest.raises(AdapterError, match="was deleted"):
        await world.here.fleet.load(deleted)
    # Other weights in the very place, sound in themselves.
    other, path = world.place.adapters / unreadable, world.place.adapters / replaced
    for file in ("adapter_model.safetensors", "manifest.json", "STABLE"):
        (path / file).write_bytes((other / file).read_bytes())
    with pytest.raises(AdapterError, match="content hash differs from the one registered; the files were replaced"):
        await world.here.fleet.load(replaced)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["fingerprint"] = [{"messages": [], "logprobs": []}]
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AdapterError, match="its manifest's fingerprint is unreadable"):
        await world.here.fleet.load(unreadable)
    assert await loaded(world) == frozenset()


async def test_a_proof_compares_with_the_version_that_serves(open_world: OpenWorld) -> None:
    world = open_world()
    first, second = await versions(world, 7, 10)
    world.here.stores.alias.move(first)
    await world.here.fleet.follow()
    await world.here.fleet.load(second)
    assert (await world.here.fleet.attest(second)).passed
    assert (await world.here.fleet.attest(first)).passed  # of itself it is no incumbent
    world.weights[second] = world.weights[first]
    proof = await world.here.fleet.attest(second)
    assert not proof.passed
    assert "the old weights are served under the new name" in proof.reason
    assert proof.replicas["local"].passed is False


# --- release --------------------------------------------------------------------------------------------------------


async def test_versions_that_nobody_needs_are_unloaded(open_world: OpenWorld) -> None:
    world = open_world()
    idle, previous, serving, kept = await versions(world, 4, 5, 7, 10)
    world.here.stores.alias.move(previous)
    world.here.stores.alias.move(serving)
    await world.here.fleet.follow()
    for name in (idle, kept):
        await world.here.fleet.load(name)
    await world.here.fleet.release(1.0, frozenset({kept}))
    assert await loaded(world) == {previous, serving, kept}
    await world.here.fleet.release(1.0)
    assert await loaded(world) == {previous, serving}


async def test_a_version_is_unloaded_when_its_last_request_has_ended(open_world: OpenWorld) -> None:
    world = open_world()
    (name,) = await versions(world, 7)
    await world.here.fleet.load(name)
    async with world.here.alias.bind(name, pinned=True):
        releasing = asyncio.create_task(world.here.fleet.release(60.0))
        await world.passes(30)
        assert await loaded(world) == {name}
    await releasing
    assert await loaded(world) == frozenset()
    assert world.loop.time() < 40


async def test_a_version_whose_requests_do_not_end_stays_loaded_and_the_others_are_released(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    busy, idle = await versions(world, 7, 10)
    for name in (busy, idle):
        await world.here.fleet.load(name)
    begun = world.loop.time()
    async with world.here.alias.bind(busy, pinned=True):
        await world.here.fleet.release(60.0)
        assert await loaded(world) == {busy}
    assert world.loop.time() - begun == pytest.approx(60, abs=1)


# --- deletion -------------------------------------------------------------------------------------------------------


def states(world: ControlWorld) -> list[str]:
    return [version.state for version in world.stores.adapters.all()]


async def test_the_oldest_idle_versions_are_deleted_and_the_newest_kept(open_world: OpenWorld) -> None:
    world = open_world()
    names = await versions(world, 1, 2, 3, 5)
    await world.here.fleet.delete_old(2)
    assert states(world) == ["deleted", "deleted", "rejected", "rejected"]
    assert {path.name for path in world.place.adapters.iterdir()} == set(names[2:])
    await world.here.fleet.delete_old(2)
    assert states(world) == ["deleted", "deleted", "rejected", "rejected"]


async def test_versions_that_serve_or_served_last_or_are_being_proved_are_never_deleted(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    retired, previous, serving = await versions(world, 3, 5, 7)
    for name in (retired, previous, serving):
        world.here.stores.alias.move(name)
    candidate = (await world.advance(await world.plan(), RoundState.TRAINED)).adapter
    await world.here.fleet.delete_old(0)
    assert states(world) == ["deleted", "previous", "serving", "candidate"]
    assert {path.name for path in world.place.adapters.iterdir()} == {previous, serving, candidate}


async def test_a_version_that_is_loaded_is_not_deleted(open_world: OpenWorld) -> None:
    world = open_world()
    held, _ = await versions(world, 3, 5)
    await world.here.fleet.load(held)
    await world.here.fleet.delete_old(0)
    assert states(world) == ["rejected", "deleted"]
    assert [path.name for path in world.place.adapters.iterdir()] == [held]


async def test_nights_of_rejected_rounds_take_nothing_that_served(open_world: OpenWorld) -> None:
    world = open_world()
    names = await versions(world, 1, 2, 3, 4, 5, 6, 7)
    for name in (names[0], names[1]):
        world.here.stores.adapters.mark(name, "retired")
    await world.here.fleet.delete_old(2)
    assert states(world) == ["retired", "retired", "deleted", "deleted", "deleted", "rejected", "rejected"]
    await world.here.fleet.delete_old(1)
    assert states(world) == ["deleted", "retired", "deleted", "deleted", "deleted", "deleted", "rejected"]


async def test_many_old_versions_are_deleted_some_at_a_time(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "AT_ONCE", 3)
    world = open_world()
    await versions(world, 1, 2, 3, 4, 5)
    await world.here.fleet.delete_old(0)
    assert states(world) == ["deleted", "deleted", "deleted", "rejected", "rejected"]
    await world.here.fleet.delete_old(0)
    assert states(world) == ["deleted"] * 5


async def test_what_an_operator_is_about_to_have_serve_is_neither_unloaded_nor_deleted(open_world: OpenWorld) -> None:
    world = open_world()
    (name,) = await versions(world, 3)
    with world.here.fleet.sparing(name):
        await world.here.fleet.delete_old(0)
        await world.here.fleet.load(name)
        await world.here.fleet.release(0.0)
        assert await loaded(world) == {name}
    await world.here.fleet.release(0.0)
    await world.here.fleet.delete_old(0)
    assert (await loaded(world), states(world)) == (set(), ["deleted"])


async def test_a_version_that_serves_by_now_is_not_marked_and_a_deleted_one_does_not_serve(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    first, second = await versions(world, 3, 5)
    world.here.stores.alias.move(first)
    adapters = world.here.stores.adapters
    assert not adapters.mark(first, "deleted", IDLE)
    assert adapters.mark(second, "deleted", IDLE)
    assert states(world) == ["serving", "deleted"]
    with pytest.raises(StateConflict, match=r"the directory of adapter .* was deleted"):
        world.here.stores.alias.move(second)
    assert world.stores.alias.get().adapter == first


async def test_a_version_is_marked_as_deleted_before_its_directory_goes(open_world: OpenWorld) -> None:
    world = open_world()
    (name,) = await versions(world, 3)
    world.stores.leases.acquire("another", 60.0, seize=True)  # the row cannot be written any more
    with pytest.raises(LeaseLost, match="taken over"):
        await world.here.fleet.delete_old(0)
    assert (world.place.adapters / name / "STABLE").is_file()


async def test_the_base_model_needs_nothing_loaded(open_world: OpenWorld) -> None:
    world = open_world()
    fleet = AdapterFleet(world.stores, servers := RecordingServers(), Alias(AliasState()), world.place.adapters)
    await fleet.reconcile()
    assert servers.told == ["protect ", "keep"]
    assert fleet.defect is None
