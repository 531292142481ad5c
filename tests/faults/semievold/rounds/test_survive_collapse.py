"""A version that gives one answer to everything, promoted in the real loop: the watch takes it back, also through a
`kill -9`.
"""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from semievol import adapter_directory
from semievold.round_states import MAIN_PATH, RoundState
from semievold.store.stores import Stores, open_stores
from tests.daemon_process import COLOURS, DaemonProcess, example, query, tiny_config

EXAMPLES, QUERIES = 60, 40
SHADOW = {"share": 1.0, "per_second": 50.0, "gateway": True}

pytestmark = pytest.mark.timeout(900)


def stores_of(daemon: DaemonProcess) -> Stores:
    return open_stores(f"sqlite:///{daemon.data.resolve() / 'state.db'}", "tiny", "tiny")


def taught(daemon: DaemonProcess, examples: list[dict[str, Any]]) -> str:
    """The version that a real warm round makes of these."""
    daemon.start()
    daemon.wait_ready()
    daemon.publish("labels", examples)
    daemon.wait_until(lambda: (rounds := daemon.rounds()) and rounds[0]["state"] == "settled", 400)
    assert daemon.stop() == 0
    return str(stores_of(daemon).rounds.all()[0].adapter)


def promote(stores: Stores, directory: Path, adapters: Path) -> str:
    """A round that has promoted a version from elsewhere: what is in a state after a promotion, and nothing else."""
    path = adapters / directory.name
    shutil.copytree(directory, path)
    manifest = adapter_directory.verify(path)
    serving = stores.alias.get()
    number = stores.rounds.plan("evolve", "test", 1, serving.adapter, {}).number
    training = MAIN_PATH.index(RoundState.TRAINING)
    for current, following in pairwise(MAIN_PATH[: training + 1]):
        stores.rounds.transition(number, current, following)
    row = {"name": manifest.name, "path": str(path), "content_hash": manifest.content_hash, "parent": None}
    stores.rounds.trained(number, {}, row)
    trained, attested = MAIN_PATH.index(RoundState.TRAINED), MAIN_PATH.index(RoundState.ATTESTED)
    for current, following in pairwise(MAIN_PATH[trained : attested + 1]):
        stores.rounds.transition(number, current, following)
    stores.rounds.promote(number, "tiny", manifest.name, serving.generation)
    return manifest.name


def left_or_weighed(daemon: DaemonProcess, pairs: int) -> bool:
    round_ = daemon.rounds()[0]
    return bool(round_["state"] == "rolled_back" or (round_["watch"] or {}).get("pairs", 0) >= pairs)


def test_one_answer_to_everything_is_rolled_back_within_50_pairs_through_a_kill(tmp_path: Path) -> None:
    settings = {"shadow": SHADOW, "rollout": {"watch_s": 600.0}}
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    shutil.copytree(  # one base model, so that the one's adapter fits the other
        Path(tiny_config(tmp_path / "good").parent / "model"), tmp_path / "bad" / "model"
    )
    bad = DaemonProcess(tiny_config(tmp_path / "bad"))
    poison = taught(bad, [{**example(number), "answer": COLOURS[0]} for number in range(EXAMPLES)])
    daemon = DaemonProcess(tiny_config(tmp_path / "good"))
    good = taught(daemon, [example(number) for number in range(EXAMPLES)])
    daemon = DaemonProcess(tiny_config(tmp_path / "good", **settings))
    stores = stores_of(daemon)
    assert promote(stores, bad.data / "adapters" / poison, daemon.data / "adapters") == poison

    daemon.start()
    daemon.wait_ready()
    assert daemon.chat("red 1").headers["x-semievol-adapter"] == poison
    daemon.wait_until(lambda: daemon.chat("blue 5").status_code == 200 and stores.shadow_pairs.answered(1))
    assert {pair.source for pair in stores.shadow_pairs.pairs(1)} == {"gateway"}
    daemon.publish("queries", [query(number) for number in range(10)])
    daemon.wait_until(lambda: stores.shadow_pairs.answered(1) >= 5)
    daemon.kill()
    before = stores.shadow_pairs.pairs(1)
    assert stores.alias.get().adapter == poison

    daemon.start()
    daemon.wait_ready()
    for number in range(10, 10 + QUERIES, 5):
        daemon.publish("queries", [query(each) for each in range(number, number + 5)])
        # No more is asked before these are weighed: a fast machine would answer all before the watch looks.
        daemon.wait_until(lambda last=number: left_or_weighed(daemon, last + 5))
        if daemon.chat("red 1").headers["x-semievol-adapter"] == good:
            break
    daemon.wait_until(lambda: daemon.rounds()[0]["state"] == "rolled_back")
    answer = daemon.chat("blue 1")
    assert (answer.status_code, answer.headers["x-semievol-adapter"]) == (200, good)
    shown = daemon.rounds()[0]
    assert shown["reason"].startswith(f"concentration: '{COLOURS[0]}' is the answer to ")
    assert shown["watch"]["breach"] == shown["reason"]
    assert daemon.stop() == 0
    after = stores.shadow_pairs.pairs(1)
    assert after[: len(before)] == before, "what was answered before the kill counts on, once"
    assert len(after) <= 50
    assert stores.alias.get().adapter == good
