"""The Job of one training, written from a template: JSON in, JSON out, nothing asked.

Owns what the launcher lays down whatever the template says: name, labels, command, how failures are counted, queue.
Owns not the template's part: volumes, resources, security, the environment.
Invariant: the same snapshot has the same name, so that a repeated request is the same Job.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from semievol.errors import ConfigError, DataError
from semievol.training.job import JOB_FILE, TrainingJob, snapshot_hash
from semievol.training.lora import USAGE_EXIT_CODE
from semievol.training.process import ENVIRONMENT
from semievold.config.training import LauncherConfig, TrainingSettings
from semievold.rounds.launch import TrainingPlace

Manifest = dict[str, Any]

CONTAINER = "trainer"
WORKLOAD_LABEL = "semievol-workload"
ROUND_LABEL = "semievol-round"
MADE_OF = "semievol-made-of"
"""An annotation: the hash of the manifest, which differs when template or settings were changed."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
FAILED_EXIT_CODE = 1
_NAME_CHARACTERS = 63 - len("-999")
"""A pod of an Indexed Job is called like the Job and its index, and that is a label of a host's name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The training that a Job is to do."""

    name: str
    workload: str
    round_number: int
    place: TrainingPlace


def asked_for(place: TrainingPlace) -> Asked:
    """Read what a snapshot asks for, without its rows' content. Blocking.

    Raises:
        DataError: there is no usable job in the snapshot.
    """
    path = place.snapshot / JOB_FILE
    try:
        job = TrainingJob.from_json(path.read_text(encoding="utf-8"))
        digits = snapshot_hash(place.snapshot)[:8]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not a training job ({error})") from error
    end = f"-r{job.round_number:04d}-{digits}"
    name = job.workload[: _NAME_CHARACTERS - len(end)].rstrip("-") + end
    return Asked(name, job.workload, job.round_number, place)


def read_template(path: Path) -> Manifest:
    """The Job of a template file. Blocking.

    Raises:
        ConfigError: names the file, the field and the fix.
    """
    where = f"training.launcher.template: {path}"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror or error}); give a file with a Job") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict) or (found.get("apiVersion"), found.get("kind")) != ("batch/v1", "Job"):
        raise ConfigError(f"{where}: expected one object with `apiVersion: batch/v1` and `kind: Job`")
    spec: Any = found
    for key in ("spec", "template", "spec"):
        spec = spec.get(key) if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not _are_containers(spec.get("containers")):
        raise ConfigError(f"{where}: spec.template.spec.containers: expected a list of containers with names")
    for key, kind in (("tolerations", list), ("nodeSelector", dict)):
        if not isinstance(spec.get(key) or kind(), kind):
            raise ConfigError(f"{where}: spec.template.spec.{key}: expected a {'list' if kind is list else 'mapping'}")
    trainer = _trainer(spec, where)
    if not isinstance(trainer.get("env") or [], list):
        raise ConfigError(f"{where}: env of the container {trainer['name']}: expected a list")
    return found


def wants_image(template: Manifest) -> bool:
    """Whether the template leaves the trainer's image open."""
    return not _trainer(template["spec"]["template"]["spec"]).get("image")


def job_manifest(template: Manifest, asked: Asked, training: TrainingSettings, image: str | None) -> Manifest:
    """The Job to create.

    Args:
        template: of `read_template`; it is not changed.
        asked: what it trains.
        training: the settings, with the launcher's.
        image: the trainer's; None: the template's.
    """
    made, launcher = copy.deepcopy(template), training.launcher
    metadata = made.setdefault("metadata", {})
    for key in ("generateName", "namespace", "resourceVersion", "uid"):
        metadata.pop(key, None)
    labels = {WORKLOAD_LABEL: asked.workload, ROUND_LABEL: str(asked.round_number)}
    metadata["name"] = asked.name
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    if launcher.queue is not None:
        metadata["labels"][QUEUE_LABEL] = launcher.queue
    made["spec"] = {**made["spec"], **_spec(launcher)}
    for key in ("selector", "manualSelector", "activeDeadlineSeconds", "status"):  # the deadline is counted here
        made["spec"].pop(key, None)
    made.pop("status", None)
    pod = made["spec"]["template"]
    pod_metadata = pod.setdefault("metadata", {})
    pod_metadata["labels"] = {**(pod_metadata.get("labels") or {}), **labels}
    _fill_pod(pod["spec"], asked, training, image)
    made["spec"]["podFailurePolicy"] = _failures(pod["spec"])
    digest = hashlib.sha256(json.dumps(made, sort_keys=True, default=str).encode()).hexdigest()[:16]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), MADE_OF: digest}
    return made


