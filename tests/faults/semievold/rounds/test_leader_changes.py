"""The lead is taken by force, again and again: one round at a time, and no write of a leader that was deposed.

bench/leaders.py does it thirty times.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.candidates import Candidates
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def candidates(postgres: PostgresServer, tmp_path: Path) -> Iterator[Candidates]:
    opened = Candidates(postgres, tmp_path)
    yield opened
    opened.close()


def test_of_two_candidates_one_writes_whoever_is_killed_or_stands_still(candidates: Candidates) -> None:
    rng = random.Random(0)
    for kind in (signal.SIGSTOP, signal.SIGKILL, signal.SIGSTOP):
        candidates.change(kind, rng)
    candidates.ask()
    candidates.settle(1)
    seen = candidates.seen()
    assert seen.writes > 10
    assert seen.writers >= 2
    assert (seen.by_others, seen.most_open) == (0, 1)
    candidates.assert_rounds_were_whole()
