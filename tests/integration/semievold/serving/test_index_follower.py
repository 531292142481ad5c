"""A process's own copy of the example index: built from the state, followed, and never with a held-out example."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from semievol.types import Example, Query
from semievold.serving.index_follower import IndexFollower
from tests.stream_world import ListIndex, World, until

NewWorld = Callable[..., World]


def example(identity: str, answer: str = "even") -> Example:
    return Example(Query(identity, f"is {identity} even?"), answer)


class CountingIndex(ListIndex):
    """Counts the examples that were embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0

    def upsert(self, examples: object) -> None:
        super().upsert(examples)  # type: ignore[arg-type]
        self.embedded += len(examples)  # type: ignore[arg-type]


async def test_the_copy_follows_every_change_and_embeds_nothing_twice(new_world: NewWorld) -> None:
    store, index = new_world().examples, CountingIndex()
    follower = IndexFollower(store, index, 0.01)
    store.upsert([(example(f"e{n}"), False) for n in range(600)])
    store.upsert([(example("held"), True)])
    assert await follower.catch_up() == 601
    assert index.ids() == {f"e{n}" for n in range(600)}
    assert await follower.catch_up() == 0
    store.upsert([(example("e0", "odd"), False), (example("new"), False), (example("e1"), False)])
    store.retract(["e2", "held"])
    await follower.catch_up()
    assert index.examples["e0"].answer == "odd"
    assert index.ids() == {f"e{n}" for n in range(600) if n != 2} | {"new"}
    assert index.embedded == 602
    store.upsert([(example("e2"), False), (example("held"), False)])  # back, each on its side
    await follower.catch_up()
    assert "e2" in index.ids()
    assert "held" not in index.ids()


async def test_changes_of_a_machine_whose_clock_is_behind_are_followed(new_world: NewWorld) -> None:
    world, index = new_world(), ListIndex()
    store, now = world.examples, world.database.now
    follower = IndexFollower(store, index, 0.01)
    store.upsert([(example("a"), False)])
    await follower.catch_up()
    world.database.now = lambda: now() - 30.0
    store.upsert([(example("b"), False)])
    store.retract(["a"])
    await follower.catch_up()
    assert index.ids() == {"b"}


async def test_following_goes_on_when_the_state_returns(new_world: NewWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from semievold.errors import TransientStoreError

    store, index = new_world().examples, ListIndex()
    follower = IndexFollower(store, index, 0.01)
    calls = []

    def away(*_: object) -> dict[str, float]:
        calls.append(1)
        raise TransientStoreError("away")

    stop = asyncio.Event()
    task = asyncio.create_task(follower.run(stop))
    with monkeypatch.context() as patched:
        patched.setattr(type(store), "changes", away)
        await until(lambda: len(calls) > 2)
    store.upsert([(example("a"), False)])
    await until(lambda: index.ids() == {"a"})
    stop.set()
    await task
