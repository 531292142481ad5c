import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from semievol.errors import AdapterError, TransientError
from semievol.types import Query, Unlabelled
from semievold.errors import TransientStoreError, TransientStreamError
from semievold.intake.role import Intake
from semievold.store.pseudo_labels import NewLabel
from semievold.streams.protocol import OutgoingRecord, StreamConsumer, StreamRecord
from tests.stream_world import RuleLabeller, World, pseudo_label, run_until, until


@pytest.fixture
def world(tmp_path: Any) -> World:
    return World(tmp_path)


def done(intake: Intake, records: int) -> Any:
    """Whether so many records were read and all of them are finished."""
    return lambda: intake.counters.received >= records and intake.counters.in_flight == 0


def times_out(times: int, error: Exception) -> Any:
    """A `before` that raises so often, and then lets everything pass."""
    left = [times]

    def before(_: Sequence[Query]) -> None:
        if left[0]:
            left[0] -= 1
            raise error

    return before


async def test_a_query_is_labelled_stored_published_and_committed(world: World) -> None:
    await world.ask("q1", "q22")
    seen: list[str] = []
    intake = world.intake(RuleLabeller(), on_stored=lambda labels, _: seen.extend(item.query.id for item in labels))
    await run_until(intake, done(intake, 2))
    predictions = await world.predictions()
    assert [(p["id"], p["answer"], p["adapter"], p["neighbours"]) for p in predictions] == [
        ("q1", "odd", "a1", ["e1", "e2"]),
        ("q22", "even", "a1", ["e1", "e2"]),
    ]
    stored = world.labels.get("q22")
    assert stored is not None
    assert (stored.published, stored.topic, stored.partition, stored.offset) == (True, "semievol.queries", 0, 1)
    assert world.committed("intake", "semievol.queries") == 2
    assert seen == ["q1", "q22"]
    counters = intake.counters
    assert (counters.received, counters.labelled, counters.published, counters.in_flight) == (2, 2, 2, 0)
    assert (counters.duplicates, counters.retries, counters.degraded) == (0, 0, None)


async def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(world: World) -> None:
    good = {"id": "good", "question": "ok?"}
    await world.send(world.topics.queries, [b"{", good, b"\xff", {"id": "long", "question": "x" * 101}, b"x" * 10_001])
    intake = world.intake(RuleLabeller())
    await run_until(intake, done(intake, 5))
    assert [p["id"] for p in await world.predictions()] == ["good"]
    assert sorted(await world.dead_letters()) == [
        ("invalid_utf8", "2"),
        ("malformed_json", "0"),
        ("question_too_long", "3"),
        ("record_too_large", "4"),
    ]
    assert intake.counters.dead_letters["malformed_json"] == 1
    assert world.committed("intake", "semievol.queries") == 5


async def test_a_redelivered_query_is_skipped_and_another_content_under_its_id_is_dead_lettered(world: World) -> None:
    await world.ask("a")
    first = world.intake(RuleLabeller())
    await run_until(first, done(first, 1))
    await world.ask("a")
    await world.send(world.topics.queries, [{"id": "a", "question": "something else?"}])
    labeller = RuleLabeller()
    intake = world.intake(labeller)
    await run_until(intake, done(intake, 2))
    assert labeller.calls == []
    assert intake.counters.duplicates == 1
    assert await world.dead_letters() == [("duplicate_id", "2")]
    assert len(await world.predictions()) == 1


async def test_duplicates_inside_one_batch_are_labelled_once(world: World) -> None:
    await world.ask("a", "a")
    await world.send(world.topics.queries, [{"id": "a", "question": "something else?"}])
    labeller = RuleLabeller()
    intake = world.intake(labeller)
    await run_until(intake, done(intake, 3))
    assert labeller.answered == ["a"]
    assert intake.counters.duplicates == 1
    assert await world.dead_letters() == [("duplicate_id", "2")]
    assert len(await world.predictions()) == 1


