"""The intakes and the admin API beside a controller's world, as one process has them: real ones, which nobody runs.

Their streams are the local one in the world's state: what is published is their backlog until `read` takes it off.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pydantic_core
from aiohttp.test_utils import TestClient, TestServer

from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.tasks.task import Task
from semievold.api.api import Api, ApiTools
from semievold.console.console import Console
from semievold.idle import IdleWatch
from semievold.intake.labels import LabelsIntake
from semievold.intake.messages import RecordParser
from semievold.intake.role import Intake
from semievold.monitoring.metrics import Metrics
from semievold.monitoring.observer import Observer
from semievold.monitoring.state_metrics import StateMetrics
from semievold.monitoring.state_watch import StateWatch
from semievold.serving.replica import ReplicaView
from semievold.streams.opening import open_stream
from semievold.streams.protocol import OutgoingRecord
from tests.control_world import ControlWorld

TOKEN = "a-token-of-these-tests"


class Replicas:
    """Stands for a ReplicaSet that is looked at and nothing else."""

    def __init__(self) -> None:
        self.seen: Sequence[ReplicaView] = ()
        self.resting: str | None = None

    def show(self) -> Sequence[ReplicaView]:
        return self.seen


class Roles:
    """What stands beside the controller of the world's process `here`."""

    def __init__(self, world: ControlWorld) -> None:
        config, here = world.config, world.here
        self.config, self.stores, self.place = config, world.stores, world.place
        stream = open_stream(config.stream, world.database)
        task = Task(config.task)
        self.parser = RecordParser(task, config.stream.max_record_bytes)
        self.producer = stream.producer()
        self._consumers = {
            config.stream.queries: stream.consumer(config.stream.queries, "intake"),
            config.stream.labels: stream.consumer(config.stream.labels, "labels"),
        }
        self.intake = Intake(
            self._consumers[config.stream.queries],
            self.producer,
            world.stores.pseudo_labels,
            self.parser,
            CollaborativeLabeller(here.generator, None, task, config.labelling, config.seed),
            here.alias.bind,
            config.intake,
            config.stream,
        )
        self.labels = LabelsIntake(
            self._consumers[config.stream.labels],
            self.producer,
            world.stores.examples,
            world.stores.pseudo_labels,
            world.index,
            self.parser,
            config.labels,
            config.stream,
            feedback=world.stores.feedback,
            contradictions=world.stores.contradictions,
            reviews=world.stores.reviews,
        )
        self.metrics = Metrics(config.workload.name)
        self.replicas = Replicas()
        self.observer = Observer(
            self.metrics,
            here.alias,
            fleet=here.fleet,
            follower=here.follower,
            intake=self.intake,
            labels=self.labels,
            control=here.control,
            lease=here.lease,
            replicas=self.replicas,  # type: ignore[arg-type]
        )
        name = config.workload.name
        self.state_metrics = StateMetrics(name, lambda: here.control.leads)
        self.metrics.registry.register(self.state_metrics)
        self.state_watch = StateWatch(
            self.state_metrics,
            world.stores,
            name,
            world.place,
            lambda: here.control.leads,
            0.01,
            time.monotonic,
            drift=config.drift.enabled,
        )
        self.idle_watch = IdleWatch(world.stores, self.intake, self.labels, here.control, here.follower.warm_ended)

    async def publish(self, topic: str, *ids: str) -> None:
        """Records that nobody has read yet."""
        records = [OutgoingRecord(each, pydantic_core.to_json({"id": each, "question": "is 1 even?"})) for each in ids]
        await self.producer.publish(topic, records)

    async def read(self, topic: str) -> None:
        """Commit all that is in the topic."""
        consumer = self._consumers[topic]
        records = await consumer.poll(1000, 0.0)
        await consumer.commit({record.partition: record.offset + 1 for record in records})

    @asynccontextmanager
    async def api(self) -> AsyncIterator[TestClient[Any, Any]]:
        """A client of the admin API, with its token; the console is on the same address."""
        tools = ApiTools(
            self.stores,
            self.place,
            self.producer,
            self.metrics,
            self.observer.missing,
            self.observer.held,
            self.observer.process,
            self.observer.observe,
            self.replicas.show,
        )
        app = Api(self.config, tools, TOKEN).app()
        if self.config.api.console:
            Console(self.config, tools, TOKEN).add_to(app)
        async with TestClient(TestServer(app), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            yield client
