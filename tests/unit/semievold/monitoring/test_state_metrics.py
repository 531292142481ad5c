"""What the state holds as metrics: which number each is, who exports it, and what reading it asks of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa

from semievol.errors import TransientError
from semievold.errors import StoreError
from semievold.monitoring import state_watch
from semievold.monitoring.figures import FigureStore
from semievold.monitoring.state_metrics import STATE_METRICS, StateMetrics
from semievold.round_states import RoundState as S
from semievold.store.pseudo_labels import LabelWindow, PseudoLabelStore
from tests.control_roles import Roles
from tests.control_world import OpenWorld


def shown(metrics: StateMetrics) -> dict[str, float]:
    """`name{label}` -> value."""
    return {
        f"{sample.name.removeprefix('semievol_')}"
        f"{{{','.join(value for key, value in sample.labels.items() if key != 'workload')}}}": sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


async def test_each_figure_is_what_the_state_holds(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    world.teach()
    world.here.start()
    await world.ended(0)
    world.ask(range(40, 45), agreement=0.5)
    world.ask(range(45, 50), agreement=1.0)
    await world.ended(1)  # inconclusive: nothing is better than the warm round's
    roles = Roles(world)
    await roles.state_watch.look()
    seen = shown(roles.state_metrics)
    assert {name for name in seen if seen[name] != 0 and "timestamp" not in name and "disk" not in name} >= {
        "rounds{settled}",
        "rounds{inconclusive}",
        "last_round_outcome{inconclusive}",
    }
    assert seen["examples{training}"] == 10
    assert seen["examples{holdout}"] == 30
    assert seen["pseudo_labels{}"] == 10
    assert seen["pseudo_labels_unparsed{}"] == 0
    assert seen["predictions_unpublished{}"] == 10
    assert seen["recent_agreement{}"] == 0.75
    assert seen["recent_entropy{}"] == pytest.approx(0.2)
    assert {state: seen[f"rounds{{{state}}}"] for state in S if seen[f"rounds{{{state}}}"]} == {
        S.SETTLED: 1,
        S.INCONCLUSIVE: 1,
    }
    assert (seen["open_round{}"], seen["frozen{}"]) == (-1, 0)
    assert "round_state_since_timestamp_seconds{}" not in seen
    assert (seen["holdout_accuracy{incumbent}"], seen["holdout_accuracy{candidate}"]) == (1.0, 1.0)
    assert seen["round_pool{yes}"] + seen["round_pool{no}"] == 10
    assert (seen["adapters{serving}"], seen["adapters{rejected}"]) == (1, 1)
    assert seen["round_step_seconds{training}"] >= 0
    assert 0 < seen["disk_free_bytes{}"] < seen["disk_size_bytes{}"]
    assert seen["last_label_timestamp_seconds{}"] <= seen["last_pseudo_label_timestamp_seconds{}"]
    assert seen["alias_moved_timestamp_seconds{}"] <= seen["last_round_ended_timestamp_seconds{}"]
    assert seen["last_round_ended_timestamp_seconds{}"] <= seen["state_read_timestamp_seconds{}"]


async def test_the_accuracy_is_that_of_the_last_gate_and_a_round_that_is_open_says_where_it_stands(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    world.teach()
    await world.here.lead()
    world.trainer.right = 7
    await world.advance(await world.plan(), S.SETTLED)
    await world.plan()  # one that has reached no gate yet
    read = FigureStore(world.database, "w").read()
    assert (read.gate["incumbent_accuracy"], read.gate["candidate_accuracy"]) == (0.4, 0.7)
    assert (read.open_round, read.open_state, read.gate_round) == (1, S.PLANNED, 0)
    assert read.last_outcome is S.SETTLED
    assert read.open_since is not None
    assert read.last_ended_at is not None
    assert read.open_since >= read.last_ended_at


async def test_a_process_that_does_not_lead_exports_nothing_of_the_state(open_world: OpenWorld) -> None:
    world = open_world()
    roles = Roles(world)
    await roles.state_watch.look()
    assert not world.here.control.leads
    assert shown(roles.state_metrics) == {}
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    assert "rounds{planned}" in shown(roles.state_metrics)


async def test_the_timer_reads_while_the_process_leads_and_forgets_when_it_does_not(open_world: OpenWorld) -> None:
    world = open_world()
    leads = [True]
    roles = Roles(world)
    metrics = StateMetrics("w", lambda: True)
    watch = state_watch.StateWatch(
        metrics, world.stores, "w", world.place, lambda: leads[0], 0.01, asyncio.get_running_loop().time
    )
    stop = asyncio.Event()
    running = asyncio.create_task(watch.run(stop))
    await world.until(lambda: bool(shown(metrics)))
    leads[0] = False
    await world.until(lambda: not shown(metrics))
    stop.set()
    await running
    assert shown(roles.state_metrics) == {}


class AwayLabels(PseudoLabelStore):
    error: Exception = TransientError("the state is away")

    def window(self, newest: int, adapter: str | None = None) -> LabelWindow:
        raise self.error


@pytest.mark.parametrize(
    "error", [TransientError("the state is away"), StoreError("no such column"), OSError("stale file handle")]
)
async def test_while_something_cannot_be_read_the_figures_stay(open_world: OpenWorld, error: Exception) -> None:
    world = open_world()
    world.teach()
    metrics = StateMetrics("w", lambda: True)

    def watch(stores: object) -> state_watch.StateWatch:
        clock = asyncio.get_running_loop().time
        return state_watch.StateWatch(metrics, stores, "w", world.place, lambda: True, 1.0, clock)  # type: ignore[arg-type]

    await watch(world.stores).look()
    before = shown(metrics)
    world.teach(range(2000, 2010))
    away = AwayLabels(world.database, "w")
    away.error = error
    await watch(replace(world.stores, pseudo_labels=away)).look()
    assert shown(metrics) == before


async def test_no_statement_of_a_reading_scans_a_table(open_world: OpenWorld) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    world.teach()
    world.ask(range(40, 45), agreement=1.0)
    watch = Roles(world).state_watch
    await watch.look()
    world.ask(range(45, 47), agreement=1.0)
    with statements(world.database._engine) as asked:
        await watch.look()
    assert len(asked) > 10
    plans = []
    with world.database.read() as connection:
        for statement, parameters in asked:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            plans.append((statement, [row[3] for row in rows]))
    # A subquery's few rows are gone through; tables are searched by an index.
    scans = [(asked, step) for asked, plan in plans for step in plan if step.startswith("SCAN") and "anon_" not in step]
    assert not scans


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[tuple[str, tuple[object, ...]]]]:
    """The SELECTs that are executed meanwhile."""
    seen: list[tuple[str, tuple[object, ...]]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: tuple[object, ...], *_: object) -> None:
        if statement.startswith("SELECT"):
            seen.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def test_every_metric_of_the_state_is_declared_once() -> None:
    names = [each.full_name for each in STATE_METRICS]
    assert len(set(names)) == len(names)
