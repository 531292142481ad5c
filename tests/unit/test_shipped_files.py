"""What ships beside the code: it must be in the wheel, and what the README shows must work."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from daemon.config import DaemonConfig
from daemon.errors import Reason
from semievol.config import SERVICE_SECTIONS, MethodConfig
from semievol.config_file import load_config

ROOT = Path(__file__).parents[2]


def test_every_data_file_of_the_packages_is_named_in_package_data() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    files = [file for package in ("semievol", "daemon") for file in (ROOT / package).rglob("*") if file.is_file()]
    left_out = [
        str(file.relative_to(ROOT))
        for file in files
        if file.suffix not in (".py", ".pyc") and not any(fnmatch.fnmatch(file.name, pattern) for pattern in patterns)
    ]
    assert left_out == []


@pytest.mark.parametrize(
    ("kind", "block"), re.findall(r"```yaml( [\w-]+)?\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
)
def test_configuration_in_the_readme_is_valid(tmp_path: Path, kind: str, block: str) -> None:
    if kind != " no-daemon":
        DaemonConfig.model_validate(yaml.safe_load(block))
    (tmp_path / "semievol.yaml").write_text(block, "utf-8")
    load_config(MethodConfig, tmp_path / "semievol.yaml", {}, foreign=SERVICE_SECTIONS)


def test_every_make_target_in_the_readme_exists() -> None:
    readme, makefile = (ROOT / "README.md").read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)\b", readme, re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("package", ["semievol", "daemon"])
def test_the_tree_in_the_readme_names_every_module(package: str) -> None:
    named = set(re.findall(r"\w+\.py\b", (ROOT / "README.md").read_text("utf-8")))
    modules = {file.name for file in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert modules - named == set()


def test_every_dead_letter_reason_is_documented() -> None:
    documented = (ROOT / "docs" / "operating.md").read_text("utf-8")
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in documented] == []
