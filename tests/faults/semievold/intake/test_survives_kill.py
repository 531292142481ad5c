"""kill -9 at random instants: no query is lost, labelled twice, left unpublished, or passed by an offset."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

from semievol.types import Query
from semievold.store.pseudo_labels import query_hash
from tests.stream_world import RuleLabeller, World, die_after, forkserver, run_until

KILLS = 20
PER_LIFE = 120
"""Records sent before each life; more than a life gets done, however fast the machine is: three batches of eight at a
time take 0.04 s or longer each, and no life lasts 0.25 s."""


def live(directory: str, seed: int, running: Event, writes: int | None) -> None:
    """One life of an intake: works until it is killed; with `writes`, by itself right after so many transactions."""
    rng = random.Random(seed)
    world = World(Path(directory))
    if writes is not None:
        die_after(world.database, writes)

    async def slowly() -> None:
        running.set()
        await asyncio.sleep(rng.uniform(0.04, 0.1))

    async def main() -> None:
        intake = world.intake(RuleLabeller(lambda _: slowly()), batch_size=8, max_in_flight_batches=3)
        await intake.run(asyncio.Event())

    asyncio.run(main())


class Sent:
    """What went into the queries topic, and what has to come of it."""

    def __init__(self) -> None:
        self.offset = 0
        self.queries: dict[str, str] = {}  # id -> question
        self.poison: dict[int, str] = {}  # offset -> reason
        self.disputed: dict[str, dict[str, int]] = defaultdict(dict)  # id -> question -> offset

    def batch(self, rng: random.Random) -> Sequence[object]:
        values: list[object] = []
        for _ in range(PER_LIFE):
            kind = rng.random()
            if kind < 0.05:
                values.append(b'{"id": "broken"')
                self.poison[self.offset] = "malformed_json"
            elif kind < 0.08:
                values.append({"id": f"q{self.offset}"})
                self.poison[self.offset] = "missing_field"
            elif kind < 0.13 and self.queries:
                old = rng.choice(list(self.queries))  # a producer that retried
                values.append({"id": old, "question": self.queries[old]})
            elif kind < 0.16:
                identity = f"disputed{self.offset // 50}"
                question = f"another question {self.offset}?"
                values.append({"id": identity, "question": question})
                self.disputed[identity][question] = self.offset
            else:
                identity = f"q{self.offset}"
                self.queries[identity] = "is it even" + "?" * rng.randrange(1, 5)
                values.append({"id": identity, "question": self.queries[identity]})
            self.offset += 1
        return values


async def test_twenty_kills_lose_nothing_and_repeat_no_label(tmp_path: Path) -> None:
    rng = random.Random(20241022)
    world, sent = World(tmp_path), Sent()
    context = forkserver()
    killed_at_work = 0
    for life in range(KILLS):
        await world.send(world.topics.queries, sent.batch(rng))
        running = context.Event()
        process = context.Process(target=live, args=(str(tmp_path), life, running, None))
        process.start()
        assert await asyncio.to_thread(running.wait, 30)
        time.sleep(rng.uniform(0.0, 0.25))  # noqa: ASYNC251 - the instant of the kill is the point
        assert process.exitcode is None
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        killed_at_work += world.committed("intake", world.topics.queries) < sent.offset
    assert killed_at_work >= KILLS * 0.8
    await finish(world, sent)
    await assert_nothing_lost(world, sent)


async def test_a_kill_right_after_any_write_loses_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    world, sent = World(tmp_path), Sent()
    for writes in range(1, 13):
        await world.send(world.topics.queries, sent.batch(rng))
        running = forkserver().Event()
        process = forkserver().Process(target=live, args=(str(tmp_path), writes, running, writes))
        process.start()
        await asyncio.to_thread(process.join, 30)
        assert process.exitcode == -signal.SIGKILL
    await finish(world, sent)
    await assert_nothing_lost(world, sent)


async def finish(world: World, sent: Sent) -> None:
    """A last life in this process, which works off what is left."""
    intake = world.intake(RuleLabeller(), batch_size=32)
    await run_until(intake, lambda: world.committed("intake", world.topics.queries) == sent.offset)


async def assert_nothing_lost(world: World, sent: Sent) -> None:
    with world.database.read() as connection:
        assert connection.exec_driver_sql("pragma integrity_check").scalar() == "ok"
    labelled = {identity: world.labels.known([identity]) for identity in [*sent.queries, *sent.disputed]}
    assert all(labelled.values())
    assert world.labels.counts() == (len(sent.queries) + len(sent.disputed), 0, 0)
    for identity, question in sent.queries.items():
        assert labelled[identity][identity] == query_hash(Query(identity, question))

    predictions = defaultdict(set)
    for record in await world.read(world.topics.predictions):
        predictions[json.loads(record.value or b"")["id"]].add(record.value)
    assert predictions.keys() == labelled.keys()
    assert all(len(contents) == 1 for contents in predictions.values())  # repeated at most, never different

    letters = await world.read(world.topics.dead_letter)
    reasons = {int(letter.headers["source_offset"]): letter.headers["reason"] for letter in letters}
    refused = dict(sent.poison)
    for identity, questions in sent.disputed.items():
        # Whichever became durable first has the id; every other one is refused.
        mine = labelled[identity][identity]
        losers = [at for text, at in questions.items() if query_hash(Query(identity, text)) != mine]
        assert len(losers) == len(questions) - 1
        refused |= dict.fromkeys(losers, "duplicate_id")
    assert reasons == refused

    for topic in (world.topics.queries, world.topics.predictions, world.topics.dead_letter):
        offsets = [record.offset for record in await world.read(topic)]
        assert offsets == list(range(len(offsets)))
    repeated = Counter(letter.headers["source_offset"] for letter in letters)
    assert max(repeated.values()) <= KILLS
