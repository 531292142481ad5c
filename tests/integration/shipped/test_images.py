"""The images' build commands, run as their Dockerfiles have them, into an environment elsewhere: without an engine."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.uv_command import ROOT, shell, succeed

PLACE = "/opt/semievol"


def build_stage(file: str) -> list[str]:
    """The instructions of a Dockerfile's first stage, each on one line."""
    text = (ROOT / "deploy" / file).read_text("utf-8").split("\nFROM ")[1]
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def commands(file: str, environment: Path) -> list[str]:
    """Its calls of `uv pip`: first the dependencies, then the package."""
    lines = [line.removeprefix("RUN ") for line in build_stage(file) if line.startswith("RUN ") and "uv pip" in line]
    return [line.replace(PLACE, str(environment)) for line in lines]


def arguments(file: str, **given: str) -> dict[str, str]:
    pairs = [line.removeprefix("ARG ").partition("=") for line in build_stage(file) if line.startswith("ARG ")]
    return {name: value for name, _, value in pairs} | given


def copied(file: str, place: Path) -> Path:
    """A directory with what the stage copies."""
    for line in build_stage(file):
        if line.startswith("COPY "):
            *sources, target = line.removeprefix("COPY ").split()
            for source in sources:
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, place / Path(source).name)
    return place


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    place = tmp_path / "environment"
    succeed(f"uv venv --quiet --python {shlex.quote(sys.executable)} {place}", tmp_path)
    return place


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def test_the_daemons_image_is_made_of_what_its_lock_has_hashes_for(environment: Path, source: Path) -> None:
    copied("Dockerfile", source)
    for command in commands("Dockerfile", environment):
        succeed(command, source, arguments("Dockerfile"))
    python = environment / "bin" / "python"
    succeed(f"{python} -c 'import kafka, psycopg, semievold.commands.cli'", source.parent)
    assert "Usage: semievold" in succeed(f"{environment / 'bin' / 'semievold'} --help", source.parent)
    assert shell(f"{python} -c 'import torch'", source.parent).returncode != 0


def test_a_file_with_another_content_than_the_locks_is_refused(environment: Path, source: Path) -> None:
    lock = copied("Dockerfile", source) / "images.lock"
    entry = re.search(r"^typer==(?:.*\\\n)*.*\n", lock.read_text(), re.MULTILINE)
    assert entry is not None
    lock.write_text(lock.read_text().replace(entry[0], re.sub(r"sha256:\w+", "sha256:" + "0" * 64, entry[0])))
    done = shell(commands("Dockerfile", environment)[0], source, arguments("Dockerfile"))
    assert done.returncode != 0
    assert "Hash mismatch for `typer==" in done.stderr


def test_an_extra_that_the_locks_do_not_cover_is_refused(environment: Path, source: Path) -> None:
    copied("Dockerfile", source)
    done = shell(commands("Dockerfile", environment)[0], source, arguments("Dockerfile", EXTRAS="kafka,train"))
    assert done.returncode != 0
    assert "no trusted hash was provided for: `torch`" in done.stderr


@pytest.mark.parametrize("extras", [None, "kafka,local,mlflow,parquet,postgres,qdrant,tensorboard,train"])
def test_the_trainers_image_has_a_hash_for_all_it_installs(environment: Path, source: Path, extras: str | None) -> None:
    """Resolved only: the files of torch alone are three gigabytes."""
    copied("trainer.Dockerfile", source)
    command = commands("trainer.Dockerfile", environment)[0].replace(
        "uv pip install --quiet", "uv pip install --dry-run"
    )
    given = arguments("trainer.Dockerfile", **({} if extras is None else {"EXTRAS": extras}))
    done = shell(command, source, given)
    assert done.returncode == 0, done.stderr
    assert " + torch==" in done.stderr
