"""The composition root: builds the parts a process needs for its roles, connects them, runs them, takes them down.

Owns construction order and lifetimes, nothing else: every decision is in the module that is built here. A process
builds only what its roles need: the gateway no index, the labels role no model. Invariant: what was opened is closed in
the opposite order, whatever fails in between.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from semievol.durable_files import write_durably
from semievol.errors import ConfigError
from semievol.file_lock import FileLock
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.plain_lines import log_plainly
from semievol.protocols import Embedder, ExampleIndex, Generator
from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import PseudoLabel
from semievold.api.api import Api, ApiTools
from semievold.config.daemon import ROLES, DaemonConfig
from semievold.config.streams import RetrySettings
from semievold.console.console import Console
from semievold.drift.watch import DriftWatch
from semievold.drift.weighing import WeigherApart
from semievold.event_loop import run_loop
from semievold.garbage import set_aside_what_was_built
from semievold.gateway.capture import Capture
from semievold.gateway.front import Gateway
from semievold.gateway.opening import open_gateway_tools
from semievold.idle import IdleWatch
from semievold.intake.labels import LabelsIntake
from semievold.intake.messages import RecordParser
from semievold.intake.reading import group_of
from semievold.intake.role import Intake
from semievold.monitoring.metrics import Metrics
from semievold.monitoring.observer import Observer
from semievold.monitoring.state_metrics import StateMetrics
from semievold.monitoring.state_watch import StateWatch
from semievold.retry import Health, Stopped, until_answered
from semievold.review.chances import Chances
from semievold.review.drawing import Drawing
from semievold.review.queue import ReviewQueue
from semievold.review.usefulness import SecretOrder
from semievold.rollout.answers import AnswerCounts
from semievold.rollout.stream import StreamTrial
from semievold.rounds.control import Control
from semievold.rounds.fresh import FreshLabels
from semievold.rounds.gpu.sharing import LOOK_S
from semievold.rounds.launching import open_launcher
from semievold.rounds.lease import ControlLease
from semievold.rounds.places import RoundPlace
from semievold.rounds.retention import Retention
from semievold.rounds.steps import RoundEngine
from semievold.rounds.tools import RoundTools
from semievold.serving.alias import Alias
from semievold.serving.engine import open_engine
from semievold.serving.fleet import AdapterFleet
from semievold.serving.followed_index import FollowedIndex
from semievold.serving.following import StateFollower
from semievold.serving.replicas import ReplicaSet
from semievold.serving.resting import RestFollower
from semievold.serving.storage.opening import open_storage
from semievold.store.retention import RetentionStore
from semievold.store.stores import Stores, check_workload, open_stores, stores_over
from semievold.streams.opening import open_stream
from semievold.streams.protocol import Stream, StreamProducer
from semievold.supervisor import Supervisor
from semievold.tracing import Tracing, open_tracing
from semievold.web.access import ensure_token
from semievold.web.connections import raise_open_file_limit
from semievold.web.server import run_server

log = logging.getLogger(__name__)

T = TypeVar("T")

NEEDS_INDEX = frozenset({"intake", "labels", "control"})
NEEDS_ENGINE = frozenset({"intake", "control", "gateway"})
ANSWERS = frozenset({"intake", "gateway"})


def place_of(config: DaemonConfig) -> RoundPlace:
    """Where the rounds' and adapters' files are."""
    return RoundPlace.under(config.artifacts.directory)


def serve(config: DaemonConfig, roles: Sequence[str], *, exit_when_idle: bool = False) -> int:
    """Run roles until SIGTERM or SIGINT (or, if asked, until idle); returns the exit code."""
    # Read when torch is loaded. Its threads spin by default while they wait for each other; beside a training on the
    # same cores they would then take its time and lose their own.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    log_plainly("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S", logging.INFO)
    for noisy in ("httpx", "alembic.runtime", "sentence_transformers", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    raise_open_file_limit()
    return run_loop(Service(config, roles, exit_when_idle=exit_when_idle).run())


@dataclass(slots=True)
class Parts:
    """What the roles of one process share; None: no role of this process needs it."""

    supervisor: Supervisor
    stack: AsyncExitStack
    stores: Stores
    stream: Stream
    producer: StreamProducer
    task: Task
    parser: RecordParser
    metrics: Metrics
    alias: Alias
    tracing: Tracing | None
    lease: ControlLease | None = None
    index: ExampleIndex | None = None
    embedder: Embedder | None = None
    equality: AnswerEquality | None = None
    generator: Generator | None = None
    replicas: ReplicaSet | None = None
    rests: RestFollower | None = None
    labeller: CollaborativeLabeller | None = None
    fleet: AdapterFleet | None = None
    follower: StateFollower | None = None
    counts: AnswerCounts | None = None
    labels: LabelsIntake | None = None
    control: Control | None = None
    intake: Intake | None = None
    capture: Capture | None = None


class Service:
    """One process of the daemon."""

    def __init__(self, config: DaemonConfig, roles: Sequence[str], *, exit_when_idle: bool = False) -> None:
        self._config = config
        self._roles = frozenset(roles)
        self._exit_when_idle = exit_when_idle
        self._directory = config.artifacts.directory.resolve()
        self._endpoints: dict[str, str] = {}

    async def run(self) -> int:
        """Build, run, take down."""
        supervisor = Supervisor(self._config.stop_deadline_s)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.request_stop, signal.Signals(number).name)
        async with AsyncExitStack() as stack:
            try:
                await self._build(supervisor, stack)
            except Stopped:  # while it waited for the state to answer
                return 0
            set_aside_what_was_built()
            code = await supervisor.run()
        if supervisor.failure is not None:
            log.error("stopped: %s", supervisor.failure)
        return code

    async def _build(self, supervisor: Supervisor, stack: AsyncExitStack) -> None:
        """Stages stop in this order: new work first, the round's step next, the lease and the fronts last."""
        config, roles = self._config, self._roles
        self._directory.mkdir(parents=True, exist_ok=True)
        # A kernel lock is free the moment its owner dies. It suffices where all controllers are on this machine.
        exclusive = "control" in roles and config.store_url.startswith("sqlite")
        if exclusive:
            stack.enter_context(single_controller(self._directory / "control.lock", "artifacts.directory"))
        stores = await self._open_stores(supervisor)
        stack.callback(stores.database.close)
        if stores.database.file is not None:
            await asyncio.to_thread(check_workload, stores, config.workload.name)
        if exclusive and stores.database.file is not None:  # two artifacts directories may share one state
            lock = stores.database.file.with_name(stores.database.file.name + ".control.lock")
            stack.enter_context(single_controller(lock, "store.url"))
        tracing = open_tracing(config.tracing, config.workload.name, roles)
        if tracing is not None:  # before the stream: a collector that hangs must not hold up what closes that
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        stream = open_stream(config.stream, stores.database)
        producer = stream.producer()
        stack.push_async_callback(producer.close)
        task = Task(config.task)
        parser = RecordParser(task, config.stream.max_record_bytes)
        alias = Alias(await waited_for("state", lambda: asyncio.to_thread(stores.alias.get), supervisor))
        metrics = Metrics(config.workload.name)
        metrics.begin(roles)
        parts = Parts(supervisor, stack, stores, stream, producer, task, parser, metrics, alias, tracing)
        if roles & NEEDS_INDEX:
            await self._open_index(parts)
        if "labels" in roles:
            self._add_labels(parts)
        if "control" in roles:
            parts.lease = ControlLease(stores.leases, config.lease.ttl_s, exclusive=exclusive)
            supervisor.add("lease", parts.lease.run, stage=2)
        if roles & NEEDS_ENGINE:
            await self._open_engine(parts)
        if roles & ANSWERS:
            parts.counts = AnswerCounts(config.rollout, alias, task, stores.canaries)
            supervisor.add("answers", parts.counts.run, stage=3)
        if "intake" in roles:
            self._add_intake(parts)
        if "gateway" in roles:
            self._add_gateway(parts)
        self._add_api(parts)
        if self._exit_when_idle and parts.intake and parts.labels and parts.control and parts.follower:
            watch = IdleWatch(stores, parts.intake, parts.labels, parts.control, parts.follower.warm_ended)
            supervisor.add("idle-watch", lambda stop: watch.run(stop, supervisor.request_stop), stage=0)

    async def _open_stores(self, supervisor: Supervisor) -> Stores:
        """The state; a server that does not answer yet is waited for, as after a common start of all machines."""
        config = self._config
        alias, trusted = config.workload.served_alias, config.gateway.feedback.trusted
        return await waited_for(
            "state",
            lambda: asyncio.to_thread(
                open_stores, config.store_url, config.workload.name, alias, feedback_trusted=trusted
            ),
            supervisor,
        )

    async def _open_index(self, parts: Parts) -> None:
        from semievol.examples.embedding.opening import build_embedder
        from semievold.serving.example_index import open_index

        config, supervisor = self._config, parts.supervisor
        embedder = await waited_for(
            "embedding", lambda: asyncio.to_thread(build_embedder, config.embedding), supervisor
        )
        opened = functools.partial(open_index, config, parts.stores, parts.task, embedder)
        parts.index = await waited_for("index", lambda: asyncio.to_thread(opened), supervisor)
        parts.stack.callback(parts.index.close)
        parts.embedder = embedder
        parts.equality = AnswerEquality(parts.task, embedder)
        if isinstance(parts.index, FollowedIndex):
            await waited_for("index", parts.index.catch_up, supervisor)
            supervisor.add("index", parts.index.run, stage=1)

    def _feedback_secret(self) -> str:
        return ensure_token(None, self._directory / "feedback.key")

    def _add_labels(self, parts: Parts) -> None:
        assert parts.index is not None
        parts.labels = LabelsIntake(
            parts.stream.consumer(self._config.stream.labels, group_of(self._config.workload.name, "labels")),
            parts.producer,
            parts.stores.examples,
            parts.stores.pseudo_labels,
            parts.index,
            parts.parser,
            self._config.labels,
            self._config.stream,
            feedback=parts.stores.feedback,
            contradictions=parts.stores.contradictions,
            reviews=parts.stores.reviews,
            feedback_secret=self._feedback_secret() if self._config.gateway.feedback.trusted else None,
            least_holdout=self._config.gate.min_holdout,
            training_first=self._config.trigger.min_examples,
            calibration_share=self._config.selection.put_aside,
            equality=parts.equality,
        )
        parts.supervisor.add("labels", parts.labels.run, stage=0)

    async def _open_engine(self, parts: Parts) -> None:
        """What answers, the adapters in it, and who decides which of them serves: this process or the state."""
        config = self._config
        engine = await open_engine(
            config,
            parts.stack,
            leads=lambda: parts.control is not None and parts.control.leads,
            launches="control" in self._roles,
        )
        parts.generator, parts.replicas = engine.generator, engine.replicas
        if engine.replicas is not None:
            parts.supervisor.add("replicas", engine.replicas.run, stage=3)
        if engine.server is not None:
            parts.supervisor.add("vllm", engine.server.run, stage=4)
        stores = parts.stores
        if parts.lease is not None:  # every write of the controller is bound to its lease
            database = stores.database.checked(parts.lease.check)
            trusted = config.gateway.feedback.trusted
            name, alias = config.workload.name, config.workload.served_alias
            stores = stores_over(database, name, alias, feedback_trusted=trusted)
        if engine.replicas is not None:
            training = self._config.training
            all_share = training.share_gpu is not None and not training.share_gpu_with
            parts.rests = RestFollower(parts.stores.rests, engine.replicas, all_share=all_share)
            # Before anything is asked of a replica: one that sleeps would answer when it wakes.
            await waited_for("state", parts.rests.look, parts.supervisor)
            parts.supervisor.add("rests", parts.rests.run, stage=3)  # the gateway answers on for a while
        storage = open_storage(config.artifacts.storage)
        parts.fleet = AdapterFleet(stores, engine.servers, parts.alias, place_of(config).adapters, storage)
        if parts.index is not None:
            parts.labeller = CollaborativeLabeller(
                parts.generator,
                parts.index,
                parts.task,
                config.labelling,
                config.seed,
                equality=parts.equality,
                attempts=config.intake.late_attempts,
            )
        if parts.lease is not None:
            parts.control = self._control(parts, stores, parts.lease)
            parts.supervisor.add("control", parts.control.run, stage=1)
            self._add_retention(parts, RetentionStore(stores.database, config.workload.name), parts.lease)
            self._add_review(parts, stores, parts.lease)
            self._add_state_metrics(parts, parts.control)
            self._add_drift(parts, stores, parts.lease)
        control = parts.control
        parts.follower = StateFollower(
            parts.stores, parts.alias, parts.fleet, lambda: control is not None and control.leads
        )
        parts.supervisor.add("follower", parts.follower.run, stage=3)
        # Before any front listens: the first request must find its adapter.
        await waited_for("engine", parts.fleet.settle, parts.supervisor)

    def _control(self, parts: Parts, stores: Stores, lease: ControlLease) -> Control:
        assert parts.generator is not None
        assert parts.index is not None
        assert parts.embedder is not None
        assert parts.equality is not None
        assert parts.labeller is not None
        assert parts.fleet is not None
        opened = open_launcher(self._config, stores, parts.replicas, parts.rests)
        parts.stack.callback(opened.close)
        if (sharing := opened.sharing) is not None:
            parts.supervisor.add(
                "gpu",
                lambda stop: lease.while_leading(sharing.look, LOOK_S, stop, log, "replicas that rest"),
                stage=1,
            )
        tools = RoundTools(
            stores,
            parts.task,
            parts.generator,
            parts.index,
            parts.embedder,
            parts.labeller.label,
            opened.launcher,
            parts.fleet,
            parts.alias,
            parts.equality,
            parts.tracing,
        )
        engine = RoundEngine(self._config, tools, place_of(self._config))
        # Where the labels role is another process, its quiet (trigger.labels_quiet_s) is all that is known of it.
        lag = no_lag if parts.labels is None else parts.labels.backlog
        return Control(self._config, stores, lease, engine, parts.fleet, parts.alias, lag)

    def _add_retention(self, parts: Parts, store: RetentionStore, lease: ControlLease) -> None:
        kept, keep_rounds = self._config.store.retention, self._config.artifacts.keep_rounds
        retention = Retention(store, kept, keep_rounds, lease, parts.metrics.forgotten, parts.stores.database.now)
        parts.supervisor.add("retention", retention.run, stage=1)

    def _add_review(self, parts: Parts, stores: Stores, lease: ControlLease) -> None:
        review = self._config.review
        fresh, order = FreshLabels(stores, place_of(self._config)), SecretOrder(self._feedback_secret())
        pairs = self._config.shadow.share > 0 and self._config.gate.margin == 0
        chances: Chances | None = None
        if self._config.selection.by == "learned":
            assert parts.embedder is not None
            chances = Chances(stores, parts.task, self._config, parts.embedder)
        drawing = Drawing(stores, fresh, order, review.look_at, pairs=pairs, chances=chances)
        queue = ReviewQueue(review, stores, drawing, lease, parts.producer, self._config.stream.review)
        parts.supervisor.add("review", queue.run, stage=1)

    def _add_drift(self, parts: Parts, stores: Stores, lease: ControlLease) -> None:
        config = self._config
        if not config.drift.enabled:
            return
        assert parts.equality is not None
        labels = None if config.task.labels is None else len(config.task.labels)
        apart = WeigherApart(config.store_url, config.workload.name, config.drift, labels, config.seed)
        now = stores.database.now
        watch = DriftWatch(config.drift, stores, lease, parts.equality, labels, config.seed, now, apart)
        parts.supervisor.add("drift", watch.run, stage=1)

    def _add_state_metrics(self, parts: Parts, control: Control) -> None:
        name = self._config.workload.name

        def leads() -> bool:
            return control.leads

        shown = StateMetrics(name, leads)
        parts.metrics.registry.register(shown)
        interval_s, place = self._config.api.metrics_interval_s, place_of(self._config)
        drift = self._config.drift.enabled
        watch = StateWatch(shown, parts.stores, name, place, leads, interval_s, time.monotonic, drift=drift)
        parts.supervisor.add("metrics", watch.run, stage=1)

    def _add_intake(self, parts: Parts) -> None:
        assert parts.labeller is not None
        assert parts.follower is not None
        assert parts.counts is not None
        config, counts, metrics = self._config, parts.counts, parts.metrics

        def stored(labels: Sequence[PseudoLabel], waited_s: Sequence[float]) -> None:
            metrics.stored(labels, waited_s)
            counts.labelled(labels)

        consumer = parts.stream.consumer(config.stream.queries, group_of(config.workload.name, "intake"))
        parts.intake = Intake(
            consumer,
            parts.producer,
            parts.stores.pseudo_labels,
            parts.parser,
            parts.labeller,
            parts.alias.bind,
            config.intake,
            config.stream,
            parts.follower.warm_ended if config.rounds.wait_for_warm else None,
            on_stored=stored,
            transactions=parts.stream.transactions(consumer),
            # Without a refresh, what a version labelled that was taken back would teach later rounds.
            trial=StreamTrial(parts.alias, counts) if config.rounds.refresh else None,
            tracing=parts.tracing,
            resting=None if (replicas := parts.replicas) is None else lambda: replicas.resting,
        )
        parts.supervisor.add("intake", parts.intake.run, stage=0)

    def _add_gateway(self, parts: Parts) -> None:
        assert parts.generator is not None
        config = self._config
        token = ensure_token(config.gateway.token, self._directory / "gateway.token")
        ends = open_gateway_tools(
            config,
            parts.generator,
            parts.replicas,
            parts.stores,
            self._feedback_secret(),
            parts.parser,
            parts.producer,
            parts.metrics,
            parts.counts,
            parts.tracing,
        )
        for used in filter(None, (ends.backend, ends.embeddings)):
            parts.stack.push_async_callback(used.close)
        front = Gateway(config.gateway, config.workload.served_alias, ends, parts.alias, parts.metrics, token)
        parts.supervisor.add("gateway", lambda stop: front.run(self._bound("gateway"), stop), stage=2)
        parts.capture = ends.capture
        if ends.capture is not None:
            parts.supervisor.add("capture", ends.capture.run, stage=3)  # after the gateway: it publishes what is queued
        if ends.words is not None:
            parts.supervisor.add("feedback", ends.words.run, stage=3)
        if ends.shadow is not None:
            parts.supervisor.add("shadow-offers", ends.shadow.run, stage=3)

    def _add_api(self, parts: Parts) -> None:
        control = parts.control
        observer = Observer(
            parts.metrics,
            parts.alias,
            fleet=parts.fleet,
            follower=parts.follower,
            intake=parts.intake,
            labels=parts.labels,
            control=control,
            lease=parts.lease,
            replicas=parts.replicas,
            captured=None if parts.capture is None else parts.capture.health,
        )
        tools = ApiTools(
            parts.stores,
            place_of(self._config),
            parts.producer,
            parts.metrics,
            observer.missing,
            observer.held,
            observer.process,
            observer.observe,
            (lambda: []) if parts.replicas is None else parts.replicas.show,
        )
        token = ensure_token(self._config.api.token, self._directory / "api.token")
        app = Api(self._config, tools, token).app()
        if self._config.api.console:
            Console(self._config, tools, token).add_to(app)
        parts.supervisor.add(
            "api", lambda stop: run_server(app, self._config.api, "api", self._bound("api"), stop), stage=2
        )

    def _bound(self, name: str) -> Callable[[str, int], None]:
        """Write down where the fronts listen, once all of them do: clients may let the kernel pick the ports."""

        def remember(host: str, port: int) -> None:
            self._endpoints[name] = f"http://{host}:{port}"
            if self._roles.isdisjoint({"gateway"} - self._endpoints.keys()) and "api" in self._endpoints:
                role = "" if self._roles == set(ROLES) else "-" + "-".join(sorted(self._roles))
                content = json.dumps(self._endpoints, indent=1)
                write_durably(self._directory / f"endpoints{role}.json", content)

        return remember


async def no_lag() -> int:
    """Nothing is known to be behind."""
    return 0


async def waited_for(what: str, operation: Callable[[], Awaitable[T]], supervisor: Supervisor) -> T:
    """Call `operation` until what it needs answers: after a common start of all machines it may take its time.

    Raises:
        Stopped: the stop came first.
    """
    return await until_answered(what, operation, RetrySettings(), Health(), supervisor.stop_requested)


@contextmanager
def single_controller(path: Path, setting: str) -> Iterator[None]:
    """Hold a controller's lock file.

    Raises:
        ConfigError: another process on this machine holds it; `setting` is what the two have in common.
    """
    lock = FileLock.take(path)
    if lock is None:
        where = path.parent if setting == "artifacts.directory" else path
        raise ConfigError(f"{setting}: another daemon runs on {where}; stop it or use another one")
    with lock:
        yield