async def test_duplicates_in_two_batches_in_flight_are_stored_and_published_once(world: World) -> None:
    await world.ask("a", "a")
    await world.send(world.topics.queries, [{"id": "a", "question": "something else?"}])
    together = asyncio.Barrier(3)
    intake = world.intake(RuleLabeller(lambda _: together.wait()), batch_size=1, max_in_flight_batches=3)
    await run_until(intake, done(intake, 3))
    assert len(await world.predictions()) == 1
    stored = world.labels.get("a")
    assert stored is not None
    same = stored.label.query.question == "is a even?"
    assert intake.counters.duplicates == (1 if same else 0)
    assert len(await world.dead_letters()) == (1 if same else 2)
    assert world.committed("intake", "semievol.queries") == 3


async def test_a_query_that_cannot_be_answered_does_not_take_its_batch_with_it(world: World) -> None:
    def refused(query: Query) -> Unlabelled | None:
        return Unlabelled(query, "the prompt has 9000 tokens") if query.id.startswith("bad") else None

    await world.ask("q1", "bad1", "q2", "q3", "q4", "bad2", "q5", "q6")
    labeller = RuleLabeller(left_out=refused)
    intake = world.intake(labeller, batch_size=8)
    await run_until(intake, done(intake, 8))
    assert len(labeller.calls) == 1  # nobody is asked anew for it
    assert sorted(str(p["id"]) for p in await world.predictions()) == ["q1", "q2", "q3", "q4", "q5", "q6"]
    assert sorted(await world.dead_letters()) == [("labelling_refused", "1"), ("labelling_refused", "5")]
    letters = await world.read(world.topics.dead_letter)
    assert "9000 tokens" in letters[0].headers["detail"]
    assert world.committed("intake", "semievol.queries") == 8


class OneByOne(RuleLabeller):
    """Tells of each query at once, but of those in `slow` when their event is set; `breaks` after so many."""

    def __init__(self, slow: Mapping[str, asyncio.Event], breaks: Sequence[int] = ()) -> None:
        super().__init__()
        self.slow = slow
        self.breaks = list(breaks)

    async def label(self, queries: Sequence[Query], adapter: str | None, *, told: Any) -> None:
        self.calls.append(tuple(query.id for query in queries))
        quick = [query for query in queries if query.id not in self.slow]
        if self.breaks:
            quick = quick[: self.breaks.pop(0)]
            for query in quick:
                told(pseudo_label(query, adapter))
            raise TransientError("engine away")
        for query in quick:
            told(pseudo_label(query, adapter))
        for query in queries:
            if query.id in self.slow:
                await self.slow[query.id].wait()
                told(pseudo_label(query, adapter))


async def test_a_slow_query_delays_itself_alone_and_the_commit_behind_it(world: World) -> None:
    gate = asyncio.Event()
    await world.ask(*(f"q{n}" for n in range(20)))
    intake = world.intake(OneByOne({"q1": gate}))
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    await until(lambda: intake.counters.in_flight == 1 and intake.counters.published == 19)
    await until(lambda: world.committed("intake", "semievol.queries") == 1)
    assert intake.counters.labelled == 19
    gate.set()
    await until(lambda: intake.counters.in_flight == 0)
    stop.set()
    await task
    assert world.committed("intake", "semievol.queries") == 20
    assert len(await world.predictions()) == 20


async def test_after_a_failure_only_those_without_a_label_are_asked_again(world: World) -> None:
    await world.ask("a", "b", "c", "d")
    labeller = OneByOne({}, breaks=[1, 0, 2])
    intake = world.intake(labeller)
    await run_until(intake, done(intake, 4))
    assert labeller.calls == [("a", "b", "c", "d"), ("b", "c", "d"), ("b", "c", "d"), ("d",)]
    assert sorted(str(p["id"]) for p in await world.predictions()) == ["a", "b", "c", "d"]


async def test_what_is_labelled_is_stored_while_the_engine_is_away(world: World) -> None:
    await world.ask("a", "b")
    labeller = OneByOne({}, breaks=[1, *[0] * 10**4])
    intake = world.intake(labeller)
    await run_until(intake, lambda: intake.counters.labelled == 1 and intake.counters.retries > 3)
    assert [p["id"] for p in await world.predictions()] == ["a"]
    assert world.committed("intake", "semievol.queries") == 1


