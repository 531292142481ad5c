"""What ships beside the code: it must be in the wheel, and what the README shows must work."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from semievol.config.file import load_config
from semievol.config.method import SERVICE_SECTIONS, MethodConfig
from semievold.config.daemon import DaemonConfig
from semievold.errors import Reason

ROOT = Path(__file__).parents[3]
PACKAGES = ("semievol", "daemon/semievold")


def test_every_data_file_of_the_packages_is_named_in_package_data() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()]
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
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", readme, re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_in_the_readme_names_every_room_and_what_stands_beside_them(package: str) -> None:
    tree = (ROOT / "README.md").read_text("utf-8").partition(f"\n{package}/")[2].partition("\n```")[0]
    branch = re.split(r"^\S", tree, maxsplit=1, flags=re.MULTILINE)[0]
    rooms = {f"{file.parent.name}/" for file in (ROOT / package).glob("*/__init__.py")}
    beside = {file.name for file in (ROOT / package).glob("*.py")} - {"__init__.py"}
    assert rooms | beside == set(
        re.findall(r"\b[a-z_]+(?:/|\.py)", "\n".join(re.findall(r"^  (\S.*?)(?:  |$)", branch, re.MULTILINE)))
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_holds_more_than_twenty_modules(package: str) -> None:
    rooms = {folder for folder in (ROOT / package).rglob("*") if folder.is_dir()} | {ROOT / package}
    rooms -= {folder for folder in rooms if folder.name == "versions"}  # a chain: each schema adds a link
    assert [str(room) for room in rooms if len(list(room.glob("*.py"))) > 21] == []  # with __init__.py


def test_every_dead_letter_reason_is_documented() -> None:
    documented = (ROOT / "docs" / "operating.md").read_text("utf-8")
    assert [reason.value for reason in Reason if f"`{reason.value}`" not in documented] == []