def _spec(launcher: LauncherConfig) -> Manifest:
    """What the launcher lays down of the Job's own fields."""
    spec: Manifest = {
        "ttlSecondsAfterFinished": launcher.keep_s,
        "parallelism": launcher.nodes,
        "completions": launcher.nodes,
        # A second trainer beside one that is still ending would only wait for its lock.
        "podReplacementPolicy": "Failed",
    }
    if launcher.nodes == 1:
        spec |= {"completionMode": "NonIndexed", "backoffLimit": launcher.restarts}
    else:
        # The first index that is given up ends the Job: the others cannot train without it.
        spec |= {"completionMode": "Indexed", "backoffLimitPerIndex": launcher.restarts, "maxFailedIndexes": 0}
    if launcher.queue is not None:
        spec["suspend"] = True
    return spec


def _failures(pod_spec: Manifest) -> Manifest:
    container = _trainer(pod_spec)["name"]
    final = {"containerName": container, "operator": "In", "values": [FAILED_EXIT_CODE, USAGE_EXIT_CODE]}
    return {
        "rules": [
            # A lost node, an eviction, a preemption.
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            # The trainer has said that it would fail again.
            {"action": "FailJob", "onExitCodes": final},
        ]
    }


def _fill_pod(spec: Manifest, asked: Asked, training: TrainingSettings, image: str | None) -> None:
    launcher, place = training.launcher, asked.place
    spec["restartPolicy"] = "Never"
    spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **launcher.node_selector}
    tolerations = [each.model_dump(exclude_none=True) for each in launcher.tolerations]
    spec["tolerations"] = [*(spec.get("tolerations") or ()), *tolerations]
    trainer = _trainer(spec)
    if image is not None:
        trainer["image"] = image
    trainer["command"] = ["semievold", "train"]
    trainer["args"] = ["--snapshot", str(place.snapshot), "--work", str(place.work), "--adapters", str(place.adapters)]
    if launcher.nodes > 1:
        spec["subdomain"] = launcher.service
        first = f"{asked.name}-0.{launcher.service}:{launcher.port}"
        trainer["args"] += ["--nodes", str(launcher.nodes), "--processes", str(training.processes)]
        trainer["args"] += ["--rendezvous", first]
    given = {each.get("name") for each in trainer.get("env") or () if isinstance(each, dict)}
    added = [{"name": name, "value": value} for name, value in ENVIRONMENT.items() if name not in given]
    trainer["env"] = [*(trainer.get("env") or ()), *added]
    trainer["terminationMessagePolicy"] = "FallbackToLogsOnError"  # the last words come with the pod's state
    if launcher.gpu_resource is not None:
        resources = trainer.setdefault("resources", {})
        for kind in ("requests", "limits"):
            resources[kind] = {**(resources.get(kind) or {}), launcher.gpu_resource: training.processes}


def _are_containers(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and "name" in each for each in value)


def _trainer(pod_spec: Manifest, where: str = "template") -> Manifest:
    containers = pod_spec["containers"]
    found = [each for each in containers if each["name"] == CONTAINER] or (containers if len(containers) == 1 else [])
    if len(found) != 1:
        names = ", ".join(str(each["name"]) for each in containers)
        raise ConfigError(f"{where}: spec.template.spec.containers: none of {names} is called {CONTAINER}; rename one")
    trainer: Manifest = found[0]
    return trainer
