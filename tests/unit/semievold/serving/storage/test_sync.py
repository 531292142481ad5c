"""A directory follows the storage: what is published comes, what is torn does not, what an engine holds stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from semievol import adapter_directory
from semievol.adapter_directory import WEIGHTS_FILE
from semievold.serving.storage.object_storage import AdapterStorage
from semievold.serving.storage.sync import AdapterSync, Look
from tests.small_adapter import small_adapter


class World:
    """A storage, an engine that holds what the test says, and the directory beside it."""

    def __init__(self, root: Path) -> None:
        self.storage = AdapterStorage.open(f"memory://{uuid4().hex}/adapters")
        self.held: frozenset[str] | None = frozenset({"base"})
        self.here = root / "here"
        self.now = 0.0
        self._published = root / "published"
        self.sync = self.started()

    def started(self) -> AdapterSync:
        return AdapterSync(self.storage, self.here, self._loaded, lambda: self.now)

    async def _loaded(self) -> frozenset[str] | None:
        return self.held

    def publish(self, number: int) -> str:
        path = small_adapter(self._published, f"w-r{number:04}", b"weights %d" % number)
        self.storage.publish(path)
        return path.name

    def listed(self) -> list[str]:
        return sorted(path.name for path in self.here.iterdir())

    def damage(self, name: str) -> None:
        (self.here / name / WEIGHTS_FILE).write_bytes(b"other")

    def tear(self, name: str) -> Callable[[], None]:
        """Overwrite the weights of a published version; the way back."""
        place = self.storage._place(name, WEIGHTS_FILE)
        files = self.storage._files
        whole = files.cat_file(place)
        files.pipe_file(place, b"torn")
        return lambda: files.pipe_file(place, whole)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_what_is_published_comes_and_comes_once(world: World) -> None:
    first, second = world.publish(1), world.publish(2)
    assert await world.sync.look() == Look(frozenset({first, second}), (first, second))
    assert await world.sync.look() == Look(frozenset({first, second}))
    third = world.publish(3)
    assert (await world.sync.look()).fetched == (third,)
    for name in (first, second, third):
        adapter_directory.verify(world.here / name)


async def test_what_is_published_no_more_goes_unless_the_engine_holds_it(world: World) -> None:
    first, second = world.publish(1), world.publish(2)
    await world.sync.look()
    world.held = frozenset({"base", first})
    for name in (first, second):
        world.storage.remove(name)
    assert (await world.sync.look()).removed == (second,)
    assert world.listed() == [first]
    world.held = frozenset({"base"})
    assert (await world.sync.look()).removed == (first,)
    assert world.listed() == []


async def test_nothing_is_removed_while_the_engine_does_not_say_what_it_holds(world: World) -> None:
    name = world.publish(1)
    await world.sync.look()
    world.storage.remove(name)
    world.held = None
    assert (await world.sync.look()).removed == ()
    assert world.listed() == [name]


async def test_what_is_no_adapter_of_ours_stays(world: World) -> None:
    name = world.publish(1)
    await world.sync.look()
    (world.here / "notes").mkdir()
    world.storage.remove(name)
    assert (await world.sync.look()).removed == (name,)
    assert world.listed() == ["notes"]


async def test_a_torn_download_is_refused_and_tried_again_ever_less_often(world: World) -> None:
    name, sound = world.publish(1), world.publish(2)
    mend = world.tear(name)
    look = await world.sync.look()
    assert (look.fetched, look.refused) == ((sound,), (name,))
    assert world.listed() == [sound]
    assert (await world.sync.look()).refused == ()  # not so soon
    world.now += 5.0
    assert (await world.sync.look()).refused == (name,)
    mend()
    world.now += 5.0
    assert (await world.sync.look()).fetched == ()
    world.now += 5.0
    assert (await world.sync.look()).fetched == (name,)


async def test_what_an_earlier_process_left_is_looked_through_and_fetched_again_if_damaged(world: World) -> None:
    name = world.publish(1)
    await world.sync.look()
    assert await world.started().look() == Look(frozenset({name}))
    world.damage(name)
    assert (await world.started().look()).fetched == (name,)
    adapter_directory.verify(world.here / name)


@pytest.mark.parametrize("said", [True, False])
async def test_damaged_bytes_that_the_engine_may_hold_are_left_alone(world: World, said: bool) -> None:
    name = world.publish(1)
    await world.sync.look()
    world.damage(name)
    world.held = frozenset({"base", name}) if said else None
    assert (await world.started().look()).refused == (name,)
    assert (world.here / name / WEIGHTS_FILE).read_bytes() == b"other"
