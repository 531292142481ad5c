"""The controller in a world of its own: real SQLite stores, real adapter directories, a trainer that trains at once.

What answers is scripted: weights know the answers to so many of ten questions, and the same weights answer the
fingerprint alike. Time is the loop's (`tests.virtual_time`): rows carry it, and waiting takes none of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from semievol import adapter_directory
from semievol.adapter_directory import CONFIG_FILE, WEIGHTS_FILE
from semievol.errors import TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.file_lock import FileLock
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.protocols import Tell
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.training.job import read_snapshot
from semievol.types import Example, GenerationRequest, Message, Query
from semievold.config.daemon import DaemonConfig
from semievold.round_states import MAIN_PATH, RoundKind, RoundState
from semievold.rounds.control import Control
from semievold.rounds.launch import Trained, TrainingPlace
from semievold.rounds.lease import ControlLease
from semievold.rounds.places import RoundPlace
from semievold.rounds.steps import RoundEngine
from semievold.rounds.tools import RoundTools
from semievold.serving.adapter_servers import LocalServers
from semievold.serving.alias import Alias
from semievold.serving.fleet import AdapterFleet
from semievold.serving.following import StateFollower
from semievold.store.database import Database
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.requests import OperatorRequest, RequestKind
from semievold.store.rounds import Round
from semievold.store.stores import stores_over
from semievold.tracing import Tracing
from tests.scripted import ListIndex, ScriptedGenerator, completion, pseudo_label

WORKLOAD = "w"
ANSWERS = ("even", "odd")
TTL_S = 9.0
EPOCH_S = 1_700_000_000.0
"""What `now` says when the loop's clock is at 0."""
LOOK_S = 0.5
HELD_OUT = range(1000, 1030)

SETTINGS: Mapping[str, Any] = {
    "workload": WORKLOAD,
    "model": {"name": "none", "dtype": "float32"},
    "task": {"labels": list(ANSWERS)},
    "labelling": {"configurations": [{"name": "now", "temperature": 0.0, "neighbours": 0}], "justify": False},
    "selection": {"theta": 1.0},
    "gate": {"patience_s": 0.0},
    "trigger": {"min_examples": 4, "labels_quiet_s": 0.0, "new_pseudo_labels": 10},
    "rollout": {"watch_s": 1.0, "drain_s": 2.0},
}

Hook = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """A hook that lets the call through."""


def failing(*errors: Exception) -> Hook:
    """A hook that raises these, one a call, and then lets every call through."""
    left = list(errors)

    async def hook() -> None:
        if left:
            raise left.pop(0)

    return hook


class Brake:
    """A hook at which every call waits until `released`."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.released.wait()


@dataclass(frozen=True, slots=True)
class Weights:
    """Know the answers to `right` of any ten questions, but to those that end in a digit of `forgotten`; `entropy`
    (nats a token) tells them from others.
    """

    right: int
    entropy: float
    forgotten: frozenset[int] = frozenset()

    def answer(self, question: str) -> str:
        number = int(re.findall(r"\d+", question)[-1])
        known = number % 10 < self.right and number % 10 not in self.forgotten
        return ANSWERS[number % 2] if known else ANSWERS[1 - number % 2]


def example(number: int) -> Example:
    return Example(Query(f"e{number}", f"is {number} even?"), ANSWERS[number % 2])


class Engine(ScriptedGenerator):
    """Answers with the weights of the adapter's name; its calls can be made to wait or to fail."""

    def __init__(self, weights: Mapping[str | None, Weights]) -> None:
        super().__init__(self._said)
        self._weights = weights
        self.before_load: Hook = nothing
        self.before_answer: Hook = nothing
        self.before_unload: Hook = nothing
        self.loads: list[str] = []

    def _said(self, request: GenerationRequest) -> list[tuple[str, float]]:
        weights = self._weights[request.adapter]
        return [(weights.answer(request.messages[-1].content), weights.entropy)] * request.samples

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        await self.before_answer()
        await super().answer(requests, tell)

    async def load_adapter(self, name: str, path: Path) -> None:
        await self.before_load()
        if name not in self.adapters:
            self.loads.append(name)
        await super().load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        await self.before_unload()
        await super().unload_adapter(name)


