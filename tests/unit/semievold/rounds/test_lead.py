"""Which process controls: what a leader that loses its lease leaves alone, and what its successor takes over."""

from __future__ import annotations

import asyncio

import pytest

from semievol.errors import TransientError
from semievold.errors import LeaseLost, TransientStoreError
from semievold.round_states import RoundState as S
from semievold.rounds.lease import RETRY_S, ControlLease
from semievold.store.leases import LeaseStore
from tests.control_world import TTL_S, Brake, OpenWorld, failing


async def test_a_process_without_the_lease_stands_by_and_says_so(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.stores.leases.acquire("another", 3600.0)
    standby = world.process(exclusive=False)
    standby.start()
    await world.passes(20)
    assert not standby.control.leads
    assert standby.control.waiting_for == "the lease: another process leads"
    assert world.stores.rounds.all() == []
    world.stores.leases.release("another", 1)
    await world.until(lambda: standby.control.leads)
    assert (await world.ended(0)).state is S.SETTLED


async def test_a_leader_that_loses_its_lease_in_mid_step_stops_and_another_goes_on_where_the_round_stood(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    first, second = world.process(exclusive=False), world.process()
    first.start()
    await brake.reached.wait()
    second.start()  # takes the lease
    await world.until(lambda: not first.control.leads)
    await world.until(lambda: world.trainer.stopped == 1)
    assert first.control.waiting_for == "the lease: another process leads"
    brake.released.set()
    settled = await world.ended(0)
    assert settled.state is S.SETTLED
    assert world.path(0).count("training") == 1
    assert (world.trainer.begun, second.alias.adapter) == (2, settled.adapter)
    assert not first.control.leads
    assert first.control.idle


async def test_a_new_leader_ends_what_trains_for_other_rounds_than_the_open_one(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    first, second = world.process(exclusive=False), world.process()
    first.start()
    await brake.reached.wait()
    assert world.trainer.retired == [None]  # when it began to lead there was no round
    second.start()
    await world.until(lambda: second.control.leads)
    assert world.trainer.retired == [None, 0]
    brake.released.set()
    await world.ended(0)
    assert world.trainer.retired[-1] is None


async def test_a_launcher_that_does_not_answer_does_not_hold_up_the_end_of_a_round(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.unreachable = True
    world.here.start()
    assert (await world.ended(0)).state is S.SETTLED
    assert world.here.control.last_error is None


async def test_what_a_step_of_a_former_leader_did_is_not_written(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    former = world.process(exclusive=False)
    former.start()
    await brake.reached.wait()
    world.stores.leases.acquire("another", 3600.0, seize=True)
    brake.released.set()  # before the former leader could notice
    await world.passes(TTL_S)
    assert not former.control.leads
    assert world.round(0).state is S.TRAINING
    assert world.stores.adapters.all() == []


async def test_a_request_of_a_former_leader_stays_for_the_next_one(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    first = await world.version(right=7)
    world.here.stores.alias.move(first)
    await world.here.stop()
    former = world.process(exclusive=False)
    former.start()
    await world.until(lambda: former.control.leads)
    world.stores.leases.acquire("another", 3600.0, seize=True)
    request = world.request("rollback")
    await world.until(lambda: not former.control.leads)
    assert (world.stores.alias.get().adapter, world.stores.alias.get().generation) == (first, 1)
    successor = world.process()
    successor.start()
    assert (await world.answered(request)).state == "done"
    assert world.stores.alias.get().adapter is None


async def test_a_leader_that_learns_from_a_write_that_it_lost_its_lease_stops_at_once(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.before = brake = Brake()
    former = world.process(exclusive=False)
    former.start()
    await brake.reached.wait()
    world.stores.leases.acquire("another", 3600.0, seize=True)
    world.request("cancel_round", round=99)
    await world.until(lambda: world.trainer.stopped == 1)
    assert former.lease.term == 1  # before the lease was to be renewed
    assert world.stores.requests.pending() != []


async def test_a_process_does_not_lead_any_more_while_it_is_still_busy_with_a_request(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    for right in (7, 10):
        world.here.stores.alias.move(await world.version(right=right))
    await world.here.stop()
    former = world.process(exclusive=False)
    former.start()
    await world.until(lambda: former.control.leads)
    former.generator.before_load = brake = Brake()
    world.request("rollback")
    await brake.reached.wait()
    world.stores.leases.acquire("another", 3600.0, seize=True)
    await world.until(lambda: former.lease.term is None)
    assert not former.control.leads
    brake.released.set()


async def test_a_new_term_does_not_wait_for_the_next_try_of_the_one_before(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.before = failing(*[TransientError("no place to train")] * 100)
    process = world.process(exclusive=False)
    process.start()
    await world.until(lambda: world.trainer.begun == 5)  # the next try is 12 s away or more
    epoch = world.stores.leases.acquire("another", 3600.0, seize=True)
    await world.until(lambda: not process.control.leads)
    world.stores.leases.release("another", epoch or 0)
    begun = world.loop.time()
    await world.until(lambda: world.trainer.begun == 6)
    assert world.loop.time() - begun < 5


async def test_a_leader_that_stands_by_shows_no_error_of_its_last_step(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.before = failing(*[TransientError("no place to train")] * 100)
    former = world.process(exclusive=False)
    former.start()
    await world.until(lambda: former.control.last_error == "no place to train")
    world.stores.leases.acquire("another", 3600.0, seize=True)
    await world.until(lambda: not former.control.leads)
    await world.passes(1)
    assert former.control.last_error is None


async def test_a_new_leader_follows_the_alias_and_removes_what_a_killed_publication_left(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version()
    successor = world.process()
    world.here.stores.alias.move(name)
    unfinished = world.place.adapters / "w-r0007-0123abcd"
    unfinished.mkdir()
    await world.here.stop()
    successor.start()
    await world.until(lambda: successor.control.leads)
    assert successor.alias.adapter == name
    assert await successor.generator.loaded_adapters() == {name}
    assert not unfinished.exists()


async def test_the_state_that_is_away_when_a_term_begins_is_waited_for(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    world.here.stores.alias.move(await world.version())
    await world.here.stop()
    successor = world.process()
    successor.generator.before_load = failing(*[TransientError("the engine is away")] * 20)
    successor.start()
    await world.until(lambda: successor.control.last_error == "the engine is away")
    assert not successor.control.leads
    await world.until(lambda: successor.control.leads)
    assert successor.control.last_error is None


class UnreachableLeases(LeaseStore):
    """Gives the lease once, then does not answer."""

    def renew(self, holder: str, epoch: int, ttl_s: float) -> bool:
        raise TransientStoreError("the state is away")


async def test_a_leader_that_cannot_renew_its_lease_stands_by_when_its_time_is_up(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.before = Brake()
    leader = world.process(exclusive=False)
    leader.lease = ControlLease(UnreachableLeases(world.database, "w"), TTL_S, monotonic=world.loop.time)
    asked = world.loop.time()
    await leader.take_lease()
    await world.until(lambda: leader.lease.term is None)
    assert world.loop.time() - asked == pytest.approx(TTL_S, abs=0.3)
    assert leader.lease.problem == "the state is away"


class SilentOnce(LeaseStore):
    """Does not answer the first renewal."""

    silent = True
    renewed = 0

    def renew(self, holder: str, epoch: int, ttl_s: float) -> bool:
        if self.silent:
            self.silent = False
            raise TransientStoreError("the state is away")
        self.renewed += 1
        return super().renew(holder, epoch, ttl_s)


async def test_a_renewal_that_nobody_answered_is_tried_again_soon_and_the_problem_is_over(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    leases = SilentOnce(world.database, "w")
    lease = ControlLease(leases, 30.0, monotonic=world.loop.time)
    stop = asyncio.Event()
    task = asyncio.create_task(lease.run(stop))
    await world.until(lambda: lease.problem)
    failed = world.loop.time()
    assert lease.term == 1
    await world.until(lambda: leases.renewed)
    assert world.loop.time() - failed == pytest.approx(RETRY_S, abs=0.3)  # not a third of its time
    assert lease.problem is None
    stop.set()
    await task
    assert lease.term is None
    assert world.stores.leases.acquire("another", 1.0) == 2


async def test_a_lease_behind_a_lock_is_taken_from_who_seems_to_hold_it_and_lasts(open_world: OpenWorld) -> None:
    world = open_world()
    world.stores.leases.acquire("dead", 3600.0)
    leases = SilentOnce(world.database, "w")
    lease = ControlLease(leases, TTL_S, exclusive=True, monotonic=world.loop.time)
    stop = asyncio.Event()
    task = asyncio.create_task(lease.run(stop))
    await world.until(lambda: lease.term == 2)
    await world.passes(3 * TTL_S)
    assert (lease.term, lease.problem, leases.renewed) == (2, None, 0)  # it is never asked for again
    stop.set()
    await task


async def test_a_write_outside_every_term_is_refused(open_world: OpenWorld) -> None:
    world = open_world()
    lease = ControlLease(world.stores.leases, TTL_S, monotonic=world.loop.time)
    with world.database.write() as connection, pytest.raises(LeaseLost, match="only the leader may write"):
        lease.check(connection)
