"""Many coroutines, one call: what is asked together goes together, and each hears of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from semievol.engines.shared_calls import Gathered, SharedCalls, worked_off
from semievol.errors import TransientError
from semievol.protocols import Tell
from semievol.types import GenerationRequest, Message
from tests.scripted import ScriptedGenerator


def ask(text: str) -> GenerationRequest:
    return GenerationRequest((Message("user", text),))


async def test_what_is_asked_in_the_same_turn_of_the_loop_is_one_call() -> None:
    generator = ScriptedGenerator(lambda request: [request.messages[-1].content.upper()])
    calls = SharedCalls(generator)
    first, second = await asyncio.gather(calls.ask([ask("a"), ask("b")]), calls.ask([ask("c")]))
    assert [[reply[0].text for reply in replies if isinstance(reply, list)] for replies in (first, second)] == [
        ["A", "B"],
        ["C"],
    ]
    assert [len(call) for call in generator.calls] == [3]


class Hanging(ScriptedGenerator):
    """Never answers; says when it was given up."""

    def __init__(self) -> None:
        super().__init__(lambda request: [])
        self.given_up = False

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise


async def test_a_call_that_nobody_waits_for_any_more_is_given_up() -> None:
    generator = Hanging()
    calls = SharedCalls(generator)
    tasks = [asyncio.create_task(calls.ask([ask(text)])) for text in "ab"]
    for task in tasks:
        assert not generator.given_up
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert generator.given_up


async def test_an_item_that_fails_lets_those_beside_it_end_and_no_further_ones_begin() -> None:
    ended: list[int] = []

    async def one(number: int) -> None:
        if number == 1:
            raise TransientError("nobody answers")
        await asyncio.sleep(0.01)
        ended.append(number)

    async def start(some: Sequence[int]) -> list[Coroutine[Any, Any, None]]:
        return [one(number) for number in some]

    with pytest.raises(TransientError):
        await worked_off(range(100), 3, start)
    assert set(ended) <= {0, 2, 3, 4, 5}
    assert {0, 2} <= set(ended)


async def test_an_item_that_takes_long_delays_itself_alone() -> None:
    gate = asyncio.Event()
    ended: list[int] = []

    async def one(number: int) -> None:
        if number == 0:
            await gate.wait()
        ended.append(number)

    async def start(some: Sequence[int]) -> list[Coroutine[Any, Any, None]]:
        return [one(number) for number in some]

    task = asyncio.create_task(worked_off(range(50), 4, start))
    while len(ended) < 49:  # noqa: ASYNC110 - nothing tells when the others are through
        await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    await task
    assert ended[-1] == 0


async def test_gathered_work_that_fails_fails_for_all_that_wanted_it() -> None:
    async def fail(items: list[int]) -> list[int]:
        raise TransientError(f"{len(items)} items")

    gathered = Gathered(fail)
    results = await asyncio.gather(gathered(1), gathered(2), return_exceptions=True)
    assert [str(each) for each in results] == ["2 items", "2 items"]