class Trainer:
    """A Launcher that publishes an adapter of the snapshot at once. `right`, `forgotten`: what the next weights will
    know.
    """

    def __init__(self, weights: dict[str | None, Weights]) -> None:
        self._weights = weights
        self.right = 10
        self.forgotten: frozenset[int] = frozenset()
        self.before: Hook = nothing
        self.begun = 0
        """Trainings that were begun."""
        self.stopped = 0
        """Those that were cancelled."""
        self.retired: list[int | None] = []
        """The open rounds for which all others' trainings were ended."""
        self.unreachable = False

    async def trains(self) -> bool:
        return False

    async def train(self, place: TrainingPlace) -> Trained:
        self.begun += 1
        try:
            await self.before()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        job, rows = read_snapshot(place.snapshot)
        return self.publish(place, job.name_prefix, job.round_number, job.fingerprint_prompts, {"rows": len(rows)})

    async def retire(self, open_round: int | None) -> None:
        if self.unreachable:
            raise TransientError("what trains elsewhere does not answer")
        self.retired.append(open_round)

    def learned(self, _place: TrainingPlace, round_number: int) -> Weights:
        """What the weights know that come out."""
        return Weights(self.right, 0.4 - 0.02 * (round_number % 10), self.forgotten)

    def publish(
        self,
        place: TrainingPlace,
        name_prefix: str,
        round_number: int,
        prompts: Sequence[Sequence[Message]],
        training: Mapping[str, Any],
    ) -> Trained:
        """Write what was trained, as the real trainer does, with what the weights answer to the prompts.

        Raises:
            TransientError: a former leader's process does so at this moment, or stands still in it.
        """
        lock = FileLock.take(place.adapters.parent / f"lock-{name_prefix}")
        if lock is None:
            raise TransientError("another process trains")
        with lock:
            return self._published(place, name_prefix, round_number, prompts, training)

    def _published(
        self,
        place: TrainingPlace,
        name_prefix: str,
        round_number: int,
        prompts: Sequence[Sequence[Message]],
        training: Mapping[str, Any],
    ) -> Trained:
        weights = self.learned(place, round_number)
        adapted, base = (
            {"token_ids": list(said.token_ids), "logprobs": list(said.logprobs)}
            for said in (completion("", each.entropy) for each in (weights, self._weights[None]))
        )
        place.work.mkdir(parents=True, exist_ok=True)
        (place.work / CONFIG_FILE).write_text("{}")
        (place.work / WEIGHTS_FILE).write_text(f"{round_number} {weights}")
        path = adapter_directory.publish(
            place.work,
            place.adapters,
            name_prefix,
            base_model="none",
            parent=None,
            round_number=round_number,
            seed=0,
            training=training,
            fingerprint=tuple(
                {"messages": [asdict(message) for message in prompt], **adapted, "base": base} for prompt in prompts
            ),
        )
        self._weights.setdefault(path.name, weights)
        manifest = adapter_directory.verify(path)
        return Trained(manifest.name, path, manifest.content_hash, manifest.training)


class Process:
    """A process with the control role. Its engine is its own; state, files and trainer are the world's."""

    def __init__(self, world: ControlWorld, *, exclusive: bool) -> None:
        config, stores = world.config, world.stores
        self.lease = ControlLease(stores.leases, TTL_S, exclusive=exclusive, monotonic=world.loop.time)
        self.stores = stores_over(stores.database.checked(self.lease.check), WORKLOAD, WORKLOAD)
        self.generator = Engine(world.weights)
        self.alias = Alias(stores.alias.get())
        self.fleet = AdapterFleet(
            self.stores, LocalServers(self.generator, config.model.dtype), self.alias, world.place.adapters
        )
        task = Task(config.task)
        tools = RoundTools(
            self.stores,
            task,
            self.generator,
            world.index,
            HashingEmbedder(),
            CollaborativeLabeller(self.generator, None, task, config.labelling, config.seed).label,
            world.trainer,
            self.fleet,
            self.alias,
            AnswerEquality(task),
            world.tracing,
        )
        self.engine = RoundEngine(config, tools, world.place)
        self.control = Control(
            config, self.stores, self.lease, self.engine, self.fleet, self.alias, world.measure_labels_lag
        )
        self.follower = StateFollower(stores, self.alias, self.fleet, lambda: self.control.leads)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Ask for the lease and control."""
        self._tasks.append(asyncio.create_task(self.control.run(self._stop), name="control"))
        self._tasks.append(asyncio.create_task(self.lease.run(self._stop), name="lease"))

    async def lead(self) -> None:
        """Take the lease, let the caller's own writes count as the leader's, follow the alias; control nothing."""
        await self.take_lease()
        await self.fleet.follow()

    async def take_lease(self) -> None:
        """Take the lease, and let the caller's own writes count as the leader's."""
        self._tasks.append(asyncio.create_task(self.lease.run(self._stop), name="lease"))
        while (term := self.lease.term) is None:  # noqa: ASYNC110 - a lease tells nobody
            await asyncio.sleep(LOOK_S)
        self.lease.begin(term)

    def raise_failure(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Stop as the service does. Raises what a task had failed with."""
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await task


