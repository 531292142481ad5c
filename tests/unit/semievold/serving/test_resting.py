"""Who rests is read from the state by a task of its own, whatever else a process follows meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import pytest

from semievol.errors import TransientError
from semievold.serving import resting
from semievold.serving.resting import RestFollower
from semievold.store.rollout.rests import Rest


class Rows:
    """A state that gives these, one at each look, and the last one from then on."""

    now = 0.0

    def __init__(self, *rows: Rest | TransientError | None) -> None:
        self._rows = list(rows)

    def get(self) -> Rest | None:
        row = self._rows.pop(0) if len(self._rows) > 1 else self._rows[0]
        if isinstance(row, TransientError):
            raise row
        return row


class Replicas:
    def __init__(self) -> None:
        self.rested: list[tuple[str, ...]] = []
        self.joining: list[bool] = []

    def rest(self, names: Collection[str], why: str = "", ask_again_s: int = 1, *, who_joins_too: bool = False) -> None:
        self.rested.append(tuple(names))
        self.joining.append(who_joins_too)


async def test_the_row_is_read_again_and_again_also_after_the_state_was_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resting, "FOLLOW_S", 0.0)
    away = TransientError("the state is away")
    rows: Any = Rows(None, Rest(1, ("a:1",), 0.0), away, away, Rest(1, ("a:1",), 0.0), None)
    replicas: Any = Replicas()
    stop = asyncio.Event()
    with caplog.at_level(logging.WARNING):
        running = asyncio.create_task(RestFollower(rows, replicas).run(stop))
        async with asyncio.timeout(5.0):
            while len(replicas.rested) < 4:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)
        stop.set()
        await running
    assert replicas.rested[:4] == [(), ("a:1",), ("a:1",), ()]
    assert [record.getMessage() for record in caplog.records] == [
        "it is not known for now which replicas rest: the state is away"
    ]


@pytest.mark.parametrize("all_share", [True, False])
async def test_whoever_joins_rests_too_where_all_share_the_gpu_and_until_they_are_woken(all_share: bool) -> None:
    rows: Any = Rows(None, Rest(1, ("a:1",), 0.0), Rest(1, ("a:1",), 0.0, waking=True))
    replicas: Any = Replicas()
    follower = RestFollower(rows, replicas, all_share=all_share)
    for _ in range(3):
        await follower.look()
    assert replicas.joining == [False, all_share, False]
