"""The locks: they fit pyproject.toml and each other, and those of the images have a hash for every line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
DOCKERFILES = ("Dockerfile", "trainer.Dockerfile")
IMAGE_LOCKS = ("images.lock", "images-torch.lock", "images-build.lock")
OUTSIDE = {"vllm"}
"""An extra that no lock covers: it pins half of what the others need, and wants an environment of its own."""
IMAGE = {
    "python_version": "3.12",
    "python_full_version": "3.12.13",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


class Locked(NamedTuple):
    """One line of a lock: the requirement with its marker, and its hashes."""

    requirement: Requirement
    hashes: tuple[str, ...]


def locked(file: Path) -> list[Locked]:
    lines = re.sub(r"\\\n", "", file.read_text("utf-8")).splitlines()
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            text, *hashes = line.split("--hash=")
            found.append(Locked(Requirement(text), tuple(each.strip() for each in hashes)))
    return found


def in_the_image(*files: str) -> dict[str, str]:
    """Version of each package, on the images' platform."""
    lines = [each.requirement for file in files for each in locked(DEPLOY / file)]
    there = [each for each in lines if each.marker is None or each.marker.evaluate(IMAGE)]
    versions = {each.name: str(each.specifier).removeprefix("==") for each in there}
    assert len(versions) == len(there)
    return versions


def wanted(extra: str) -> Iterator[Requirement]:
    """What an extra names, with the extras of the project itself that it names."""
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for each in requirement.extras:
                yield from wanted(each)
        else:
            yield requirement


def image_extras() -> list[str]:
    [extras] = re.findall(r"^IMAGE_EXTRAS := (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    return str(extras).split()


@pytest.mark.parametrize("file", IMAGE_LOCKS)
def test_every_line_of_an_images_lock_names_one_version_and_its_hashes(file: str) -> None:
    lines = locked(DEPLOY / file)
    assert lines
    for line in lines:
        assert re.fullmatch(r"==[^,*]+", str(line.requirement.specifier)), line.requirement
        assert line.hashes, line.requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in line.hashes)


def test_the_images_locks_hold_what_their_extras_need_within_its_bounds() -> None:
    versions = in_the_image("images.lock", "images-torch.lock")
    needed = [Requirement(text) for text in PROJECT["dependencies"]]
    needed += [requirement for extra in image_extras() for requirement in wanted(extra)]
    for requirement in needed:
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize("file", DOCKERFILES)
def test_the_extras_that_an_image_installs_by_default_are_locked(file: str) -> None:
    [asked] = re.findall(r"^ARG EXTRAS=(\S+)", (DEPLOY / file).read_text("utf-8"), re.MULTILINE)
    names = {requirement.name for extra in image_extras() for requirement in wanted(extra)}
    assert {requirement.name for extra in asked.split(",") for requirement in wanted(extra)} <= names


def test_the_images_install_the_versions_that_are_tested() -> None:
    tested = {}
    for line in locked(ROOT / "requirements.lock"):
        if line.requirement.marker is None or line.requirement.marker.evaluate(IMAGE):
            tested[line.requirement.name] = str(line.requirement.specifier).removeprefix("==")
    installed = in_the_image("images.lock", "images-torch.lock")
    assert {name: version for name, version in installed.items() if tested.get(name) != version} == {}


def test_torch_alone_has_no_hash_in_the_lock_that_serves_every_torch_backend() -> None:
    assert [line.requirement.name for line in locked(DEPLOY / "images-torch.lock")] == ["torch"]
    assert "torch" not in in_the_image("images.lock")


def test_what_builds_an_image_is_locked_too() -> None:
    versions = in_the_image("images-build.lock")
    [backend] = [Requirement(text) for text in PYPROJECT["build-system"]["requires"]]
    assert versions[backend.name] in backend.specifier
    assert versions.keys() == {backend.name, "uv"}


@pytest.mark.parametrize("file", DOCKERFILES)
def test_an_image_installs_nothing_without_a_hash(file: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / file).read_text("utf-8"))
    calls = re.findall(r"^RUN (.*pip install.*)$", text, re.MULTILINE)
    assert len(calls) == 3
    brings_uv, dependencies, package = calls
    assert "--require-hashes --requirement images-build.lock" in brings_uv
    assert "--require-hashes" in dependencies
    assert "--constraint images.lock" in dependencies
    assert "--no-deps --build-constraint images-build.lock ." in package
    assert "requirements.lock" not in text


def test_requirements_lock_holds_what_every_extra_needs_within_its_bounds() -> None:
    versions: dict[str, set[str]] = {}
    for line in locked(ROOT / "requirements.lock"):
        versions.setdefault(line.requirement.name, set()).add(str(line.requirement.specifier).removeprefix("=="))
    needed = [Requirement(text) for text in PROJECT["dependencies"]]
    needed += [each for extra in PROJECT["optional-dependencies"].keys() - OUTSIDE for each in wanted(extra)]
    for requirement in needed:
        found = versions[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in found), requirement