class ControlWorld:
    """One workload; `here` is the process that most tests are about.

    Args:
        directory: of state and files.
        state: a migrated SQLite file, which is copied.
        trainer: makes what trains.
        settings: sections of the configuration, over SETTINGS.
    """

    tracing: Tracing | None = None
    """Of the processes that are made from now on."""

    def __init__(
        self,
        directory: Path,
        state: Path,
        trainer: Callable[[dict[str | None, Weights]], Trainer] = Trainer,
        **settings: Any,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._ticks = itertools.count()
        data = directory / "data"
        data.mkdir()
        (data / "state.db").write_bytes(state.read_bytes())
        given = {
            section: {**SETTINGS.get(section, {}), **values} if isinstance(values, dict) else values
            for section, values in {
                **settings,
                "artifacts": {"directory": data, **settings.get("artifacts", {})},
            }.items()
        }
        self.config = DaemonConfig.model_validate({**SETTINGS, **given})
        self.database = Database(self.config.store_url, WORKLOAD, now=self.now)
        self.stores = stores_over(self.database, WORKLOAD, WORKLOAD)
        self.place = RoundPlace(data / "rounds", data / "adapters")
        self.index = ListIndex()
        self.weights: dict[str | None, Weights] = {None: Weights(4, 0.5)}
        self.trainer = trainer(self.weights)
        self.labels_lag: int | Exception = 0
        self._processes: list[Process] = []
        self.here = self.process()

    def now(self) -> float:
        """UTC seconds by the loop's clock. Every look at it is a microsecond after the one before."""
        return EPOCH_S + self.loop.time() + 1e-6 * next(self._ticks)

    def process(self, *, exclusive: bool = True) -> Process:
        """One more process. Exclusive: it takes the lease whoever has it, and never renews it."""
        self._processes.append(Process(self, exclusive=exclusive))
        return self._processes[-1]

    async def close(self) -> None:
        try:
            for process in self._processes:
                await process.stop()
        finally:
            self.database.close()

    async def measure_labels_lag(self) -> int:
        if isinstance(self.labels_lag, Exception):
            raise self.labels_lag
        return self.labels_lag

    # --- what comes from outside --------------------------------------------------------------------------------

    def teach(self, training: Iterable[int] = range(10), held_out: Iterable[int] = HELD_OUT) -> None:
        """Labelled examples arrive."""
        self.stores.examples.upsert([(example(number), False) for number in training])
        self.stores.examples.upsert([(example(number), True) for number in held_out])

    def ask(self, numbers: Iterable[int], *, agreement: float = 1.0, adapter: str | None = None) -> None:
        """Queries are answered by the serving adapter, as the intake does, or by `adapter`."""
        by = adapter or self.stores.alias.get().adapter
        said = [
            replace(
                pseudo_label(
                    f"q{number}", question := f"is {number} even?", self.weights[by].answer(question), 0.2, "now"
                ),
                agreement=agreement,
                adapter=by,
            )
            for number in numbers
        ]
        self.stores.pseudo_labels.add([NewLabel(label, query_hash(label.query)) for label in said])

    def flood(self, question: str, times: int) -> None:
        """One question comes again and again, under ids of its own."""
        by = self.stores.alias.get().adapter
        said = self.weights[by].answer(question)
        copies = [
            replace(pseudo_label(f"f{number}", question, said, 0.2, "now"), adapter=by) for number in range(times)
        ]
        self.stores.pseudo_labels.add([NewLabel(label, query_hash(label.query)) for label in copies])

    def request(self, asked: RequestKind, /, **payload: Any) -> int:
        """An operator asks for something."""
        return self.stores.requests.add(asked, payload)

    async def answered(self, request: int) -> OperatorRequest:
        """The request, once it was carried out or refused."""
        await self.until(lambda: self._request(request).state != "pending")
        return self._request(request)

    def _request(self, number: int) -> OperatorRequest:
        found = self.stores.requests.get(number)
        assert found is not None
        return found

    # --- what became of it --------------------------------------------------------------------------------------

    async def until(self, reached: Callable[[], object], within_s: float = 600.0) -> None:
        """Let time pass until `reached`; what a task failed with is raised."""
        end = self.loop.time() + within_s
        while not reached():
            for process in self._processes:
                process.raise_failure()
            assert self.loop.time() < end, f"not within {within_s:.0f} s: {self.story()}"
            await asyncio.sleep(LOOK_S)

    async def passes(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.loop.time() + seconds
        await self.until(lambda: self.loop.time() >= end)

    def story(self) -> str:
        """What a failed wait is to say."""
        rounds = [f"{each.number} {each.kind} {each.state} ({each.reason})" for each in self.stores.rounds.all()]
        controls = [f"{each.control.waiting_for}; {each.control.last_error}" for each in self._processes]
        return json.dumps({"rounds": rounds, "controls": controls, "alias": asdict(self.stores.alias.get())}, indent=1)

    def round(self, number: int) -> Round:
        found = self.stores.rounds.get(number)
        assert found is not None, f"there is no round {number}: {self.story()}"
        return found

    async def reaches(self, number: int, state: RoundState) -> Round:
        """The round, once it is in this state or has passed it."""
        await self.until(lambda: state in self.path(number))
        return self.round(number)

    async def ended(self, number: int) -> Round:
        """The round, once it has ended."""
        await self.until(lambda: (found := self.stores.rounds.get(number)) is not None and found.ended)
        return self.round(number)

    def path(self, number: int) -> list[str]:
        """The states that the round has been in."""
        return [event["to_state"] for event in self.stores.rounds.events(number)]

    # --- short cuts ---------------------------------------------------------------------------------------------

    async def plan(self, kind: RoundKind = "warm", **options: Any) -> Round:
        """Open a round, as the leader `here` does."""
        incumbent = self.here.alias.adapter
        return await asyncio.to_thread(self.here.stores.rounds.plan, kind, "test", 1, incumbent, options)

    async def advance(self, round_: Round, until: RoundState) -> Round:
        """Do the steps of a round, as the leader `here` does, up to a state of the main path."""
        for _ in MAIN_PATH:
            if round_.state is until or round_.ended:
                break
            round_ = await self.here.engine.advance(round_)
        assert round_.state is until, f"{round_.state}: {round_.reason}"
        return round_

    async def version(self, *, right: int = 10) -> str:
        """The name of a version that was trained and cancelled: a directory, its row, and nobody has it loaded."""
        planned, rounds = await self.plan(), self.here.stores.rounds
        before, self.trainer.right = self.trainer.right, right
        prompts = [[Message("user", example(number).query.question)] for number in (1, 2)]
        made = self.trainer.publish(self.place.training(planned), f"w-{planned.name}", planned.number, prompts, {})
        self.trainer.right = before
        for current, following in pairwise(MAIN_PATH[: MAIN_PATH.index(RoundState.TRAINING) + 1]):
            rounds.transition(planned.number, current, following)
        adapter = {"name": made.name, "path": str(made.path), "content_hash": made.content_hash, "parent": None}
        rounds.trained(planned.number, made.summary, adapter)
        rounds.leave(planned.number, RoundState.TRAINED, RoundState.CANCELLED, "test")
        return made.name


OpenWorld = Callable[..., ControlWorld]
"""Opens a world with sections of the configuration."""
