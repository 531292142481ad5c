"""Trainings as Jobs at a real API server, with the shipped template and Role.

There is no node: the tests are the kubelet, and run a pod's command as a process of this machine where it matters.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol.errors import AdapterError, ConfigError, TransientError
from semievol.training.job import write_snapshot
from semievol.training.progress import WAITING, read_progress
from semievold.config.training import LauncherConfig, TrainingSettings
from semievold.rounds.jobs import launcher as launcher_module
from semievold.rounds.jobs.cluster import Cluster
from semievold.rounds.jobs.launcher import KubernetesLauncher
from semievold.rounds.jobs.manifest import asked_for, job_manifest, read_template
from semievold.rounds.launch import Trained, TrainingPlace
from tests.servers import free_port
from tests.servers.kubernetes_api import KubernetesApi
from tests.tiny_job import ROWS, tiny_job
from tests.tiny_model import make_tiny_model
from tests.training_jobs import IMAGE, TEMPLATE, place_of, settings, write

PATIENCE_S = 600.0
pytestmark = pytest.mark.timeout(3 * PATIENCE_S)

RIGHTS_FILE = TEMPLATE.with_name("rights.yaml")
EVICTED = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def api() -> Iterator[KubernetesApi]:
    api = KubernetesApi()
    try:
        api.start()
        yield api
    finally:
        api.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


class World:
    """A namespace with the ServiceAccount of control, and whoever asks for trainings in it."""

    def __init__(self, api: KubernetesApi, root: Path) -> None:
        self.api, self.root = api, root
        name = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "jobs-"}}
        self.namespace = api.ask("POST", "/api/v1/namespaces", name)["metadata"]["name"]
        self.own = f"/api/v1/namespaces/{self.namespace}"
        self.batch = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "control"}}
        api.ask("POST", f"{self.own}/serviceaccounts", account)
        api.apply(self.namespace, RIGHTS_FILE)
        token = api.token_of(self.namespace, "control")
        self.kubeconfig = api.kubeconfig(token, root / "control.kubeconfig", self.namespace)
        self._clusters: list[Cluster] = []
        self._running: list[asyncio.Task[Trained]] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def cluster(self) -> Cluster:
        self._clusters.append(Cluster.open(LauncherConfig(kubeconfig=self.kubeconfig)))
        return self._clusters[-1]

    def launcher(
        self, training: TrainingSettings | None = None, workload: str = "tiny", **launcher: Any
    ) -> KubernetesLauncher:
        chosen = training or settings(**{"image": IMAGE, "poll_s": 0.2, **launcher})
        return KubernetesLauncher(workload, chosen, self.cluster())

    def asks(self, launcher: KubernetesLauncher, place: TrainingPlace) -> asyncio.Task[Trained]:
        self._running.append(asyncio.create_task(launcher.train(place)))
        return self._running[-1]

    def place(self, number: int = 1) -> TrainingPlace:
        return write(place_of(self.root, number))

    async def close(self) -> None:
        for task in self._running:
            await cancelled(task)
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for cluster in self._clusters:
            cluster.close()

    # --- what there is ----------------------------------------------------------------------------------------------

    def jobs(self) -> list[Manifest]:
        return list(self.api.ask("GET", self.batch)["items"])

    def pods(self, *phases: str) -> list[Manifest]:
        found = self.api.ask("GET", f"{self.own}/pods")["items"]
        found.sort(key=lambda pod: pod["metadata"]["name"])
        return [pod for pod in found if pod["status"]["phase"] in (phases or ("Pending", "Running"))]

    async def pod(self) -> Manifest:
        """The one that waits for a node."""
        return (await self.until(lambda: self.pods("Pending")))[0]

    async def job(self) -> Manifest:
        return (await self.until(self.jobs))[0]

    async def until(self, look: Callable[[], Any], task: asyncio.Task[Any] | None = None) -> Any:
        give_up = time.monotonic() + PATIENCE_S
        while not (found := await asyncio.to_thread(look)):
            assert time.monotonic() < give_up, "it did not happen in time"
            if task is not None and task.done():
                task.result()
            await asyncio.sleep(0.1)
        return found

    # --- the kubelet ------------------------------------------------------------------------------------------------

    def set_status(self, pod: Manifest, **status: Any) -> None:
        self.api.ask("PATCH", f"{self.own}/pods/{pod['metadata']['name']}/status", {"status": status})

    def runs(self, pod: Manifest) -> None:
        state = {"running": {"startedAt": now()}}
        self.set_status(pod, phase="Running", containerStatuses=[container(state, ready=True)])

    def ends(self, pod: Manifest, code: int, message: str = "", conditions: Any = ()) -> None:
        state = {"terminated": {"exitCode": code, "message": message, "startedAt": now(), "finishedAt": now()}}
        phase = "Failed" if code else "Succeeded"
        self.set_status(pod, phase=phase, containerStatuses=[container(state)], conditions=list(conditions))

    def starts(self, pod: Manifest, port: int = 0) -> None:
        """Run the pod's command here. `port`: where the pods of one training meet, in place of the first one's name."""
        (trainer,) = pod["spec"]["containers"]
        program, *words = [*trainer["command"], *trainer["args"]]
        assert program == "semievold"
        words = [f"127.0.0.1:{port}" if ".training:" in word else word for word in words]
        given = {each["name"]: each["value"] for each in trainer["env"] if "value" in each}
        index = pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index", "")
        self.processes[pod["metadata"]["name"]] = subprocess.Popen(
            [sys.executable, "-c", "from semievold.commands.cli import main; main()", *words],
            env={**os.environ, **given, "OMP_NUM_THREADS": "1", "JOB_COMPLETION_INDEX": index},
            start_new_session=True,
        )
        self.runs(pod)

    async def ended(self, pod: Manifest) -> int:
        """Wait for the command of a pod that `starts` had run, and say so to Kubernetes."""
        process = self.processes[pod["metadata"]["name"]]
        code = await asyncio.to_thread(process.wait, PATIENCE_S)
        self.ends(pod, code % 256)
        return code

    def report_ended(self) -> None:
        """Say so of every command that has ended."""
        for pod in self.pods("Running"):
            if (code := self.processes[pod["metadata"]["name"]].poll()) is not None:
                self.ends(pod, code % 256)

    async def lost(self, pod: Manifest) -> None:
        """Evict a pod whose command runs."""
        process = self.processes[pod["metadata"]["name"]]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.ends(pod, 137, conditions=EVICTED)


def container(state: Manifest, *, ready: bool = False) -> Manifest:
    return {
        "name": "trainer",
        "image": IMAGE,
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, AdapterError, ConfigError, TransientError):
        await task


@pytest.fixture
async def world(api: KubernetesApi, tmp_path: Path) -> AsyncIterator[World]:
    world = World(api, tmp_path)
    yield world
    await world.close()


# --- one training, one Job ------------------------------------------------------------------------------------------


async def test_a_job_trains_and_its_adapter_comes_back(world: World, model: Path) -> None:
    place = write(place_of(world.root), model)
    task = world.asks(world.launcher(), place)
    pod = await world.pod()
    world.starts(pod)
    assert await world.ended(pod) == 0
    trained = await task
    assert trained.path == place.adapters / trained.name
    assert trained.summary["rows"] == len(ROWS)
    assert (place.work / "trainer.log").read_text().startswith(f"== {pod['metadata']['name']}\n")
    # Whoever asks once more gets the same, of the same Job.
    assert await world.launcher().train(place) == trained
    (job,) = world.jobs()
    # Also when Kubernetes has removed it.
    world.api.ask("DELETE", f"{world.batch}/{job['metadata']['name']}?propagationPolicy=Background")
    await world.until(lambda: not world.jobs())
    assert await asyncio.wait_for(world.launcher().train(place), PATIENCE_S) == trained
    assert world.jobs() == []
    # But not what other rows were trained to.
    write_snapshot(place.snapshot, tiny_job(model), ROWS[1:])
    world.asks(world.launcher(), place)
    await world.job()


async def test_a_request_that_is_repeated_is_the_same_job(world: World) -> None:
    place = world.place()
    asked = [world.asks(world.launcher(), place) for _ in range(4)]
    first = await world.job()
    await world.pod()
    await asyncio.sleep(1.0)
    for task in asked:
        assert not task.done()
        await cancelled(task)
    world.asks(world.launcher(), place)  # the next leader
    await asyncio.sleep(1.0)
    (still,) = world.jobs()
    assert still["metadata"]["uid"] == first["metadata"]["uid"]
    assert len(world.pods()) == 1


async def test_a_job_that_somebody_deleted_is_made_again(world: World) -> None:
    task = world.asks(world.launcher(), world.place())
    first = await world.job()
    world.api.ask("DELETE", f"{world.batch}/{first['metadata']['name']}?propagationPolicy=Background")
    again = await world.until(
        lambda: [job for job in world.jobs() if job["metadata"]["uid"] != first["metadata"]["uid"]]
    )
    assert again[0]["metadata"]["name"] == first["metadata"]["name"]
    assert not task.done()


# --- failures -------------------------------------------------------------------------------------------------------


async def test_what_would_fail_again_fails_the_round_at_once_with_the_trainers_words(world: World) -> None:
    task = world.asks(world.launcher(restarts=5), world.place())
    pod = await world.pod()
    world.runs(pod)
    world.ends(pod, 1, "loading\ntraining failed: DataError: rows.jsonl: no rows")
    with pytest.raises(
        AdapterError, match=r"Job tiny-r0001-\w+ failed: training failed: DataError: rows\.jsonl: no rows"
    ):
        await task
    assert len(world.pods("Failed")) == 1
    assert world.pods() == []


async def test_a_pod_that_fails_too_often_fails_the_round(world: World) -> None:
    task = world.asks(world.launcher(restarts=0), world.place())
    world.ends(await world.pod(), 137, "")
    with pytest.raises(AdapterError, match="BackoffLimitExceeded"):
        await task


async def test_an_eviction_is_no_failure_and_the_training_goes_on_from_its_checkpoint(
    world: World, model: Path
) -> None:
    place = place_of(world.root)
    write_snapshot(place.snapshot, tiny_job(model, epochs=60, checkpoint_steps=10), ROWS)
    task = world.asks(world.launcher(restarts=0), place)
    pod = await world.pod()
    world.starts(pod)
    await world.until(lambda: (read_progress(place.work) or {}).get("step", 0) > 20)
    await world.lost(pod)
    second = await world.pod()
    assert second["metadata"]["uid"] != pod["metadata"]["uid"]
    world.starts(second)
    assert await world.ended(second) == 0
    assert (await task).summary["resumed_from_step"] >= 10


# --- waiting --------------------------------------------------------------------------------------------------------


async def test_what_waits_for_quota_says_so_and_its_deadline_does_not_run(world: World) -> None:
    place = world.place()
    task = world.asks(world.launcher(queue="training", deadline_s=1.5), place)
    job = await world.job()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    await asyncio.sleep(4.0)
    assert not task.done()
    assert world.pods() == []
    said = read_progress(place.work) or {}
    assert said["state"] == WAITING
    assert said["reason"] == f"waiting for quota: Job {job['metadata']['name']} is suspended in queue training"

    world.api.ask("PATCH", f"{world.batch}/{job['metadata']['name']}", {"spec": {"suspend": False}})  # as Kueue does
    pod = await world.pod()
    await asyncio.sleep(3.0)
    assert not task.done()  # it waits for a node
    assert (read_progress(place.work) or {})["reason"].startswith(f"waiting for pod {pod['metadata']['name']}")

    world.runs(pod)
    with pytest.raises(AdapterError, match=r"longer than training\.launcher\.deadline_s \(1\.5 s\), and is deleted"):
        await task
    await world.until(lambda: not world.jobs())


async def test_a_change_of_leader_does_not_give_a_training_more_time(world: World) -> None:
    place = world.place()
    task = world.asks(world.launcher(deadline_s=3.0), place)
    world.runs(await world.pod())
    await asyncio.sleep(1.5)
    await cancelled(task)
    await asyncio.sleep(2.0)  # nobody leads, and the training goes on
    with pytest.raises(AdapterError, match="deadline_s"):
        await world.asks(world.launcher(deadline_s=3.0), place)


async def test_other_settings_make_a_job_anew_while_it_waits_and_leave_it_alone_once_it_trains(world: World) -> None:
    place = world.place()
    task = world.asks(world.launcher(node_selector={"pool": "gone"}), place)
    await world.pod()
    await cancelled(task)
    task = world.asks(world.launcher(node_selector={"pool": "there"}), place)
    pod = (
        await world.until(
            lambda: [pod for pod in world.pods("Pending") if pod["spec"]["nodeSelector"] == {"pool": "there"}]
        )
    )[0]
    world.runs(pod)
    await cancelled(task)
    world.asks(world.launcher(node_selector={"pool": "other"}), place)
    await asyncio.sleep(2.0)
    assert [each["metadata"]["uid"] for each in world.pods()] == [pod["metadata"]["uid"]]


# --- cancelling and orphans -----------------------------------------------------------------------------------------


async def test_only_jobs_of_this_workload_whose_round_is_not_open_are_deleted(world: World) -> None:
    launcher = world.launcher()
    second = place_of(world.root, 2)
    write_snapshot(second.snapshot, dataclasses.replace(tiny_job(Path("/m")), round_number=2), ROWS)
    tasks = [world.asks(launcher, second)]
    await world.job()  # it has looked for earlier ones
    tasks.append(world.asks(launcher, world.place()))
    other = place_of(world.root / "other")
    write_snapshot(other.snapshot, dataclasses.replace(tiny_job(Path("/m")), workload="other"), ROWS)
    tasks.append(world.asks(world.launcher(workload="other"), other))
    await world.until(lambda: len(world.jobs()) == 3)
    for task in tasks:
        await cancelled(task)
    await launcher.retire(2)
    await world.until(lambda: len(world.jobs()) == 2)
    left = {
        (job["metadata"]["labels"]["semievol-workload"], job["metadata"]["labels"]["semievol-round"])
        for job in world.jobs()
    }
    assert left == {("tiny", "2"), ("other", "1")}
    assert await launcher.trains()
    await launcher.retire(None)
    await world.until(lambda: len(world.jobs()) == 1)
    assert not await launcher.trains()  # the other workload's is not its own
    # Their pods have gone with them.
    await world.until(lambda: len(world.pods()) == 1)


@pytest.mark.parametrize("when", ["before", "while it waits"])
async def test_a_job_that_an_earlier_round_left_gives_up_its_place(
    world: World, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes was away when the round was cancelled. What a later round trains is another leader's."""
    monkeypatch.setattr(launcher_module, "RETIRE_EVERY_S", 0.5 if when == "while it waits" else 3_600.0)

    async def left(number: int) -> None:
        place, before = place_of(world.root, number), len(world.jobs())
        write_snapshot(place.snapshot, dataclasses.replace(tiny_job(Path("/m")), round_number=number), ROWS)
        # Of a process that knows nothing of other rounds.
        wanted = job_manifest(read_template(TEMPLATE), asked_for(place), settings(image=IMAGE), IMAGE)
        assert await asyncio.to_thread(world.cluster().create_job, wanted)
        await world.until(lambda: len(world.jobs()) > before)

    await left(3)
    second = place_of(world.root, 2)
    write_snapshot(second.snapshot, dataclasses.replace(tiny_job(Path("/m")), round_number=2), ROWS)
    if when == "before":
        await left(1)
        world.asks(world.launcher(), second)
    else:
        world.asks(world.launcher(), second)
        await world.until(lambda: len(world.jobs()) == 2)
        await left(1)
    await world.until(lambda: {job["metadata"]["labels"]["semievol-round"] for job in world.jobs()} == {"2", "3"})


