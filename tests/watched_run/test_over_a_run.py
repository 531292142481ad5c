"""A real Prometheus watches a running daemon over a promotion, a rollback and a drift: what is asked is answered."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from deploy.grafana.preview import asking, draw
from semievold.monitoring.metrics_page import declared
from tests.daemon_process import DaemonProcess
from tests.servers import free_port, unavailable
from tests.servers.prometheus import SHIPPED, prometheus
from tests.servers.s3 import new_bucket, s3_server
from tests.watched_run import questions
from tests.watched_run.replica import replica
from tests.watched_run.story import SCRAPE_S, SCRIPT, Story, Watched, config_of

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = ROOT / ".cache" / "dashboards-of-the-run.html"
"""To be looked at."""
RATE_S = 5 * SCRAPE_S
MOST_SERIES = 400
OF_AN_OPEN_ROUND = {
    "SemiEvol: Is it learning, is it safe: Labels still needed",
    "SemiEvol: Rounds, gate and adapters: In its state since",
}
OF_THE_CLIENT = ("process_", "python_")


@contextmanager
def sidecar(storage: str, directory: Path) -> Iterator[str]:
    """`semievold sync-adapters`; its address."""
    port = free_port()
    command = [sys.executable, "-m", "semievold.commands.cli", "sync-adapters", "--storage", storage]
    command += ["--into", str(directory / "synced"), "--every", "4", "--port", str(port)]
    with (directory / "sidecar.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30.0)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The run, once it is over; its processes still answer."""
    if shutil.which("prometheus") is None:
        unavailable("prometheus is missing (Debian: apt-get install prometheus)")
    directory = tmp_path_factory.mktemp("watched")
    with ExitStack() as stack:
        stack.enter_context(s3_server())
        storage = new_bucket()
        good, bad = stack.enter_context(replica()), stack.enter_context(replica())
        beside = stack.enter_context(sidecar(storage, directory))
        daemon = DaemonProcess(
            config_of(directory, [good, bad], storage), script=SCRIPT, environment={"PYTHONPATH": str(ROOT)}
        )
        daemon.start()
        stack.callback(daemon.stop)
        daemon.wait_ready()
        targets = [urlsplit(url).netloc for url in (daemon.url("api"), beside)]
        server = stack.enter_context(prometheus(directory, targets, SCRAPE_S))
        start = time.time()
        Story(daemon, good, bad).tell()
        yield Watched(server, start, time.time(), daemon, beside)


NOBODY_ANSWERS = questions.Question("this test", 'semievol_role{role="nobody"}')


def unanswered(watched: Watched, asked: list[questions.Question]) -> list[questions.Question]:
    """Those without a number at any time of the run; among them one that cannot have any."""
    asked = [*asked, NOBODY_ANSWERS]
    return [each for each in asked if not watched.prometheus.range(each.expr, watched.start, watched.end)]


def test_every_question_of_the_dashboards_has_an_answer_at_some_time(watched: Watched) -> None:
    asked = questions.of_dashboards(f"{RATE_S:g}s")
    assert len(asked) > 120
    assert unanswered(watched, asked) == [NOBODY_ANSWERS]


def test_every_rule_and_what_every_alert_compares_has_data_at_some_time(watched: Watched) -> None:
    asked = questions.of_rules()
    assert len(asked) > 50
    assert unanswered(watched, asked) == [NOBODY_ANSWERS]


def test_every_panel_is_drawn(watched: Watched) -> None:
    drawn = draw(asking(watched.prometheus.url, watched.start, watched.end), watched.start, watched.end)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(drawn.page, "utf-8")
    assert drawn.panels > 70
    assert set(drawn.empty) <= OF_AN_OPEN_ROUND  # a panel of one value shows the end of the run, when none is open


def test_prometheus_could_evaluate_every_rule(watched: Watched) -> None:
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 30
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_what_went_wrong_was_alarmed(watched: Watched) -> None:
    alarmed = watched.prometheus.range("group by (alertname) (ALERTS)", watched.start, watched.end)
    names = {labels["alertname"] for labels, _ in alarmed}
    assert {"SemiEvolRolledBack", "SemiEvolDrift", "SemiEvolFrozen", "SemiEvolWrongWeights"} <= names


def test_a_scrape_has_every_metric_of_the_page_and_no_other(watched: Watched) -> None:
    page = set(re.findall(r"^\| `(\w+)`", (DOCS / "metrics.md").read_text("utf-8"), re.MULTILINE))
    samples = {each.full_name: each.samples for each in declared()}
    assert page == samples.keys()
    names = watched.prometheus.get(
        "label/__name__/values", **{"match[]": '{job="semievol"}', "start": watched.start, "end": watched.end}
    )
    scraped = {name for name in names if not name.startswith((*OF_THE_CLIENT, "scrape_")) and name != "up"}
    assert {name for name in page if not samples[name] <= scraped} == set()
    assert scraped - set().union(*samples.values()) == set()


def test_a_series_has_the_labels_and_the_values_that_the_page_says(watched: Watched) -> None:
    for each in declared():
        for sample in each.samples:
            found = watched.prometheus.get(
                "series", **{"match[]": f'{sample}{{job="semievol"}}', "start": watched.start, "end": watched.end}
            )
            for series in found:
                own = {name: value for name, value in series.items() if name in each.labels}
                assert own.keys() == each.labels.keys(), series
                added = {"__name__", "job", "instance", "workload", "le"}
                assert series.keys() - own.keys() <= added, series
                for name, value in own.items():
                    values = each.labels[name]
                    assert isinstance(values, str) or value in values, series


def test_no_process_had_more_than_400_series(watched: Watched) -> None:
    counted = watched.prometheus.range('scrape_samples_scraped{job="semievol"}', watched.start, watched.end)
    assert len(counted) == 2
    assert {labels["instance"]: max(values) for labels, values in counted if max(values) > MOST_SERIES} == {}


def test_prometheus_own_tool_finds_no_fault_in_a_scrape_nor_in_the_rules(watched: Watched) -> None:
    for url in (watched.daemon.url("api"), watched.sidecar_url):
        text = httpx.get(f"{url}/metrics").text
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for file in sorted((SHIPPED / "rules").glob("*.yml")):
        command = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
