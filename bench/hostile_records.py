"""Records that some parser or store chokes on, through Kafka into PostgreSQL and SQLite: what becomes of each.

`python bench/hostile_records.py [--records 20000] [--seed 0] [--store sqlite --store postgresql]`

Each record is drawn (tests/hostile_values.py: one field of it holds a value out of a list, or its bytes were broken on
the way), so are keys, headers and compression. The real Intake and the real labels role read them, with a labeller that
answers by rule; each is stopped and begun again after a third of the records. Then every offset must be labelled once
or dead-lettered once, and both stores must hold the same. Ends with 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import sqlalchemy as sa

from semievold.errors import PoisonRecord, TransientStreamError
from semievold.intake.messages import RecordParser
from semievold.store.tables import examples, pseudo_labels
from semievold.streams.protocol import StreamRecord
from tests.hostile_values import drawn_record
from tests.servers.kafka import KafkaBroker, missing
from tests.servers.postgres import PostgresServer
from tests.stream_world import ListIndex, RuleLabeller, World, run_until

CODECS = (None, "gzip", "snappy", "lz4", "zstd")


def strange(rng: random.Random) -> tuple[bytes, list[tuple[str, bytes]]]:
    """A key and headers."""
    headers = [("h\ud7ff", rng.randbytes(4)), ("reason", b"\xff\0")] if rng.random() < 0.1 else []
    return rng.choice([b"k", b"\xff\0", b"x" * 600]), headers


def produce(bootstrap: str, topics: Sequence[str], seed: int, count: int) -> None:
    """The records as strange producers write them, each batch in one of the codecs."""
    from kafka import KafkaProducer

    rng = random.Random(seed)
    producers = [KafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, acks="all") for codec in CODECS]
    for start in range(0, count, 250):
        producer = producers[start // 250 % len(producers)]
        for number in range(start, min(start + 250, count)):
            value = drawn_record(rng, number)
            key, headers = strange(rng)
            for topic in topics:
                producer.send(topic, value, key=key, headers=headers)
        producer.flush()
    for producer in producers:
        producer.close()


async def worked_off(world: World, count: int) -> dict[str, Any]:
    """Both roles over their topics, begun twice; {topic: {offset: what became of it}}."""
    index = ListIndex()
    for part in (count // 3, count):
        intake = world.intake(RuleLabeller(), batch_size=128, commit_interval_s=0.5, max_in_flight_batches=1)
        await run_until(intake, lambda part=part: at(world, "intake", world.topics.queries) >= part, 3000)
        labels = world.labels_intake(index)
        await run_until(labels, lambda part=part: at(world, "labels", world.topics.labels) >= part, 3000)
    became: dict[str, Any] = {}
    letters = await world.read(world.topics.dead_letter, 900)
    with world.database.read() as connection:
        columns = pseudo_labels.c["offset", "query_id", "query", "answer"]
        became["labelled"] = sorted(map(tuple, connection.execute(sa.select(*columns))))
        columns = examples.c["id", "query", "answer", "source"]
        became["kept"] = sorted(map(tuple, connection.execute(sa.select(*columns))), key=lambda row: row[0])
    for place, topic in (("letters", world.topics.queries), ("label letters", world.topics.labels)):
        some = [each.headers for each in letters if each.headers["source_topic"] == topic]
        became[place] = sorted((int(each["source_offset"]), each["reason"], each["detail"]) for each in some)
    became["predictions"] = sorted(str(each["id"]) for each in await world.predictions(900))
    return became


_NEXT_LOOK: dict[tuple[int, str], tuple[float, int]] = {}


def at(world: World, role: str, topic: str) -> int:
    """The committed offset, looked at twice a second: each look asks the broker."""
    when, offset = _NEXT_LOOK.get((id(world), role), (0.0, 0))
    if time.monotonic() >= when:
        with suppress(TransientStreamError):  # a group has no coordinator before its first member asks
            offset = world.committed(role, topic)
        _NEXT_LOOK[id(world), role] = time.monotonic() + 0.5, offset
    return offset


def wrong(became: dict[str, Any], count: int, seed: int, parser: RecordParser) -> list[str]:
    """What is not as promised."""
    found = []
    offsets = Counter([row[0] for row in became["labelled"]] + [row[0] for row in became["letters"]])
    if (odd := [offset for offset in range(count) if offsets[offset] != 1]) or len(offsets) != count:
        found.append(f"queries: {len(odd)} offsets have not one outcome, the first {odd[:5]}")
    if became["predictions"] != sorted(str(row[1]) for row in became["labelled"]):
        found.append("predictions: not each label once")
    label_offsets = Counter(row[0] for row in became["label letters"])
    taken: list[str] = []
    rng = random.Random(seed)
    for number in range(count):
        with suppress(PoisonRecord):
            value = drawn_record(rng, number)
            strange(rng)
            taken.append(parser.label(StreamRecord("t", 0, 0, None, value, {}, 0.0)).id)
    # Of several labels with one id the last counts, so that they are one example.
    if {row[0] for row in became["kept"]} != set(taken) or len(label_offsets) != count - len(taken):
        found.append(f"labels: {len(became['kept'])} kept and {len(label_offsets)} dead-lettered of {count}")
    unexpected = [row for row in [*became["letters"], *became["label letters"]] if row[1] in ("unexpected_error",)]
    if unexpected:
        found.append(f"{len(unexpected)} records caused an unexpected error, the first {unexpected[:3]}")
    return found


async def measure(options: argparse.Namespace, bootstrap: str, directory: Path) -> int:
    results: dict[str, dict[str, Any]] = {}
    failures = 0
    server = PostgresServer() if "postgresql" in options.store else None
    if server is not None:
        server.start()
    try:
        for store in options.store:
            (directory / store).mkdir()
            topics = {name: f"{name}.{store}" for name in ("queries", "labels", "predictions", "review", "dead_letter")}
            world = World(
                directory / store,
                url=server.create_database() if store == "postgresql" and server is not None else None,
                kind="kafka",
                kafka={"bootstrap_servers": [bootstrap], "partitions": 1},
                **topics,
            )
            names = [world.topics.queries, world.topics.labels]
            for topic in (*names, world.topics.predictions, world.topics.dead_letter):
                await asyncio.to_thread(world.stream.topics.ensure, topic)  # type: ignore[attr-defined]
            await asyncio.to_thread(produce, bootstrap, names, options.seed, options.records)
            started = time.monotonic()
            became = results[store] = await worked_off(world, options.records)
            seconds = time.monotonic() - started
            await world.close()
            problems = wrong(became, options.records, options.seed, world.parser)
            failures += len(problems)
            reasons = Counter(row[1] for row in became["letters"])
            print(
                f"{store}: {options.records} records on each topic in {seconds:.0f} s, no restart; queries: "
                f"{len(became['labelled'])} labelled, {len(became['letters'])} dead-lettered {dict(reasons)}; labels: "
                f"{len(became['kept'])} kept, {len(became['label letters'])} dead-lettered"
            )
            for problem in problems:
                print(f"  WRONG: {problem}")
    finally:
        if server is not None:
            server.close()
    if len(results) == 2:
        first, second = (without_names(each) for each in results.values())
        differing = [part for part in first if first[part] != second[part]]
        print("both stores hold the same" if not differing else f"WRONG: the stores differ in {differing}")
        failures += len(differing)
    return failures


def without_names(became: dict[str, Any]) -> dict[str, Any]:
    """As lists that can be compared."""
    return {part: [tuple(map(repr, row)) for row in rows] for part, rows in became.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000, help="records on each of the two topics")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--store", action="append", choices=["sqlite", "postgresql"], help="default: both")
    options = parser.parse_args()
    options.store = options.store or ["sqlite", "postgresql"]
    if (lacking := missing()) is not None:
        print(f"{lacking}; nothing tried")
        return
    with tempfile.TemporaryDirectory() as directory:
        broker = KafkaBroker(Path(directory) / "broker").start()
        try:
            failures = asyncio.run(measure(options, broker.bootstrap, Path(directory)))
        finally:
            broker.stop()
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