async def test_a_query_that_is_always_late_is_dead_lettered_and_named(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def late(query: Query) -> Unlabelled | None:
        return Unlabelled(query, "late 3 times: no answer", late=True) if query.id == "slow" else None

    await world.ask("q1", "slow", "q2")
    intake = world.intake(RuleLabeller(left_out=late))
    await run_until(intake, done(intake, 3))
    assert await world.dead_letters() == [("answer_late", "1")]
    assert sorted(str(p["id"]) for p in await world.predictions()) == ["q1", "q2"]
    assert world.committed("intake", "semievol.queries") == 3
    assert "query slow is left out: late 3 times" in caplog.text


@pytest.mark.parametrize("error", [TransientError("engine away"), AdapterError("a1 is not loaded")])
async def test_an_engine_that_is_away_is_waited_for_and_nothing_is_skipped(world: World, error: Exception) -> None:
    await world.ask("a", "b")
    labeller = RuleLabeller(times_out(5, error))
    intake = world.intake(labeller, max_in_flight_batches=1)
    seen: set[str | None] = set()

    def reached() -> bool:
        seen.add(intake.counters.degraded)
        return intake.counters.received == 2 and intake.counters.in_flight == 0

    await run_until(intake, reached)
    assert f"labeller: {error}" in seen
    assert intake.counters.degraded is None
    assert intake.counters.retries == 5
    assert await world.dead_letters() == []
    assert len(await world.predictions()) == 2


async def test_every_attempt_binds_the_serving_adapter_anew_and_gives_it_back(world: World) -> None:
    names = iter(["old", "new"])
    held: list[str] = []

    @contextlib.asynccontextmanager
    async def lend() -> AsyncIterator[str | None]:
        name = next(names)
        held.append(name)
        try:
            yield name
        finally:
            held.remove(name)

    await world.ask("a")
    intake = world.intake(RuleLabeller(times_out(1, AdapterError("old is gone"))), bind=lend)
    await run_until(intake, done(intake, 1))
    assert (await world.predictions())[0]["adapter"] == "new"
    assert held == []


class FlakyProducer:
    """Publishes with the local stream, but fails before or after it as told."""

    def __init__(self, world: World, plan: list[str]) -> None:
        self._producer = world.stream.producer()
        self.plan = plan

    async def publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        step = self.plan.pop(0) if self.plan else "ok"
        if step == "before":
            raise TransientStreamError("broker away")
        await self._producer.publish(topic, records)
        if step == "after":
            raise TransientStreamError("answer lost")

    async def close(self) -> None:
        pass


async def test_a_stream_that_is_away_delays_predictions_and_dead_letters_but_loses_none(world: World) -> None:
    await world.ask("a")
    await world.send(world.topics.queries, [b"{"])
    intake = world.intake(RuleLabeller(), producer=FlakyProducer(world, ["before", "before", "ok", "before", "ok"]))
    await run_until(intake, done(intake, 2))
    assert len(await world.predictions()) == 1
    assert await world.dead_letters() == [("malformed_json", "1")]
    assert intake.counters.retries == 3


@pytest.mark.parametrize("value", [b"{", {"id": "a", "question": "is a even?"}])
async def test_nothing_is_committed_before_its_result_is_in_the_stream(world: World, value: object) -> None:
    await world.send(world.topics.queries, [value])
    intake = world.intake(RuleLabeller(), producer=FlakyProducer(world, ["before"] * 10**6))
    await run_until(intake, lambda: intake.counters.retries > 3)
    assert world.committed("intake", "semievol.queries") == 0


async def test_labels_whose_commit_was_not_answered_are_counted_and_published_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, answers = world.labels.add, ["lost", "lost"]

    def lossy(*given: Any) -> set[str]:
        stored = add(*given)
        if answers:
            raise TransientStoreError(f"answer {answers.pop()}")
        return stored

    monkeypatch.setattr(world.labels, "add", lossy)
    await world.ask("a", "b")
    seen: list[str] = []
    intake = world.intake(RuleLabeller(), on_stored=lambda labels, _: seen.extend(item.query.id for item in labels))
    await run_until(intake, done(intake, 2))
    assert sorted(seen) == ["a", "b"]
    assert sorted(str(prediction["id"]) for prediction in await world.predictions()) == ["a", "b"]
    assert (intake.counters.labelled, intake.counters.duplicates) == (2, 0)
    assert world.labels.counts() == (2, 0, 0)


async def test_what_another_one_stored_while_the_store_was_away_is_left_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, away = world.labels.add, [True]

    def slow(new: Sequence[NewLabel], published: Sequence[str] = ()) -> set[str]:
        if away:
            away.pop()
            add([dataclasses.replace(new[0], offset=99)])  # the same id from another record
            raise TransientStoreError("away")
        return add(new, published)

    monkeypatch.setattr(world.labels, "add", slow)
    await world.ask("a")
    intake = world.intake(RuleLabeller())
    await run_until(intake, done(intake, 1))
    assert (intake.counters.labelled, intake.counters.published, intake.counters.duplicates) == (0, 0, 1)


async def test_a_lost_answer_repeats_the_prediction_with_the_same_content(world: World) -> None:
    await world.ask("a")
    intake = world.intake(RuleLabeller(), producer=FlakyProducer(world, ["after", "ok"]))
    await run_until(intake, done(intake, 1))
    first, second = await world.predictions()
    assert first == second


async def test_a_busy_database_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.ask("a")
    add, left = world.labels.add, [3]

    def busy(new: Any, published: Any) -> set[str]:
        if left[0]:
            left[0] -= 1
            raise TransientStoreError("database is locked")
        return add(new, published)

    monkeypatch.setattr(world.labels, "add", busy)
    intake = world.intake(RuleLabeller())
    await run_until(intake, done(intake, 1))
    assert len(await world.predictions()) == 1
    assert intake.counters.retries == 3


async def test_predictions_that_a_dead_process_stored_are_published_at_the_start(world: World) -> None:
    await world.ask("a", "b")
    first = world.intake(RuleLabeller(), producer=FlakyProducer(world, ["before"] * 1000), stop_timeout_s=0.0)
    await run_until(first, lambda: first.counters.labelled == 2)
    assert world.labels.counts().unpublished == 2
    assert world.committed("intake", "semievol.queries") == 0
    labeller = RuleLabeller()
    second = world.intake(labeller)
    await run_until(second, done(second, 2))
    assert labeller.calls == []
    assert sorted(str(p["id"]) for p in await world.predictions()) == ["a", "b"]
    assert world.labels.counts().unpublished == 0
    assert world.committed("intake", "semievol.queries") == 2


async def test_predictions_of_a_dead_replica_are_published_while_running(world: World) -> None:
    intake = world.intake(RuleLabeller(), republish_interval_s=0.02)
    dead = world.intake(RuleLabeller(), producer=FlakyProducer(world, ["before"] * 1000), stop_timeout_s=0.0)
    await world.ask("a")

    async def die_meanwhile() -> None:
        await run_until(dead, lambda: dead.counters.labelled == 1)

    await die_meanwhile()
    await run_until(intake, lambda: intake.counters.published == 1)
    assert [p["id"] for p in await world.predictions()] == ["a"]


async def test_nothing_is_read_before_the_gate_opens(world: World) -> None:
    await world.ask("a")
    ready, labeller = asyncio.Event(), RuleLabeller()
    intake = world.intake(labeller, ready=ready)
    await run_until(intake, lambda: intake.counters.lag == 1)
    assert (intake.counters.received, labeller.calls) == (0, [])
    ready.set()
    opened = world.intake(labeller, ready=ready)
    await run_until(opened, done(opened, 1))
    assert labeller.answered == ["a"]


async def test_nothing_is_read_while_all_replicas_rest_and_the_intake_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "semievold.intake.role")
    await world.ask("a")
    why: list[str | None] = ["a:1 rests"]
    labeller = RuleLabeller()
    intake = world.intake(labeller, resting=lambda: why[0])
    stop = asyncio.Event()
    running = asyncio.create_task(intake.run(stop))
    await until(lambda: intake.counters.lag == 1)
    assert (intake.held, intake.counters.received) == ("1 queries wait: a:1 rests", 0)
    why[0] = None
    await until(done(intake, 1))
    assert labeller.answered == ["a"]
    assert intake.held is None
    stop.set()
    await running
    said = [record.message for record in caplog.records]
    assert said[:2] == ["queries wait: a:1 rests", "queries are read again"]