async def test_a_cancelled_wait_makes_no_job_afterwards(world: World) -> None:
    """The call that makes it may be under way: it ends before the wait does."""
    for _ in range(5):
        task = world.asks(world.launcher(), world.place())
        await asyncio.sleep(0.05)
        await cancelled(task)
        await world.launcher().retire(None)
        await world.until(lambda: not world.jobs())
    await asyncio.sleep(1.0)
    assert world.jobs() == []


async def test_a_job_that_has_ended_is_left_with_its_logs(world: World) -> None:
    task = world.asks(world.launcher(), world.place())
    world.ends(await world.pod(), 1, "training failed: x")
    with pytest.raises(AdapterError):
        await task
    await world.launcher().retire(None)
    assert [job["spec"]["ttlSecondsAfterFinished"] for job in world.jobs()] == [86_400]


# --- rights, image, template ----------------------------------------------------------------------------------------


async def test_the_shipped_role_is_what_the_launcher_needs(world: World) -> None:
    assert world.cluster().missing_rights() == []
    name = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/rolebindings/training-jobs"
    world.api.ask("DELETE", name)
    await world.until(lambda: len(world.cluster().missing_rights()) == 6)
    with pytest.raises(ConfigError, match=r"cannot get resource .*k8s/components/training-jobs has the Role"):
        await world.launcher().train(world.place())


