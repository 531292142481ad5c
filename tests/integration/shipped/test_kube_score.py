"""What kube-score calls critical in the overlays: nothing but what is listed here, with the reason."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import yaml

from tests.manifests import OVERLAYS, overlay, training_job
from tests.servers import kube_score

KUBERNETES = "v1.34"


class Exempt(NamedTuple):
    """Why what a check asks for is not done. `objects`: whose alone; none: of nobody."""

    reason: str
    objects: frozenset[str] = frozenset()


TRIAL = frozenset({"kafka", "postgres"})
EXEMPT = {
    "container-resources": Exempt(
        "no limit of processor time: it would stop a process that answers while cores are idle; requests divide them "
        "fairly where they are not. Memory and disk have limits"
    ),
    "container-image-pull-policy": Exempt(
        "images have exact tags, which an overlay may pin by digest; Always would make every start of a pod depend on "
        "the registry, and the trial's images are loaded into nodes without one"
    ),
    "pod-probes-identical": Exempt(
        "vLLM and Kafka say in one way how they are; life is asked more patiently than readiness",
        frozenset({"embedding", "kafka", "vllm"}),
    ),
    "container-security-context-user-group-id": Exempt("their images have users of their own, 1000 and 999", TRIAL),
    "statefulset-has-servicename": Exempt("one pod each, which nobody asks by its own name", TRIAL),
}


def critical(name: str) -> dict[str, set[str]]:
    """By check, the objects in which it finds something critical."""
    if not kube_score.PROGRAM.is_file():
        pytest.skip("kube-score is missing; `make kube-score` builds it")
    objects = [*overlay(name)]
    if (job := training_job(objects)) is not None:  # of which policies and a Service speak; control makes it
        metadata = {**job["metadata"], "name": "training", "namespace": "semievol"}
        objects.append({**job, "metadata": metadata})
    found: dict[str, set[str]] = {}
    for each in kube_score.findings(yaml.safe_dump_all(objects), KUBERNETES):
        for said in each["checks"]:
            if said["grade"] == kube_score.CRITICAL and not said["skipped"]:
                found.setdefault(said["check"]["id"], set()).add(each["object_meta"]["name"])
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_is_critical_but_what_has_a_reason(name: str) -> None:
    for check, objects in critical(name).items():
        assert check in EXEMPT, f"{check}: {sorted(objects)}"
        assert objects <= (EXEMPT[check].objects or objects), check


def test_no_exemption_outlives_what_it_was_for() -> None:
    found: dict[str, set[str]] = {}
    for name in OVERLAYS:
        for check, objects in critical(name).items():
            found.setdefault(check, set()).update(objects)
    assert found.keys() == EXEMPT.keys()
    assert all(exempt.objects <= found[check] for check, exempt in EXEMPT.items())


def test_what_is_critical_is_found() -> None:
    """A container that may write to its root, that is."""
    critical("try")
    pod = {"containers": [{"name": "c", "image": "c:latest"}]}
    said = kube_score.findings(
        yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod}), KUBERNETES
    )
    grades = {each["check"]["id"]: each["grade"] for each in said[0]["checks"]}
    assert grades["container-image-tag"] == grades["container-security-context-readonlyrootfilesystem"] == 1
