"""What k8s/ renders to is valid for Kubernetes, strictly: a field that it does not know is an error."""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.manifests import Manifest, everything, named, overlay
from tests.servers import unavailable

VERSIONS = ("1.36", "1.37")
OWN_KINDS = {"LocalQueue", "PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}
"""Custom resources: tests/integration/shipped/test_custom_resources.py checks them."""


def package() -> Any:
    try:
        import kubernetes_validate
    except ImportError:
        unavailable("the package kubernetes-validate is missing; `make setup` brings it")
    return kubernetes_validate


def schemas() -> Path:
    return Path(package().__file__).parent / "kubernetes-json-schema"


@functools.cache
def definitions(version: str) -> Any:
    """What the objects of a Kubernetes version are made of; strict: a field that is not named is an error."""
    (folder,) = schemas().glob(f"v{version}.*-local-strict")
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    contents = json.loads((folder / "_definitions.json").read_text("utf-8"))
    resource = Resource.from_contents(contents, default_specification=DRAFT202012)
    return Registry().with_resources([("_definitions.json", resource), (contents.get("$id", ""), resource)]).crawl()


@functools.cache
def validator(kind: str, api_version: str, version: str) -> Any:
    """As kubernetes_validate makes one for each object, of schemas that are read once."""
    (folder,) = schemas().glob(f"v{version}.*-local-strict")
    from jsonschema import Draft202012Validator

    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = json.loads((folder / f"{kind.lower()}-{group}.json").read_text("utf-8"))
    return Draft202012Validator(schema, registry=definitions(version))


def faults(manifest: Manifest) -> list[str]:
    return [
        f"{version}: {error.json_path}: {error.message}"
        for version in VERSIONS
        for error in validator(manifest["kind"], manifest["apiVersion"], version).iter_errors(manifest)
    ]


def test_every_overlay_and_component_is_valid_for_kubernetes() -> None:
    seen: set[str] = set()
    for where, objects in everything().items():
        for each in objects:
            text = json.dumps(each, sort_keys=True)
            if each["kind"] not in OWN_KINDS and text not in seen:
                assert faults(each) == [], f"{where}: {each['kind']} {each['metadata']['name']}"
            seen.add(text)


def test_a_misspelt_field_is_found_as_by_kubernetes_validate() -> None:
    kubernetes_validate = package()
    gateway = copy.deepcopy(named(overlay("try"), "Deployment", "gateway"))
    gateway["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 60
    assert len(faults(gateway)) == len(VERSIONS)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(gateway, VERSIONS[0], strict=True)
