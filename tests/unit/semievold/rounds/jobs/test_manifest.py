"""The Job of a training: one name a snapshot, and what the launcher lays down whatever the template says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from semievol.errors import ConfigError, DataError
from semievol.training.job import write_snapshot
from semievold.rounds.jobs.manifest import (
    MADE_OF,
    Asked,
    asked_for,
    job_manifest,
    read_template,
    wants_image,
)
from semievold.rounds.launch import TrainingPlace
from tests.tiny_job import ROWS, tiny_job
from tests.training_jobs import IMAGE, TEMPLATE, place_of, settings, write
from tests.unit.shipped.test_k8s_schemas import faults

PLACE = place_of(Path("/data"))
ASKED = Asked("support-r0001-1a2b3c4d", "support", 1, PLACE)


def made(*, processes: int = 1, **launcher: Any) -> dict[str, Any]:
    return job_manifest(read_template(TEMPLATE), ASKED, settings(processes=processes, **launcher), IMAGE)


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


# --- the name -------------------------------------------------------------------------------------------------------


def test_the_same_snapshot_asks_for_the_same_job_and_another_one_for_another(tmp_path: Path) -> None:
    first = asked_for(write(place_of(tmp_path)))
    assert asked_for(place_of(tmp_path)) == first
    assert first.name.startswith("tiny-r0001-")
    assert (first.workload, first.round_number) == ("tiny", 1)
    write_snapshot(place_of(tmp_path, 2).snapshot, tiny_job(Path("/models/base")), ROWS[1:])
    assert asked_for(place_of(tmp_path, 2)).name != first.name


def test_the_name_of_a_long_workload_leaves_room_for_the_index_of_a_pod(tmp_path: Path) -> None:
    from dataclasses import replace

    long = replace(tiny_job(Path("/models/base")), workload="a" * 40 + "-" * 10 + "b" * 13)
    write_snapshot(place_of(tmp_path).snapshot, long, ROWS)
    name = asked_for(place_of(tmp_path)).name
    assert len(f"{name}-999") <= 63
    assert "--" not in name
    assert name.endswith(asked_for(place_of(tmp_path)).name[-14:])


def test_a_snapshot_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"job\.json: not a training job"):
        asked_for(TrainingPlace(tmp_path, tmp_path, tmp_path))


# --- what is laid down ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("launcher", [{}, {"nodes": 2}, {"queue": "training"}, {"gpu_resource": "nvidia.com/gpu"}])
def test_what_is_made_is_valid_for_kubernetes(launcher: dict[str, Any]) -> None:
    assert faults(made(**launcher)) == []


def test_one_pod_trains_by_the_command_of_the_image_and_under_the_paths_of_the_daemon() -> None:
    job = made()
    assert job["metadata"]["name"] == ASKED.name
    assert trainer(job)["image"] == IMAGE
    assert trainer(job)["command"] == ["semievold", "train"]
    assert trainer(job)["args"] == [
        *("--snapshot", "/data/rounds/r0001/snapshot", "--work", "/data/rounds/r0001/work"),
        *("--adapters", "/data/adapters"),
    ]
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels["semievol-workload"] == "support"
        assert labels["semievol-round"] == "1"
        assert labels["app.kubernetes.io/name"] == "training"


def test_a_lost_node_is_no_failure_and_what_would_fail_again_is_not_tried_again() -> None:
    spec = made(restarts=3)["spec"]
    ignored, final = spec["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert final == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [1, 2]},
    }
    assert spec["backoffLimit"] == 3
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what a failure policy wants


def test_no_deadline_of_kubernetes_own_counts_what_a_job_waits() -> None:
    template = read_template(TEMPLATE)
    template["spec"]["activeDeadlineSeconds"] = 60
    assert "activeDeadlineSeconds" not in job_manifest(template, ASKED, settings(), IMAGE)["spec"]


def test_a_job_is_made_suspended_only_for_a_queue() -> None:
    assert "suspend" not in made()["spec"]
    assert "kueue.x-k8s.io/queue-name" not in made()["metadata"]["labels"]
    queued = made(queue="training")
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"


def test_nodes_are_chosen_besides_the_templates_and_every_process_gets_a_gpu() -> None:
    job = made(
        processes=4,
        gpu_resource="nvidia.com/gpu",
        node_selector={"pool": "training"},
        tolerations=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
    )
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "training"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    resources = trainer(job)["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 4
    assert resources["limits"]["memory"] == "16Gi"


def test_several_pods_are_an_indexed_job_that_meets_at_its_first_pod() -> None:
    job = made(nodes=2, processes=2, restarts=5)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (5, 0)
    assert "backoffLimit" not in spec
    assert pod["subdomain"] == "training"
    assert trainer(job)["args"][-6:] == [
        *("--nodes", "2", "--processes", "2"),
        *("--rendezvous", f"{ASKED.name}-0.training:29500"),
    ]


def test_the_templates_own_variables_win_and_the_template_is_left_as_it_was() -> None:
    template = read_template(TEMPLATE)
    (container,) = template["spec"]["template"]["spec"]["containers"]
    container["env"].append({"name": "MALLOC_MMAP_MAX_", "value": "7"})
    before = copy.deepcopy(template)
    job = job_manifest(template, ASKED, settings(), IMAGE)
    assert [each["value"] for each in trainer(job)["env"] if each["name"] == "MALLOC_MMAP_MAX_"] == ["7"]
    assert template == before


def test_what_it_was_made_of_differs_with_settings_and_template_alone() -> None:
    def digest(**launcher: Any) -> str:
        return str(made(**launcher)["metadata"]["annotations"][MADE_OF])

    assert digest() == digest()
    assert len({digest(), digest(queue="training"), digest(node_selector={"a": "b"}), digest(restarts=1)}) == 4


# --- the template ---------------------------------------------------------------------------------------------------


def job_of(**pod: Any) -> str:
    return json.dumps({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": pod}}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not YAML"),
        ("kind: Pod\napiVersion: v1\n", "expected one object with `apiVersion: batch/v1` and `kind: Job`"),
        ("[]", "expected one object"),
        (job_of(), "spec.template.spec.containers: expected a list"),
        (
            job_of(containers=[{"image": "x"}]),
            "spec.template.spec.containers: expected a list of containers with names",
        ),
        (job_of(containers=[{"name": "a"}, {"name": "b"}]), "none of a, b is called trainer; rename one"),
        (job_of(containers=[{"name": "a"}], tolerations={}), None),
        (job_of(containers=[{"name": "a"}], tolerations={"a": 1}), "spec.template.spec.tolerations: expected a list"),
        (job_of(containers=[{"name": "a", "env": {"A": "1"}}]), "env of the container a: expected a list"),
        ("apiVersion: batch/v1\nkind: Job\nspec: 3\n", "spec.template.spec.containers"),
    ],
)
def test_what_is_wrong_with_a_template_is_named(tmp_path: Path, text: str, said: str | None) -> None:
    (tmp_path / "job.yaml").write_text(text, "utf-8")
    if said is None:
        assert wants_image(read_template(tmp_path / "job.yaml"))
        return
    with pytest.raises(ConfigError, match=r"^training\.launcher\.template: ") as found:
        read_template(tmp_path / "job.yaml")
    assert said in str(found.value)


def test_a_template_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"job\.yaml: cannot be read \(No such file"):
        read_template(tmp_path / "job.yaml")


def test_a_template_with_an_image_of_its_own_keeps_it(tmp_path: Path) -> None:
    template = yaml.safe_load(TEMPLATE.read_text("utf-8"))
    template["spec"]["template"]["spec"]["containers"][0]["image"] = "mine:1"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(template), "utf-8")
    found = read_template(tmp_path / "job.yaml")
    assert not wants_image(found)
    assert trainer(job_manifest(found, ASKED, settings(), None))["image"] == "mine:1"
