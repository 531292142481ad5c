"""The lease on both databases: one holder at a time, and no write of a former one."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe

import pytest

from semievold.errors import LeaseLost, TransientStoreError
from semievold.round_states import RoundState
from semievold.rounds.lease import ControlLease
from semievold.store.stores import Stores, open_stores, stores_over
from tests.stream_world import forkserver, until

TTL_S = 60.0


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    stores = open_stores(store_url, "w", "assistant")
    yield stores
    stores.database.close()


def checked(stores: Stores, lease: ControlLease) -> Stores:
    return stores_over(stores.database.checked(lease.check), "w", "assistant")


def test_one_holder_at_a_time(stores: Stores) -> None:
    leases = stores.leases
    assert leases.get() is None
    assert leases.acquire("a", TTL_S) == 1
    assert leases.acquire("b", TTL_S) is None
    assert leases.acquire("a", TTL_S) is None  # a holder renews; another process of the same name is another holder
    assert leases.renew("a", 1, TTL_S)
    state = leases.get()
    assert state is not None
    assert (state.holder, state.epoch) == ("a", 1)
    assert TTL_S - 5 < state.left_s <= TTL_S


def test_a_lease_that_ran_out_is_taken_with_the_next_epoch(stores: Stores) -> None:
    leases = stores.leases
    assert leases.acquire("a", 0.0) == 1
    assert leases.acquire("b", TTL_S) == 2
    assert not leases.renew("a", 1, TTL_S)
    leases.release("a", 1)  # it is not a's any more
    assert leases.acquire("c", TTL_S) is None


def test_a_lease_that_ran_out_untaken_is_renewed(stores: Stores) -> None:
    assert stores.leases.acquire("a", 0.0) == 1
    assert stores.leases.renew("a", 1, TTL_S)
    assert stores.leases.acquire("b", TTL_S) is None


def test_a_released_lease_is_free_at_once(stores: Stores) -> None:
    stores.leases.acquire("a", TTL_S)
    stores.leases.release("a", 1)
    assert stores.leases.acquire("b", TTL_S) == 2


def test_workloads_and_roles_have_leases_of_their_own(stores: Stores) -> None:
    assert stores.leases.acquire("a", TTL_S) == 1
    assert stores_over(stores.database, "other", "x").leases.acquire("b", TTL_S) == 1


def test_of_many_that_ask_at_once_one_gets_it(stores: Stores) -> None:
    won: list[str] = []

    def ask(name: str) -> None:
        if stores.leases.acquire(name, TTL_S) is not None:
            won.append(name)

    threads = [threading.Thread(target=ask, args=(f"h{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_the_lease_changes_hands_only_between_checked_writes(stores: Stores) -> None:
    """A write that has passed its check ends before anybody else can take the lease."""
    stores.leases.acquire("a", 0.0)
    taken = threading.Event()

    def take() -> None:
        assert stores.leases.acquire("b", TTL_S) == 2
        taken.set()

    thread = threading.Thread(target=take)
    with stores.database.write() as connection:
        stores.leases.check(connection, "a", 1)
        thread.start()
        assert not taken.wait(0.5)
    assert taken.wait(10)
    thread.join()
    with pytest.raises(LeaseLost, match="taken over after epoch 1"), stores.database.write() as connection:
        stores.leases.check(connection, "a", 1)


async def test_nothing_is_written_without_the_lease(stores: Stores) -> None:
    lease = ControlLease(stores.leases, TTL_S)
    mine = checked(stores, lease)
    with pytest.raises(LeaseLost, match="does not lead"):
        mine.rounds.plan("warm", "test", 1, None, {})
    assert stores.rounds.all() == []
    stop = asyncio.Event()
    task = asyncio.create_task(lease.run(stop))
    await until(lambda: lease.term is not None)
    lease.begin(lease.term or 0)
    assert (await asyncio.to_thread(mine.rounds.plan, "warm", "test", 1, None, {})).number == 0
    request = stores.requests.add("rollback", {})
    stores.leases.acquire("other", TTL_S, seize=True)
    writes = (
        lambda: mine.rounds.begin_attempt(0),
        lambda: mine.rounds.transition(0, RoundState.PLANNED, RoundState.SNAPSHOTTED),
        lambda: mine.rounds.leave(0, RoundState.PLANNED, RoundState.CANCELLED, "test"),
        lambda: mine.alias.move("x"),
        lambda: mine.adapters.mark("x", "deleted"),
        lambda: mine.requests.answer(request, "done", {}),
        lambda: mine.pseudo_labels.replace([]),
    )
    for write in writes:
        with pytest.raises(LeaseLost, match="taken over"):
            write()
    assert stores.alias.get().generation == 0
    assert stores.rounds.all()[0].state is RoundState.PLANNED
    stop.set()
    await task


async def test_work_of_an_earlier_term_cannot_write_in_a_later_one(stores: Stores) -> None:
    """A thread that outlives the term it was started in is refused, although its process leads again."""
    lease = ControlLease(stores.leases, 0.3)
    mine = checked(stores, lease)
    stop, go = asyncio.Event(), threading.Event()
    task = asyncio.create_task(lease.run(stop))
    await until(lambda: lease.term is not None)
    lease.begin(lease.term or 0)

    def late() -> None:
        assert go.wait(20)
        mine.alias.move("x")

    thread = asyncio.create_task(asyncio.to_thread(late))
    await asyncio.to_thread(stores.leases.acquire, "other", 0.0, seize=True)
    await until(lambda: lease.term == 3)
    lease.begin(3)
    go.set()
    with pytest.raises(LeaseLost, match="epoch 1"):
        await thread
    await asyncio.to_thread(mine.alias.move, "y")
    assert stores.alias.get().adapter == "y"
    stop.set()
    await task


async def test_a_stopped_leader_hands_over_and_a_standby_takes_over(stores: Stores) -> None:
    first, second = ControlLease(stores.leases, 0.6), ControlLease(stores.leases, 0.6)
    stops = [asyncio.Event(), asyncio.Event()]
    leading = asyncio.create_task(first.run(stops[0]))
    await until(lambda: first.term == 1)
    waiting = asyncio.create_task(second.run(stops[1]))
    await asyncio.sleep(1.0)  # longer than the lease: it is renewed
    assert (first.term, second.term) == (1, None)
    stops[0].set()
    await leading
    await until(lambda: second.term == 2)
    assert first.term is None
    stops[1].set()
    await waiting


async def test_an_exclusive_lease_is_taken_from_the_dead_at_once_and_for_good(stores: Stores) -> None:
    stores.leases.acquire("dead", TTL_S)
    lease = ControlLease(stores.leases, TTL_S, exclusive=True)
    stop = asyncio.Event()
    task = asyncio.create_task(lease.run(stop))
    await until(lambda: lease.term == 2)
    state = stores.leases.get()
    assert state is not None
    assert state.left_s == math.inf
    stop.set()
    await task
    assert stores.leases.acquire("next", TTL_S) == 3


async def test_a_leader_that_cannot_renew_stands_by_when_its_time_is_up(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = ControlLease(stores.leases, 0.3)
    stop = asyncio.Event()
    task = asyncio.create_task(lease.run(stop))
    await until(lambda: lease.term is not None)

    def away(*_: object) -> bool:
        raise TransientStoreError("the state is away")

    with monkeypatch.context() as patched:
        patched.setattr(type(stores.leases), "renew", away)
        await until(lambda: lease.term is None)
        assert lease.problem == "the state is away"
    await until(lambda: lease.term == 1)  # nobody has taken it meanwhile
    assert lease.problem is None
    stop.set()
    await task


def lead(url: str, pipe: Pipe) -> None:
    """A leader in a process of its own: leads, waits to be told, then writes as if it had never stood still."""
    stores = open_stores(url, "w", "assistant")
    lease = ControlLease(stores.leases, 1.0)
    mine = checked(stores, lease)

    async def work() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(lease.run(stop))
        await until(lambda: lease.term is not None)
        lease.begin(lease.term or 0)
        await asyncio.to_thread(mine.rounds.plan, "warm", "by the first", 1, None, {})
        pipe.send("leads")
        pipe.recv()
        outcomes = []
        for write in (
            lambda: mine.rounds.transition(0, RoundState.SNAPSHOTTED, RoundState.TRAINING),
            lambda: mine.alias.move("stale"),
        ):
            try:
                write()
                outcomes.append("written")
            except LeaseLost:
                outcomes.append("refused")
        pipe.send(outcomes)
        await until(lambda: lease.term is None)
        pipe.send("stands by")
        stop.set()
        await task

    asyncio.run(work())
    stores.database.close()


def test_a_paused_leader_that_wakes_up_moves_nothing(store_url: str, stores: Stores) -> None:
    context = forkserver()
    here, there = context.Pipe()
    process = context.Process(target=lead, args=(store_url, there))
    process.start()
    try:
        assert here.poll(60)
        assert here.recv() == "leads"
        os.kill(process.pid or 0, signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while (epoch := stores.leases.acquire("second", TTL_S)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert epoch == 2
        stores.rounds.transition(0, RoundState.PLANNED, RoundState.SNAPSHOTTED)
        stores.alias.move("fresh")
        here.send("go on")
        os.kill(process.pid or 0, signal.SIGCONT)
        assert here.poll(30)
        assert here.recv() == ["refused", "refused"]
        assert here.poll(30)
        assert here.recv() == "stands by"
    finally:
        process.join(10)
        process.kill()
        process.join()
    assert stores.rounds.all()[0].state is RoundState.SNAPSHOTTED
    assert (stores.alias.get().adapter, stores.alias.get().generation) == ("fresh", 1)
