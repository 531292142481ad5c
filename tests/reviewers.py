"""The review queue beside a controller's world: the timer, the labels role and what people do, on real stores."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core

from semievold.intake.messages import RecordParser
from semievold.review.answering import Reviewers
from semievold.review.drawing import Drawing
from semievold.review.queue import ReviewQueue
from semievold.review.usefulness import SecretOrder
from semievold.rounds.fresh import FreshLabels
from semievold.streams.opening import open_stream
from tests.control_roles import Roles
from tests.control_world import ControlWorld

SECRET = "a secret of these tests"


class ReviewDesk:
    """What the review consists of in one world."""

    def __init__(self, world: ControlWorld, secret: str = SECRET) -> None:
        self.world = world
        self.roles = Roles(world)
        self.parser: RecordParser = self.roles.parser
        self.reviewers = Reviewers(world.config, world.stores, self.roles.producer)
        config, here = world.config, world.here
        fresh = FreshLabels(here.stores, world.place)
        drawing = Drawing(here.stores, fresh, SecretOrder(secret), config.review.look_at)
        producer, topic = self.roles.producer, config.stream.review
        self.closed = 0
        """Items that labels have closed."""
        self.joined = 0
        """Labels that were compared with the earlier answer."""
        self.queue = ReviewQueue(config.review, here.stores, drawing, here.lease, producer, topic)

    async def look(self) -> list[dict[str, Any]]:
        """The leader's timer looks once; what waits then."""
        term = self.world.here.lease.term
        assert term is not None
        self.world.here.lease.begin(term)
        await self.queue.look()
        return self.waiting()

    def waiting(self, kind: Any = None) -> list[dict[str, Any]]:
        return list(self.reviewers.waiting(kind)["items"])

    async def records(self) -> list[dict[str, Any]]:
        """All that is in the review topic."""
        stream = open_stream(self.world.config.stream, self.world.database)
        consumer = stream.consumer(self.world.config.stream.review, "tests")
        found = await consumer.poll(10_000, 0.0)
        await consumer.close()
        return [pydantic_core.from_json(record.value) for record in found if record.value is not None]

    async def settled(self) -> None:
        """A labels role begins, reads what is in its topic, and ends."""
        role, stop = Roles(self.world).labels, asyncio.Event()
        task = asyncio.create_task(role.run(stop), name="labels")
        try:
            while await role.backlog():  # noqa: ASYNC110 - a backlog tells nobody
                await asyncio.sleep(0.1)
        finally:
            stop.set()
            await task
        self.closed += role.counters.review_labels
        self.joined += role.counters.joined_right + role.counters.joined_wrong
