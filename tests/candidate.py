"""A process with the control role on PostgreSQL, for tests that kill it and let it stand still.

`python -m tests.candidate URL DIRECTORY LEASE_S`

Control, lease, rounds and fleet are the daemon's; what answers and what trains are `tests.control_world`'s, so that it
starts in seconds and a round takes a few. Invariant: it names itself to the database by its process id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from semievol.adapter_directory import WEIGHTS_FILE
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.protocols import Tell
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import GenerationRequest
from semievold.config.daemon import DaemonConfig
from semievold.rounds.control import Control
from semievold.rounds.launch import TrainingPlace
from semievold.rounds.lease import ControlLease
from semievold.rounds.places import RoundPlace
from semievold.rounds.retention import Retention
from semievold.rounds.steps import RoundEngine
from semievold.rounds.tools import RoundTools
from semievold.serving.adapter_servers import LocalServers
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.serving.following import StateFollower
from semievold.store.retention import RetentionStore
from semievold.store.stores import open_stores, stores_over
from tests.control_world import SETTINGS, WORKLOAD, Engine, Trainer, Weights
from tests.stream_world import ListIndex

POOL = 60
TRAINING_S = 0.6
"""A training takes up to so long: some are met in it."""


def settings(directory: Path) -> DaemonConfig:
    """Rounds one after the other, as soon as a few queries have come."""
    return DaemonConfig.model_validate(
        {
            **SETTINGS,
            "trigger": {**SETTINGS["trigger"], "new_pseudo_labels": 5, "min_new": 5, "retry_failed_s": 0.5},
            "rollout": {"watch_s": 0.5, "drain_s": 0.2, "quarantine": False},
            "rounds": {"max_pool": POOL, "max_attempts": 50},
            "breaker": dict.fromkeys(
                ("min_answers", "min_real_share", "max_depth", "max_anchor_disagreement", "max_duplicates")
            ),
            "artifacts": {"directory": directory, "keep_adapters": 3, "keep_rounds": 5},
            "store": {
                "url": f"sqlite:///{directory}/unused.db",
                "retention": {"pseudo_labels": 120, "interval_s": 2.0},
            },
        }
    )


class FileEngine(Engine):
    """Knows of an adapter what its file says, as an engine in another process than the trainer's does."""

    def __init__(self, weights: dict[str | None, Weights]) -> None:
        super().__init__(weights)
        self._known = weights

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        await super().answer(requests, tell)
        self.calls.clear()  # a double remembers each, and a soak asks for ever

    async def load_adapter(self, name: str, path: Path) -> None:
        right, entropy = re.findall(r"right=(\d+), entropy=([\d.]+)", (path / WEIGHTS_FILE).read_text())[0]
        self._known[name] = Weights(int(right), float(entropy))
        await super().load_adapter(name, path)


class SlowTrainer(Trainer):
    """Trains for a moment; what comes out is better or worse, by the number of the round."""

    def __init__(self, weights: dict[str | None, Weights]) -> None:
        super().__init__(weights)
        self.before = self._moment

    async def _moment(self) -> None:
        await asyncio.sleep(random.random() * TRAINING_S)

    def learned(self, _place: TrainingPlace, round_number: int) -> Weights:
        return Weights((5, 8, 6, 10, 7)[round_number % 5], 0.4 - 0.02 * (round_number % 10))


async def lead(url: str, directory: Path, lease_s: float) -> None:
    """Until SIGTERM."""
    config = settings(directory)
    stores = open_stores(url, WORKLOAD, WORKLOAD, migrate=False)
    lease = ControlLease(stores.leases, lease_s)
    checked = stores_over(stores.database.checked(lease.check), WORKLOAD, WORKLOAD)
    weights: dict[str | None, Weights] = {None: Weights(4, 0.5)}
    engine, place, task = FileEngine(weights), RoundPlace.under(directory), Task(config.task)
    alias = Alias(stores.alias.get())
    fleet = AdapterFleet(checked, LocalServers(engine, config.model.dtype), alias, place.adapters)
    labeller = CollaborativeLabeller(engine, None, task, config.labelling, config.seed)
    tools = RoundTools(
        checked,
        task,
        engine,
        ListIndex(),
        HashingEmbedder(),
        labeller.label,
        SlowTrainer(weights),
        fleet,
        alias,
        AnswerEquality(task),
    )

    async def no_lag() -> int:
        return 0

    control = Control(config, checked, lease, RoundEngine(config, tools, place), fleet, alias, no_lag)
    follower = StateFollower(stores, alias, fleet, lambda: control.leads)
    old = RetentionStore(checked.database, WORKLOAD)
    kept = config.artifacts.keep_rounds
    retention = Retention(old, config.store.retention, kept, lease, lambda _what, _rows: None, checked.database.now)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.gather(control.run(stop), lease.run(stop), follower.run(stop), retention.run(stop))
    stores.database.close()


def main(arguments: Sequence[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    asyncio.run(lead(arguments[0], Path(arguments[1]), float(arguments[2])))


if __name__ == "__main__":
    main(sys.argv[1:])
