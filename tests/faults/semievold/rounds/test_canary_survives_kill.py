"""A canary with a real daemon: taken back within a second, gone on with after `kill -9`, and no request fails."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from semievold.round_states import RoundState as S
from semievold.store.rollout.canaries import Counted, Tally
from semievold.store.stores import Stores, open_stores
from tests.daemon_process import DaemonProcess, example, tiny_config

pytestmark = pytest.mark.timeout(900)

USERS = 30
WAIT_S = 300.0


class Clients:
    """Ask in turn, each under a name of its own, while the block runs."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._daemon = daemon
        self._over = threading.Event()
        self.seen: dict[str, list[str]] = defaultdict(list)
        self.failed: list[str] = []
        self.down = False
        """The daemon is killed just now: who does not reach it is not counted."""

    @contextmanager
    def asking(self) -> Iterator[None]:
        asking = threading.Thread(target=self._run)
        asking.start()
        try:
            yield
        finally:
            self._over.set()
            asking.join()

    def _run(self) -> None:
        turn = 0
        while not self._over.is_set():
            user, turn = f"u{turn % USERS}", turn + 1
            try:
                answer = self._daemon.chat(f"red {turn % 7}", user=user)
            except (httpx.TransportError, OSError) as error:
                if not self.down:
                    self.failed.append(repr(error))
                time.sleep(0.05)
                continue
            if answer.status_code == 200:
                self.seen[user].append(answer.headers["x-semievol-adapter"])
            elif not self.down:
                self.failed.append(answer.text)


def stores_of(daemon: DaemonProcess) -> Stores:
    return open_stores(f"sqlite:///{daemon.data.resolve() / 'state.db'}", "tiny", "tiny")


def moves(versions: list[str]) -> list[str]:
    """The versions that one client had, one after the other."""
    return [name for place, name in enumerate(versions) if place == 0 or versions[place - 1] != name]


def test_a_canary_is_taken_back_and_the_next_is_passed_over_a_kill(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        rounds={"wait_for_warm": False},
        rollout={
            "watch_s": 0.0,
            "canary": [0.4, 1],
            "canary_min_s": 0.5,
            "canary_min_answers": 25,
            "slow_answer_s": 60,
        },
    )
    daemon = DaemonProcess(config)
    daemon.start()
    try:
        daemon.wait_ready(WAIT_S)
        stores = stores_of(daemon)
        daemon.publish("labels", [example(number) for number in range(60)])
        daemon.wait_until(lambda: stores.alias.get().canary is not None, WAIT_S)
        taken_back(daemon, stores)
        assert daemon.post("/v1/rounds", {"kind": "warm"}).status_code == 200
        daemon.wait_until(lambda: stores.alias.get().canary is not None, WAIT_S)
        passed_over_a_kill(daemon, stores)
        stores.database.close()
    finally:
        daemon.stop()


def taken_back(daemon: DaemonProcess, stores: Stores) -> None:
    """Another gateway tells of failures."""
    clients = Clients(daemon)
    with clients.asking():
        daemon.wait_until(lambda: len(clients.seen) == USERS, WAIT_S)
        adapter = str(daemon.rounds()[0]["adapter"])
        failing = [
            Counted("canary", 0, "gateway", Tally(answers=100, failed=40, timed=60)),
            Counted("incumbent", 0, "gateway", Tally(answers=1000, timed=1000)),
        ]
        stores.canaries.count(adapter, "another", failing)
        began = time.monotonic()
        daemon.wait_until(lambda: stores.alias.get().canary is None, WAIT_S)
        took_s = time.monotonic() - began
        asked = sum(map(len, clients.seen.values()))
        daemon.wait_until(lambda: sum(map(len, clients.seen.values())) >= asked + USERS, WAIT_S)
    print(f"taken back after {took_s:.2f} s")
    assert took_s <= 10.0  # a second, on a machine that has the time
    ended = stores.rounds.get(0)
    assert ended is not None
    assert ended.state is S.ROLLED_BACK
    assert "errors: " in (ended.reason or "")
    assert clients.failed == []
    versions = [moves(seen) for seen in clients.seen.values()]
    assert {tuple(each) for each in versions} <= {("base",), (adapter, "base"), ("base", adapter, "base")}
    assert all(seen[-1] == "base" for seen in clients.seen.values())


def passed_over_a_kill(daemon: DaemonProcess, stores: Stores) -> None:
    """Killed in the first stage, which goes on with the same clients and counts."""
    adapter = str(stores.rounds.all()[0].adapter)
    clients = Clients(daemon)
    with clients.asking():
        daemon.wait_until(lambda: stores.canaries.counted(adapter), WAIT_S)
        clients.down = True
        daemon.kill()
        before, counted = stores.alias.get(), stores.canaries.counted(adapter)
        daemon.start()
        daemon.wait_ready(WAIT_S)
        clients.down = False
        assert before.canary is not None
        number = stores.rounds.all()[0].number
        daemon.wait_until(lambda: daemon.rounds()[0]["state"] == "settled", WAIT_S)
        last = {user: len(seen) for user, seen in clients.seen.items()}
        daemon.wait_until(lambda: all(len(clients.seen[user]) >= last[user] + 2 for user in last), WAIT_S)
    kept = {(each.version, each.stage, each.source): each.tally.answers for each in counted}
    told = {(each.version, each.stage, each.source): each.tally.answers for each in stores.canaries.counted(adapter)}
    assert all(told[key] >= answers for key, answers in kept.items())
    assert clients.failed == []
    on_trial = {user for user in clients.seen if before.canary.takes(f"default user {user}")}
    assert 0 < len(on_trial) < USERS
    for user, seen in clients.seen.items():
        # From its first answer on, or from the stage of all clients on; never back.
        assert moves(seen)[-1] == adapter
        assert len(moves(seen)) <= (1 if user in on_trial else 2), (user, moves(seen))
    assert [event["to_state"] for event in stores.rounds.events(number)][-4:] == [
        "canary",
        "canary",
        "promoted",
        "settled",
    ]
    assert stores.alias.get().adapter == adapter
