"""Trains each round in a Kubernetes Job, which outlives the process that asked for it.

Owns the wait: create or find the Job, look at it until it ends, bring back what it left. What the Job is, is in
manifest; how it stands, in phase; the deadline's clock, in ran. Snapshot, checkpoints, progress and adapters are files
on a disk that the Job shares with the daemon.
Invariants: one training has one Job, whoever asks for it and however often; a Job is deleted only when nobody waits for
it any more, when its time is over, or to make it anew while it waits for its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from semievol.adapter_directory import Manifest as AdapterManifest
from semievol.durable_files import write_whole
from semievol.engines.plain.tally import NEUTRALISED
from semievol.errors import AdapterError, ConfigError, TransientError
from semievol.training.job import snapshot_hash
from semievol.training.lora import RESULT_FILE
from semievol.training.process import LOG_FILE
from semievol.training.progress import PROGRESS_FILE, WAITING, read_progress
from semievold.config.training import TrainingSettings
from semievold.rounds.jobs.cluster import Cluster
from semievold.rounds.jobs.manifest import (
    CONTAINER,
    ROUND_LABEL,
    WORKLOAD_LABEL,
    Asked,
    Manifest,
    asked_for,
    job_manifest,
    read_template,
    wants_image,
)
from semievold.rounds.jobs.phase import Kind, Phase, has_ended, made_of, phase_of
from semievold.rounds.jobs.ran import RunningTime
from semievold.rounds.launch import Trained, TrainingPlace, made_before, published

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

RESULT_WAIT_S = 60.0
"""A shared disk may show a file on this machine some time after it was written on another."""
RETIRE_EVERY_S = 60.0
"""How often a training that waits for its place looks whether a Job of an earlier round has it."""


class KubernetesLauncher:
    """Trains in Jobs of one workload.

    Args:
        clock: UTC seconds.
    """

    def __init__(
        self, workload: str, training: TrainingSettings, cluster: Cluster, clock: Callable[[], float] = time.time
    ) -> None:
        self._workload = workload
        self._training = training
        self._settings = training.launcher
        self._cluster = cluster
        self._clock = clock
        self._said = ""

    async def train(self, place: TrainingPlace) -> Trained:
        """Have a Job train, or wait for the one that was asked for already. Cancelling leaves the Job alone.

        Raises:
            AdapterError: the training failed, or its time is over; its last words are in the text.
            ConfigError: the template or the rights do not suffice.
            TransientError: Kubernetes does not answer.
        """
        asked = await asyncio.to_thread(asked_for, place)
        wanted = await _finished(self._manifest, asked)
        ran = RunningTime(place.work, asked.name)
        elapsed = asyncio.get_running_loop().time
        cleared_at: float | None = None
        while True:
            job, pods = await _finished(self._seen, asked.name)
            phase = Phase(Kind.LEAVING) if job is None else phase_of(job, pods)
            if cleared_at is None or (phase.kind is Kind.WAITING and elapsed() - cleared_at >= RETIRE_EVERY_S):
                await self._clear_earlier(asked.round_number)
                cleared_at = elapsed()
            if job is None:
                # Its Job may have ended and been removed while nobody looked.
                if (made := await asyncio.to_thread(made_before, place)) is not None:
                    return _trained(*made)
                if (failed := await asyncio.to_thread(_failed_before, place)) is not None:
                    raise AdapterError(f"Job {asked.name} failed, and is gone: training failed: {failed}")
                self._say(f"makes Job {asked.name}")
                await _finished(self._cluster.create_job, wanted)
                continue
            if phase.kind in (Kind.COMPLETE, Kind.FAILED):
                await _finished(self._keep_log, place.work, pods)
                if phase.kind is Kind.FAILED:
                    raise AdapterError(await asyncio.to_thread(_failure, asked, phase, place.work))
                return await self._result(asked)
            ran_s = await asyncio.to_thread(ran.seen, phase.running, self._clock())
            if ran_s > self._settings.deadline_s:
                await _finished(self._end, place.work, job, pods)
                raise AdapterError(
                    f"Job {asked.name} has trained for {ran_s:.0f} s, longer than training.launcher.deadline_s "
                    f"({self._settings.deadline_s:g} s), and is deleted; raise it, or train less"
                )
            if phase.kind is Kind.WAITING and made_of(job) != made_of(wanted):
                self._say(f"Job {asked.name} waits, and was made from other settings; it is made anew")
                await _finished(self._cluster.delete_job, job)
            elif phase.kind is not Kind.RUNNING:
                await asyncio.to_thread(_show_waiting, place.work, phase.detail)
            self._say(f"Job {asked.name} trains" if phase.kind is Kind.RUNNING else phase.detail)
            await asyncio.sleep(self._settings.poll_s)

    async def retire(self, open_round: int | None) -> None:
        """Delete the Jobs that run for another round than the open one: nobody waits for them.

        Raises:
            ConfigError: the rights do not suffice.
            TransientError: Kubernetes does not answer.
        """
        await _finished(self._retire, open_round)

    async def trains(self) -> bool:
        return await _finished(self._has_running)

    async def _clear_earlier(self, round_number: int) -> None:
        """Retire the Jobs of earlier rounds: one that could not be deleted when its round ended may hold the place that
        this one waits for. Later rounds' are another leader's, whom this process does not know of yet.
        """
        try:
            await _finished(self._retire_where, lambda label: label.isdecimal() and int(label) < round_number)
        except (ConfigError, TransientError) as error:  # the training may have its place all the same
            log.warning("Jobs of earlier rounds are left alone for now: %s", error)

    def _has_running(self) -> bool:
        """Also a Job that is being deleted: its name goes when its pods have gone."""
        return any(not has_ended(job) for job in self._cluster.jobs({WORKLOAD_LABEL: self._workload}))

    def _retire(self, open_round: int | None) -> None:
        kept = None if open_round is None else str(open_round)
        self._retire_where(lambda label: label != kept)

    def _retire_where(self, is_over: Callable[[str], bool]) -> None:
        """Delete the Jobs of this workload that run for a round, by its label, that is over."""
        for job in self._cluster.jobs({WORKLOAD_LABEL: self._workload}):
            metadata = job["metadata"]
            if (
                has_ended(job)
                or "deletionTimestamp" in metadata
                or not is_over(metadata["labels"].get(ROUND_LABEL, ""))
            ):
                continue
            log.info("deletes Job %s: its round is over", metadata["name"])
            self._cluster.delete_job(job)

    def _manifest(self, asked: Asked) -> Manifest:
        assert self._settings.template is not None  # the configuration was checked
        template = read_template(self._settings.template)
        image = self._settings.image
        if image is None and wants_image(template):
            image = self._own_image()
        return job_manifest(template, asked, self._training, image)

    def _own_image(self) -> str:
        pod = self._cluster.own_pod()
        if pod is None:
            raise ConfigError(
                "training.launcher.image: missing; neither the template names an image, nor does the daemon run in a "
                f"pod of namespace {self._cluster.namespace}"
            )
        containers = pod["spec"]["containers"]
        own = [each for each in containers if each["name"] == "semievold"] or containers
        return str(own[0]["image"])

    def _seen(self, name: str) -> tuple[Manifest | None, list[Manifest]]:
        job = self._cluster.job(name)
        return job, [] if job is None else self._cluster.pods(name)

    def _end(self, work: Path, job: Manifest, pods: list[Manifest]) -> None:
        self._keep_log(work, pods)
        self._cluster.delete_job(job)

    def _keep_log(self, work: Path, pods: list[Manifest]) -> None:
        """Bring the end of every pod's log into the round; a pod that has gone has none any more."""
        parts = []
        for pod in sorted(pods, key=lambda each: str(each["metadata"].get("creationTimestamp"))):
            name, containers = pod["metadata"]["name"], pod["spec"]["containers"]
            container = next((each for each in containers if each["name"] == CONTAINER), containers[0])
            try:
                text = self._cluster.log_of(name, container["name"])
            except (TransientError, ConfigError) as error:
                text = f"({error})"
            parts.append(f"== {name}\n{text.rstrip()}\n")
        if parts:
            work.mkdir(parents=True, exist_ok=True)
            write_whole(work / LOG_FILE, "".join(parts))

    async def _result(self, asked: Asked) -> Trained:
        """What a Job that is complete has published.

        Raises:
            AdapterError: nothing that can be used, though some time was given to it to appear.
        """
        work, adapters = asked.place.work, asked.place.adapters
        give_up = asyncio.get_running_loop().time() + RESULT_WAIT_S
        while True:
            try:
                path, manifest = await asyncio.to_thread(published, work, adapters)
                break
            except (OSError, ValueError, KeyError, TypeError, AdapterError) as error:
                if asyncio.get_running_loop().time() > give_up:
                    raise AdapterError(
                        f"Job {asked.name} is complete, and {work / RESULT_FILE} names no whole adapter here "
                        f"({error}); the Job must see artifacts.directory under the same path as the daemon"
                    ) from error
            await asyncio.sleep(1.0)
        return _trained(path, manifest)

    def _say(self, text: str) -> None:
        """In the log, when it is news."""
        if text and text != self._said:
            log.info("training: %s", text)
        self._said = text or self._said


