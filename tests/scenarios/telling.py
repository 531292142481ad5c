"""Tells each story once, in a process that has the stories' clock."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.scenarios import clock, stories
from tests.scenarios.stories import Told

Tell = Callable[[str, int], Told]
KEPT = pytest.StashKey[dict[tuple[str, int], Told]]()
MEMORY = Path("/dev/shm")
"""Where a sync costs nothing: what survives a crash is asked elsewhere (tests/faults)."""


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Iterator[Tell]:
    """What became of a story that was told with a seed."""
    kept: dict[tuple[str, int], Told] = {}
    pytestconfig.stash[KEPT] = kept
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=clock.install) as process:

        def told(name: str, seed: int) -> Told:
            if (name, seed) not in kept:
                with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
                    kept[name, seed] = process.submit(stories.tell, name, seed, Path(directory)).result()
            return kept[name, seed]

        yield told
