"""A process's own copy of the example index: read from the state, followed, and never with a held-out example."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

import pytest

from semievol.errors import DataError, TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.resident import ResidentExampleIndex
from semievol.protocols import Vectors
from semievol.types import Example, Query
from semievold.serving.followed_index import FollowedIndex
from semievold.store.vectors import ExampleVectors, count_vectors
from tests.stream_world import World, run_until, until

NewWorld = Callable[..., World]


def example(identity: str, answer: str = "even") -> Example:
    return Example(Query(identity, f"is {identity} even?"), answer)


class CountingEmbedder(HashingEmbedder):
    """Remembers what it embedded; `before` may raise first."""

    def __init__(self, name: str = "counting", before: Callable[[], None] = lambda: None) -> None:
        super().__init__(64)
        self._given_name = name
        self.before = before
        self.texts: list[str] = []

    @property
    def name(self) -> str:
        return self._given_name

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.before()
        self.texts += texts
        return super().embed(texts)


class ShortEmbedder(CountingEmbedder):
    """Refuses longer texts, as an endpoint whose model reads so much and no more."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        if any(len(text) > 50 for text in texts):
            raise DataError("embedding: refuses a text")
        return super().embed(texts)


def copy_of(
    world: World, embedder: CountingEmbedder | None = None, knows: Callable[[Example], bool] = lambda _: True
) -> FollowedIndex:
    """As a process opens it."""
    embedder = embedder or CountingEmbedder()
    index = ResidentExampleIndex(embedder, ExampleVectors(world.database, "w", embedder))
    return FollowedIndex(world.examples, index, 0.01, knows)


async def test_the_copy_follows_every_change_and_embeds_nothing_twice(new_world: NewWorld) -> None:
    world, embedder = new_world(), CountingEmbedder()
    store, copy = world.examples, copy_of(world, embedder)
    store.upsert([(example(f"e{n}"), False) for n in range(600)])
    store.upsert([(example("held"), True)])
    assert await copy.catch_up() == 601
    assert copy.ids() == {f"e{n}" for n in range(600)}
    assert await copy.catch_up() == 0
    store.upsert([(example("e0", "odd"), False), (example("new"), False), (example("e1"), False)])
    store.retract(["e2", "held"])
    await copy.catch_up()
    assert copy.neighbours(["is e0 even?"], 1)[0][0].example == example("e0", "odd")
    assert copy.ids() == {f"e{n}" for n in range(600) if n != 2} | {"new"}
    assert len(embedder.texts) == 601 + 1  # and what was asked; the changed answer is of the same question
    store.upsert([(example("e2"), False), (example("held"), False)])  # back, each on its side
    await copy.catch_up()
    assert "e2" in copy.ids()
    assert "held" not in copy.ids()