async def _finished(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a blocking call to its end, also when the wait is cancelled: what it does must not be done afterwards."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # it was looked at
        raise


def _failed_before(place: TrainingPlace) -> str | None:
    """Why the training of this very snapshot failed for good; None: it did not, or left no word of it."""
    try:
        result = json.loads((place.work / RESULT_FILE).read_text(encoding="utf-8"))
        final = result["final"] is True and result["snapshot_sha256"] == snapshot_hash(place.snapshot)
        return str(result["error"]) if final else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _trained(path: Path, manifest: AdapterManifest) -> Trained:
    NEUTRALISED.add("training", int(manifest.training.get("rows_neutralised", 0)))
    return Trained(manifest.name, path, manifest.content_hash, manifest.training)


def _failure(asked: Asked, phase: Phase, work: Path) -> str:
    """Why a training failed: what the trainer wrote down, beside what Kubernetes says."""
    said = phase.detail
    if "training failed" not in said:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = f"training failed: {json.loads((work / RESULT_FILE).read_text(encoding='utf-8'))['error']} ({said})"
    return f"Job {asked.name} failed: {said}"


def _show_waiting(work: Path, detail: str) -> None:
    """Let whoever reads the progress see what is waited for. The trainer overwrites it when it starts."""
    record: dict[str, Any] = read_progress(work) or {}
    if (record.get("state"), record.get("reason")) != (WAITING, detail):
        work.mkdir(parents=True, exist_ok=True)
        write_whole(work / PROGRESS_FILE, json.dumps(record | {"state": WAITING, "reason": detail}) + "\n")
