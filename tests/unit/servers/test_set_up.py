"""Setting up servers for tests: what is there is left alone, what is missing is said in one line."""

from __future__ import annotations

import sys

import pytest

from tests.servers import kafka, set_up
from tests.servers.set_up import Need


def need(name: str, package: str, *, present: bool) -> Need:
    return Need(name, (package,), f"tests on {name}", lambda: present)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; nothing is."""
    ran: list[list[str]] = []

    def record(command: list[str], _name: str, _timeout_s: float) -> str | None:
        ran.append(list(command))
        return None

    monkeypatch.setattr(set_up, "run", record)
    monkeypatch.setattr(set_up, "FETCHES", ())
    monkeypatch.delenv("CI", raising=False)
    return ran


def test_only_missing_packages_are_installed_and_only_by_root_on_debian(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = (need("A", "package-a", present=True), need("B", "package-b", present=False))
    monkeypatch.setattr(set_up, "NEEDS", needs)
    monkeypatch.setattr(set_up, "may_install", lambda: False)
    set_up.main()
    assert commands == []
    monkeypatch.setattr(set_up, "may_install", lambda: True)
    set_up.main()
    assert [command[-1] for command in commands] == ["package-b"]
    assert all("sudo" not in command and "package-a" not in command for command in commands)
    assert all("--no-remove" in command for command in commands)


def test_what_apt_refuses_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = "E: Packages need to be removed but remove is disabled."
    monkeypatch.setattr(set_up, "run", lambda command, _name, _timeout_s: refusal if "install" in command else None)
    set_up.install([need("A", "package-a", present=False)])
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"servers: apt-get could not install package-a: {refusal}")
    assert "`apt-get install --simulate package-a` names them" in said


def test_one_line_names_what_is_missing_and_what_is_skipped_for_it(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_up, "NEEDS", (need("A", "package-a", present=False), need("B", "package-b", present=False)))
    monkeypatch.setattr(set_up, "may_install", lambda: False)
    assert set_up.main() == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert "missing: A, B; skipped for it: tests on A and tests on B" in said[0]


def test_in_ci_a_missing_server_is_an_error(commands: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up, "NEEDS", (need("A", "package-a", present=False),))
    monkeypatch.setattr(set_up, "may_install", lambda: False)
    monkeypatch.setenv("CI", "true")
    assert set_up.main() == 1


def test_nothing_is_fetched_for_a_server_that_cannot_run_here(
    commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = set_up.Fetch("files", "tests.servers.none", "--fetch", "tests on A", 10, ("A",))
    monkeypatch.setattr(set_up, "FETCHES", (fetch,))
    monkeypatch.setattr(set_up, "NEEDS", (need("A", "package-a", present=False),))
    monkeypatch.setattr(set_up, "may_install", lambda: False)
    set_up.main()
    assert commands == []


@pytest.mark.parametrize(("failures", "said"), [(0, None), (1, None), (2, "no network")])
def test_jars_are_fetched_in_two_attempts_and_what_fails_both_is_an_error(
    failures: int, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [OSError("no\nnetwork")] * failures

    def fetch() -> None:
        if left:
            raise left.pop()

    monkeypatch.setattr(kafka, "missing", lambda: None)
    monkeypatch.setattr(kafka, "fetch", fetch)
    if said is None:
        kafka.main()
    else:
        with pytest.raises(SystemExit, match=f"^{said}$"):
            kafka.main()
    assert left == []


def test_a_failed_command_is_told_by_its_last_words() -> None:
    program = "print('first'); print('no network'); raise SystemExit(3)"
    assert set_up.run([sys.executable, "-c", program], "something", 60) == "no network"
    assert set_up.run([sys.executable, "-c", ""], "something", 60) is None


def test_a_command_that_takes_too_long_is_ended_and_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(set_up, "QUIET_S", 0.05)
    monkeypatch.setattr(set_up, "REPORT_S", 0.05)
    said = set_up.run([sys.executable, "-c", "import time; time.sleep(60)"], "a download", 0.3)
    assert said is not None
    assert said.startswith("gave up after")
    assert "servers: a download ..." in capsys.readouterr().out
