"""One record that causes an unexpected error is dead-lettered, and stops neither the others nor the process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from semievol.types import Example, Query
from semievold.errors import RecordRefused, TransientStoreError, ValueRefused
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.tables import examples, pseudo_labels
from semievold.streams.protocol import OutgoingRecord
from tests.stream_world import ListIndex, RuleLabeller, World, pseudo_label, run_until

IDS = tuple("abcdefgh")


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    return new_world()


def refusing(
    *ids: str, error: Callable[[], Exception] = lambda: KeyError("a bug")
) -> Callable[[Sequence[Query]], None]:
    def before(queries: Sequence[Query]) -> None:
        if any(query.id in ids for query in queries):
            raise KeyError("a bug")

    return before


async def test_a_query_that_the_labeller_fails_on_is_dead_lettered_alone(world: World) -> None:
    await world.ask(*IDS)
    labeller = RuleLabeller(refusing("c", "f"))
    await run_until(world.intake(labeller), lambda: world.committed("intake", "semievol.queries") == len(IDS))
    assert sorted(await world.dead_letters()) == [("unexpected_error", "2"), ("unexpected_error", "5")]
    assert sorted(each["id"] for each in await world.predictions()) == sorted(set(IDS) - {"c", "f"})
    letters = await world.read("semievol.dead-letter")
    assert {letter.headers["detail"] for letter in letters} == {"KeyError: 'a bug'"}
    # In any order: the two may have come in batches that were in flight at once.
    assert sorted(letter.value or b"" for letter in letters) == [
        b'{"id":"c","question":"is c even?"}',
        b'{"id":"f","question":"is f even?"}',
    ]


async def test_an_error_that_happens_once_costs_nobody_an_answer(world: World) -> None:
    await world.ask("a")
    left = [KeyError("once")]

    def before(_: Sequence[Query]) -> None:
        if left:
            raise left.pop()

    await run_until(world.intake(RuleLabeller(before)), lambda: world.labels.counts().total == 1)
    assert await world.dead_letters() == []


async def test_a_row_that_the_database_refuses_does_not_take_its_batch_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is the database's own: the row's id gets longer than its column, or than any text, on its way."""
    row = world.labels._row

    def longer(new: NewLabel, now: float) -> dict[str, Any]:
        made = row(new, now)
        return made if new.label.query.id != "b" else {**made, "offset": 2**70}

    monkeypatch.setattr(world.labels, "_row", longer)
    await world.ask(*IDS)
    await run_until(world.intake(RuleLabeller()), lambda: world.committed("intake", "semievol.queries") == len(IDS))
    assert await world.dead_letters() == [("not_storable", "1")]
    assert world.labels.counts().total == len(IDS) - 1


async def test_a_database_that_is_away_is_waited_for_and_nothing_is_dead_lettered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, add = [TransientStoreError("away")] * 3, world.labels.add

    def away(*arguments: Any) -> set[str]:
        if left:
            raise left.pop()
        return add(*arguments)

    monkeypatch.setattr(world.labels, "add", away)
    await world.ask(*IDS)
    await run_until(world.intake(RuleLabeller()), lambda: world.labels.counts().total == len(IDS))
    assert await world.dead_letters() == []


@pytest.mark.parametrize("value", ["a\0b", "half \ud800"])
def test_what_a_model_wrote_is_kept_whatever_it_is(world: World, value: str) -> None:
    label = pseudo_label(Query("q", "?"), answer=value)
    assert world.labels.add([NewLabel(label, query_hash(label.query))]) == {"q"}
    stored = world.labels.get("q")
    assert stored is not None
    assert "\ufffd" in str(stored.label.answer)


@pytest.mark.parametrize("value", ["a\0b", "half \ud800", 2**70])
def test_a_value_that_the_database_refuses_is_told_from_a_database_that_is_away(world: World, value: object) -> None:
    columns = {"offset": value} if isinstance(value, int) else {"topic": value}
    label = pseudo_label(Query("q", "?"))
    world.labels.add([NewLabel(label, query_hash(label.query))])

    def write() -> None:
        with world.database.write() as connection:
            connection.execute(sa.update(pseudo_labels).values(**columns))

    if value == "a\0b" and world.database.file is not None:
        write()  # SQLite takes it
        return
    with pytest.raises(ValueRefused):
        write()


async def test_a_prediction_that_its_topic_refuses_stays_in_the_state_and_stops_nobody(world: World) -> None:
    class Refusing:
        async def publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
            if topic == "semievol.predictions" and any(record.key == "b" for record in records):
                raise RecordRefused("too large")
            await inner.publish(topic, records)

    inner = world.producer
    await world.ask(*IDS)
    intake = world.intake(RuleLabeller(), producer=Refusing())
    await run_until(intake, lambda: world.committed("intake", "semievol.queries") == len(IDS))
    assert sorted(each["id"] for each in await world.predictions()) == sorted(set(IDS) - {"b"})
    assert world.labels.counts() == (len(IDS), 0, 0)


