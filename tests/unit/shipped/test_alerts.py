"""Alerts of deploy/prometheus: each fires in one story, stays silent in one nearly the same, and has a runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.prometheus.prometheus_rule import WRITTEN, rendered
from semievold.monitoring.metrics_page import declared
from tests.servers import unavailable

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = {path.name: yaml.safe_load(path.read_text("utf-8")) for path in sorted((PROMETHEUS / "rules").glob("*.yml"))}
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in RULES["alerts.yml"]["groups"] for rule in group["rules"]
}
RECORDED = {
    rule["record"] for file in RULES.values() for group in file["groups"] for rule in group["rules"] if "record" in rule
}
DAY = 24


@dataclass(frozen=True)
class Story:
    """`series`: promtool's notation of values, one a minute or an hour; looked at after `at` of these."""

    series: Mapping[str, str]
    at: int
    labels: Mapping[str, str] | None = None  # of the alert; None: it must be silent
    unit: str = "m"


def of(name: str, **labels: str) -> str:
    """A series of the one workload of these stories."""
    inside = ",".join(f'{key}="{value}"' for key, value in {"workload": "w", **labels}.items())
    return f"semievol_{name}{{{inside}}}"


def constant(value: float, minutes: int) -> str:
    return f"{value}x{minutes}"


def counting(step: float, minutes: int, start: float = 0) -> str:
    return f"{start}+{step}x{minutes}"


def answers(failed: str, answered: str) -> dict[str, str]:
    name = "gateway_answers_total"
    return {of(name, outcome="failed"): failed, of(name, outcome="answered"): answered}


def sent_away(resting: str) -> dict[str, str]:
    return {of("gateway_answers_total", outcome="resting"): resting}


def delays(within: str, all_: str) -> dict[str, str]:
    return {of("intake_delay_seconds_bucket", le="300.0"): within, of("intake_delay_seconds_count"): all_}


def lag(values: str, held: str) -> dict[str, str]:
    return {of("stream_lag", role="intake"): values, of("stream_held", role="intake"): held}


def replica(name: str, state: str, minutes: int) -> dict[str, str]:
    states = ("up", "warming", "quarantined", "asleep", "down")
    return {
        of("replica_state", instance="a", replica=name, state=each): constant(float(each == state), minutes)
        for each in states
    }


def attested(name: str, adapter: str, values: str) -> dict[str, str]:
    return {of("replica_attested", instance="a", replica=name, adapter=adapter): values}


def serving(adapter: str, minutes: int) -> dict[str, str]:
    return {of("serving_adapter", instance="a", adapter=adapter): constant(1, minutes)}


def outcome(name: str, minutes: int) -> dict[str, str]:
    return {of("last_round_outcome", outcome=each): constant(float(each == name), minutes) for each in OUTCOMES}


