"""Metrics as they are declared: named for Prometheus, at zero from the start, few, and all in docs/metrics.md."""

from __future__ import annotations

import asyncio
import re
import shutil
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from semievold.config.daemon import ROLES
from semievold.monitoring.metrics import Metrics
from semievold.monitoring.metrics_page import declared, page
from semievold.monitoring.state_metrics import StateMetrics
from semievold.monitoring.sync_metrics import SIDECAR, SyncMetrics
from semievold.serving.attestation import Attestation
from semievold.serving.replica import ReplicaView
from tests.control_roles import Roles
from tests.control_world import OpenWorld
from tests.servers import unavailable

DOCS = Path(__file__).parents[4] / "docs"


def test_the_page_is_what_the_code_says() -> None:
    assert (DOCS / "metrics.md").read_text("utf-8") == page(), "make metrics-docs"


def test_the_page_has_every_metric_once() -> None:
    names = re.findall(r"^\| `(\w+)`", page(), re.MULTILINE)
    assert sorted(names) == sorted(each.full_name for each in declared())
    assert len(set(names)) == len(names)


def test_what_is_declared_is_what_is_registered() -> None:
    metrics = Metrics("w")
    metrics.registry.register(StateMetrics("w", lambda: False))
    sidecar = SyncMetrics()
    for each in declared():
        registry = (sidecar if each.by == SIDECAR else metrics).registry
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(_Named(each.full_name))  # type: ignore[arg-type]


class _Named:
    """A collector of one name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def describe(self) -> list[object]:
        from prometheus_client.core import GaugeMetricFamily

        return [GaugeMetricFamily(self._name, "")]

    def collect(self) -> list[object]:
        return self.describe()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_begins_with_its_own_counters_at_zero(role: str) -> None:
    metrics = Metrics("w")
    metrics.begin([role])
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("semievol_") and sample.name != "semievol_role"
    }
    assert {sample.value for sample in samples.values()} == {0.0}
    for each in declared():
        begins = each.kind != "gauge" and (not each.by or role in each.by) and bool(list(each.series()))
        assert (min(each.samples) in samples) is begins, each.name


def test_a_role_has_no_series_of_another() -> None:
    metrics = Metrics("w")
    metrics.begin(["intake"])
    text = metrics.render().decode()
    assert 'role="intake"' in text
    assert 'semievol_dead_letters_total{reason="no_value",role="labels"' not in text
    assert 'semievol_role{role="labels",workload="w"} 0.0' in text


async def scraped(open_world: OpenWorld) -> str:
    """A process with all roles, two adapters and eight replicas."""
    world = open_world()
    world.teach()
    roles = Roles(world)
    roles.metrics.begin(ROLES)
    proofs = {name: Attestation(True, "as trained") for name in ("a", "b")}
    roles.replicas.seen = [ReplicaView(f"replica-{number}:8000", "up", "", 0, proofs) for number in range(8)]
    roles.metrics.answered(200)
    roles.metrics.requests.labels("w", "200").inc()
    roles.observer.observe()
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    await roles.state_watch.look()
    return roles.metrics.render().decode()


async def test_a_process_with_all_roles_and_eight_replicas_has_at_most_400_series(open_world: OpenWorld) -> None:
    lines = [each for each in (await scraped(open_world)).splitlines() if not each.startswith("#")]
    assert 200 < len(lines) <= 400


async def test_prometheus_own_tool_finds_no_fault_in_a_scrape(open_world: OpenWorld) -> None:
    if shutil.which("promtool") is None:
        unavailable("promtool is missing (Debian: apt-get install prometheus)")
    text = await scraped(open_world)
    process = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await process.communicate(text.encode())
    assert (process.returncode, said) == (0, b"")


@pytest.mark.parametrize(
    ("status", "resting", "outcome"),
    [
        (200, False, "answered"),
        (429, False, "failed"),
        (499, False, "gone"),
        (500, False, "failed"),
        (503, False, "failed"),
        (503, True, "resting"),
    ],
)
def test_an_admitted_request_is_answered_or_failed_or_sent_away_on_purpose(
    status: int, resting: bool, outcome: str
) -> None:
    metrics = Metrics("w")
    metrics.begin(["gateway"])
    metrics.answered(status, resting=resting)
    metrics.answered(400)  # the client's own mistake
    lines = metrics.render().decode().splitlines()
    assert {each for each in lines if each.startswith("semievol_gateway_answers") and each.endswith(" 1.0")} == {
        f'semievol_gateway_answers_total{{outcome="{outcome}",workload="w"}} 1.0'
    }
