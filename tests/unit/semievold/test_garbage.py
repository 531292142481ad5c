"""What the garbage collector is told when a process of the daemon is built."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from semievold.garbage import YOUNG, set_aside_what_was_built


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_was_built_is_passed_over_and_what_comes_later_is_looked_at() -> None:
    class Node:
        def __init__(self) -> None:
            self.itself = self

    built = Node()
    older = gc.get_threshold()[1:]
    set_aside_what_was_built()
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == (YOUNG, *older)
    assert all(each is not built for each in gc.get_objects())
    assert gc.isenabled()
