"""kill -9 with stream.kafka.exactly_once: who reads what is committed sees each prediction and each dead letter once.

Two intakes share the topic, so that partitions move to and fro; one of them is killed again and again: at random
instants, and at those where a transaction is half done. SEMIEVOL_KILLS=30 kills so often instead of a few times.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import uuid
from collections import Counter
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from semievold.streams.kafka.client.transactions import TransactionalSender
from semievold.streams.kafka.transactions import KafkaTransactions
from tests.kafka_records import committed_records
from tests.servers.kafka import KafkaBroker
from tests.stream_world import RuleLabeller, World, forkserver, until

KILLS = int(os.environ.get("SEMIEVOL_KILLS", "4"))
AT_ONCE = 60
BACKLOG = 120
INSTANTS = ("stored", "sent", "offsets", "committing", "committed", "any")
"""After a batch is stored; after its predictions are sent, its offsets are, the commit is on its way, and is known."""


def open_world(directory: Path, bootstrap: str, mine: str) -> World:
    names = {name: f"{name}-{mine}" for name in ("queries", "labels", "predictions", "review", "dead_letter")}
    kafka = {"bootstrap_servers": bootstrap, "partitions": 4, "session_timeout_s": 2, "exactly_once": True}
    return World(directory, kind="kafka", kafka=kafka, **names)


async def slowly(_: object) -> None:
    await asyncio.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def live(directory: str, bootstrap: str, mine: str, instant: str, count: int, working: Event) -> None:
    """One life of an intake, which ends by itself at the `count`th such instant, or by whoever kills it."""
    world = open_world(Path(directory), bootstrap, mine)
    left = [count]

    def here() -> None:
        left[0] -= 1
        if left[0] <= 0:
            die()

    def told(_: object, _waited_s: object) -> None:
        working.set()
        if instant == "stored":
            here()

    wait, commit = TransactionalSender._wait, KafkaTransactions.commit

    def waiting(self: TransactionalSender, result: Any, deadline: float) -> None:
        committing = self._client._transaction_manager.is_completing()
        if instant == ("committing" if committing else "sent"):
            here()
        wait(self, result, deadline)
        if instant == "offsets" and not committing:
            here()

    async def committed(self: KafkaTransactions, due: Any) -> dict[int, int]:
        done = await commit(self, due)
        if done and instant == "committed":
            here()
        return done

    TransactionalSender._wait = waiting  # type: ignore[method-assign]
    KafkaTransactions.commit = committed  # type: ignore[method-assign]

    async def main() -> None:
        intake = world.intake(RuleLabeller(slowly), batch_size=16, commit_interval_s=0.1, on_stored=told)
        await intake.run(asyncio.Event())

    asyncio.run(main())


class Asked:
    """What went into the queries topic."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.broken = 0

    def some(self, rng: random.Random) -> list[object]:
        values: list[object] = []
        for _ in range(AT_ONCE):
            kind = rng.random()
            if kind < 0.05:
                values.append(b'{"id": "broken"')
                self.broken += 1
            elif kind < 0.1 and self.ids:
                values.append(asked(rng.choice(self.ids)))  # a producer that retried
            else:
                self.ids.append(f"q{len(self.ids)}")
                values.append(asked(self.ids[-1]))
        return values


def asked(identity: str) -> dict[str, str]:
    return {"id": identity, "question": f"is {identity} even?"}


@pytest.mark.timeout(120 + 30 * KILLS)
async def test_kills_at_any_instant_show_each_prediction_once(tmp_path: Path, broker: KafkaBroker) -> None:
    rng = random.Random(20241022)
    mine = uuid.uuid4().hex[:8]
    world = open_world(tmp_path, broker.bootstrap, mine)
    sent = Asked()
    other = new_event()
    stays = forkserver().Process(target=live, args=(str(tmp_path), broker.bootstrap, mine, "never", 1, other))
    await asyncio.to_thread(world.stream.topics.ensure, world.topics.queries)
    await asyncio.to_thread(world.stream.topics.ensure, world.topics.dead_letter)
    stays.start()
    await load_until(other.is_set, world, sent, rng)
    by_itself = 0
    try:
        for number in range(KILLS):
            instant = INSTANTS[number % len(INSTANTS)]
            working = new_event()
            arguments = (str(tmp_path), broker.bootstrap, mine, instant, rng.randrange(1, 4), working)
            process = forkserver().Process(target=live, args=arguments)
            process.start()
            await load_until(lambda: working.is_set() or not process.is_alive(), world, sent, rng)  # noqa: B023
            await asyncio.to_thread(process.join, rng.uniform(0.0, 0.5) if instant == "any" else 8.0)
            by_itself += process.exitcode == -signal.SIGKILL
            if process.exitcode is None:
                process.kill()
            process.join()
            print(f"kill {number + 1} of {KILLS}: {instant}, {len(sent.ids)} asked", flush=True)
        assert stays.is_alive()
    finally:
        stays.kill()
        stays.join()
    print(f"{KILLS} kills, {by_itself} of them at instants inside a transaction or right after a write")
    intake = world.intake(RuleLabeller(), batch_size=64)
    stop = asyncio.Event()
    task = asyncio.create_task(intake.run(stop))
    await until(lambda: task.done() or (lag(world) == 0 and intake.counters.in_flight == 0), 90.0)
    stop.set()
    await task

    predicted = Counter(
        json.loads(each.value)["id"] for each in committed_records(broker.bootstrap, world.topics.predictions)
    )
    assert predicted == Counter(sent.ids)
    letters = committed_records(broker.bootstrap, world.topics.dead_letter)
    places = Counter(
        tuple(v for k, v in each.headers if k in ("source_partition", "source_offset")) for each in letters
    )
    assert (len(places), set(places.values())) == (sent.broken, {1})
    assert world.labels.counts() == (len(sent.ids), 0, 0)
    await world.close()


def new_event() -> Event:
    return forkserver().Event()


def lag(world: World) -> int:
    return sum(each.lag for each in world.stream.offsets(world.topics.queries, "intake"))


async def load_until(reached: Callable[[], bool], world: World, sent: Asked, rng: random.Random) -> None:
    """Ask until it is reached, never so much that the answers do not come behind."""
    async with asyncio.timeout(60.0):
        while not reached():
            if world.labels.counts().total > len(sent.ids) - BACKLOG:
                await world.send(world.topics.queries, sent.some(rng))
            await asyncio.sleep(0.2)
