"""What a change of k8s/ rolls: who has another pod template is replaced, and an engine loads its model for minutes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import yaml

from semievold.config.daemon import ROLES, ArtifactsConfig
from tests.manifests import (
    K8S,
    OVERLAYS,
    Manifest,
    containers,
    everything,
    named,
    of_kind,
    on_the_base,
    over,
    overlay,
    pods,
    rendered,
    training_job,
)

NEW_SETTING = {"configMapGenerator": [{"name": "semievol", "behavior": "merge", "literals": ["new=setting"]}]}
ON_OBJECT_STORAGE = ("components/vllm", "components/object-storage")


def new_place(url: str) -> Manifest:
    """What k8s/README.md has a user write."""
    patch = f'- {{op: replace, path: /data/url, value: "{url}"}}'
    return {"patches": [{"target": {"kind": "ConfigMap", "name": "adapter-storage"}, "patch": patch}]}


def rolled(before: list[Manifest], after: list[Manifest]) -> set[str]:
    """Whose pods Kubernetes replaces."""
    old, new = pods(before), pods(after)
    return {name for name in old if json.dumps(old[name], sort_keys=True) != json.dumps(new[name], sort_keys=True)}


def test_a_new_configuration_rolls_all_that_read_it_and_no_engine() -> None:
    for before, after in (
        (overlay("production"), over("overlays/production", **NEW_SETTING)),
        (on_the_base("object-storage"), over("base", *ON_OBJECT_STORAGE, **NEW_SETTING)),
    ):
        assert "vllm" in pods(after)
        assert rolled(before, after) == set(ROLES)


def test_the_configuration_is_mounted_by_its_readers_alone_whatever_is_put_together() -> None:
    for where, objects in everything().items():
        (config,) = [each for each in of_kind(objects, "ConfigMap") if "semievol.yaml" in each["data"]]
        name = config["metadata"]["name"]
        assert {pod for pod, template in pods(objects).items() if name in json.dumps(template)} == set(ROLES), where


def test_a_new_place_for_adapters_rolls_all_that_fetch_them_and_is_what_they_read() -> None:
    objects = over("base", *ON_OBJECT_STORAGE, **new_place("s3://ours/there"))
    readers = {"control", "gateway", "intake", "vllm"}
    assert rolled(on_the_base("object-storage"), objects) == readers
    for name in readers:
        assert ArtifactsConfig(storage=place_of(objects, pods(objects)[name])).storage == "s3://ours/there"


def place_of(objects: list[Manifest], pod: Manifest) -> str:
    """What the file says that names the storage to a container of the pod."""
    for container in containers(pod):
        variables = {each["name"]: each.get("value") for each in container.get("env", ())}
        file = variables.get("SEMIEVOL__ARTIFACTS__STORAGE_FILE", "")
        folder, _, key = file.rpartition("/")
        for mount in container["volumeMounts"]:
            if folder and mount["mountPath"] == folder:
                (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
                return str(named(objects, "ConfigMap", volume["configMap"]["name"])["data"][key])
    raise AssertionError(f"nothing of {pod['metadata']['labels']} is told where adapters are")


def test_no_shipped_configuration_names_a_storage_itself() -> None:
    """The variable of the component would win over it without a word."""
    for where, objects in everything().items():
        for each in of_kind(objects, "ConfigMap"):
            if "semievol.yaml" in each["data"]:
                assert "storage" not in yaml.safe_load(each["data"]["semievol.yaml"]).get("artifacts", {}), where


def test_the_job_of_a_training_is_replaced_by_a_component_of_ones_own(tmp_path: Path) -> None:
    """As k8s/README.md has it: an overlay's generators run before its components, and would not find it yet."""
    shipped = (K8S / "components" / "training-jobs" / "job.yaml").read_text("utf-8")
    (tmp_path / "job.yaml").write_text(shipped.replace("template:", "template: # ours", 1), "utf-8")
    generated = {"name": "training-job", "behavior": "replace", "files": ["job.yaml"]}
    ours = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "configMapGenerator": [generated]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(ours), "utf-8")
    own = os.path.relpath(tmp_path.resolve(), K8S)
    objects = over("base", "components/training-jobs", own)
    assert training_job(objects) is not None
    (text,) = [each["data"]["job.yaml"] for each in of_kind(objects, "ConfigMap") if "job.yaml" in each["data"]]
    assert "# ours" in text


def test_a_release_of_the_daemon_replaces_its_own_pods_and_no_engine_or_server(tmp_path: Path) -> None:
    released = tmp_path / "k8s"
    shutil.copytree(K8S, released)
    for file in released.rglob("*.yaml"):
        file.write_text(file.read_text("utf-8").replace("0.1.0", "0.2.0"), "utf-8")
    for name in OVERLAYS:
        before, after = overlay(name), rendered(released / "overlays" / name)
        ours = {
            pod
            for pod, template in pods(before).items()
            if any("semievol" in each["image"] for each in containers(template))
        }
        assert ours >= set(ROLES)
        assert rolled(before, after) == ours
        assert "vllm" not in ours


def test_where_the_daemons_image_brings_adapters_to_an_engine_a_release_replaces_that_too() -> None:
    images = [each["image"] for each in containers(pods(on_the_base("object-storage"))["vllm"])]
    assert [image for image in images if "semievol" in image] == ["semievol-daemon:0.1.0"]


def test_the_version_on_a_pod_is_that_of_its_image() -> None:
    for where, objects in everything().items():
        for name, template in pods(objects).items():
            tag = template["spec"]["containers"][0]["image"].rpartition(":")[2]
            version = template["metadata"]["labels"]["app.kubernetes.io/version"]
            assert tag == version or tag.startswith(f"{version}-"), f"{where}: {name}"
