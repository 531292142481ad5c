"""Processes that share no directory: what the leader published is fetched where it is wanted, and goes everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from semievol import adapter_directory
from semievol.errors import TransientError
from semievold.rounds.launch import PublishingLauncher, Trained, TrainingPlace
from semievold.serving.adapter_servers import HeldAdapter, LocalServers
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.serving.storage.object_storage import AdapterStorage
from tests.control_world import ControlWorld, OpenWorld
from tests.small_adapter import small_adapter


@pytest.fixture
def storage() -> AdapterStorage:
    return AdapterStorage.open(f"memory://{uuid4().hex}/adapters")


def fleet_of(world: ControlWorld, directory: Path, storage: AdapterStorage, **options: Any) -> AdapterFleet:
    """Another process's, on another machine."""
    servers = LocalServers(world.here.generator, "float32")
    return AdapterFleet(world.here.stores, servers, Alias(world.stores.alias.get()), directory, storage, **options)


async def published_and_serving(open_world: OpenWorld, storage: AdapterStorage) -> tuple[ControlWorld, str]:
    """A process that leads, and the version that serves, which is on the storage."""
    world = open_world()
    await world.here.lead()
    name = await world.version(right=7)
    storage.publish(world.place.adapters / name)
    world.here.stores.alias.move(name)
    return world, name


async def test_what_is_not_here_is_fetched_and_read_from_here(
    open_world: OpenWorld, storage: AdapterStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, name = await published_and_serving(open_world, storage)
    seen: list[HeldAdapter] = []

    async def load(_: Any, adapter: HeldAdapter) -> None:
        seen.append(adapter)

    monkeypatch.setattr(LocalServers, "load", load)
    fleet = fleet_of(world, tmp_path / "elsewhere", storage)
    await fleet.follow()
    assert fleet.defect is None
    assert [adapter.path for adapter in seen] == [tmp_path / "elsewhere" / name]
    adapter_directory.verify(tmp_path / "elsewhere" / name)


async def test_what_is_published_nowhere_is_a_defect_that_names_the_place(
    open_world: OpenWorld, storage: AdapterStorage, tmp_path: Path
) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version(right=7)
    world.here.stores.alias.move(name)
    fleet = fleet_of(world, tmp_path / "elsewhere", storage)
    await fleet.follow()
    assert fleet.defect is not None
    assert f"{name}: not published there, there is no STABLE" in fleet.defect
    storage.publish(world.place.adapters / name)
    await fleet.follow()
    assert fleet.defect is None


async def test_bytes_that_are_damaged_there_are_not_asked_for_at_every_look(
    open_world: OpenWorld, storage: AdapterStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, name = await published_and_serving(open_world, storage)
    weights = storage._place(name, "adapter_model.safetensors")
    whole = storage._files.cat_file(weights)
    storage._files.pipe_file(weights, b"damaged")
    downloads, now = [], [0.0]
    fetch = AdapterStorage.fetch

    def counted(self: AdapterStorage, name: str, into: Path) -> Path:
        downloads.append(name)
        return fetch(self, name, into)

    monkeypatch.setattr(AdapterStorage, "fetch", counted)
    fleet = fleet_of(world, tmp_path / "elsewhere", storage, clock=lambda: now[0])
    for _ in range(9):
        await fleet.follow()
        now[0] += 0.5
    assert fleet.defect is not None
    assert "what came is not what was published" in fleet.defect
    assert downloads == [name]
    storage._files.pipe_file(weights, whole)
    now[0] = 6.0
    await fleet.follow()
    assert fleet.defect is None
    assert downloads == [name, name]


async def test_a_removal_that_stopped_half_way_is_finished_by_the_next_round(
    open_world: OpenWorld, storage: AdapterStorage
) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version(right=4)
    storage.publish(world.place.adapters / name)
    world.here.stores.adapters.mark(name, "rejected")
    storage._delete(name, ("STABLE",))
    assert storage.begun_names() == {name}
    await fleet_of(world, world.place.adapters, storage).delete_old(0)
    assert storage.begun_names() == frozenset()


async def test_what_is_deleted_goes_from_the_storage_and_from_every_copy(
    open_world: OpenWorld, storage: AdapterStorage, tmp_path: Path
) -> None:
    world = open_world()
    await world.here.lead()
    old, new = [await world.version(right=right) for right in (4, 7)]
    for name in (old, new):
        storage.publish(world.place.adapters / name)
    elsewhere = tmp_path / "elsewhere"
    storage.fetch(old, elsewhere)
    world.here.stores.alias.move(new)
    world.here.stores.adapters.mark(old, "rejected")
    await fleet_of(world, world.place.adapters, storage).delete_old(0)
    assert storage.names() == {new}
    assert not (world.place.adapters / old).exists()
    await fleet_of(world, elsewhere, storage).follow()
    assert [path.name for path in elsewhere.iterdir()] == [new]


async def test_what_could_not_be_taken_from_the_storage_is_taken_by_the_next_round(
    open_world: OpenWorld, storage: AdapterStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version(right=4)
    storage.publish(world.place.adapters / name)
    world.here.stores.adapters.mark(name, "rejected")
    leader = fleet_of(world, world.place.adapters, storage)

    def away(_: Any) -> frozenset[str]:
        raise TransientError("the storage is away")

    with monkeypatch.context() as patched:
        patched.setattr(AdapterStorage, "begun_names", away)
        await leader.delete_old(0)
    assert storage.names() == {name}
    await leader.delete_old(0)
    assert storage.names() == frozenset()


class Trains:
    """A launcher whose training ended long ago."""

    def __init__(self, path: Path) -> None:
        self.trained = Trained(path.name, path, adapter_directory.verify(path).content_hash, {})
        self.retired: list[int | None] = []

    async def train(self, _: TrainingPlace) -> Trained:
        return self.trained

    async def retire(self, open_round: int | None) -> None:
        self.retired.append(open_round)


async def test_a_training_has_ended_when_its_adapter_is_published(
    storage: AdapterStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = Trains(small_adapter(tmp_path / "adapters", "w-r0001", b"weights"))
    launcher = PublishingLauncher(inner, storage)
    place = TrainingPlace(tmp_path / "snapshot", tmp_path / "work", tmp_path / "adapters")

    def away(*_: Any) -> None:
        raise PermissionError("Access Denied")

    with monkeypatch.context() as patched:
        patched.setattr(type(storage._files), "put_file", away)
        with pytest.raises(TransientError, match=r"may not publish w-r0001-\w+ .Access Denied."):
            await launcher.train(place)
    assert storage.names() == frozenset()
    assert await launcher.train(place) == inner.trained
    assert storage.names() == {inner.trained.name}
    await launcher.retire(3)
    assert inner.retired == [3]


async def test_what_serves_already_is_published_when_a_storage_is_set(
    open_world: OpenWorld, storage: AdapterStorage, tmp_path: Path
) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version(right=7)
    world.here.stores.alias.move(name)
    leader = fleet_of(world, world.place.adapters, storage)
    await leader.publish_what_is_missing()
    assert storage.names() == {name}
    elsewhere = fleet_of(world, tmp_path / "elsewhere", storage)
    await elsewhere.follow()
    assert elsewhere.defect is None
    await fleet_of(world, tmp_path / "empty", storage).publish_what_is_missing()  # it has nothing to give
    assert storage.names() == {name}
