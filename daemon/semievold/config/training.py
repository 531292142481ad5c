"""Settings of training in the service: the method's own, and where a round trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from semievol.config.section import Section
from semievol.config.training import TrainingConfig

# What Kubernetes takes as a value of a label, and as the name of an object that is part of a host's name.
LABEL = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
NAME = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"

LEAST_KEEP_S = 300
"""A Job that is removed sooner after its end may be gone before the leader, which may be starting, has looked at it."""


class Toleration(Section):
    """A taint of nodes that a training may run on all the same; the keys are Kubernetes' own."""

    key: str = Field(min_length=1)
    """The taint's key (`nvidia.com/gpu`)."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """Exists: whatever its value. Equal: only with `value`."""
    value: str | None = None
    """Equal only."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """None: each of them."""

    @model_validator(mode="after")
    def _value_is_compared(self) -> Toleration:
        if (self.operator == "Equal") is (self.value is None):
            raise ValueError(f"value: {'missing with' if self.value is None else 'set operator'} Equal")
        return self


class LauncherConfig(Section):
    """Where a round trains. All but `kind` is for kind kubernetes."""

    kind: Literal["local", "kubernetes"] = "local"
    """local: a child process of the leader. kubernetes: a Job a round, made from `template`; needs the extra
    `kubernetes`, and a shared disk on which the Job finds artifacts.directory under the same path."""
    template: Path | None = None
    """A YAML file with a Job (k8s/components/training-jobs has one): volumes, resources and whatever else your cluster
    wants. What trains is its container `trainer`, or its only one."""
    image: str | None = Field(default=None, min_length=1)
    """The trainer's image. None: the template's, and where it names none, the image of the daemon's own pod."""
    namespace: str | None = Field(default=None, pattern=NAME)
    """Where the Jobs are made. None: the daemon's own namespace, or that of the kubeconfig's context."""
    kubeconfig: Path | None = None
    """For a daemon outside of the cluster. None: the pod's service account."""
    nodes: int = Field(default=1, ge=1, le=1000)
    """Pods that train one job together (an Indexed Job with torchrun's rendezvous at the first one), each with
    training.processes; batch_size is a multiple of nodes * processes * gradient_accumulation."""
    service: str = Field(default="training", pattern=NAME)
    """The headless Service under whose name the pods of one training find each other; with several nodes only."""
    port: int = Field(default=29500, gt=0, lt=65536)
    """Of the rendezvous, at the first pod."""
    gpu_resource: str | None = Field(default=None, min_length=1)
    """Each pod asks for so many of this as training.processes (`nvidia.com/gpu`). None: what the template asks for."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes to train on, besides the template's."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes to train on all the same, besides the template's."""
    queue: str | None = Field(default=None, pattern=LABEL)
    """A LocalQueue of Kueue: the Job is made suspended and waits there for its quota. None: no queue."""
    deadline_s: float = Field(default=24 * 3600.0, gt=0)
    """A training may run this long, seconds, counted while all of its pods run, over evictions and restarts; what it
    waits in a queue, for a node or for its image does not count. Then the Job is deleted, and the round fails."""
    restarts: int = Field(default=6, ge=0)
    """How often a pod that failed is replaced (by index with several nodes); the training goes on from its last
    checkpoint. A pod that is evicted or whose node is lost does not count, but with several nodes the others, which end
    for it, do. What would fail again (bad rows, a bad setting) is not tried again."""
    keep_s: int = Field(default=86_400, ge=0)
    """How long Kubernetes keeps a Job that has ended, and the logs of its pods, seconds: at least 300 and 10 * poll_s,
    so that the leader sees the end, also after a restart."""
    poll_s: float = Field(default=3.0, gt=0, le=60)
    """How often the leader looks at the Job, seconds."""


class TrainingSettings(TrainingConfig):
    """The method's training, and where it takes place."""

    launcher: LauncherConfig = LauncherConfig()
    share_gpu: Literal["sleep"] | None = None
    """sleep: vLLM and the training share a GPU. Around each training the servers end what runs, sleep (their weights
    wait in the host's memory), and are woken afterwards; adapters are loaded and proved anew before they get requests.
    They want --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1. None: each has its own."""
    share_gpu_with: tuple[str, ...] = ()
    """share_gpu only: those of generation.replicas that sleep; the others go on answering. Empty: all."""

    @property
    def method(self) -> TrainingConfig:
        """What decides the adapter: the same wherever it is trained."""
        return TrainingConfig.model_validate(self.model_dump(exclude={"launcher", "share_gpu", "share_gpu_with"}))

    @model_validator(mode="after")
    def _check_sharing(self) -> TrainingSettings:
        if self.share_gpu_with and self.share_gpu is None:
            raise ValueError("share_gpu_with: is for share_gpu; set share_gpu: sleep, or leave it out")
        if self.share_gpu is not None and self.launcher.queue is not None:
            raise ValueError(
                "share_gpu: sleep and launcher.queue: the servers would sleep while the Job waits in the queue; leave "
                "one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_launcher(self) -> TrainingSettings:
        launcher = self.launcher
        if launcher.kind == "local":
            if launcher.nodes > 1:
                raise ValueError(
                    f"launcher.nodes: {launcher.nodes} pods are of kind kubernetes; set launcher.kind, or let "
                    "training.processes share this machine"
                )
            return self
        if launcher.template is None:
            raise ValueError("launcher.template: missing; kind kubernetes wants a file with a Job")
        if self.inherit:
            raise ValueError(
                "inherit: a Job inherits nothing from the daemon; write the variables into the env of launcher.template"
            )
        least = math.ceil(max(LEAST_KEEP_S, 10 * launcher.poll_s))
        if launcher.keep_s < least:
            raise ValueError(
                f"launcher.keep_s: {launcher.keep_s} is too short, a Job may be gone before its end was seen; set at "
                f"least {least} ({LEAST_KEEP_S} s, and 10 * launcher.poll_s)"
            )
        parts = self.gradient_accumulation * self.processes * launcher.nodes
        if self.batch_size != "auto" and self.batch_size % parts:
            raise ValueError(
                f"batch_size: {self.batch_size} rows cannot be divided among {launcher.nodes} nodes of "
                f"{self.processes} processes with gradient_accumulation {self.gradient_accumulation}; take a multiple "
                f"of {parts}"
            )
        return self
