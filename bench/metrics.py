"""What a scrape of /metrics costs beside 1,000,000 stored pseudo-labels, and what the leader reads for it.

`python bench/metrics.py [--rows 1000000] [--rounds 200] [--scrapes 200]`

The state is an SQLite file. The admin API of a process with all roles is asked over HTTP, as Prometheus asks; beside it
the leader reads the state, again and again, as it does every `api.metrics_interval_s`.
The claim: the median scrape takes at most 20 ms. That no statement of a reading scans a table is a test
(tests/unit/semievold/monitoring/test_state_metrics.py).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import sqlalchemy as sa
from aiohttp import web

sys.path.append(str(Path(__file__).parents[1]))

from parts.instant_intake import LABELS, WORKLOAD

from semievol.types import CandidateAnswer, Example, PseudoLabel, Query
from semievold.api.api import Api, ApiTools
from semievold.config.daemon import ROLES, DaemonConfig
from semievold.monitoring.metrics import Metrics
from semievold.monitoring.observer import Observer
from semievold.monitoring.state_metrics import StateMetrics
from semievold.monitoring.state_watch import StateWatch
from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.serving.alias import Alias
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.stores import Stores, open_stores
from semievold.store.tables import label_counts, pseudo_labels
from semievold.streams.opening import open_stream

INTERVAL_S = 0.5
"""Between two readings of the state; ten seconds by default."""
EXAMPLES = 500


def filled(path: Path, rows: int, rounds: int) -> Stores:
    """The first label goes through the real store; the others differ in id and time alone."""
    stores = open_stores(f"sqlite:///{path}", WORKLOAD, WORKLOAD)
    examples = [Example(Query(f"example-{n}", f"question {n}"), LABELS[n % len(LABELS)]) for n in range(EXAMPLES)]
    stores.examples.upsert([(each, n % 5 == 0) for n, each in enumerate(examples)])
    query = Query("template", "what is my card balance?")
    candidates = tuple(CandidateAnswer("sampled", LABELS[0], LABELS[0], 0.12) for _ in range(4))
    near = tuple((f"example-{n}", 0.5) for n in range(3))
    label = PseudoLabel(query, LABELS[0], 0.1, 1.0, 0.9, False, "a1", near, candidates)
    stores.pseudo_labels.add([NewLabel(label, query_hash(query), "queries", 0, 0)])
    stores.pseudo_labels.mark_published(["template"])
    own = {"query_id": "'q-' || n", "created_at": f"t.created_at - ({rows} - n) * 0.01"}
    columns = [column.name for column in pseudo_labels.c]
    into = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(own.get(name, f't."{name}"') for name in columns)
    numbers = f"with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < {rows - 1})"
    with stores.database.write() as connection:
        connection.exec_driver_sql(
            f"insert into pseudo_labels ({into}) {numbers} select {values} from pseudo_labels t, numbers "
            "where t.query_id = 'template'"
        )
        connection.execute(sa.update(label_counts).values(labelled=rows))
    assert stores.pseudo_labels.counts().total == rows
    for _ in range(rounds):
        number = stores.rounds.plan("evolve", "bench", 1, None, {}).number
        stores.rounds.transition(
            number, RoundState.PLANNED, RoundState.SNAPSHOTTED, snapshot={"pool": 100, "selected": 50}
        )
        stores.rounds.leave(number, RoundState.SNAPSHOTTED, RoundState.CANCELLED, "bench")
    return stores


async def measure(stores: Stores, directory: str, scrapes: int) -> tuple[list[float], list[float], int]:
    """Seconds of each scrape and of each reading, and how many series a scrape has."""
    config = DaemonConfig.model_validate(
        {
            "workload": WORKLOAD,
            "model": {"name": "none"},
            "task": {"labels": list(LABELS)},
            "artifacts": {"directory": directory},
        }
    )
    metrics = Metrics(WORKLOAD)
    metrics.begin(ROLES)
    shown = StateMetrics(WORKLOAD, lambda: True)
    metrics.registry.register(shown)
    place = RoundPlace.under(config.artifacts.directory)
    watch = StateWatch(shown, stores, WORKLOAD, place, lambda: True, INTERVAL_S, time.monotonic)
    observer = Observer(metrics, Alias(stores.alias.get()))
    producer = open_stream(config.stream, stores.database).producer()
    tools = ApiTools(
        stores, place, producer, metrics, observer.missing, observer.held, observer.process, observer.observe, list
    )
    runner = web.AppRunner(Api(config, tools, "a-token-of-this-bench").app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    read, took, text = [], [], ""

    async def look_on() -> None:
        while True:
            began = time.perf_counter()
            await watch.look()
            read.append(time.perf_counter() - began)
            await asyncio.sleep(INTERVAL_S)

    await watch.look()
    looking = asyncio.create_task(look_on())
    async with aiohttp.ClientSession() as session:
        for _ in range(scrapes):
            began = time.perf_counter()
            async with session.get(url) as answer:
                text = await answer.text()
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)
    looking.cancel()
    await runner.cleanup()
    assert "semievol_pseudo_labels{" in text
    return took, read, sum(not line.startswith("#") for line in text.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="stored pseudo-labels")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--scrapes", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        stores = filled(Path(directory) / "state.db", options.rows, options.rounds)
        took, read, series = asyncio.run(measure(stores, directory, options.scrapes))
        stores.database.close()
    print(f"{options.rows:,} pseudo-labels, {options.rounds} rounds, {series} series")
    for name, some in (("scrape", took), ("reading of the state", read)):
        print(f"{name:<22} median {statistics.median(some) * 1e3:6.1f} ms, most {max(some) * 1e3:6.1f} ms")


if __name__ == "__main__":
    main()
