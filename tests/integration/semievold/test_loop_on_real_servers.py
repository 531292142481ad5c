"""The whole loop on Kafka, PostgreSQL and two vLLM replicas: every query is answered, a round is promoted under load.

Everything is the real thing: the daemon process, the broker, the database, both servers and the training.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from semievol.config.file import load_config
from semievold.config.daemon import DaemonConfig
from semievold.store.stores import open_stores
from semievold.streams.opening import open_stream
from tests.daemon_process import TOKEN, DaemonProcess, easy_query, example, tiny_config
from tests.servers.kafka import KafkaBroker
from tests.servers.postgres import PostgresServer
from tests.servers.vllm import SharedServers, VllmServer

pytestmark = pytest.mark.timeout(600)

CLIENTS, QUERIES, EXAMPLES = 16, 120, 60
ENDED = ("settled", "rejected", "inconclusive")
# Nothing that was taught: on the task itself two good adapters answer alike, and a mixture could not be told.
QUESTIONS = [f"what about {'xyzw'[number % 4] * (number + 1)} and {number * 37}?" for number in range(12)]


class Clients:
    """Ask the gateway without pause; every answer is kept with the version and the replica that it names."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = asyncio.Event()
        self.answers: list[tuple[str, str, str, str]] = []

    async def _ask_on(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._stop.is_set():
            question = QUESTIONS[number % len(QUESTIONS)]
            async with session.post(f"{self._url}/v1/chat/completions", json=chat("tiny", question)) as response:
                assert response.status == 200, await response.text()
                text = (await response.json())["choices"][0]["message"]["content"]
                headers = response.headers
                self.answers.append((question, text, headers["x-semievol-adapter"], headers["x-semievol-replica"]))
            number += 1

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """All of them, for as long as the block lasts; a request that failed fails it."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(CLIENTS):
                group.create_task(self._ask_on(session, number))
            yield
            self._stop.set()


def chat(model: str, question: str) -> dict[str, object]:
    turns = [{"role": "user", "content": question}]
    return {"model": model, "messages": turns, "temperature": 0, "max_tokens": 12}


async def answers_alone(server: VllmServer, model: str) -> dict[str, str]:
    """What a replica answers, asked directly and one question at a time."""
    found = {}
    async with aiohttp.ClientSession() as session:
        for question in QUESTIONS:
            async with session.post(f"{server.url}/v1/chat/completions", json=chat(model, question)) as response:
                found[question] = (await response.json())["choices"][0]["message"]["content"]
    return found


async def predictions(config: DaemonConfig, expected: int) -> list[dict[str, object]]:
    """What is in the predictions topic, once that many records are."""
    stores = open_stores(config.store_url, "tiny", "tiny")
    consumer = open_stream(config.stream, stores.database).consumer(config.stream.predictions, "reader")
    records: list[dict[str, object]] = []
    try:
        async with asyncio.timeout(60):
            while len(records) < expected:
                records += [json.loads(record.value or b"") for record in await consumer.poll(500, 1.0)]
        records += [json.loads(record.value or b"") for record in await consumer.poll(500, 1.0)]
    finally:
        await consumer.close()
        stores.database.close()
    return records


async def test_queries_become_predictions_and_a_round_is_promoted_while_clients_ask(
    tmp_path: Path,
    kafka: KafkaBroker,
    postgres: PostgresServer,
    vllm_servers: SharedServers,
    vllm_pair: list[VllmServer],
) -> None:
    topics = {name: f"loop.{name}" for name in ("queries", "labels", "predictions", "review", "dead_letter")}
    path = tiny_config(
        tmp_path,
        model={"name": str(vllm_servers.model)},
        stream={"kind": "kafka", "kafka": {"bootstrap_servers": [kafka.bootstrap], "group_prefix": "loop."}, **topics},
        store={"url": postgres.create_database()},
        generation={"kind": "vllm", "replicas": [server.url for server in vllm_pair]},
        # Taught without neighbours, so tiny a model answers few prompts that show any: nothing might be selected.
        labelling={"configurations": [{"name": "greedy", "temperature": 0.0, "neighbours": 0}], "justify": False},
    )
    config = load_config(DaemonConfig, path, {})
    daemon = DaemonProcess(path)
    await asyncio.to_thread(daemon.start)
    try:
        await asyncio.to_thread(daemon.wait_ready)
        await asyncio.to_thread(daemon.publish, "labels", [example(number) for number in range(EXAMPLES)])
        await asyncio.to_thread(daemon.wait_until, lambda: ended(daemon, 0), 240.0)
        clients = Clients(daemon.url("gateway"))
        async with clients.asking():
            await asyncio.to_thread(daemon.publish, "queries", [easy_query(number) for number in range(QUERIES)])
            await asyncio.to_thread(
                daemon.wait_until, lambda: daemon.status()["pseudo_labels"]["total"] == QUERIES, 120.0
            )
            warm, evolved = await asyncio.to_thread(evolve, daemon)
            seen = len(clients.answers)
            await asyncio.to_thread(daemon.wait_until, lambda: len(clients.answers) > seen + 2 * CLIENTS)
        published = await predictions(config, QUERIES)
        status = daemon.status()
        alone = {
            (name, server.url.removeprefix("http://")): await answers_alone(server, name)
            for name in (warm, evolved)
            for server in vllm_pair
        }
    finally:
        code = await asyncio.to_thread(daemon.stop)
    assert code == 0, daemon.log()

    assert sorted(str(record["id"]) for record in published) == sorted(f"q{number}" for number in range(QUERIES))
    assert {record["adapter"] for record in published} == {warm}
    replicas = {server.url.removeprefix("http://") for server in vllm_pair}
    assert status["serving"] == evolved
    assert {each["name"]: each["adapters"][evolved]["passed"] for each in status["replicas"]} == dict.fromkeys(
        replicas, True
    )

    assert {adapter for _, _, adapter, _ in clients.answers} == {warm, evolved}
    assert {replica for *_, replica in clients.answers} == replicas
    assert alone[warm, next(iter(replicas))] != alone[evolved, next(iter(replicas))]  # or a mixture could not be told
    wrong = [
        (question, text, adapter, replica)
        for question, text, adapter, replica in clients.answers
        if alone[adapter, replica][question] != text
    ]
    assert wrong == []


def ended(daemon: DaemonProcess, number: int) -> bool:
    rounds = daemon.rounds()
    return bool(rounds) and rounds[0]["number"] == number and rounds[0]["state"] in ENDED


def evolve(daemon: DaemonProcess) -> tuple[str, str]:
    """Run a round and serve its adapter; (serving before, serving now). Whether it is better is not asked here."""
    warm = daemon.status()["serving"]
    assert daemon.post("/v1/rounds", {"kind": "evolve"}).status_code == 200
    daemon.wait_until(lambda: ended(daemon, 1), 240.0)
    evolved = daemon.rounds()[0]["adapter"]
    if daemon.status()["serving"] != evolved:
        assert daemon.post(f"/v1/adapters/{evolved}/promote").status_code in (200, 202)
        daemon.wait_until(lambda: daemon.status()["serving"] == evolved)
    return warm, evolved
