"""Drift weighed in a process of its own: the same as here, gone with its parent, begun anew when it has ended."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import PseudoLabel, Query
from semievold.config.daemon import DaemonConfig
from semievold.drift.watch import FEW, DriftWatch
from semievold.drift.weighing import Batch, NotApartError, Weighed, WeigherApart
from semievold.rounds.lease import ControlLease
from semievold.store.pseudo_labels import NewLabel
from semievold.store.stores import Stores, open_stores

LABELS = ("even", "odd")
CONFIG = DaemonConfig.model_validate(
    {
        "workload": "apart",
        "model": {"name": "none"},
        "task": {"labels": list(LABELS)},
        "drift": {"reference": 200, "false_alarm_every": 10_000, "settled_s": 0.001},
    }
)
WAIT_S = 30.0


def opened(directory: Path) -> tuple[str, Stores]:
    directory.mkdir()
    url = f"sqlite:///{directory}/state.db"
    stores = open_stores(url, "apart", "apart")
    stores.drift.position()
    time.sleep(0.01)
    return url, stores


def apart(url: str) -> WeigherApart:
    return WeigherApart(url, "apart", CONFIG.drift, len(LABELS), 1)


def watch(stores: Stores, by: WeigherApart | None) -> DriftWatch:
    lease, equality = ControlLease(stores.leases, 10.0, exclusive=True), AnswerEquality(Task(CONFIG.task), None)
    return DriftWatch(CONFIG.drift, stores, lease, equality, len(LABELS), 1, stores.database.now, by)


def traffic(stores: Stores, numbers: Iterable[int], *, similarity: float = 0.8, sureness: float = 0.9) -> None:
    labels = []
    for number in numbers:
        rng = random.Random(number)
        near = ((f"e{number % 8}", similarity + rng.uniform(-0.1, 0.1)),)
        query, sure = Query(f"q{number:05}", f"question {number}"), sureness + rng.uniform(-0.1, 0.1)
        said = PseudoLabel(query, rng.choice(LABELS), 1 - sure, 1.0, sure, True, None, near, ())
        labels.append(NewLabel(said, "h"))
    stores.pseudo_labels.add(labels)


def looked(by: DriftWatch) -> None:
    time.sleep(0.01)
    while by.look():
        pass


def children() -> set[int]:
    found = set()
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "spawn_main" in " ".join(each.cmdline()):
                found.add(each.pid)
    return found


def test_what_is_weighed_apart_says_what_it_says_here(tmp_path: Path) -> None:
    said, statistics = [], []
    for name in ("here", "apart"):
        url, stores = opened(tmp_path / name)
        process = apart(url) if name == "apart" else None
        found = watch(stores, process)
        before = children()
        traffic(stores, range(3 * FEW))
        looked(found)
        assert stores.drift.events() == []
        traffic(stores, range(3 * FEW, 5 * FEW), similarity=0.4, sureness=0.6)
        looked(found)
        assert len(children() - before) == (1 if process else 0)
        (event,) = stores.drift.events()
        told = {key: event.evidence[key] for key in ("said", "queries", "answers", "nearest_examples", "moved_most")}
        known = {key: (each.get("seen"), each.get("alarmed")) for key, each in stores.drift.detectors().items()}
        said.append((known, event.kind, told, [each["kind"] for each in event.also]))
        statistics.append(event.evidence["statistic"])
        stores.database.close()
        if process is not None:
            process.close()
    assert said[0] == said[1]
    # Values are added up in batches, of other sizes here and there: the last digits may differ.
    assert statistics[0] == pytest.approx(statistics[1], rel=1e-6)


def test_few_queries_begin_no_process(tmp_path: Path) -> None:
    url, stores = opened(tmp_path / "state")
    found, before = watch(stores, apart(url)), children()
    for look in range(4):
        traffic(stores, range(look * (FEW - 1), (look + 1) * (FEW - 1)))
        looked(found)
    assert children() <= before
    assert stores.drift.detectors()["confidence|base|"]["seen"] == 4 * (FEW - 1)
    stores.database.close()


def test_a_process_that_was_killed_is_told_of_and_begun_anew(tmp_path: Path) -> None:
    url, stores = opened(tmp_path / "state")
    process = apart(url)
    traffic(stores, range(10))
    batch = Batch(stores.drift.position(), time.time() + 1, 100, None)
    before = children()
    first = process.weigh(batch)
    assert first.read == 10
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(NotApartError, match="has ended"):
        process.weigh(batch)
    assert process.weigh(batch) == first
    process.close()
    stores.database.close()


def test_what_cannot_be_weighed_apart_is_weighed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, stores = opened(tmp_path / "state")
    nowhere = apart("nonsense://")  # its process ends before it can weigh
    found = watch(stores, nowhere)
    traffic(stores, range(4 * FEW))
    looked(found)
    assert stores.drift.detectors()["confidence|base|"]["seen"] == 4 * FEW
    nowhere.close()

    def no_room(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("semievold.drift.weighing.ProcessPoolExecutor", no_room)
    traffic(stores, range(4 * FEW, 8 * FEW))
    looked(found)
    assert stores.drift.detectors()["confidence|base|"]["seen"] == 8 * FEW
    stores.database.close()


def test_a_new_reference_meanwhile_leaves_what_was_weighed_apart_to_be_weighed_anew(tmp_path: Path) -> None:
    url, stores = opened(tmp_path / "state")
    process = apart(url)

    class Rearming:
        """A person sets another reference while the other process weighs."""

        def __init__(self) -> None:
            self.asked = 0

        def weigh(self, batch: Batch) -> Weighed:
            self.asked += 1
            weighed = process.weigh(batch)
            if self.asked == 1:
                stores.drift.rearm("a person")
            return weighed

    found, between = watch(stores, process), Rearming()
    found._apart = between  # type: ignore[assignment]  # the real one, with somebody in between
    traffic(stores, range(4 * FEW))
    looked(found)
    assert between.asked >= 2
    seen = stores.drift.detectors()
    assert stores.drift.position().arming == 2
    assert seen.get("confidence|base|", {"seen": 0})["seen"] <= 4 * FEW
    process.close()
    stores.database.close()


async def test_the_process_ends_when_few_come_again_and_with_the_daemon(tmp_path: Path) -> None:
    url, stores = opened(tmp_path / "state")
    process, before, stop = apart(url), children(), asyncio.Event()
    lease, equality = ControlLease(stores.leases, 10.0, exclusive=True), AnswerEquality(Task(CONFIG.task), None)
    settings = CONFIG.drift.model_copy(update={"look_s": 0.2})
    found = DriftWatch(settings, stores, lease, equality, len(LABELS), 1, stores.database.now, process)
    tasks = [asyncio.create_task(lease.run(stop)), asyncio.create_task(found.run(stop))]

    async def until_there_are(count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(children() - before) != count:  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(0.01)

    await asyncio.to_thread(traffic, stores, range(3 * FEW))
    await until_there_are(1)
    await until_there_are(0)  # the next look finds none
    await asyncio.to_thread(traffic, stores, range(3 * FEW, 6 * FEW))
    await until_there_are(1)
    stop.set()
    await asyncio.gather(*tasks)
    await until_there_are(0)
    stores.database.close()


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    url, stores = opened(tmp_path / "state")
    stores.database.close()
    script = tmp_path / "parent.py"
    script.write_text(f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[4])!r})
if __name__ == "__main__":
    from semievold.drift.weighing import Batch
    from semievold.store.drift.events import Position
    from tests.integration.semievold.drift.test_weighing import apart
    found = apart({url!r})
    found.weigh(Batch(Position(1, 0.0, "", 0.0, ""), time.time(), 10, None))
    print("weighed", flush=True)
    time.sleep(60)
""")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "weighed\n"
            below = psutil.Process(parent.pid).children(recursive=True)
            assert below
        finally:
            parent.kill()
    _, alive = psutil.wait_procs(below, timeout=WAIT_S)
    assert alive == []
