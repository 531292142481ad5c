"""When the leader deletes what the state need not keep, and that nobody else does."""

from __future__ import annotations

import asyncio
from collections import Counter

from semievold.config.daemon import RetentionConfig
from semievold.errors import TransientStoreError
from semievold.rounds.retention import DAY_S, Retention
from semievold.store.retention import RetentionStore
from tests.control_world import WORKLOAD, ControlWorld, OpenWorld, Process


class Keeper:
    """The retention of a process, as a task."""

    def __init__(self, world: ControlWorld, process: Process, **config: float | None) -> None:
        self.deleted: Counter[str] = Counter()
        self.store = RetentionStore(process.stores.database, WORKLOAD)
        self._stop = asyncio.Event()
        settings = RetentionConfig.model_validate(config)
        retention = Retention(self.store, settings, 20, process.lease, self._count, world.now)
        self._task = asyncio.create_task(retention.run(self._stop))

    def _count(self, what: str, count: int) -> None:
        self.deleted[what] += count

    async def stop(self) -> None:
        self._stop.set()
        await self._task


async def test_the_leader_deletes_what_is_beyond_the_bound_and_keeps_the_newest(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    for number in range(30):
        world.ask([number])
    labels = world.stores.pseudo_labels
    keeper = Keeper(world, world.here, pseudo_labels=12, interval_s=60)
    await world.passes(61)
    assert labels.counts().total == 30  # none is published yet
    labels.mark_published([f"q{number}" for number in range(30)])
    await world.passes(61)
    assert sorted(labels.known([f"q{number}" for number in range(30)])) == sorted(f"q{n}" for n in range(18, 30))
    assert keeper.deleted == {"pseudo_labels": 18}
    await keeper.stop()


async def test_what_a_round_learned_from_outlives_its_age_while_its_adapter_exists(open_world: OpenWorld) -> None:
    world = open_world(trigger={"new_pseudo_labels": None})
    world.teach()
    world.here.start()
    warm = await world.ended(0)
    assert warm.adapter is not None
    world.ask(range(100, 110))
    world.request("start_round", kind="evolve")
    await world.ended(1)
    world.ask(range(200, 205))
    ids = [f"q{number}" for number in (*range(100, 110), *range(200, 205))]
    world.stores.pseudo_labels.mark_published(ids)
    keeper = Keeper(world, world.here, days=20 / DAY_S, interval_s=10)
    await world.passes(45)
    learned = set(world.stores.rounds.members(1))
    assert learned == {f"q{number}" for number in range(100, 110)}
    assert set(world.stores.pseudo_labels.known(ids)) == learned
    await keeper.stop()


async def test_rounds_go_on_by_count_while_old_labels_are_deleted(open_world: OpenWorld) -> None:
    world = open_world(
        trigger={"new_pseudo_labels": 10, "min_new": 5},
        rounds={"max_pool": 10},
        gate={"patience_s": 0.0},
        store={"retention": {"pseudo_labels": 10}},
    )
    world.teach()
    world.here.start()
    await world.ended(0)
    keeper = Keeper(world, world.here, pseudo_labels=10, interval_s=5)
    for number in range(1, 6):
        asked = range(100 * number, 100 * number + 10)
        world.ask(asked)
        world.stores.pseudo_labels.mark_published([f"q{each}" for each in asked])
        candidate = (await world.ended(number)).adapter
        assert candidate not in (None, world.stores.alias.get().adapter)
        world.stores.adapters.mark(str(candidate), "deleted")
        await world.passes(11)
    assert keeper.deleted["pseudo_labels"] > 0
    await keeper.stop()


async def test_a_standby_deletes_nothing(open_world: OpenWorld) -> None:
    world = open_world()
    world.ask(range(5))
    world.stores.pseudo_labels.mark_published([f"q{number}" for number in range(5)])
    world.stores.leases.acquire("another", 3600.0)
    standby = world.process(exclusive=False)
    standby.start()
    keeper = Keeper(world, standby, pseudo_labels=1, interval_s=10)
    await world.passes(60)
    assert (world.stores.pseudo_labels.counts().total, dict(keeper.deleted)) == (5, {})
    await keeper.stop()


async def test_a_state_that_is_away_is_asked_again_at_the_next_look(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    for number in range(5):
        world.ask([number])
    world.stores.pseudo_labels.mark_published([f"q{number}" for number in range(5)])
    keeper = Keeper(world, world.here, pseudo_labels=1, interval_s=10)
    errors = [TransientStoreError("away")]
    real = keeper.store.oldest_kept

    def oldest_kept(keep: int) -> float:
        if errors:
            raise errors.pop()
        return real(keep)

    keeper.store.oldest_kept = oldest_kept  # type: ignore[method-assign]
    await world.passes(11)
    assert (errors, keeper.deleted) == ([], {})
    await world.passes(11)
    assert keeper.deleted == {"pseudo_labels": 4}
    await keeper.stop()
