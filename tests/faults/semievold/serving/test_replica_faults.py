"""A vLLM replica dies and comes back under a stream of calls: none fails, and it takes its share again by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from semievol.types import GenerationRequest, Message
from tests.replica_world import World, held, replica_world
from tests.servers.vllm import START_S, VllmServer

pytestmark = pytest.mark.timeout(2 * START_S + 120)

CLIENTS = 8
PAUSE_S = 0.2  # after each answer: the replica that comes back needs the cores too
RECOVERY_S = 30.0


async def client(world: World, adapter: str, number: int, answered: list[str], stop: asyncio.Event) -> None:
    while not stop.is_set():
        request = GenerationRequest((Message("user", f"red {number}"),), adapter, max_tokens=6)
        ((answer,),) = await world.generator.generate([request])
        answered.append(answer.text)
        await asyncio.sleep(PAUSE_S)


async def test_no_call_fails_when_a_replica_is_killed_and_it_takes_traffic_again_by_itself(
    vllm_pair: list[VllmServer], tmp_path: Path
) -> None:
    dying = vllm_pair[0]
    serving = await held(dying.model, tmp_path / "adapters", 1)
    async with replica_world(vllm_pair, tmp_path / "adapters") as world:
        await world.replicas.keep(serving, None)
        stop = asyncio.Event()
        texts: list[list[str]] = [[] for _ in range(CLIENTS)]
        clients = [
            asyncio.create_task(client(world, serving.name, number, texts[number], stop)) for number in range(CLIENTS)
        ]

        def going_on() -> int:
            assert not any(task.done() for task in clients), [task.exception() for task in clients if task.done()]
            return sum(map(len, texts))

        await world.wait_until(lambda: going_on() > 4 * CLIENTS and world.view(dying).running > 0)
        dying.kill()
        killed_at = going_on()
        await world.wait_until(lambda: world.view(dying).state == "down")
        await world.wait_until(lambda: going_on() > killed_at + 4 * CLIENTS)
        dying.start()
        await asyncio.to_thread(dying.wait)
        returned = time.monotonic()
        assert dying.models() == {"base"} or world.view(dying).adapters  # it came back empty
        await world.wait_until(lambda: going_on() > 0 and world.view(dying).running > 0, RECOVERY_S)
        assert time.monotonic() - returned < RECOVERY_S
        assert world.view(dying).adapters[serving.name].passed
        stop.set()
        await asyncio.gather(*clients)
    # Whoever answered, and whenever: one adapter at temperature 0 has one answer to each question.
    assert [len(set(answers)) for answers in texts] == [1] * CLIENTS


async def test_a_call_waits_for_the_only_replica_to_come_back(vllm_server: VllmServer, tmp_path: Path) -> None:
    serving = await held(vllm_server.model, tmp_path / "adapters", 1)
    async with replica_world([vllm_server], tmp_path / "adapters", patience_s=START_S) as world:
        await world.replicas.keep(serving, None)
        vllm_server.restart()
        request = GenerationRequest((Message("user", "red 1"),), serving.name, max_tokens=4)
        ((answer,),) = await world.generator.generate([request])
        assert answer.adapter == serving.name
        assert serving.name in vllm_server.models()


async def test_a_replica_that_is_stopped_is_told_from_a_slow_one_and_its_requests_go_to_the_other(
    vllm_pair: list[VllmServer], tmp_path: Path
) -> None:
    stopped = vllm_pair[0]
    serving = await held(stopped.model, tmp_path / "adapters", 1)
    async with replica_world(vllm_pair, tmp_path / "adapters", patience_s=START_S) as world:
        await world.replicas.keep(serving, None)
        stop = asyncio.Event()
        texts: list[list[str]] = [[] for _ in range(CLIENTS)]
        clients = [
            asyncio.create_task(client(world, serving.name, number, texts[number], stop)) for number in range(CLIENTS)
        ]
        await world.wait_until(lambda: sum(map(len, texts)) > 4 * CLIENTS and world.view(stopped).running > 1)
        stopped.freeze()
        try:
            before = [len(each) for each in texts]
            # Far below the patience for a slow server, which is minutes.
            await world.wait_until(
                lambda: all(len(each) > old + 2 for each, old in zip(texts, before, strict=True)), RECOVERY_S + 15.0
            )
            assert world.view(stopped).state == "down"
        finally:
            stopped.thaw()
        await world.wait_until(lambda: world.view(stopped).running > 0, RECOVERY_S)
        stop.set()
        await asyncio.gather(*clients)
    assert [len(set(answers)) for answers in texts] == [1] * CLIENTS
