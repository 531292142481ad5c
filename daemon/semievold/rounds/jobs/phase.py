"""How a training's Job stands, from what Kubernetes says of it and of its pods: a pure function.

Owns the words for it. Invariant: what waits, in a queue, for a node or for an image, is never called running, so that
no deadline is counted against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from semievold.rounds.jobs.manifest import CONTAINER, FAILED_EXIT_CODE, MADE_OF, QUEUE_LABEL

Manifest = dict[str, Any]


class Kind(StrEnum):
    """Where a Job is in its life."""

    LEAVING = "leaving"  # its pods are being ended
    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Phase:
    """How a Job stands. `detail`: what it waits for, or why it failed; `running`: the uids of all its pods, when all
    of them run.
    """

    kind: Kind
    detail: str = ""
    running: frozenset[str] = frozenset()


def phase_of(job: Manifest, pods: Sequence[Manifest]) -> Phase:
    """Judge a Job by its own state and by its pods'."""
    spec, status, name = job["spec"], job.get("status") or {}, job["metadata"]["name"]
    conditions = {each["type"]: each for each in status.get("conditions") or () if each.get("status") == "True"}
    if "Complete" in conditions:
        return Phase(Kind.COMPLETE)
    # FailureTarget: it is decided, and the last pods are being ended.
    if (failed := conditions.get("Failed") or conditions.get("FailureTarget")) is not None:
        return Phase(Kind.FAILED if "Failed" in conditions else Kind.LEAVING, _why(failed, pods))
    if job["metadata"].get("deletionTimestamp") is not None:
        return Phase(Kind.LEAVING, f"Job {name} is being removed")
    if spec.get("suspend"):
        queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL)
        where = "is suspended" if queue is None else f"is suspended in queue {queue}"
        return Phase(Kind.WAITING, f"waiting for quota: Job {name} {where}")
    nodes = int(spec.get("parallelism") or 1)
    alive = [pod for pod in pods if _phase(pod) not in ("Succeeded", "Failed")]
    running = [pod for pod in alive if _phase(pod) == "Running" and _trains(pod)]
    done = sum(_phase(pod) == "Succeeded" for pod in pods)
    if len(running) + done >= nodes:  # none runs any more: that it is complete is noted in a moment
        return Phase(Kind.RUNNING, running=frozenset(pod["metadata"]["uid"] for pod in running))
    for pod in alive:
        if pod not in running:
            return Phase(Kind.WAITING, f"waiting for pod {pod['metadata']['name']}: {_holds(pod)}")
    if any(_phase(pod) == "Failed" for pod in pods):
        return Phase(Kind.WAITING, f"waiting for another pod of Job {name}, in place of one that failed")
    return Phase(Kind.WAITING, f"waiting for a pod of Job {name} (`kubectl describe job {name}` says why)")


def made_of(job: Manifest) -> str | None:
    """The hash of the manifest that it was made from; None: the launcher did not make it."""
    found = (job["metadata"].get("annotations") or {}).get(MADE_OF)
    return None if found is None else str(found)


def has_ended(job: Manifest) -> bool:
    """Whether nothing of it runs any more."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(each["type"] in ("Complete", "Failed") and each.get("status") == "True" for each in conditions)


def last_words(pods: Sequence[Manifest]) -> str | None:
    """The last line that a failed trainer said; first of the one that would fail again, then of the latest."""
    ended = [state for pod in pods if (state := _terminated(pod)) is not None and state.get("exitCode") != 0]
    ended.sort(key=lambda state: (state.get("exitCode") != FAILED_EXIT_CODE, _reversed(state.get("finishedAt") or "")))
    for state in ended:
        lines = [line.strip() for line in (state.get("message") or "").splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("training failed")]
        if told or lines:
            return (told or lines)[-1][:500]
        if state.get("reason") not in (None, "Error"):  # OOMKilled has no message
            return f"{state['reason']} (exit code {state.get('exitCode')})"
    return None


def _why(condition: Manifest, pods: Sequence[Manifest]) -> str:
    said = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
    words = last_words(pods)
    return f"{words} ({said})" if words is not None else said


def _phase(pod: Manifest) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def _containers(pod: Manifest) -> list[Manifest]:
    found = (pod.get("status") or {}).get("containerStatuses") or []
    return [each for each in found if each.get("name") == CONTAINER] or list(found[:1])


def _trains(pod: Manifest) -> bool:
    return any((each.get("state") or {}).get("running") is not None for each in _containers(pod))


def _terminated(pod: Manifest) -> Manifest | None:
    for each in _containers(pod):
        if (state := (each.get("state") or {}).get("terminated")) is not None:
            found: Manifest = state
            return found
    return None


def _holds(pod: Manifest) -> str:
    """What keeps a pod from running, as the scheduler or the kubelet says."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "no node yet")
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return ": ".join(str(waiting[key]) for key in ("reason", "message") if waiting.get(key))
    if pod["metadata"].get("deletionTimestamp") is not None:
        return "it is being ended; another takes its place"
    return "it starts"


def _reversed(text: str) -> tuple[int, ...]:
    """Sorts later times first."""
    return tuple(-ord(character) for character in text)
