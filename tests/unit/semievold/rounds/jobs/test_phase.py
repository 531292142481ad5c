"""How a Job stands: what waits is never called running, and a failure has the trainer's last words."""

from __future__ import annotations

from typing import Any

import pytest

from semievold.rounds.jobs.phase import Kind, has_ended, last_words, phase_of
from tests.training_jobs import Manifest, pod


def job(*conditions: tuple[str, str, str], nodes: int = 1, **more: Any) -> Manifest:
    """A Job with these conditions: (type, reason, message)."""
    spec = {"parallelism": nodes, **more.pop("spec", {})}
    said = [{"type": kind, "status": "True", "reason": reason, "message": text} for kind, reason, text in conditions]
    return {"metadata": {"name": "j", **more}, "spec": spec, "status": {"conditions": said}}


def failed(name: str, code: int, message: str = "", at: str = "2026-01-01T00:00:00Z", **more: Any) -> Manifest:
    return pod(name, "Failed", terminated={"exitCode": code, "message": message, "finishedAt": at, **more})


def test_a_suspended_job_waits_for_quota_and_names_its_queue() -> None:
    phase = phase_of(job(spec={"suspend": True}, labels={"kueue.x-k8s.io/queue-name": "training"}), [])
    assert (phase.kind, phase.detail) == (Kind.WAITING, "waiting for quota: Job j is suspended in queue training")
    assert phase_of(job(spec={"suspend": True}), []).detail == "waiting for quota: Job j is suspended"


@pytest.mark.parametrize(
    ("waiting", "said"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient gpu"}]},
            "0/3 nodes: Insufficient gpu",
        ),
        (
            {"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            "ImagePullBackOff",
        ),
        (
            {"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}]},
            "it starts",
        ),
        ({}, "it starts"),
    ],
)
def test_a_pod_that_does_not_run_yet_says_what_holds_it(waiting: dict[str, Any], said: str) -> None:
    pending = pod("p", "Pending")
    pending["status"] |= waiting
    phase = phase_of(job(), [pending])
    assert (phase.kind, phase.detail) == (Kind.WAITING, f"waiting for pod p: {said}")
    assert phase.running == frozenset()


def test_a_job_without_a_pod_says_where_the_reason_is() -> None:
    assert phase_of(job(), []).detail == "waiting for a pod of Job j (`kubectl describe job j` says why)"


def test_several_pods_train_when_all_of_them_run() -> None:
    one = phase_of(job(nodes=2), [pod("a"), pod("b", "Pending")])
    assert (one.kind, one.running) == (Kind.WAITING, frozenset())
    both = phase_of(job(nodes=2), [pod("a"), pod("b")])
    assert (both.kind, both.running) == (Kind.RUNNING, {"uid-a", "uid-b"})


def test_the_last_pod_still_trains_when_the_others_are_done() -> None:
    phase = phase_of(job(nodes=2), [pod("a"), pod("b", "Succeeded")])
    assert (phase.kind, phase.running) == (Kind.RUNNING, {"uid-a"})


def test_a_job_whose_pods_are_all_done_waits_for_nothing() -> None:
    phase = phase_of(job(), [pod("a", "Succeeded")])
    assert (phase.kind, phase.running) == (Kind.RUNNING, frozenset())


def test_a_job_between_two_pods_says_that_one_has_failed() -> None:
    phase = phase_of(job(), [failed("a", 137)])
    assert phase.detail == "waiting for another pod of Job j, in place of one that failed"


def test_a_pod_in_place_of_one_that_failed_counts_alone() -> None:
    phase = phase_of(job(), [failed("a", 137), pod("b")])
    assert (phase.kind, phase.running) == (Kind.RUNNING, {"uid-b"})


def test_a_running_pod_whose_trainer_has_not_started_does_not_train() -> None:
    assert phase_of(job(), [pod("a", "Running", waiting={"reason": "PodInitializing"})]).kind is Kind.WAITING


def test_complete_and_failed_are_what_kubernetes_says_whatever_the_pods_do() -> None:
    assert phase_of(job(("Complete", "", "")), [pod()]).kind is Kind.COMPLETE
    phase = phase_of(job(("Failed", "BackoffLimitExceeded", "Job has reached the limit")), [])
    assert (phase.kind, phase.detail) == (Kind.FAILED, "BackoffLimitExceeded: Job has reached the limit")


def test_a_job_whose_pods_are_being_ended_is_no_failure_yet() -> None:
    """Its last pod holds the lock of the training's directory until it has gone."""
    assert phase_of(job(("FailureTarget", "PodFailurePolicy", "")), [pod()]).kind is Kind.LEAVING
    assert phase_of(job(deletionTimestamp="2026-01-01T00:00:00Z"), [pod()]).kind is Kind.LEAVING


def test_a_job_that_is_complete_and_being_deleted_is_complete() -> None:
    assert phase_of(job(("Complete", "", ""), deletionTimestamp="2026-01-01T00:00:00Z"), []).kind is Kind.COMPLETE


def test_what_would_fail_again_speaks_before_what_only_lost_it() -> None:
    pods = [
        failed("a", 76, "training failed: RuntimeError: Connection closed by peer", at="2026-01-01T00:00:02Z"),
        failed("b", 1, "loading\ntraining failed: DataError: no rows\nbye", at="2026-01-01T00:00:01Z"),
    ]
    assert last_words(pods) == "training failed: DataError: no rows"
    phase = phase_of(job(("Failed", "PodFailurePolicy", "exit code 1")), pods)
    assert phase.detail == "training failed: DataError: no rows (PodFailurePolicy: exit code 1)"


def test_of_several_failures_the_latest_speaks() -> None:
    pods = [failed("a", 137, "first", at="2026-01-01T00:00:01Z"), failed("b", 137, "then", at="2026-01-01T00:00:02Z")]
    assert last_words(pods) == "then"


def test_a_trainer_without_words_is_told_by_kubernetes_reason() -> None:
    assert last_words([failed("a", 137, reason="OOMKilled")]) == "OOMKilled (exit code 137)"
    assert last_words([failed("a", 137, reason="Error")]) is None
    assert last_words([pod()]) is None


def test_a_job_has_ended_when_it_is_complete_or_failed() -> None:
    assert has_ended(job(("Complete", "", "")))
    assert has_ended(job(("Failed", "", "")))
    assert not has_ended(job(("FailureTarget", "", "")))
    assert not has_ended(job())
