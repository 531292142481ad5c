"""The composition root: builds the parts a process needs for its roles, connects them, runs them, takes them down.

Owns construction order and lifetimes, nothing else: every decision is in the module that is built here. Invariant: what
was opened is closed in the opposite order, whatever fails in between.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from daemon.adapters import AdapterFleet
from daemon.alias import Alias
from daemon.api import Api, ApiTools
from daemon.config import DaemonConfig
from daemon.control import Control
from daemon.engine import open_engine
from daemon.gateway import Gateway, open_gateway_tools
from daemon.idle import IdleWatch
from daemon.intake import Intake
from daemon.labels import LabelsIntake
from daemon.launch import SubprocessLauncher
from daemon.messages import RecordParser
from daemon.metrics import Metrics
from daemon.observer import Observer
from daemon.reading import group_of
from daemon.rounds import RoundEngine, RoundPlace, RoundTools
from daemon.store.stores import Stores, open_stores
from daemon.streams.opening import open_stream
from daemon.supervisor import Supervisor
from daemon.web import ensure_token, run_server
from semievol import adapter_directory
from semievol.collaboration import CollaborativeLabeller
from semievol.embedding import build_embedder
from semievol.errors import AdapterError, ConfigError, TransientError
from semievol.example_index import QdrantExampleIndex
from semievol.task import Task

log = logging.getLogger(__name__)

FOLLOW_S = 0.5


def place_of(config: DaemonConfig) -> RoundPlace:
    """Where the rounds' and adapters' files are."""
    directory = config.artifacts.directory.resolve()
    return RoundPlace(directory / "rounds", directory / "adapters")


def serve(config: DaemonConfig, roles: Sequence[str], *, exit_when_idle: bool = False) -> int:
    """Run roles until SIGTERM or SIGINT (or, if asked, until idle); returns the exit code."""
    # Read when torch is loaded. Its threads spin by default while they wait for each other; beside a training on the
    # same cores they would then take its time and lose their own.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    for noisy in ("httpx", "alembic.runtime", "sentence_transformers", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return asyncio.run(Service(config, roles, exit_when_idle=exit_when_idle).run())


class Service:
    """One process of the daemon."""

    def __init__(self, config: DaemonConfig, roles: Sequence[str], *, exit_when_idle: bool = False) -> None:
        self._config = config
        self._roles = frozenset(roles)
        self._exit_when_idle = exit_when_idle
        self._endpoints: dict[str, str] = {}

    async def run(self) -> int:
        """Build, run, take down."""
        supervisor = Supervisor(self._config.stop_deadline_s)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, supervisor.request_stop, signal.Signals(number).name)
        async with AsyncExitStack() as stack:
            await self._build(supervisor, stack)
            code = await supervisor.run()
        if supervisor.failure is not None:
            log.error("stopped: %s", supervisor.failure)
        return code

    async def _build(self, supervisor: Supervisor, stack: AsyncExitStack) -> None:
        config = self._config
        directory = config.artifacts.directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if "control" in self._roles:
            stack.enter_context(single_controller(directory / "control.lock"))
        stores = await asyncio.to_thread(
            open_stores, config.store_url, config.workload.name, config.workload.served_alias
        )
        stack.callback(stores.database.close)
        stream = open_stream(config.stream, stores.database)
        task = Task(config.task)
        answering = await open_engine(
            config, stack, leads=lambda: "control" in self._roles, launches="control" in self._roles
        )
        generator = answering.generator
        embedder = await asyncio.to_thread(build_embedder, config.embedding)
        index = await asyncio.to_thread(
            lambda: QdrantExampleIndex(
                embedder,
                config.workload.name,
                None if config.index.url else config.index.path or directory / "index",
                config.index.url,
                config.index.api_key,
            )
        )
        stack.callback(index.close)
        alias = Alias(await asyncio.to_thread(stores.alias.get))
        fleet = AdapterFleet(stores, answering.servers, alias)
        labeller = CollaborativeLabeller(generator, index, task, config.labelling, config.seed)
        parser = RecordParser(task, config.stream.max_record_bytes)
        producer = stream.producer()
        stack.push_async_callback(producer.close)
        metrics = Metrics(config.workload.name)

        place = place_of(config)
        engine = RoundEngine(
            config,
            RoundTools(stores, task, generator, index, labeller.label, SubprocessLauncher(), fleet, alias),
            place,
        )
        labels_consumer = stream.consumer(config.stream.labels, group_of(config.workload.name, "labels"))
        labels = LabelsIntake(
            labels_consumer,
            producer,
            stores.examples,
            stores.pseudo_labels,
            index,
            parser,
            config.labels,
            config.stream,
        )
        control = Control(config, stores, engine, fleet, alias, labels_consumer.lag)
        intake = Intake(
            stream.consumer(config.stream.queries, group_of(config.workload.name, "intake")),
            producer,
            stores.pseudo_labels,
            parser,
            labeller,
            alias.bind,
            config.intake,
            config.stream,
            control.warm_ended if config.rounds.wait_for_warm and "control" in self._roles else None,
            on_stored=metrics.stored,
        )
        replicas = answering.replicas
        observer = Observer(metrics, stores, alias, fleet, intake, labels, control, self._roles, replicas)
        await self._clean_up(stores, place)
        await fleet.reconcile()  # before any front listens: the first request must find its adapter

        # Stages stop in this order: new work first, the round's step next, the fronts last.
        if "intake" in self._roles:
            supervisor.add("intake", intake.run, stage=0)
        if "labels" in self._roles:
            supervisor.add("labels", labels.run, stage=0)
        if "control" in self._roles:
            supervisor.add("control", control.run, stage=1)
        else:
            supervisor.add("alias", lambda stop: follow_alias(stores, alias, fleet, stop), stage=1)
        if "gateway" in self._roles:
            token = ensure_token(config.gateway.token, directory / "gateway.token")
            ends = open_gateway_tools(
                config, generator, answering.replicas, stores.pseudo_labels, parser, producer, metrics
            )
            for used in filter(None, (ends.backend, ends.embeddings)):
                stack.push_async_callback(used.close)
            front = Gateway(config.gateway, config.workload.served_alias, ends, alias, metrics, token)
            supervisor.add("gateway", lambda stop: front.run(self._bound("gateway"), stop), stage=2)
            if ends.capture is not None:
                supervisor.add("capture", ends.capture.run, stage=3)  # after the gateway: it publishes what is queued
        tools = ApiTools(
            stores,
            place,
            parser,
            producer,
            metrics,
            observer.missing,
            lambda: control.waiting_for,
            observer.observe,
            (lambda: []) if replicas is None else replicas.show,
        )
        api = Api(config, tools, ensure_token(config.api.token, directory / "api.token"))
        supervisor.add("api", lambda stop: run_server(api.app(), config.api, "api", self._bound("api"), stop), stage=2)
        if replicas is not None:
            supervisor.add("replicas", replicas.run, stage=3)
        if answering.server is not None:
            supervisor.add("vllm", answering.server.run, stage=4)
        if self._exit_when_idle:
            watch = IdleWatch(stores, intake, labels, control)
            supervisor.add("idle-watch", lambda stop: watch.run(stop, supervisor.request_stop), stage=0)

    async def _clean_up(self, stores: Stores, place: RoundPlace) -> None:
        """Remove what a killed publication left, unless a round may still finish it."""
        if "control" in self._roles and await asyncio.to_thread(stores.rounds.open) is None:
            await asyncio.to_thread(adapter_directory.remove_unfinished, place.adapters, self._config.workload.name)

    def _bound(self, name: str) -> Callable[[str, int], None]:
        """Write down where the fronts listen, once all of them do: clients may let the kernel pick the ports."""

        def remember(host: str, port: int) -> None:
            self._endpoints[name] = f"http://{host}:{port}"
            if self._roles.isdisjoint({"gateway"} - self._endpoints.keys()) and "api" in self._endpoints:
                adapter_directory.write_durably(
                    self._config.artifacts.directory.resolve() / "endpoints.json",
                    json.dumps(self._endpoints, indent=1),
                )

        return remember


@contextmanager
def single_controller(path: Path) -> Iterator[None]:
    """Hold the controller's lock; the kernel releases it however the process ends.

    Raises:
        ConfigError: another process on this machine holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"artifacts.directory: another daemon runs on {path.parent}; stop it or use another directory"
            ) from None
        yield


async def follow_alias(stores: Stores, alias: Alias, fleet: AdapterFleet, stop: asyncio.Event) -> None:
    """In a process without the control role: follow the alias once what it points at can be answered with here.

    Until then requests stay on the version before, which the controller keeps loaded.
    """
    while not stop.is_set():
        stored = await asyncio.to_thread(stores.alias.get)
        if stored.generation > alias.state.generation:
            try:
                if stored.adapter is not None:
                    await fleet.load(stored.adapter)
                alias.follow(stored)
                await fleet.reconcile()
            except (AdapterError, TransientError) as error:
                log.warning("the alias moved to %s, which cannot be followed yet: %s", stored.adapter, error)
        try:
            async with asyncio.timeout(FOLLOW_S):
                await stop.wait()
        except TimeoutError:
            continue
