"""Publication on a storage that shows writes late and in any order: nobody sees a marker before the bytes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from semievol import adapter_directory
from semievold.serving.storage.object_storage import AdapterStorage
from tests.small_adapter import small_adapter

ROOT = "/bucket/adapters"
SEEDS = 1_000


class LateFiles(MemoryFileSystem):  # type: ignore[misc]
    """fsspec's memory, where a write or a deletion returns before it is seen; of one object in order, else in any.

    Every call is a moment at which a seeded scheduler lets some of what is pending be seen, and others look.
    """

    cachable = False
    protocol = "late"

    def __init__(self, seed: int) -> None:
        super().__init__(global_store=False, skip_instance_cache=True)
        self._draw = random.Random(seed)
        self._pending: dict[str, deque[Callable[[], None]]] = {}
        self._inside = False
        self.others: Callable[[], None] = lambda: None

    def moment(self, _s: float = 0.0) -> None:
        if self._inside:
            return
        self._inside = True
        try:
            while self._pending and self._draw.random() < 0.6:
                path = self._draw.choice(sorted(self._pending))
                self._pending[path].popleft()()
                if not self._pending[path]:
                    del self._pending[path]
                if self._draw.random() < 0.5:
                    self.others()
            self.others()
        finally:
            self._inside = False

    def settle(self) -> None:
        """Let all that is pending be seen."""
        while self._pending:
            self.moment()

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._later(path, lambda: super(LateFiles, self).pipe_file(path, value))
        self.moment()

    def rm_file(self, path: str) -> None:
        self._later(path, lambda: self.store.pop(path, None))
        self.moment()

    def info(self, path: str, **more: Any) -> Any:
        self.moment()
        return super().info(path, **more)

    def _later(self, path: str, change: Callable[[], None]) -> None:
        self._pending.setdefault(path, deque()).append(change)


class Hasty(AdapterStorage):
    """Writes the marker without having read anything back."""

    def _read_back(self, name: str, directory: Path, names: Sequence[str]) -> None: ...


def broken_looks(kind: type[AdapterStorage], seed: int, adapters: list[Path]) -> list[str]:
    """What a reader saw wrong while two versions were published, and one removed."""
    files = LateFiles(seed)
    writer, reader = kind(files, ROOT, "late://", files.moment), AdapterStorage(files, ROOT, "late://", files.moment)
    wrong: list[str] = []
    parts = (*adapter_directory.CONTENT_FILES, adapter_directory.MANIFEST_FILE)
    right = {
        f"{ROOT}/{each.name}/{adapter_directory.MARKER_FILE}": {
            f"{ROOT}/{each.name}/{file}": (each / file).read_bytes() for file in parts
        }
        for each in adapters
    }

    def look() -> None:
        for marker, contents in right.items():
            if marker in files.store:
                for path, content in contents.items():
                    seen = files.store.get(path)
                    if seen is None or seen.getvalue() != content:
                        wrong.append(path)

    files.others = look
    for adapter in adapters:
        writer.publish(adapter)
    writer.remove(adapters[0].name)
    writer.publish(adapters[0])
    writer.remove(adapters[1].name)
    files.settle()
    assert reader.names() == {adapters[0].name}
    return wrong


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("adapters")
    return [small_adapter(directory, f"w-r{number:04}", bytes([number]) * 20) for number in (1, 2)]


def test_in_a_thousand_interleavings_the_marker_is_never_seen_before_the_bytes(adapters: list[Path]) -> None:
    for seed in range(SEEDS):
        assert broken_looks(AdapterStorage, seed, adapters) == [], f"seed {seed}"


def test_who_reads_nothing_back_is_seen_to_mark_too_early(adapters: list[Path]) -> None:
    assert any(broken_looks(Hasty, seed, adapters) for seed in range(SEEDS // 10))
