"""The alias moves while clients ask in a tight loop: nobody sees an error or an answer from two versions."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.daemon_process import TOKEN, DaemonProcess, example, query, tiny_config

pytestmark = pytest.mark.timeout(300)

CLIENTS, MOVES = 8, 6
# Nothing that was taught: on the task itself two good adapters answer alike, and a mixture could not be told.
QUESTIONS = [f"what about {'xyzw'[number % 4] * (number + 1)} and {number * 37}?" for number in range(12)]


async def ask(session: aiohttp.ClientSession, url: str, question: str) -> tuple[str, str]:
    turns = [{"role": "user", "content": question}]
    body = {"model": "tiny", "messages": turns, "temperature": 0, "max_tokens": 12}
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        text = (await response.json())["choices"][0]["message"]["content"]
        return text, response.headers["x-semievol-adapter"]


async def answers_alone(session: aiohttp.ClientSession, url: str) -> dict[str, str]:
    """What the serving version answers when nothing else runs."""
    return {question: (await ask(session, url, question))[0] for question in QUESTIONS}


async def move_under_load(daemon: DaemonProcess) -> tuple[list[tuple[str, str, str]], dict[str, dict[str, str]]]:
    """Move the alias to and fro under load; (question, text, adapter) of every answer, and each adapter's own."""
    gateway, api = daemon.url("gateway"), daemon.url("api")
    seen: list[tuple[str, str, str]] = []
    stop = asyncio.Event()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:

        async def rollback() -> str:
            async with session.post(f"{api}/v1/rollback") as response:
                assert response.status == 200, await response.text()
                return str((await response.json())["to"])

        async def client(offset: int) -> None:
            number = offset
            while not stop.is_set():
                question = QUESTIONS[number % len(QUESTIONS)]
                seen.append((question, *await ask(session, gateway, question)))
                number += 1

        alone = {}
        for _ in range(2):
            serving = await rollback()
            alone[serving] = await answers_alone(session, gateway)
        clients = [asyncio.create_task(client(offset)) for offset in range(CLIENTS)]
        for _ in range(MOVES):
            before = len(seen)
            while len(seen) < before + 3 * CLIENTS:
                await asyncio.sleep(0.01)
                assert not any(task.done() for task in clients), [task.exception() for task in clients if task.done()]
            await rollback()
        stop.set()
        await asyncio.gather(*clients)
    return seen, alone


def test_no_request_fails_or_mixes_versions_while_the_alias_moves(tmp_path: Path) -> None:
    daemon = DaemonProcess(tiny_config(tmp_path, generation={"max_batch": 8}))
    daemon.start()
    try:
        daemon.wait_ready()
        daemon.publish("labels", [example(number) for number in range(60)])
        daemon.publish("queries", [query(number) for number in range(24)])
        daemon.wait_until(lambda: daemon.rounds() and daemon.rounds()[0]["state"] == "settled")
        daemon.wait_until(lambda: daemon.status()["pseudo_labels"]["total"] == 24)
        assert daemon.post("/v1/rounds", {"kind": "evolve"}).status_code == 200
        daemon.wait_until(lambda: daemon.rounds()[0]["number"] == 1 and daemon.rounds()[0]["adapter"])
        ended = {"settled", "rejected", "inconclusive"}
        daemon.wait_until(lambda: daemon.rounds()[0]["state"] in ended)
        warm, evolved = daemon.rounds()[1]["adapter"], daemon.rounds()[0]["adapter"]
        if daemon.status()["serving"] != evolved:  # the gate is not what is tested here
            assert daemon.post(f"/v1/adapters/{evolved}/promote").status_code == 200
        seen, alone = asyncio.run(move_under_load(daemon))
    finally:
        daemon.stop()
    assert alone.keys() == {warm, evolved}
    assert alone[warm] != alone[evolved]  # or a mixture could not be told
    answered = Counter(adapter for _, _, adapter in seen)
    assert answered.keys() == {warm, evolved}
    assert min(answered.values()) >= CLIENTS
    mixtures = [(question, text, adapter) for question, text, adapter in seen if alone[adapter][question] != text]
    assert mixtures == []