OUTCOMES = ("settled", "failed", "rolled_back", "inconclusive")
W = {"workload": "w"}
LAST_LABEL = {of("last_label_timestamp_seconds"): constant(0, 5 * DAY)}
BEGAN = {of("round_state_since_timestamp_seconds"): constant(0, 2 * DAY)}
ASKED = {of("review_items", purpose="gate"): constant(5, 600), of("rounds", state="proving"): constant(1, 600)}
# Alert: (the story in which it fires, the near miss).
STORIES: dict[str, tuple[Story, Story]] = {
    "SemiEvolAnswersFail": (
        Story(answers(counting(10, 120), counting(90, 120)), 90, W),
        # One of the night's few requests fails: a tenth, and nothing to wake anybody for. Many are told to come back
        # after a training, which nobody is woken for either.
        Story({**answers("0x60 1x60", counting(0.2, 120)), **sent_away(counting(90, 120))}, 90),
    ),
    "SemiEvolAnswersFailSlowly": (
        Story(answers(counting(60, 5 * DAY), counting(5940, 5 * DAY)), 4 * DAY, W, "h"),
        Story(
            {**answers(counting(18, 5 * DAY), counting(5940, 5 * DAY)), **sent_away(counting(600, 5 * DAY))},
            4 * DAY,
            None,
            "h",
        ),
    ),
    "SemiEvolQueriesLate": (
        Story(delays(counting(10, 120), counting(100, 120)), 90, W),
        # Queries that were held are labelled quickly after the hold; a few are late.
        Story(delays(counting(97, 120), counting(100, 120)), 90),
    ),
    "SemiEvolQueriesLateSlowly": (
        Story(delays(counting(90, 5 * DAY), counting(100, 5 * DAY)), 4 * DAY, W, "h"),
        Story(delays(counting(96, 5 * DAY), counting(100, 5 * DAY)), 4 * DAY, None, "h"),
    ),
    "SemiEvolWrongWeights": (
        Story(
            {**replica("one", "up", 10), **attested("one", "r1", constant(0, 10)), **serving("r1", 10)},
            5,
            {**W, "replica": "one"},
        ),
        # A candidate fails: it does not serve.
        Story({**replica("one", "up", 10), **attested("one", "r2", constant(0, 10)), **serving("r1", 10)}, 5),
    ),
    "SemiEvolNoLeader": (
        Story({of("role", role="intake"): constant(1, 10), of("leader", instance="a"): constant(0, 10)}, 5, W),
        # A standby does not lead: another process does.
        Story(
            {
                of("role", role="control"): constant(1, 10),
                of("leader", instance="a"): constant(1, 10),
                of("leader", instance="b"): constant(0, 10),
            },
            5,
        ),
    ),
    "SemiEvolAttestationFailed": (
        Story(
            {**attested("one", "r2", constant(0, 20)), **serving("r1", 20)},
            10,
            {**W, "replica": "one", "adapter": "r2"},
        ),
        # It passes at the next attempt.
        Story({**attested("one", "r2", "0x3 1x20"), **serving("r1", 20)}, 10),
    ),
    "SemiEvolReplicaWithoutAdapter": (
        Story({**replica("one", "up", 30), **serving("r1", 30)}, 15, {**W, "replica": "one"}),
        # It was added, and takes five minutes to load.
        Story({**replica("one", "up", 30), **attested("one", "r1", "_x5 1x30"), **serving("r1", 30)}, 15),
    ),
    "SemiEvolLagGrows": (
        Story(lag(counting(100, 60), constant(0, 60)), 45, {**W, "role": "intake"}),
        # Held until the warm round has decided: it grows on purpose.
        Story(lag(counting(100, 60), constant(1, 60)), 45),
    ),
    "SemiEvolDeadLetters": (
        Story(
            {of("dead_letters_total", role="intake", reason="malformed_json"): counting(1, 60)},
            60,
            {**W, "role": "intake", "reason": "malformed_json"},
        ),
        Story({of("dead_letters_total", role="intake", reason="malformed_json"): "0x20 3x40"}, 60),
    ),
    "SemiEvolNoLabels": (
        Story({**LAST_LABEL, of("intake_labelled_total"): counting(60, 5 * DAY)}, 4 * DAY, W, "h"),
        # Nobody asks anything either.
        Story({**LAST_LABEL, of("intake_labelled_total"): constant(9, 5 * DAY)}, 4 * DAY, None, "h"),
    ),
    "SemiEvolCertificateLacksLabels": (
        Story({of("certificate_labels_missing"): constant(40, 20)}, 15, W),
        Story({of("certificate_labels_missing"): constant(0, 20)}, 15),
    ),
    "SemiEvolDrift": (
        Story({of("drift_open"): constant(1, 10)}, 5, W),
        # Near the line, and no event.
        Story({of("drift_open"): constant(0, 10), of("drift_statistic", kind="input"): constant(99_999, 10)}, 5),
    ),
    "SemiEvolRoundFailed": (Story(outcome("failed", 10), 5, W), Story(outcome("inconclusive", 10), 5)),
    "SemiEvolRolledBack": (Story(outcome("rolled_back", 10), 5, W), Story(outcome("settled", 10), 5)),
    "SemiEvolGateWaits": (
        Story({**BEGAN, of("rounds", state="proving"): constant(1, 2 * DAY)}, DAY + 2, W, "h"),
        # A training of more than a day.
        Story({**BEGAN, of("rounds", state="proving"): constant(0, 2 * DAY)}, DAY + 2, None, "h"),
    ),
    "SemiEvolReviewWaits": (
        Story({**ASKED, of("review_labels", by="api"): constant(3, 600)}, 400, W),
        # Somebody labels, an item in an hour.
        Story({**ASKED, of("review_labels", by="api"): "0+1x600"}, 400),
    ),
    "SemiEvolCanaryWaits": (
        Story({of("waiting", what="answers"): constant(1, 200)}, 150, W),
        # A quiet hour.
        Story({of("waiting", what="answers"): "0x60 1x60 0x60"}, 150),
    ),
    "SemiEvolBreakerTripped": (
        Story({of("breaker_tripped", measure="answers"): "0x5 1x10"}, 10, {**W, "measure": "answers"}),
        # Beyond what it was, and within the bound.
        Story(
            {
                of("breaker_tripped", measure="answers"): constant(0, 15),
                of("breaker_figure", measure="answers"): "0.9x5 0.2x10",
            },
            10,
        ),
    ),
    "SemiEvolFrozen": (
        Story({of("frozen"): constant(1, 120)}, 90, W),
        Story({of("frozen"): "0x60 1x60"}, 90),
    ),
    "SemiEvolStateNotRead": (
        Story({of("state_read_timestamp_seconds"): constant(0, 20)}, 10, W),
        # One slow reading.
        Story({of("state_read_timestamp_seconds"): "0x4 240+60x20"}, 10),
    ),
    "SemiEvolDiskNearlyFull": (
        Story({of("disk_free_bytes"): constant(5, 30), of("disk_size_bytes"): constant(100, 30)}, 20, W),
        Story({of("disk_free_bytes"): constant(15, 30), of("disk_size_bytes"): constant(100, 30)}, 20),
    ),
}


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        unavailable("promtool is missing (Debian: apt-get install prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_story_and_a_near_miss() -> None:
    assert STORIES.keys() == ALERTS.keys()
    assert all(fires.labels is not None and silent.labels is None for fires, silent in STORIES.values())


@pytest.mark.parametrize("name", sorted(STORIES))
@pytest.mark.parametrize("story", ["fires", "near miss"])
def test_an_alert_fires_when_it_should_and_only_then(name: str, story: str, tmp_path: Path) -> None:
    rule, told = ALERTS[name], STORIES[name][story == "near miss"]
    expected = (
        []
        if told.labels is None
        else [{"exp_labels": {**told.labels, **rule["labels"]}, "exp_annotations": rule["annotations"]}]
    )
    rules = tmp_path / "rules.yml"  # this alert and what it is computed from: days of all rules take minutes
    rules.write_text(yaml.safe_dump({"groups": [{"name": "rules", "rules": [*computed_from(rule), rule]}]}))
    test = {
        "rule_files": [rules.name],
        "evaluation_interval": f"1{told.unit}",
        "tests": [
            {
                "interval": f"1{told.unit}",
                "input_series": [{"series": series, "values": values} for series, values in told.series.items()],
                "alert_rule_test": [{"eval_time": f"{told.at}{told.unit}", "alertname": name, "exp_alerts": expected}],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(test))
    promtool("test", "rules", str(file))


def computed_from(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The recording rules that it asks for."""
    asked = set(re.findall(r"\bsemievol:[\w:]+", rule["expr"]))
    recording = [each for group in RULES["recording.yml"]["groups"] for each in group["rules"]]
    return [each for each in recording if each["record"] in asked]


def test_the_rules_have_no_fault() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *(str(PROMETHEUS / "rules" / file) for file in RULES))


def test_rules_ask_for_metrics_that_the_daemon_exports_and_for_what_is_recorded() -> None:
    exported = {sample for metric in declared() for sample in metric.samples}
    for file in RULES.values():
        for group in file["groups"]:
            for rule in group["rules"]:
                assert set(re.findall(r"\bsemievol_\w+", rule["expr"])) <= exported, rule
                assert set(re.findall(r"\bsemievol:[\w:]+", rule["expr"])) <= RECORDED, rule


def test_pages_are_the_two_objectives_wrong_weights_and_no_leader() -> None:
    pages = {name for name, rule in ALERTS.items() if rule["labels"]["severity"] == "page"}
    assert pages == {"SemiEvolAnswersFail", "SemiEvolQueriesLate", "SemiEvolWrongWeights", "SemiEvolNoLeader"}
    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == {"page", "ticket"}


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_the_runbook_says_of_every_alert_what_it_means_where_to_look_what_to_do_and_how_to_know(name: str) -> None:
    file, _, anchor = ALERTS[name]["annotations"]["runbook_url"].partition("#")
    text = (ROOT / file).read_text("utf-8")
    entries = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-"): body
        for title, body in re.findall(r"^## (.+)\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE)
    }
    assert f"`{name}`" in entries[anchor]
    for part in ("**What it means.**", "**Look here.**", "**Do this.**", "**How to know it worked.**"):
        assert part in entries[anchor]


def test_prometheus_reads_the_rules_and_the_example_of_alertmanager_names_alerts_that_exist() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    assert config["rule_files"] == ["rules/*.yml"]
    manager = yaml.safe_load((PROMETHEUS / "alertmanager.yml").read_text("utf-8"))
    receivers = {each["name"] for each in manager["receivers"]}
    routes = [manager["route"], *manager["route"]["routes"]]
    assert {route["receiver"] for route in routes} <= receivers
    matchers = [
        matcher
        for rule in manager["inhibit_rules"]
        for side in ("source_matchers", "target_matchers")
        for matcher in rule[side]
    ]
    named = {name for each in matchers for name in re.findall(r"SemiEvol\w+", each)}
    assert named
    assert named <= ALERTS.keys()
    assert all("workload" in rule["equal"] for rule in manager["inhibit_rules"])


def test_kubernetes_has_the_same_rules() -> None:
    assert WRITTEN.read_text("utf-8") == rendered(), "make dashboards"
    groups = yaml.safe_load(rendered())["spec"]["groups"]
    assert len({group["name"] for group in groups}) == len(groups)
    assert [rule for group in groups for rule in group["rules"]] == [
        rule for name in ("recording.yml", "alerts.yml") for group in RULES[name]["groups"] for rule in group["rules"]
    ]