async def test_waiting_is_counted_from_the_record_and_not_while_nothing_is_read_on_purpose(world: World) -> None:
    waited: list[float] = []
    await world.ask("a")
    await asyncio.sleep(0.4)
    intake = world.intake(RuleLabeller(), on_stored=lambda _, waited_s: waited.extend(waited_s))
    await run_until(intake, done(intake, 1))
    await world.ask("b")
    ready = asyncio.Event()
    held = world.intake(RuleLabeller(), ready=ready, on_stored=lambda _, waited_s: waited.extend(waited_s))
    stop = asyncio.Event()
    running = asyncio.create_task(held.run(stop))
    await asyncio.sleep(0.4)
    at = time.time()
    ready.set()
    await until(lambda: len(waited) == 2)
    stop.set()
    await running
    assert waited[0] >= 0.4
    assert waited[1] <= time.time() - at + 0.2  # it looks each tenth of a second whether it may read


async def test_work_in_flight_is_bounded(world: World) -> None:
    await world.ask(*(f"q{n}" for n in range(40)))
    running, together = [0, 0], asyncio.Barrier(3)

    async def slowly() -> None:
        running[0] += 1
        running[1] = max(running)
        if len(labeller.calls) <= 3:
            await together.wait()  # the first three wait for each other
        running[0] -= 1

    labeller = RuleLabeller(lambda _: slowly())
    intake = world.intake(labeller, max_in_flight_batches=3)
    most = [0]

    def reached() -> bool:
        most[0] = max(most[0], intake.counters.in_flight)
        return intake.counters.received == 40 and intake.counters.in_flight == 0

    await run_until(intake, reached)
    assert running[1] == 3
    assert most[0] <= 12


