"""Answered chat requests of which two versions are asked again, where the operator wants that."""

from __future__ import annotations

import asyncio
from typing import Any

from semievol.tasks.task import Task
from semievold.gateway.capture import OPT_OUT_HEADER
from semievold.gateway.shadow.offers import ShadowOffers
from semievold.intake.messages import RecordParser
from semievold.round_states import RoundState as S
from semievold.store.shadow_pairs import Waiting
from tests.control_world import ControlWorld, OpenWorld


class Offering:
    """Offers of a gateway in a world whose round is compared, or not."""

    def __init__(self, world: ControlWorld) -> None:
        self.world = world
        parser = RecordParser(Task(world.config.task), 100_000)
        self.offers = ShadowOffers(
            world.config.shadow, 100, "Answer even or odd.", parser, world.stores.shadow_pairs, world.loop.time
        )
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.offers.run(self.stop))

    def chat(self, *contents: Any, **headers: str) -> None:
        messages = [{"role": "user", "content": content} for content in contents]
        self.offers.offer({"messages": messages}, {key.replace("_", "-"): value for key, value in headers.items()})

    async def written(self) -> list[Waiting]:
        await self.world.passes(3)
        return self.world.stores.shadow_pairs.waiting(0, 100)

    async def end(self) -> None:
        self.stop.set()
        await self.task


async def compared(open_world: OpenWorld, **shadow: Any) -> Offering:
    world = open_world(shadow={"share": 1.0, "gateway": True, **shadow})
    await world.here.lead()
    world.teach()
    await world.advance(await world.plan(), S.ATTESTED)
    world.here.stores.rounds.transition(0, S.ATTESTED, S.PROVING)
    offering = Offering(world)
    await world.passes(3)
    return offering


async def test_what_was_answered_is_drawn_as_the_intake_would_read_it(open_world: OpenWorld) -> None:
    gateway = await compared(open_world)
    gateway.chat("is 7 even?")
    gateway.chat("and this?", "is 8 even?")
    found = {each.query.question: each.query for each in await gateway.written()}
    assert set(found) == {"is 7 even?", "is 8 even?"}
    assert found["is 7 even?"].messages is None
    assert [turn.content for turn in found["is 8 even?"].messages or ()] == ["and this?", "is 8 even?"]
    assert len({query.id for query in found.values()}) == 2
    await gateway.end()


async def test_who_opts_out_and_what_is_no_text_or_too_long_is_not_drawn(open_world: OpenWorld) -> None:
    gateway = await compared(open_world, per_second=100.0)
    gateway.chat("is 7 even?", **{OPT_OUT_HEADER: "1"})
    gateway.chat([{"type": "image_url", "image_url": {"url": "data:"}}])
    gateway.chat("is 7 even? " * 20)
    gateway.chat("")
    assert await gateway.written() == []
    await gateway.end()


async def test_no_more_are_drawn_than_the_bound_allows(open_world: OpenWorld) -> None:
    gateway = await compared(open_world, per_second=3.0)
    for number in range(100):
        gateway.chat(f"is {number} even?")
    assert len(await gateway.written()) == 3
    await gateway.end()


async def test_nothing_is_drawn_while_no_versions_are_compared(open_world: OpenWorld) -> None:
    gateway = await compared(open_world)
    await gateway.world.here.engine.cancel(gateway.world.round(0), "test")
    await gateway.world.passes(3)
    gateway.chat("is 7 even?")
    assert await gateway.written() == []
    await gateway.end()
