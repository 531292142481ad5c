"""kill -9 of the labels role after each of its writes: examples, vectors and the index agree at the next start."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.resident import ResidentExampleIndex
from semievol.types import Query
from semievold.serving.followed_index import FollowedIndex
from semievold.store.vectors import ExampleVectors
from semievold.streams.protocol import OutgoingRecord
from tests.stream_world import World, die_after, forkserver, run_until

RECORDS = 60


def copy_of(world: World) -> tuple[FollowedIndex, ResidentExampleIndex]:
    embedder = HashingEmbedder(64)
    index = ResidentExampleIndex(embedder, ExampleVectors(world.database, "w", embedder))
    return FollowedIndex(world.examples, index, 0.02), index


def live(directory: str, writes: int) -> None:
    """One life of a labels role, which ends right after so many transactions."""
    world = World(Path(directory))

    async def main() -> None:
        copy, _ = copy_of(world)
        die_after(world.database, writes)
        await copy.catch_up()
        await world.labels_intake(copy, batch_size=7).run(asyncio.Event())

    asyncio.run(main())


async def test_a_kill_right_after_any_write_leaves_nothing_that_the_next_start_does_not_mend(tmp_path: Path) -> None:
    world, sent, questions = World(tmp_path), 0, dict[str, str | None]()
    for writes in range(1, 10):
        rows = []
        for number in range(RECORDS):
            identity = f"e{(sent + number) % 200}"  # also changed ones, whose vectors are of an older question
            rows.append({"id": identity, "question": f"is {identity} even, {sent}?", "answer": "even"})
            questions[identity] = rows[-1]["question"]
        await world.send(world.topics.labels, rows)
        sent += RECORDS
        if writes % 2:
            gone = f"e{(sent - 1) % 200}"
            await world.producer.publish(world.topics.labels, [OutgoingRecord(gone, None)])
            questions[gone] = None
            sent += 1
        process = forkserver().Process(target=live, args=(str(tmp_path), writes))
        process.start()
        await asyncio.to_thread(process.join, 60)
        assert process.exitcode == -signal.SIGKILL
        restarted, _ = copy_of(world)
        await restarted.catch_up()
        assert restarted.ids() == {each.id for each in world.examples.training()}

    copy, _ = copy_of(world)
    await copy.catch_up()
    await run_until(world.labels_intake(copy), lambda: world.committed("labels", world.topics.labels) == sent)
    expected = {identity for identity, question in questions.items() if question is not None}
    held = {each.id for each in world.examples.holdout()}
    assert copy.ids() == {each.id for each in world.examples.training()} == expected - held
    assert world.examples.unindexed() == []
    again, index = copy_of(world)
    await again.catch_up()
    assert index.embedded == 0
    for example in world.examples.training():
        assert example.query.question == questions[example.id]
        [nearest] = again.neighbours([example.query.question], 1)[0]
        assert nearest.example.query == Query(example.id, example.query.question)
        assert nearest.similarity == pytest.approx(1.0, abs=1e-5)
    with world.database.read() as connection:
        assert connection.exec_driver_sql("pragma integrity_check").scalar() == "ok"
    await world.close()