async def test_a_slow_batch_holds_back_the_commit_of_the_faster_ones(world: World) -> None:
    gate = asyncio.Event()

    async def wait_for_first(queries: Sequence[Query]) -> None:
        if queries[0].id == "q0":
            await gate.wait()

    await world.ask(*(f"q{n}" for n in range(12)))
    intake = world.intake(RuleLabeller(wait_for_first))
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    await until(lambda: intake.counters.labelled >= 8)
    assert world.committed("intake", "semievol.queries") == 0
    gate.set()
    await until(lambda: intake.counters.in_flight == 0)
    stop.set()
    await task
    assert world.committed("intake", "semievol.queries") == 12


async def test_a_stop_lets_work_in_flight_finish_and_commits_it(world: World) -> None:
    gate = asyncio.Event()
    await world.ask(*(f"q{n}" for n in range(20)))
    intake = world.intake(RuleLabeller(lambda _: gate.wait()))
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    await until(lambda: intake.counters.received >= 8)
    stop.set()
    await asyncio.sleep(0)
    gate.set()
    await task
    assert intake.counters.received == 8
    assert len(await world.predictions()) == 8
    assert world.committed("intake", "semievol.queries") == 8


async def test_a_stop_does_not_wait_for_ever_and_uncommitted_work_comes_again(world: World) -> None:
    await world.ask("a")
    stuck = world.intake(RuleLabeller(lambda _: asyncio.sleep(1000)), stop_timeout_s=0.05)
    await run_until(stuck, lambda: stuck.counters.received == 1)
    assert world.committed("intake", "semievol.queries") == 0
    again = world.intake(RuleLabeller())
    await run_until(again, done(again, 1))
    assert len(await world.predictions()) == 1


async def test_a_stop_ends_the_waiting_for_an_engine_that_is_away(world: World) -> None:
    await world.ask("a")
    away = RuleLabeller(times_out(10**6, TransientError("away")))
    intake = world.intake(away, retry={"initial_s": 100.0, "max_s": 100.0})
    await asyncio.wait_for(run_until(intake, lambda: intake.counters.retries > 0), 10)
    assert world.committed("intake", "semievol.queries") == 0


async def test_an_unexpected_error_ends_the_role_with_nothing_committed(world: World) -> None:
    await world.ask("a", "b")
    intake = world.intake(RuleLabeller(times_out(10**6, KeyError("a bug"))))
    with pytest.raises(KeyError, match="a bug"):
        await run_until(intake, lambda: False)
    assert world.committed("intake", "semievol.queries") == 0
    await run_until(world.intake(RuleLabeller()), lambda: world.labels.counts().total == 2)  # its partition is free


