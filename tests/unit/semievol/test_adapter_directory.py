"""Publishing is all or nothing, and verifying says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semievol import adapter_directory
from semievol.adapter_directory import CONFIG_FILE, MANIFEST_FILE, MARKER_FILE, WEIGHTS_FILE
from semievol.errors import AdapterError


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / CONFIG_FILE).write_text('{"r": 4}')
    (directory / WEIGHTS_FILE).write_bytes(bytes(range(256)) * 8)
    return directory


def publish(work: Path, adapters: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "base_model": "base",
        "parent": None,
        "round_number": 1,
        "seed": 7,
        "training": {"rows": 3},
    }
    return adapter_directory.publish(work, adapters, "demo-r0001", **(fields | changes))


def test_a_published_adapter_verifies_and_is_named_after_its_content(work: Path, tmp_path: Path) -> None:
    path = publish(work, tmp_path / "adapters", fingerprint=({"token_ids": [1]},))
    manifest = adapter_directory.verify(path)
    assert path.name == manifest.name == f"demo-r0001-{manifest.content_hash[:8]}"
    assert (path / MARKER_FILE).read_text().strip() == manifest.content_hash
    assert (manifest.round_number, manifest.seed, manifest.parent) == (1, 7, None)
    assert manifest.training == {"rows": 3}
    assert manifest.fingerprint == ({"token_ids": [1]},)
    assert sorted(p.name for p in (tmp_path / "adapters").iterdir()) == [path.name]


def test_publishing_the_same_content_again_returns_the_first_directory_untouched(work: Path, tmp_path: Path) -> None:
    first = publish(work, tmp_path / "adapters")
    before = (first / MANIFEST_FILE).read_bytes()
    assert publish(work, tmp_path / "adapters", seed=99) == first
    assert (first / MANIFEST_FILE).read_bytes() == before


def test_other_content_gets_another_name(work: Path, tmp_path: Path) -> None:
    first = publish(work, tmp_path / "adapters")
    (work / WEIGHTS_FILE).write_bytes(b"other weights")
    assert publish(work, tmp_path / "adapters") != first


def test_a_directory_without_its_marker_is_replaced(work: Path, tmp_path: Path) -> None:
    path = publish(work, tmp_path / "adapters")
    (path / MARKER_FILE).unlink()
    (path / WEIGHTS_FILE).write_bytes(b"half")
    assert publish(work, tmp_path / "adapters") == path
    adapter_directory.verify(path)


def test_a_published_adapter_that_has_rotted_is_never_replaced_silently(work: Path, tmp_path: Path) -> None:
    path = publish(work, tmp_path / "adapters")
    (path / WEIGHTS_FILE).write_bytes(b"rotten")
    with pytest.raises(AdapterError, match="truncated"):
        publish(work, tmp_path / "adapters")


def test_work_without_weights_cannot_be_published(work: Path, tmp_path: Path) -> None:
    (work / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match=f"{WEIGHTS_FILE} is missing"):
        publish(work, tmp_path / "adapters")
    assert not (tmp_path / "adapters").exists()


def flip_last_byte(path: Path) -> None:
    content = bytearray((path / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (path / WEIGHTS_FILE).write_bytes(content)


DEFECTS: dict[str, Callable[[Path], Any]] = {
    "no STABLE marker": lambda path: (path / MARKER_FILE).unlink(),
    "content hash mismatch": flip_last_byte,
    "truncated": lambda path: (path / WEIGHTS_FILE).write_bytes((path / WEIGHTS_FILE).read_bytes()[:100]),
    f"{WEIGHTS_FILE} is missing": lambda path: (path / WEIGHTS_FILE).unlink(),
    "unreadable manifest.json": lambda path: (path / MANIFEST_FILE).write_text('{"name": "demo'),
    "content_hash is missing": lambda path: (path / MANIFEST_FILE).write_text('{"name": "x"}'),
    "not a JSON object": lambda path: (path / MANIFEST_FILE).write_text("[]"),
    "STABLE says 0000": lambda path: (path / MARKER_FILE).write_text("0" * 64),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_verify_names_the_path_and_the_defect(defect: str, work: Path, tmp_path: Path) -> None:
    path = publish(work, tmp_path / "adapters")
    DEFECTS[defect](path)
    with pytest.raises(AdapterError, match=defect) as raised:
        adapter_directory.verify(path)
    assert str(path) in str(raised.value)


def test_verify_says_that_a_directory_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no such adapter directory"):
        adapter_directory.verify(tmp_path / "nowhere")


def test_a_manifest_from_a_newer_version_is_readable(work: Path, tmp_path: Path) -> None:
    path = publish(work, tmp_path / "adapters")
    record = json.loads((path / MANIFEST_FILE).read_text())
    (path / MANIFEST_FILE).write_text(json.dumps(record | {"invented_later": 1}))
    assert adapter_directory.verify(path).name == path.name


def test_unfinished_directories_of_a_workload_are_removed_and_nothing_else(work: Path, tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    stable = publish(work, adapters)
    for name in (".unfinished-demo-r0001-12345678", "demo-r0001-abcdabcd", "demo-r-r0001-abcdabcd"):
        (adapters / name).mkdir()
    removed = adapter_directory.remove_unfinished(adapters, "demo")
    assert removed == [".unfinished-demo-r0001-12345678", "demo-r0001-abcdabcd"]
    assert sorted(p.name for p in adapters.iterdir()) == ["demo-r-r0001-abcdabcd", stable.name]


def test_a_version_is_told_from_one_of_a_workload_whose_name_begins_alike() -> None:
    assert adapter_directory.is_version_of("support-r0001-0a1b2c3d", "support")
    assert not adapter_directory.is_version_of("support-returns-r0001-0a1b2c3d", "support")
    assert not adapter_directory.is_version_of("support-r0001", "support")


def test_removing_unfinished_directories_of_a_missing_folder_is_a_no_op(tmp_path: Path) -> None:
    assert adapter_directory.remove_unfinished(tmp_path / "none", "demo") == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", "Demo", ".hidden", "-a", "a b", "a\n", "x" * 201])
def test_unusable_adapter_names_are_refused(name: str) -> None:
    with pytest.raises(AdapterError, match="not usable"):
        adapter_directory.check_name(name)


def test_usual_adapter_names_are_accepted() -> None:
    assert adapter_directory.check_name("clinc20-r0007-1a2b3c4d") == "clinc20-r0007-1a2b3c4d"