class RefusingIndex(ListIndex):
    """Fails on one example, or on every one."""

    def __init__(self, *ids: str, broken: bool = False) -> None:
        super().__init__()
        self.refused = ids
        self.broken = broken

    def upsert(self, examples: Sequence[Example]) -> None:
        if self.broken or any(example.id in self.refused for example in examples):
            raise RuntimeError("a bug")
        super().upsert(examples)

    def neighbours(self, questions: Sequence[str], k: int) -> list[Any]:
        if self.broken:
            raise RuntimeError("a bug")
        return super().neighbours(questions, k)


async def give(world: World) -> None:
    await world.send("semievol.labels", [{"id": i, "question": f"is {i} even?", "answer": "odd"} for i in IDS])


async def test_a_label_that_cannot_be_indexed_is_taken_back_and_dead_lettered_alone(world: World) -> None:
    await give(world)
    index = RefusingIndex(*IDS[:4])
    role = world.labels_intake(index)
    await run_until(role, lambda: world.committed("labels", "semievol.labels") == len(IDS))
    refused = {IDS[int(offset)] for reason, offset in await world.dead_letters() if reason == "unexpected_error"}
    kept = {example.id for example in [*world.examples.training(), *world.examples.holdout()]}
    assert refused  # held-out ones are never indexed
    assert refused <= set(IDS[:4])
    assert kept == set(IDS) - refused
    assert role.counters.dead_letters["unexpected_error"] == len(refused)


async def test_an_index_that_fails_on_everything_ends_the_role(world: World) -> None:
    await give(world)
    with pytest.raises(RuntimeError, match="a bug"):
        await run_until(world.labels_intake(RefusingIndex(broken=True)), lambda: False)
    assert await world.dead_letters() == []
    assert world.committed("labels", "semievol.labels") == 0


# --- what an older version has kept ---------------------------------------------------------------------------------

OLD = {
    "infinite": '{"id": "q", "question": "is it even?", "metadata": {"score": 1e999, "big": 99999999999999999999}}',
    "deep": '{"id": "q", "question": "is it even?", "metadata": {"a": ' + "[" * 250 + "]" * 250 + "}}",
    "odd id": '{"id": "q\\u0007", "question": "is it even?"}',
}
UNREADABLE = {
    "no JSON": "{",
    "no question": '{"id": "q"}',
    "another shape": "[1, 2]",
    "too deep for any parser": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
}


def put(world: World, text: str) -> None:
    """Rows as an older version, or a hand, has left them."""
    label = pseudo_label(Query("q", "is it even?"))
    world.labels.add([NewLabel(label, query_hash(label.query))])
    world.examples.upsert([(Example(Query("q", "is it even?"), "odd"), False)])
    with world.database.write() as connection:
        for table in (pseudo_labels, examples):
            kept = sa.literal(text, sa.Text)
            connection.execute(sa.update(table).values(query=kept if world.database.file else sa.cast(kept, sa.JSON)))


@pytest.mark.parametrize("case", OLD)
async def test_a_value_that_is_refused_today_is_read_where_it_was_kept(world: World, case: str) -> None:
    put(world, OLD[case])
    (label,) = world.labels.load(["q"])
    (example,) = world.examples.training()
    assert label.query.id == example.id == "q"
    assert label.query.question == example.query.question == "is it even?"
    index = ListIndex()
    await run_until(world.labels_intake(index), lambda: "q" in index.examples)
    await run_until(world.intake(RuleLabeller()), lambda: world.labels.counts().unpublished == 0)


@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_row_that_cannot_be_read_is_named_and_ends_no_process(
    world: World, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    if case in ("no JSON", "too deep for any parser") and world.database.file is None:
        pytest.skip("PostgreSQL takes no such value")
    put(world, UNREADABLE[case])
    assert world.labels.load(["q"]) == []
    assert world.examples.training() == []
    assert "pseudo_labels: row 'q' cannot be read" in caplog.text
    assert "examples: row 'q' cannot be read" in caplog.text
    await give(world)
    index = ListIndex()
    await run_until(world.labels_intake(index), lambda: world.committed("labels", "semievol.labels") == len(IDS))
    await run_until(world.intake(RuleLabeller()), lambda: world.labels.counts().unpublished == 0)
    assert [each["id"] for each in await world.predictions()] == ["q"]