async def test_the_trace_of_a_query_goes_on_in_its_prediction_and_in_its_dead_letter(world: World) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "shop=1"}
    asked = [b'{"id": "q", "question": "is it even?"}', b'{"id": "broken"']
    await world.producer.publish(world.topics.queries, [OutgoingRecord(None, value, trace) for value in asked])
    intake = world.intake(RuleLabeller())
    await run_until(intake, lambda: world.committed("intake", "semievol.queries") == 2)
    [prediction] = await world.read(world.topics.predictions)
    [letter] = await world.read(world.topics.dead_letter)
    assert prediction.headers == trace
    assert letter.headers.items() > trace.items()


class MovingConsumer:
    """The local consumer, whose partition is taken away and given back once, as a rebalance does."""

    def __init__(self, inner: StreamConsumer) -> None:
        self.inner = inner
        self.lose = False
        self.commits: list[dict[int, int]] = []
        self._revoked: frozenset[int] = frozenset()

    topic = "semievol.queries"
    assigned = frozenset({0})
    waits_for = None

    async def poll(self, max_records: int, timeout_s: float) -> list[StreamRecord]:
        if self.lose:
            self.lose = False
            self._revoked = frozenset({0})
            self.inner._positions[0] = 0  # type: ignore[attr-defined]
        return await self.inner.poll(max_records, timeout_s)

    def revoked(self) -> frozenset[int]:
        lost, self._revoked = self._revoked, frozenset()
        return lost

    async def commit(self, next_offsets: Mapping[int, int]) -> None:
        self.commits.append(dict(next_offsets))
        await self.inner.commit(next_offsets)

    async def lag(self) -> int:
        return await self.inner.lag()

    async def close(self) -> None:
        await self.inner.close()


async def test_a_partition_that_was_lost_and_came_back_is_read_again_from_its_commit(world: World) -> None:
    gate = asyncio.Event()
    await world.ask(*(f"q{n}" for n in range(4)))
    consumer = MovingConsumer(world.stream.consumer(world.topics.queries, "intake"))
    intake = world.intake(RuleLabeller(lambda _: gate.wait()), consumer=consumer, max_in_flight_batches=2)
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    await until(lambda: intake.counters.received >= 4)
    consumer.lose = True
    await until(lambda: intake.counters.received >= 8)
    assert consumer.commits == []
    gate.set()
    await until(lambda: intake.counters.in_flight == 0)
    stop.set()
    await task
    assert world.committed("intake", "semievol.queries") == 4
    assert len(await world.predictions()) == 4
    assert intake.counters.duplicates == 4


async def test_a_commit_that_fails_is_made_up_for_by_the_next_one(world: World) -> None:
    consumer = MovingConsumer(world.stream.consumer(world.topics.queries, "intake"))
    commit, failures = consumer.inner.commit, [2]

    async def flaky(next_offsets: Mapping[int, int]) -> None:
        if failures[0]:
            failures[0] -= 1
            raise TransientStreamError("coordinator away")
        await commit(next_offsets)

    consumer.inner.commit = flaky  # type: ignore[method-assign]
    await world.ask("a")
    intake = world.intake(RuleLabeller(), consumer=consumer)
    await run_until(intake, lambda: world.committed("intake", "semievol.queries") == 1)
    assert consumer.commits == [{0: 1}] * 3
    assert intake.counters.degraded is None


async def test_a_standby_takes_over_where_the_other_stopped(world: World) -> None:
    await world.ask(*(f"q{n}" for n in range(10)))
    one, other = RuleLabeller(), RuleLabeller()
    first, second = world.intake(one), world.intake(other)
    stop = asyncio.Event()
    task = asyncio.create_task(first.run(stop))
    await until(lambda: first.counters.received == 10 and first.counters.in_flight == 0)
    waiting = asyncio.create_task(run_until(second, done(second, 5)))
    await asyncio.sleep(0.1)
    assert second.counters.received == 0
    stop.set()
    await task
    await world.ask(*(f"q{n}" for n in range(10, 15)))
    await waiting
    assert sorted(one.answered + other.answered) == sorted(f"q{n}" for n in range(15))


async def test_several_partitions_are_committed_each_on_its_own(tmp_path: Any) -> None:
    world = World(tmp_path, partitions=3)
    await world.ask(*(f"q{n}" for n in range(50)))
    intake = world.intake(RuleLabeller())
    await run_until(intake, done(intake, 50))
    assert world.committed("intake", "semievol.queries") == 50
    assert len(await world.predictions()) == 50
