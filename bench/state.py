"""What a full state costs on PostgreSQL: intake, trigger, round snapshot and status beside millions of pseudo-labels.

`python bench/state.py [--rows 50000 --rows 5000000] [--repeats 5] [--queries 5000] [--keep 1000000] [--churn 1000000]`

First: states of those sizes on one server (its defaults, but shared_buffers and max_wal_size), filled by the server and
vacuumed. In turn on each: the real intake before a model that answers at once (parts/instant_intake.py; queries whose
ids come in no order), a look of the trigger, the choice of an evolve round (20,000 in the pool), `semievol status`.
The claim: at 5,000,000 each takes at most 1.2 times as long as at 50,000.

Then: a state at its bound (`--keep`, by default that of store.retention), with an intake that writes on and retention
in a process of its own, as a controller has it, which looks every second. The claims: the intake keeps 0.95 of its
speed, and the table's bytes stay within 1.6 times those of a fresh table of as many rows: what is deleted is used again
once it is vacuumed. The server looks for that once a minute: what comes in a minute is on top, and where that is much
of what is kept (200,000 at 2,300 queries a second) the bytes are 2.3 times.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import sqlalchemy as sa

sys.path.append(str(Path(__file__).parents[1]))

from parts.full_state import ADAPTER, check, filled, name, tidy
from parts.instant_intake import LABELS, WORKLOAD, ask, run_intake

from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.tasks.task import Task
from semievold.api.operations import status
from semievold.config.daemon import DaemonConfig, RetentionConfig
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.round_states import RoundState
from semievold.rounds import snapshot
from semievold.rounds.lease import ControlLease
from semievold.rounds.observing import RoundObserver
from semievold.rounds.places import RoundPlace
from semievold.rounds.retention import Retention
from semievold.store.database import Database
from semievold.store.retention import RetentionStore
from semievold.store.stores import Stores, open_stores, stores_over
from semievold.streams.local import LocalStream
from tests.servers.postgres import PostgresServer

SERVER = ("-c shared_buffers=1GB", "-c max_wal_size=4GB")
LOOKS = 15
TIES = 1_000
runs = itertools.count()


def config(directory: str) -> DaemonConfig:
    """A daemon's settings, whose training rows are entropy's: nothing here asks a model."""
    return DaemonConfig.model_validate(
        {
            "workload": WORKLOAD,
            "model": {"name": "none"},
            "task": {"labels": list(LABELS)},
            "stream": {"kind": "kafka", "kafka": {"bootstrap_servers": ["127.0.0.1:9"]}},
            "store": {"url": "postgresql+psycopg://nobody@127.0.0.1/none"},
            "artifacts": {"directory": directory},
        }
    )


# --- what is measured ---------------------------------------------------------------------------------------------


def take_in(url: str, queries: int, run: str, answer: Connection) -> None:
    """One run of the intake, in a process of its own: queries per second."""

    async def main() -> float:
        with tempfile.TemporaryDirectory() as directory:
            records = Database(f"sqlite:///{directory}/stream.db")
            records.migrate()
            topics = StreamSettings()
            stream = LocalStream(records, topics)
            await ask(stream, topics.queries, queries, lambda number: name(number, run))
            state = Database(url, WORKLOAD)
            done = await run_intake(state, stream, topics, IntakeSettings(), queries)
            state.close()
            records.close()
            return done.queries_per_s

    answer.send(asyncio.run(main()))


def speed(url: str, queries: int) -> float:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=take_in, args=(url, queries, f"run {next(runs)} ", sender))
    process.start()
    sender.close()
    rate = float(receiver.recv())
    process.join()
    return rate


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def choose(stores: Stores, settings: DaemonConfig) -> float:
    """What an evolve round does between its plan and its snapshot, with its labels up to date."""
    round_ = stores.rounds.plan("evolve", "bench", 1, ADAPTER, {})
    task = Task(settings.task)
    took = seconds(lambda: snapshot.choose(stores, None, HashingEmbedder(), task, settings, round_, None))
    stores.rounds.leave(round_.number, RoundState.PLANNED, RoundState.CANCELLED, "bench")
    return took


def pages(stores: Stores) -> int:
    """So many pages has this database's server looked at since its start, in memory or not: no other work delays that.

    One thread has one connection, so that what it did last is told by then.
    """
    with stores.database.read() as connection:
        connection.execute(sa.select(sa.func.pg_stat_force_next_flush()))
    looked_at = "select blks_hit + blks_read from pg_stat_database where datname = current_database()"
    with stores.database.read() as connection:
        return int(connection.execute(sa.text(looked_at)).scalar_one())


def pages_of(stores: Stores, call: Callable[[], object]) -> int:
    """Of one call, less what the counting takes itself."""
    first = pages(stores)
    second = pages(stores)
    call()
    return max(0, pages(stores) - second - (second - first))


def measured(stores: Stores, url: str, settings: DaemonConfig, queries: int) -> dict[str, float]:
    """Milliseconds of each, once (of the trigger and the status the median of some looks), and pages."""
    place, observer = RoundPlace.under(settings.artifacts.directory), RoundObserver(settings, stores)
    looks = {"look of the trigger": observer.observe, "status": lambda: status(settings, stores, place)}
    found = {
        "intake of 1,000 queries": 1e6 / speed(url, queries),
        "snapshot of a round": 1e3 * choose(stores, settings),
    }
    for what, look in looks.items():
        found[what] = 1e3 * statistics.median(seconds(look) for _ in range(LOOKS))
        found[f"{what}, pages"] = pages_of(stores, look)
    return found


def compare(server: PostgresServer, sizes: list[int], repeats: int, queries: int) -> None:
    found: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        settings = config(directory)
        states: dict[int, tuple[Stores, str]] = {}
        for rows in sizes:
            url = server.create_database()
            began = time.perf_counter()
            stores = filled(url, rows)
            tidy(stores.database)
            check(stores, rows)
            print(f"{rows:>9,} pseudo-labels, {table_bytes(stores) / 2**30:.2f} GiB with indexes, filled in "
                  f"{time.perf_counter() - began:.0f} s", flush=True)  # fmt: skip
            states[rows], found[rows] = (stores, url), {}
        for repeat in range(repeats + 1):  # the first warms up
            for rows in sizes if repeat % 2 else sizes[::-1]:
                stores, url = states[rows]
                for what, took in measured(stores, url, settings, queries).items():
                    if repeat:
                        found[rows].setdefault(what, []).append(took)
        for stores, _ in states.values():
            stores.database.close()
    few = sizes[0]
    print(f"\n{'ms, median (least - most)':<27}" + "".join(f"{rows:>26,}" for rows in sizes) + f"{'ratio':>8}")
    for what in found[few]:
        cells = [
            f"{statistics.median(each):.1f} ({min(each):.1f} - {max(each):.1f})"
            for each in (found[rows][what] for rows in sizes)
        ]
        ratio = statistics.median(found[sizes[-1]][what]) / statistics.median(found[few][what])
        print(f"{what:<27}" + "".join(f"{cell:>26}" for cell in cells) + f"{ratio:>8.2f}", flush=True)


# --- retention ----------------------------------------------------------------------------------------------------


def table_bytes(stores: Stores) -> int:
    with stores.database.read() as connection:
        return int(connection.execute(sa.select(sa.func.pg_total_relation_size("pseudo_labels"))).scalar_one())


def keep(url: str, bound: int, stop: Event) -> None:
    """A controller that does nothing but delete, until told."""
    stores = open_stores(url, WORKLOAD, WORKLOAD, migrate=False)
    lease = ControlLease(stores.leases, 10.0)
    store = RetentionStore(stores_over(stores.database.checked(lease.check), WORKLOAD, WORKLOAD).database, WORKLOAD)
    settings = RetentionConfig(pseudo_labels=bound, interval_s=1.0)

    async def main() -> None:
        over = asyncio.Event()
        tasks = [
            asyncio.create_task(lease.run(over)),
            asyncio.create_task(
                Retention(store, settings, 20, lease, lambda _what, _n: None, stores.database.now).run(over)
            ),
        ]
        await asyncio.to_thread(stop.wait)
        over.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    stores.database.close()


@contextmanager
def retention(url: str, bound: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=keep, args=(url, bound, stop))
    process.start()
    time.sleep(3.0)  # its imports are not the intake's time
    try:
        yield
    finally:
        stop.set()
        process.join()


def settle(stores: Stores, url: str, bound: int) -> None:
    """Delete what the run before left over; those made at the time of the oldest that is kept stay with it."""
    with retention(url, bound):
        while stores.pseudo_labels.counts().total > bound + TIES:
            time.sleep(0.5)


@contextmanager
def watched(stores: Stores, seen: list[tuple[int, int]]) -> Iterator[None]:
    """Rows and bytes of the table, each second."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            seen.append((stores.pseudo_labels.counts().total, table_bytes(stores)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def bound(server: PostgresServer, kept: int, churn: int, repeats: int) -> None:
    url = server.create_database()
    stores = filled(url, kept)
    tidy(stores.database)
    fresh = table_bytes(stores)
    alone, beside = [], []
    part = churn // (2 * repeats)
    seen: list[tuple[int, int]] = []
    with watched(stores, seen):
        for _ in range(repeats):
            alone.append(speed(url, part))
            settle(stores, url, kept)
            with retention(url, kept):
                beside.append(speed(url, part))
            settle(stores, url, kept)
    rows, most = max(row for row, _ in seen), max(size for _, size in seen)
    quarter = [size for _, size in seen][-max(1, len(seen) // 4) :]
    print(f"\nkept {kept:,} while {2 * part * repeats:,} came: at most {rows:,} rows at once")
    print(f"  bytes with indexes: fresh {fresh / 2**20:.0f} MiB, most {most / 2**20:.0f} MiB ({most / fresh:.2f}), "
          f"last quarter {min(quarter) / 2**20:.0f} to {max(quarter) / 2**20:.0f} MiB")  # fmt: skip
    shown = ", ".join(f"{b:.0f}/{a:.0f}" for a, b in zip(alone, beside, strict=True))
    ratio = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    print(f"  intake beside retention / alone: {ratio:.3f} (queries/s: {shown})")
    stores.database.close()


def main() -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, action="append", help="pseudo-labels; two sizes, few first; 0: none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--queries", type=int, default=5000, help="queries per run of the intake")
    parser.add_argument(
        "--keep", type=int, default=1_000_000, help="store.retention.pseudo_labels; 0: leave this part out"
    )
    parser.add_argument("--churn", type=int, default=1_000_000, help="queries that come while so many are kept")
    options = parser.parse_args()
    server = PostgresServer(SERVER)
    try:
        server.start()
        if options.rows != [0]:
            compare(server, options.rows or [50_000, 5_000_000], options.repeats, options.queries)
        if options.keep:
            bound(server, options.keep, options.churn, options.repeats)
    finally:
        server.close()


if __name__ == "__main__":
    main()
