"""What 10, 1,000 and 100,000 queries a second need, computed from unit costs; `docs/scaling.md` is what this prints.

`python bench/scaling.py [--replica-prefill 20000 --replica-decode 2500 --gpu-price 3] [...] > docs/scaling.md`

Measured here, each time: what a pseudo-label takes in PostgreSQL (bytes, by a table that is filled), how many a second
one workload's writers get in (they take turns, whatever their number), and what the intake itself takes of a processor
before a model that answers at once. What a GPU does with your model and prompts nobody can measure for you: those are
options, whose defaults are assumptions, and the page says so.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import sqlalchemy as sa

sys.path.append(str(Path(__file__).parents[1]))

from parts.full_state import filled, name, tidy
from parts.instant_intake import LABELS, WORKLOAD, ask, run_intake

from semievol.types import CandidateAnswer, PseudoLabel, Query
from semievold.config.daemon import DaemonConfig
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.store.database import Database
from semievold.store.pseudo_labels import NewLabel, PseudoLabelStore, query_hash
from semievold.streams.local import LocalStream
from tests.servers.postgres import PostgresServer

RATES = (10, 1_000, 100_000)
DAY_S = 86_400
FULL = 0.7
"""How full a part may be: above that queues grow with every burst."""
SAMPLE = 50_000
MONTH_DAYS = 30


@dataclass(frozen=True)
class Unit:
    """What was measured. row_bytes: with indexes, in a vacuumed table; rows_per_s: of one workload's writers together;
    intake_cpu_s: of a processor for one query.
    """

    row_bytes: float
    rows_per_s: float
    intake_cpu_s: float


def measured(batch: int) -> Unit:
    server = PostgresServer(())
    try:
        server.start()
        url = server.create_database()
        stores = filled(url, SAMPLE)
        tidy(stores.database)
        with stores.database.read() as connection:
            size = connection.execute(sa.select(sa.func.pg_total_relation_size("pseudo_labels"))).scalar_one()
        rates = [_written(stores.pseudo_labels, batch, run) for run in range(5)]
        cpu = [_intake_cpu_s(url, run) for run in range(3)]
        stores.database.close()
        return Unit(size / SAMPLE, batch / min(rates), min(cpu))
    finally:
        server.close()


def _written(store: PseudoLabelStore, batch: int, run: int) -> float:
    """Seconds of one write transaction of so many labels: of the fastest tenth, since other work delays the others."""
    candidates = tuple(CandidateAnswer("sampled", LABELS[0], LABELS[0], 0.12) for _ in range(4))
    took = []
    for turn in range(20):
        queries = [Query(name(n, f"write {run} {turn} "), "what is my card balance please?") for n in range(batch)]
        labels = [
            PseudoLabel(query, LABELS[0], 0.1, 1.0, 0.9, False, "a1", (("example-1", 0.5),) * 3, candidates)
            for query in queries
        ]
        new = [NewLabel(label, query_hash(label.query), "queries", 0, n) for n, label in enumerate(labels)]
        began = time.perf_counter()
        store.add(new)
        took.append(time.perf_counter() - began)
        store.mark_published(query.id for query in queries)
    return statistics.quantiles(took, n=10)[0]


def _intake_cpu_s(url: str, run: int, queries: int = 2000) -> float:
    async def main() -> float:
        with tempfile.TemporaryDirectory() as directory:
            records, state = Database(f"sqlite:///{directory}/stream.db"), Database(url, WORKLOAD)
            records.migrate()
            topics = StreamSettings()
            stream = LocalStream(records, topics)
            await ask(stream, topics.queries, queries, lambda number: name(number, f"cpu {run} "))
            done = await run_intake(state, stream, topics, IntakeSettings(), queries)
            state.close()
            records.close()
            return done.cpu_us / 1e6

    return asyncio.run(main())


@dataclass(frozen=True)
class Need:
    """Of one rate.

    rows, written: labels and bytes a day, the log of changes included. kept, kept_days: labels that retention keeps.
    writers: how full the turns of the state's writers are; over 1 it does not hold.
    """

    labelled: float
    intakes: int
    partitions: int
    replicas: int
    rows: float
    written: float
    kept: float
    kept_days: float
    writers: float


def need(rate: float, share: float, unit: Unit, given: argparse.Namespace) -> Need:
    labelled = rate * share
    intakes = max(1, math.ceil(labelled * unit.intake_cpu_s / FULL))
    served_s = given.served_prompt / given.replica_prefill + given.served_answer / given.replica_decode
    rows = labelled * DAY_S
    kept = min(given.keep, rows * MONTH_DAYS)
    return Need(
        labelled,
        intakes,
        2 ** math.ceil(math.log2(2 * intakes)),
        max(1, math.ceil((labelled * label_s(given) + rate * served_s) / FULL)),
        rows,
        2 * rows * unit.row_bytes,
        kept,
        kept / rows,
        labelled / unit.rows_per_s,
    )


def label_s(given: argparse.Namespace) -> float:
    """Seconds of one replica for one label."""
    return float(given.prompt_tokens / given.replica_prefill + given.answer_tokens / given.replica_decode)


def rows_of(needs: Sequence[Need], unit: Unit, given: argparse.Namespace) -> list[tuple[str, list[str]]]:
    shown: list[tuple[str, Callable[[Need], str]]] = [
        ("labelled a second", lambda each: f"{each.labelled:,.0f}"),
        ("intake processes, a core each", lambda each: f"{each.intakes:,}"),
        ("partitions of the queries topic", lambda each: f"{each.partitions:,}"),
        ("vLLM replicas, serving included", lambda each: f"{each.replicas:,}"),
        ("rows a day", lambda each: f"{each.rows:,.0f}"),
        ("GiB written a day: rows, and as much of PostgreSQL's log", lambda each: f"{each.written / 2**30:,.1f}"),
        (f"GiB kept (at most {given.keep:,} labels)", lambda each: f"{each.kept * unit.row_bytes / 2**30:,.2f}"),
        ("days of which labels are kept", lambda each: f"{each.kept_days:,.2f}"),
        ("how full the turns of the state's writers are", lambda each: f"{each.writers:,.0%}"),
    ]
    return [(what, [cell(each) for each in needs]) for what, cell in shown]


def breaks(unit: Unit, needs: Sequence[Need], sampled: Sequence[Need], given: argparse.Namespace) -> list[str]:
    """In the order in which they are met while traffic grows."""
    per_replica, per_intake = FULL / label_s(given), FULL / unit.intake_cpu_s
    met = [
        (
            per_replica,
            f"**One replica of vLLM**, at {per_replica:,.0f} labels a second; each as many more need one more. "
            "Labels cost more than answers: lower `gateway.capture.share` before you buy.",
        ),
        (
            per_intake,
            f"**One intake**, at {per_intake:,.0f} labels a second. More of them share the partitions; a partition is "
            "read by one, so that the tables plan twice as many partitions as intakes.",
        ),
        (
            unit.rows_per_s * FULL,
            f"**The turns of the state's writers**, at {unit.rows_per_s * FULL:,.0f} labels a second of one workload "
            f"({unit.rows_per_s:,.0f} with nothing to spare). Neither intakes nor partitions help, since a workload's "
            "writers exclude each other ([PostgreSQL](operating.md#postgresql)): label a share of the queries, raise "
            "`intake.batch_size`, or part the traffic into workloads, whose writers do not wait for each other.",
        ),
        (
            given.keep / DAY_S,
            f"**How long labels are kept**, from {given.keep / DAY_S:,.0f} labels a second less than a day. A round "
            "needs those since the round before: raise `store.retention.pseudo_labels` where rounds are rarer.",
        ),
    ]
    most = max(needs, key=lambda each: each.labelled)
    last = (
        f"At {most.labelled:,.0f} labels a second the writers would be {most.writers:,.1f} times as busy as they can "
        f"be: label {sampled[-1].labelled:,.0f} a second of that traffic, and rounds find the same full pool."
    )
    return [text for _, text in sorted(met)] + ([last] if most.writers > FULL else [])


def page(unit: Unit, given: argparse.Namespace) -> str:
    config = DaemonConfig.model_validate({"workload": "w", "model": {"name": "none"}, "task": {"labels": ["a", "b"]}})
    pool, epochs = config.rounds.max_pool, float(config.training.epochs)
    labelled = [need(rate, 1.0, unit, given) for rate in RATES]
    sampled = [need(rate, min(1.0, given.sample_rate / rate), unit, given) for rate in RATES]
    part = f"At most {given.sample_rate:,} a second are labelled (`gateway.capture.share`)"
    million_h = label_s(given) * 1e6 / 3600
    environment = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined, autoescape=False
    )
    template = environment.from_string((Path(__file__).parent / "parts" / "scaling.md.jinja").read_text())
    return template.render(
        unit=unit,
        given=given,
        cores=os.cpu_count(),
        full=FULL,
        rates=RATES,
        tables=[
            ("Every query is labelled", rows_of(labelled, unit, given)),
            (part, rows_of(sampled, unit, given)),
        ],
        vectors_mib=given.examples * given.dimensions * 4 / 2**20,
        round={
            "pool": pool,
            "again": pool * label_s(given) / 3600,
            "epochs": epochs,
            "rows": pool * given.selected,
            "training": pool * given.selected * epochs / given.training_rows / 3600,
        },
        million={
            "gpu_h": million_h,
            "price": million_h * given.gpu_price,
            "gib": unit.row_bytes * 1e6 / 2**30,
            "cpu_h": unit.intake_cpu_s * 1e6 / 3600,
        },
        breaks=breaks(unit, labelled, sampled, given),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replica-prefill", type=float, default=20_000, help="tokens a second of one replica")
    parser.add_argument("--replica-decode", type=float, default=2_500, help="tokens a second of one replica")
    parser.add_argument("--gpu-price", type=float, default=3.0, help="of a replica, an hour")
    parser.add_argument("--prompt-tokens", type=int, default=400, help="prefilled to label a query")
    parser.add_argument("--answer-tokens", type=int, default=24, help="written to label a query")
    parser.add_argument("--served-prompt", type=int, default=100, help="prefilled to serve a query")
    parser.add_argument("--served-answer", type=int, default=6, help="written to serve a query")
    parser.add_argument("--training-rows", type=float, default=20.0, help="a second")
    parser.add_argument("--selected", type=float, default=0.5, help="share of the pool")
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--sample-rate", type=int, default=100, help="labelled a second, in the second table")
    parser.add_argument("--keep", type=int, default=1_000_000, help="store.retention.pseudo_labels")
    parser.add_argument("--batch", type=int, default=IntakeSettings().batch_size, help="intake.batch_size")
    given = parser.parse_args()
    print(page(measured(given.batch), given), end="")


if __name__ == "__main__":
    main()
