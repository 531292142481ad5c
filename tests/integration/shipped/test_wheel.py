"""The wheel as a user gets it: what is in it, that it works without any extra, and that it spares python-daemon."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.uv_command import ROOT, succeed

PACKAGES = {"semievol": ROOT / "semievol", "semievold": ROOT / "daemon" / "semievold"}
PYTHON_DAEMON = "python-daemon==3.1.2"
CONFIG = """
workload: tickets
model: {name: a-model}
task: {labels: [billing, outage]}
generation: {kind: vllm, replicas: ["http://vllm:8000"]}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither leftovers of an earlier build nor of this one count."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("semievol", "daemon", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    built = source / "dist"
    python = shlex.quote(sys.executable)
    succeed(f"uv build --quiet --wheel --no-build-isolation --python {python} --out-dir {built}", source)
    [file] = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing but the wheel and what it asks for, without any extra."""
    place = tmp_path_factory.mktemp("empty") / "environment"
    succeed(f"uv venv --quiet --python {shlex.quote(sys.executable)} {place}", place.parent)
    install(place, str(wheel))
    return place


def install(environment: Path, *what: str) -> None:
    lock = ROOT / "requirements.lock"
    python = environment / "bin" / "python"
    succeed(f"uv pip install --quiet --python {python} --constraint {lock} {shlex.join(what)}", environment.parent)


def called(environment: Path, program: str, *arguments: str) -> str:
    # Elsewhere than in the repository: what is imported must be what was installed.
    return succeed(f"{environment / 'bin' / program} {shlex.join(arguments)}", environment.parent)


def names(wheel: Path) -> Sequence[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_both_packages_and_nothing_beside_them(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    wanted = {
        f"{package}/{file.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert any(name.endswith("py.typed") for name in wanted)
    assert any(name.endswith(".jinja") for name in wanted)
    packed = {name for name in names(wheel) if ".dist-info/" not in name}
    assert packed == wanted


@pytest.mark.parametrize("program", ["semievol", "semievold"])
def test_a_program_of_the_wheel_says_what_it_can_do(environment: Path, program: str) -> None:
    assert f"Usage: {program}" in called(environment, program, "--help")


@pytest.mark.parametrize("program", ["semievol", "semievold"])
def test_a_program_of_the_wheel_reads_a_configuration(environment: Path, tmp_path: Path, program: str) -> None:
    file = tmp_path / "semievol.yaml"
    file.write_text(CONFIG, "utf-8")
    shown = json.loads(called(environment, program, "config", "show", "--config", str(file), "-o", "json"))
    assert shown["task"]["labels"] == ["billing", "outage"]


def test_what_has_data_files_finds_them(environment: Path, tmp_path: Path) -> None:
    """The migrations of the state, the page of a report, and the demo's phrasings."""
    code = (
        "from semievol.report.page import ReportData, render\n"
        "assert 'No round has run yet.' in render(ReportData('nothing yet'))\n"
        "from semievold.demo.support_desk import phrasings\n"
        "assert phrasings()\n"
        "from semievold.store.database import Database\n"
        f"Database('sqlite:///{tmp_path}/state.db').migrate()\n"
    )
    succeed(f"{environment / 'bin' / 'python'} -c {shlex.quote(code)}", environment.parent)
    assert (tmp_path / "state.db").stat().st_size > 0


def test_the_wheel_and_python_daemon_live_in_one_environment(environment: Path) -> None:
    """Its top-level module is called `daemon`, as is the folder here in which the service lies."""
    install(environment, PYTHON_DAEMON)
    code = "import daemon, semievold, sys; daemon.DaemonContext(); sys.exit('semievold' in daemon.__path__[0])"
    succeed(f"{environment / 'bin' / 'python'} -c {shlex.quote(code)}", environment.parent)
    assert "Usage: semievold" in called(environment, "semievold", "--help")
    succeed(f"uv pip check --python {environment / 'bin' / 'python'}", environment.parent)
