"""The daemon, whole, in this process: `semievold.service.Service` with all roles, and people and clients beside it.

Real: composition root, SQLite state, local stream, intake, labels role, controller, review queue, drift watch, gateway
and API on sockets, and with them whatever decides. Put in its place: the clock (`tests.scenarios.clock`), so that five
minutes of patience take a second, and what answers and trains (`tests.scenarios.model`). Neither can hide a fault of
the loop: nothing in the loop asks how an answer or an adapter came about, and time passes in the order of events.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pydantic_core

from semievol.types import Example, Query
from semievold import service
from semievold.config.daemon import ROLES, DaemonConfig
from semievold.intake.messages import label_record
from semievold.rounds.launching import Opened
from semievold.serving.adapter_servers import LocalServers
from semievold.serving.engine import Engine
from semievold.store.rounds import Round
from semievold.store.stores import open_stores
from semievold.streams.opening import open_stream
from semievold.streams.protocol import OutgoingRecord
from tests.scenarios.mail import INTENTS, Mail
from tests.scenarios.model import LearningGenerator, LearningTrainer, Model, weights_of

TOKEN = "token-of-the-scenarios"
PATIENCE_S = 3600.0
SETTINGS: Mapping[str, Any] = {
    "workload": {"name": "desk"},
    "task": {"labels": list(INTENTS)},
    "model": {"name": "none", "dtype": "float32"},
    "embedding": {"kind": "hashing"},
    # As many to prove as to teach, so that a category has the 20 that let it decide.
    "labels": {"holdout_share": 0.5, "poll_timeout_s": 2.0},
    # Mail comes by the hundred and not by the ten thousand; all that is a share of it is larger.
    "trigger": {"new_pseudo_labels": 150},
    "shadow": {"share": 0.25},
    "drift": {"reference": 150},
    # So it is with times: a second brings eight questions.
    "rollout": {"canary": [0.25, 1.0], "canary_min_s": 20.0, "canary_min_answers": 20},
    "gate": {"patience_s": 60.0},
    # Who writes here wakes nobody: it is another stream object than the daemon's.
    "stream": {"poll_interval_s": 1.0},
    "intake": {"poll_timeout_s": 2.0},
    "api": {"port": 0, "token": TOKEN},
    "gateway": {"port": 0, "token": TOKEN},
}
"""All else is as it is by default."""


class Loop:
    """One daemon that runs, and all who deal with it.

    Attributes:
        trainer: whose next training can be made to forget.
    """

    def __init__(self, config: DaemonConfig, daemon: asyncio.Task[int], trainer: LearningTrainer, mail: Mail) -> None:
        self.config, self.trainer, self.mail = config, trainer, mail
        self.stores = open_stores(config.store_url, config.workload.name, config.workload.served_alias)
        self.producer = open_stream(config.stream, self.stores.database).producer()
        self._daemon = daemon

    async def close(self) -> None:
        await self.producer.close()
        self.stores.database.close()

    # --- what comes from outside --------------------------------------------------------------------------------

    async def label(self, examples: Iterable[Example]) -> None:
        """Labels arrive, and are read."""
        await self._publish(self.config.stream.labels, [label_record(each) for each in examples])

    async def retract(self, ids: Iterable[str]) -> None:
        await self._publish(self.config.stream.labels, [OutgoingRecord(each, None) for each in ids])

    async def ask(self, queries: Sequence[Query], *, per_second: int = 8, clients: Sequence[str] = ()) -> None:
        """Queries arrive second by second, of each client in turn, and are answered."""
        for start in range(0, len(queries), per_second):
            records = [
                OutgoingRecord(
                    query.id,
                    pydantic_core.to_json({"schema_version": 1, "id": query.id, "question": query.question}),
                    {"semievol-client": clients[(start + place) % len(clients)]} if clients else {},
                )
                for place, query in enumerate(queries[start : start + per_second])
            ]
            await self._publish(self.config.stream.queries, records)
            await asyncio.sleep(1.0)
        ids = [query.id for query in queries]
        await self.until(lambda: len(self.stores.pseudo_labels.known(ids)) == len(ids))

    async def call(self, front: str, method: str, path: str, body: Any = None, token: str = TOKEN) -> tuple[int, Any]:
        """Status and body of a request."""
        url = str(pydantic_core.from_json(self._endpoints.read_bytes())[front]) + path
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers=headers) as client, client.request(method, url, json=body) as answer:
            return answer.status, pydantic_core.from_json(await answer.read())

    async def _publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        self._alive()
        await self.producer.publish(topic, records)

    # --- what is seen of it -------------------------------------------------------------------------------------

    @property
    def rounds(self) -> list[Round]:
        """Oldest first."""
        return self.stores.rounds.all()[::-1]

    @property
    def serving(self) -> Model:
        """What clients are answered by, read from its adapter's files."""
        name = self.stores.alias.get().adapter
        directory = self.config.artifacts.directory / "adapters"
        return Model(INTENTS) if name is None else weights_of(directory / name, INTENTS)

    async def until(self, what: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
        """Wait until it is so.

        Raises:
            AssertionError: the daemon has ended, or it does not come to be so.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + within_s
        while not (found := what()):
            self._alive()
            assert loop.time() < end, (
                f"not within {within_s:.0f} s; rounds: {[(r.state, r.reason) for r in self.rounds]}"
            )
            await asyncio.sleep(1.0)
        return found

    async def round(self, mail: Callable[[int], Sequence[Query]] | None = None, clients: Sequence[str] = ()) -> None:
        """Mail comes on until one more round has ended, or rounds are frozen. `mail`: draws so many queries."""
        before = self._ended
        draw = mail or self.written
        while self._ended == before and not self.stores.freezes.get():
            await self.ask(draw(8), clients=clients)

    def written(self, count: int) -> list[Query]:
        """Mail as customers write it."""
        return [each.query for each in self.mail.written(count)]

    @property
    def _ended(self) -> int:
        return sum(each.ended for each in self.rounds)

    def _alive(self) -> None:
        if self._daemon.done():
            raise AssertionError(f"the daemon has ended with {self._daemon.result()}")

    @property
    def _endpoints(self) -> Path:
        return self.config.artifacts.directory / "endpoints.json"


@asynccontextmanager
async def running(directory: Path, seed: int, settings: Mapping[str, Any]) -> AsyncIterator[Loop]:
    """The daemon runs while the block does, and stops by SIGTERM after it."""
    data = directory / "data"
    data.mkdir(parents=True)
    random.seed(seed)
    (data / "feedback.key").write_text(f"key-of-the-scenarios-{seed}")  # else drawn by the machine
    sections = {
        name: {**SETTINGS.get(name, {}), **settings.get(name, {})} for name in SETTINGS.keys() | settings.keys()
    }
    config = DaemonConfig.model_validate({**sections, "seed": seed, "artifacts": {"directory": data}})
    trainer = LearningTrainer(INTENTS)

    async def engine(_config: DaemonConfig, stack: AsyncExitStack, **_: object) -> Engine:
        generator = LearningGenerator(INTENTS)
        return Engine(generator, LocalServers(generator, config.model.dtype))

    vars(service).update(open_engine=engine, open_launcher=lambda *_: Opened(trainer, None, lambda: None))
    daemon = asyncio.create_task(service.Service(config, ROLES).run(), name="daemon")
    try:
        while not (data / "endpoints.json").exists():
            assert not daemon.done(), daemon
            await asyncio.sleep(0.5)
        loop = Loop(config, daemon, trainer, Mail(seed))
        try:
            yield loop
        finally:
            await loop.close()
    finally:
        if not daemon.done():
            os.kill(os.getpid(), signal.SIGTERM)
        assert await daemon == 0