async def test_without_an_image_it_is_that_of_the_pod_which_asks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"training\.launcher\.image: missing"):
        await world.launcher(image=None).train(world.place())
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "control-1"},
        "spec": {"serviceAccountName": "control", "containers": [{"name": "semievold", "image": "mine:7"}]},
    }
    world.api.ask("POST", f"{world.own}/pods", pod)
    monkeypatch.setenv("HOSTNAME", "control-1")
    world.asks(world.launcher(image=None), world.place())
    (trainer,) = (await world.job())["spec"]["template"]["spec"]["containers"]
    assert trainer["image"] == "mine:7"


async def test_a_field_of_the_template_that_kubernetes_does_not_know_is_named(world: World) -> None:
    template = yaml.safe_load(TEMPLATE.read_text("utf-8"))
    template["spec"]["template"]["spec"]["tolerationz"] = []
    (world.root / "job.yaml").write_text(yaml.safe_dump(template), "utf-8")
    with pytest.raises(ConfigError, match=r"tolerationz.*see training\.launcher and its template"):
        await world.launcher(template=world.root / "job.yaml").train(world.place())
    assert world.jobs() == []


async def test_a_cluster_that_does_not_answer_is_asked_again(world: World) -> None:
    gone = json.loads(world.kubeconfig.read_text("utf-8"))
    gone["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    world.kubeconfig.write_text(json.dumps(gone), "utf-8")
    with pytest.raises(TransientError, match="Kubernetes does not answer"):
        await world.launcher().train(world.place())
    with pytest.raises(TransientError, match="Kubernetes does not answer"):
        await world.launcher().retire(None)


# --- several pods ---------------------------------------------------------------------------------------------------


async def test_two_pods_train_one_job_and_go_on_from_the_checkpoint_when_one_is_lost(world: World, model: Path) -> None:
    place = place_of(world.root)
    write_snapshot(place.snapshot, tiny_job(model, epochs=60, checkpoint_steps=10), ROWS)
    task = world.asks(world.launcher(nodes=2, restarts=6), place)
    pods = await world.until(lambda: (found := world.pods("Pending")) and len(found) == 2 and found)
    port = free_port()
    for pod in pods:
        assert pod["spec"]["subdomain"] == "training"
        world.starts(pod, port)
    await world.until(lambda: (read_progress(place.work) or {}).get("step", 0) > 20)
    await world.lost(pods[1])
    assert await world.ended(pods[0]) == 76  # it has lost its other half
    async with asyncio.timeout(PATIENCE_S):
        while not task.done():
            for pod in world.pods("Pending"):
                world.starts(pod, port)
            world.report_ended()
            await asyncio.sleep(0.2)
    trained = await task
    assert trained.summary["processes"] == 2
    assert trained.summary["resumed_from_step"] >= 10


def test_the_shipped_template_asks_for_what_the_api_server_takes(world: World) -> None:
    """Strictly, with each option that changes the Job's form."""
    for number, launcher in enumerate(({}, {"nodes": 3}, {"queue": "q"}, {"gpu_resource": "nvidia.com/gpu"})):
        training = settings(batch_size=12, **launcher)
        place = write(place_of(world.root, number + 1))
        made = job_manifest(read_template(TEMPLATE), asked_for(place), training, IMAGE)
        made["metadata"]["name"] += f"-{number}"
        assert world.cluster().create_job(made)
        assert not world.cluster().create_job(made)
