from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from semievol.durable_files import create_durably, publish_directory, write_durably, write_whole


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, frozenset[str]]]:
    """What was flushed to the disk, by name, each with the names that its directory (or itself) held then."""
    calls: list[tuple[str, frozenset[str]]] = []

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        directory = path if path.is_dir() else path.parent
        calls.append((path.name, frozenset(os.listdir(directory))))

    monkeypatch.setattr(os, "fsync", record)
    return calls


def test_a_file_gets_its_name_when_its_bytes_are_on_the_disk_and_then_the_name_is_flushed_too(
    tmp_path: Path, synced: list[tuple[str, frozenset[str]]]
) -> None:
    write_durably(tmp_path / "a.json", "{}")
    (first, beside), (second, after) = synced
    assert first != "a.json"
    assert beside == {first}
    assert second == tmp_path.name
    assert after == {"a.json"}
    assert (tmp_path / "a.json").read_text() == "{}"


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_durably(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_durably(path, "new\n\ud800")
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_what_is_only_shown_replaces_the_old_file_without_waiting_for_the_disk(
    tmp_path: Path, synced: list[tuple[str, frozenset[str]]]
) -> None:
    for text in ("one", "two"):
        write_whole(tmp_path / "progress.json", text)
    assert (tmp_path / "progress.json").read_text() == "two"
    assert os.listdir(tmp_path) == ["progress.json"]
    assert synced == []


def test_a_file_that_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    assert create_durably(path, "first\n", mode=0o600)
    assert not create_durably(path, "second\n", mode=0o600)
    assert path.read_text() == "first\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["api.token"]


def test_a_directory_gets_its_name_after_all_that_is_in_it_is_on_the_disk(
    tmp_path: Path, synced: list[tuple[str, frozenset[str]]]
) -> None:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "inner" / "weights").write_text("x")
    publish_directory(made, tmp_path / "v1")
    names = [name for name, _ in synced]
    assert sorted(names[:-1]) == ["inner", "made", "weights"]
    assert synced[-1] == (tmp_path.name, {"v1"})


def test_a_directory_is_not_put_in_place_of_one_that_holds_something(tmp_path: Path) -> None:
    for name in ("made", "v1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        publish_directory(tmp_path / "made", tmp_path / "v1")
    assert (tmp_path / "v1" / "file").read_text() == "v1"
    assert (tmp_path / "made" / "file").read_text() == "made"


def test_an_error_names_the_file_that_was_meant_and_not_the_one_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "no-such-directory" / "a.json"
    with pytest.raises(FileNotFoundError) as failed:
        write_durably(path, "{}")
    assert failed.value.filename == str(path)