async def test_neither_a_restart_nor_another_process_embeds_again(
    new_world: NewWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = new_world()
    world.examples.upsert([(example(f"e{n}"), False) for n in range(700)])
    first = copy_of(world)
    await first.catch_up()
    world.examples.retract(["e3"])
    changed = Example(Query("e4", "is four even?"), "even")
    world.examples.upsert([(changed, False)])
    embedder = CountingEmbedder()
    second = copy_of(world, embedder)
    with caplog.at_level(logging.INFO, "semievold.serving.followed_index"):
        await second.catch_up()
    assert embedder.texts == ["is four even?"]
    assert "1 examples that had no vector of this embedder in the state embedded" in caplog.text
    await first.catch_up()
    assert second.ids() == first.ids() == {f"e{n}" for n in range(700)} - {"e3"}
    asked = [f"is {n} even?" for n in range(20)]
    assert second.neighbours(asked, 5) == first.neighbours(asked, 5)
    assert [some.vectors for some in count_vectors(world.database, "w")] == [699]


async def test_another_embedder_makes_its_own_vectors_once(new_world: NewWorld) -> None:
    world = new_world()
    world.examples.upsert([(example(f"e{n}"), False) for n in range(10)])
    await copy_of(world).catch_up()
    other, again = CountingEmbedder("other"), CountingEmbedder("other")
    await copy_of(world, other).catch_up()
    await copy_of(world, again).catch_up()
    assert (len(other.texts), len(again.texts)) == (10, 0)
    assert [some[:2] for some in count_vectors(world.database, "w")] == [("other", 64)]


async def test_what_was_embedded_before_the_embedder_failed_is_kept(new_world: NewWorld) -> None:
    world, left = new_world(), [2]

    def fails() -> None:
        if left[0] == 0:
            raise TransientError("away")
        left[0] -= 1

    world.examples.upsert([(example(f"e{n}"), False) for n in range(700)])
    embedder = CountingEmbedder(before=fails)
    copy = copy_of(world, embedder)
    with pytest.raises(TransientError):
        await copy.catch_up()
    left[0] = 99
    await copy.catch_up()
    assert len(copy.ids()) == len(embedder.texts) == len(set(embedder.texts)) == 700


async def test_an_example_that_the_task_has_no_answer_for_is_in_no_process_a_neighbour(new_world: NewWorld) -> None:
    world = new_world()
    world.examples.upsert([(example("a"), False), (example("b", "neither"), False)])
    copy = copy_of(world, knows=lambda each: each.answer != "neither")
    await copy.catch_up()
    assert copy.ids() == {"a"}
    copy.upsert([example("b", "neither")])
    assert copy.ids() == {"a"}


async def test_a_change_shows_what_the_state_says_not_what_was_said_earlier(new_world: NewWorld) -> None:
    """A process that was slow with a label must not undo what another has stored for the same id since."""
    world = new_world()
    copy = copy_of(world)
    world.examples.upsert([(example("a", "odd"), False), (example("gone"), False)])
    world.examples.upsert([(example("a"), False)])
    world.examples.retract(["gone"])
    copy.upsert([example("a", "odd"), example("gone")])
    assert copy.ids() == {"a"}
    assert copy.neighbours(["is a even?"], 1)[0][0].example.answer == "even"
    copy.delete(["a"])
    assert copy.ids() == {"a"}  # nobody has taken it back


async def test_following_cannot_put_back_what_is_retracted_while_it_embeds(new_world: NewWorld) -> None:
    world, embedding, go_on = new_world(), threading.Event(), threading.Event()

    def slowly() -> None:
        embedding.set()
        assert go_on.wait(20)

    copy = copy_of(world, CountingEmbedder(before=slowly))
    world.examples.upsert([(example("a"), False)])
    following = asyncio.create_task(copy.catch_up())
    await asyncio.to_thread(embedding.wait, 20)
    world.examples.retract(["a"])
    deleting = asyncio.create_task(asyncio.to_thread(copy.delete, ["a"]))
    await asyncio.sleep(0.05)
    go_on.set()
    await asyncio.gather(following, deleting)
    assert copy.ids() == frozenset()
    assert count_vectors(world.database, "w") == []


async def test_two_processes_take_labels_and_both_show_all(new_world: NewWorld) -> None:
    world, other = new_world(), new_world()
    copies = [copy_of(world), copy_of(other)]
    roles = [world.labels_intake(copies[0]), other.labels_intake(copies[1])]
    stop = asyncio.Event()
    tasks = [asyncio.create_task(copy.run(stop)) for copy in copies]
    for place, role in enumerate(roles):
        rows = [{"id": f"e{place}-{n}", "question": f"{place} {n}?", "answer": "even"} for n in range(40)]
        await world.send(world.topics.labels, rows)
        sent = 40 * (place + 1)
        await run_until(role, lambda: world.committed("labels", world.topics.labels) >= sent)  # noqa: B023
    training = {each.id for each in world.examples.training()}
    await until(lambda: copies[0].ids() == copies[1].ids() == training)
    stop.set()
    await asyncio.gather(*tasks)
    assert world.examples.unindexed() == []
    assert len(training) > 40


async def test_changes_of_a_machine_whose_clock_is_behind_are_followed(new_world: NewWorld) -> None:
    world = new_world()
    store, now, copy = world.examples, world.database.now, copy_of(world)
    store.upsert([(example("a"), False)])
    await copy.catch_up()
    world.database.now = lambda: now() - 30.0
    store.upsert([(example("b"), False)])
    store.retract(["a"])
    await copy.catch_up()
    assert copy.ids() == {"b"}


async def test_a_clock_that_was_ahead_hides_no_later_change(
    new_world: NewWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = new_world()
    store, now, copy = world.examples, world.database.now, copy_of(world)
    world.database.now = lambda: now() + 3600.0
    store.upsert([(example("a"), False)])
    await copy.catch_up()
    world.database.now = now
    store.upsert([(example("b"), False)])
    await copy.catch_up()
    await copy.catch_up()
    assert copy.ids() == {"a", "b"}
    assert [record.message.partition(" s ahead")[2] != "" for record in caplog.records] == [True]  # said once


async def test_an_example_that_the_embedder_refuses_is_named_and_left_out(
    new_world: NewWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world, long = new_world(), Example(Query("long", "long" * 20), "even")
    world.examples.upsert([(example(f"e{n}"), False) for n in range(300)] + [(example("long"), False)])
    copy = copy_of(world, ShortEmbedder())
    await copy.catch_up()
    world.examples.upsert([(example(f"f{n}"), False) for n in range(20)] + [(long, False)])
    for one in (copy, copy_of(world, ShortEmbedder())):  # one that knew it, and one that starts
        await one.catch_up()
        assert one.ids() == {f"e{n}" for n in range(300)} | {f"f{n}" for n in range(20)}
        assert (
            "left out of the example index until it changes: example 'long': embedding: refuses a text" in caplog.text
        )
        caplog.clear()
        await one.catch_up()
        assert not caplog.records  # it is tried again when it changes
    world.examples.upsert([(example("long"), False)])
    await copy.catch_up()
    assert "long" in copy.ids()


async def test_a_label_that_the_embedder_refuses_is_dead_lettered_alone(new_world: NewWorld) -> None:
    world = new_world()
    copy = copy_of(world, ShortEmbedder())
    questions = {f"e{n}": f"is {n} even?" for n in range(20)} | {f"long{n}": f"{n} " + "long" * 20 for n in range(9)}
    rows = [{"id": each, "question": text, "answer": "even"} for each, text in questions.items()]
    await world.send(world.topics.labels, rows)
    await run_until(world.labels_intake(copy), lambda: world.committed("labels", world.topics.labels) == len(rows))
    refused = [offset for reason, offset in await world.dead_letters() if reason == "unexpected_error"]
    assert refused  # those that are held out are never embedded
    assert min(map(int, refused)) >= 20
    assert copy.ids() == {each.id for each in world.examples.training()}
    assert not any(each.startswith("long") for each in copy.ids())


async def test_following_goes_on_when_the_state_returns(new_world: NewWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    from semievold.errors import TransientStoreError

    world = new_world()
    store, copy = world.examples, copy_of(world)
    calls = []

    def away(*_: object) -> dict[str, float]:
        calls.append(1)
        raise TransientStoreError("away")

    stop = asyncio.Event()
    task = asyncio.create_task(copy.run(stop))
    with monkeypatch.context() as patched:
        patched.setattr(type(store), "changes", away)
        await until(lambda: len(calls) > 2)
    store.upsert([(example("a"), False)])
    await until(lambda: copy.ids() == {"a"})
    stop.set()
    await task
