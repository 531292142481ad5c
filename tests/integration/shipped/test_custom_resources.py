"""KEDA's, Kueue's and the Prometheus operator's own definitions take what k8s/ ships for them."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import Manifest, everything, named, of_kind, overlay
from tests.servers import crds, unavailable

KEDA, KUEUE, OPERATOR = crds.MODULES
DEFINITIONS = {
    "ScaledObject": (KEDA, "keda.sh_scaledobjects.yaml"),
    "TriggerAuthentication": (KEDA, "keda.sh_triggerauthentications.yaml"),
    "LocalQueue": (KUEUE, "kueue.x-k8s.io_localqueues.yaml"),
    "PodMonitor": (OPERATOR, "monitoring.coreos.com_podmonitors.yaml"),
    "PrometheusRule": (OPERATOR, "monitoring.coreos.com_prometheusrules.yaml"),
}


def file(module: str, name: str) -> Path:
    if not crds.is_kept(module):
        unavailable("the definitions of custom resources are missing; `make servers` brings them")
    return crds.kept(module) / name


def strict(schema: Any) -> Any:
    """A definition's schema, under which a field that it does not name is an error, as `kubectl apply` has it."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and schema.get("type") == "object" and "additionalProperties" not in schema:
        inner["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if schema.get("x-kubernetes-int-or-string"):
        inner.pop("type", None)
    return inner


def faults(manifest: Manifest) -> list[str]:
    import jsonschema

    definition = yaml.safe_load(file(*DEFINITIONS[manifest["kind"]]).read_text("utf-8"))
    group, _, version = manifest["apiVersion"].partition("/")
    assert definition["spec"]["group"] == group
    (served,) = [each for each in definition["spec"]["versions"] if each["name"] == version and each["served"]]
    schema = strict(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return [
        f"{each.json_path}: {each.message}" for each in jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    ]


def test_every_custom_resource_is_as_its_definition_says() -> None:
    seen = set()
    for where, objects in everything().items():
        for each in of_kind(objects, *DEFINITIONS):
            seen.add(each["kind"])
            assert faults(each) == [], f"{where}: {each['kind']} {each['metadata']['name']}"
    assert seen == DEFINITIONS.keys()


@pytest.mark.parametrize(
    ("kind", "name", "spoil"),
    [
        ("ScaledObject", "intake", lambda spec: spec.update(cooldownPeriodSeconds=300)),
        ("ScaledObject", "intake", lambda spec: spec["fallback"].update(behavior="static-ish")),
        ("PodMonitor", "semievol", lambda spec: spec["podMetricsEndpoints"][0].update(intervall="15s")),
        ("TriggerAuthentication", "kafka", lambda spec: spec["secretTargetRef"][0].pop("key")),
    ],
)
def test_a_fault_in_one_is_found(kind: str, name: str, spoil: Any) -> None:
    manifest = copy.deepcopy(named(overlay("production"), kind, name))
    spoil(manifest["spec"])
    assert faults(manifest)


def keys(scaler: str) -> set[str]:
    """What the trigger's `metadata` may hold, by the source of KEDA's scaler."""
    source = file(KEDA, f"{scaler}_scaler.go").read_text("utf-8")
    found = re.findall(r'keda:"name=([^,"]+),\s*order=([^,"]+)', source)
    return {name.strip() for name, order in found if "triggerMetadata" in order}


def test_every_key_of_a_trigger_is_one_that_kedas_scaler_reads() -> None:
    for where, objects in everything().items():
        for each in of_kind(objects, "ScaledObject"):
            for trigger in each["spec"]["triggers"]:
                assert set(trigger["metadata"]) <= keys(trigger["type"]), f"{where}: {each['metadata']['name']}"
    assert "lagThreshold" in keys("kafka")
    assert "threshold" in keys("prometheus")


def test_a_formula_names_triggers_that_there_are() -> None:
    for objects in everything().values():
        for each in of_kind(objects, "ScaledObject"):
            formula = each["spec"].get("advanced", {}).get("scalingModifiers", {}).get("formula", "")
            names = {trigger["name"] for trigger in each["spec"]["triggers"]}
            assert set(re.findall(r"[a-z]+", formula)) <= names | {"float"}
            assert not formula or formula.startswith("float(")  # KEDA takes no other type, and falls back
