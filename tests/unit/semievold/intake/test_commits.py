"""When the intake commits, and what a commit that fails does next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semievol.errors import TransientError
from semievold.intake.commits import Commits
from semievold.retry import Health
from semievold.streams.protocol import StreamRecord


class Consumer:
    """Keeps what is committed, unless it is away."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.away = False
        self.lost: list[int] = []

    async def commit(self, offsets: Mapping[int, int]) -> None:
        if self.away:
            raise TransientError("the broker is away")
        self.log.append(dict(offsets))

    def revoked(self) -> list[int]:
        lost, self.lost = self.lost, []
        return lost


class World:
    """Commits of one consumer."""

    def __init__(self, interval_s: float = 0.0) -> None:
        self.consumer = Consumer()
        self.health = Health()
        self.state_is_away = False
        self.commits = Commits(
            self.consumer,  # type: ignore[arg-type]
            self.mark,
            interval_s,
            self.health,
        )

    async def mark(self) -> None:
        if self.state_is_away:
            raise TransientError("the state is away")
        self.consumer.log.append("marked")

    def record(self, offset: int, partition: int = 0) -> StreamRecord:
        return StreamRecord("queries", partition, offset, None, b"", {}, 0.0)

    def finish(self, *offsets: int) -> None:
        records = [self.record(offset) for offset in offsets]
        self.commits.delivered(records)
        self.commits.finished(records)


async def test_predictions_are_marked_before_their_offsets_are_committed() -> None:
    world = World()
    world.finish(0, 1)
    await world.commits.commit()
    assert world.consumer.log == ["marked", {0: 2}]


async def test_a_commit_that_fails_stops_nobody_and_is_covered_by_the_next() -> None:
    world = World()
    world.finish(0)
    world.consumer.away = True
    await world.commits.commit()
    assert world.health.degraded == "commit: the broker is away"
    world.finish(1)
    world.consumer.away = False
    await world.commits.commit()
    assert world.consumer.log[-1] == {0: 2}
    assert world.health.degraded is None


async def test_what_could_not_be_marked_does_not_hold_the_commit_up() -> None:
    world = World()
    world.finish(0)
    world.state_is_away = True
    await world.commits.commit()
    assert world.consumer.log == [{0: 1}]
    assert world.health.degraded == "store: the state is away"


async def test_it_commits_once_an_interval_and_at_the_stop_at_once() -> None:
    world = World(interval_s=1_000.0)
    world.finish(0)
    await world.commits.commit()
    world.finish(1)
    await world.commits.commit()
    assert world.consumer.log == ["marked", {0: 1}]
    await world.commits.commit_last()
    assert world.consumer.log == ["marked", {0: 1}, "marked", {0: 2}, "marked"]


async def test_nothing_is_committed_while_the_first_record_is_not_finished_nor_of_a_partition_that_was_lost() -> None:
    world = World()
    first, second, other = world.record(0), world.record(1), world.record(7, partition=1)
    world.commits.delivered([first, second, other])
    world.commits.finished([second])
    await world.commits.commit()
    assert world.consumer.log == []
    assert world.commits.in_flight == 2
    world.consumer.lost = [1]
    world.commits.delivered([])
    world.commits.finished([first, other])
    await world.commits.commit()
    assert world.consumer.log == ["marked", {0: 2}]
