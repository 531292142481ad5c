"""The gateway over real vLLM replicas: the alias moves under load, a replica is killed, and clients notice nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from tests.openai_double import ALIAS, Front, events, front
from tests.servers.vllm import START_S, SharedServers, VllmServer
from tests.tiny_adapter import make_tiny_adapter

pytestmark = pytest.mark.timeout(2 * START_S)

CLIENTS, MOVES = 16, 8
QUESTIONS = [f"what about {'xyzw'[number % 4] * (number + 1)} and {number * 37}?" for number in range(8)]
TOKENS = 16


class Answer(NamedTuple):
    kind: str
    question: str
    text: str
    adapter: str


async def chat(it: Front, question: str, **options: Any) -> Answer:
    turns = [{"role": "user", "content": question}]
    async with it.ask(messages=turns, temperature=0, max_tokens=TOKENS, **options) as response:
        assert response.status == 200, await response.text()
        answer = await response.json()
    assert answer["model"] == ALIAS
    return Answer("chat", question, answer["choices"][0]["message"]["content"], response.headers["x-semievol-adapter"])


async def stream(it: Front, question: str) -> Answer:
    turns = [{"role": "user", "content": question}]
    async with it.ask(messages=turns, temperature=0, max_tokens=TOKENS, stream=True) as response:
        assert response.status == 200, await response.text()
        found = events(await response.read())
    assert found.pop() == "[DONE]"
    assert {event["model"] for event in found} == {ALIAS}
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in found)
    return Answer("chat", question, text, response.headers["x-semievol-adapter"])


async def complete(it: Front, question: str) -> Answer:
    asked = {"prompt": question, "temperature": 0, "max_tokens": TOKENS}
    async with it.session.post(f"{it.url}/v1/completions", json={"model": ALIAS, **asked}) as response:
        assert response.status == 200, await response.text()
        answer = await response.json()
    assert answer["model"] == ALIAS
    return Answer("completion", question, answer["choices"][0]["text"], response.headers["x-semievol-adapter"])


ASKED: list[Callable[[Front, str], Awaitable[Answer]]] = [chat, stream, complete]


@asynccontextmanager
async def over(replicas: list[VllmServer], model: Path, directory: Path) -> AsyncIterator[tuple[Front, list[str]]]:
    """A gateway over replicas that both hold two adapters, and the adapters' names."""
    paths = [make_tiny_adapter(model, directory / "adapters", seed) for seed in (1, 2)]
    async with front([], {f"replica-{number}": replica for number, replica in enumerate(replicas)}) as it:
        for replica in replicas:
            for path in paths:
                body = {"lora_name": path.name, "lora_path": str(path)}
                async with it.session.post(f"{replica.url}/v1/load_lora_adapter", json=body) as response:
                    assert response.status == 200, await response.text()
        it.move(paths[0].name)
        yield it, [path.name for path in paths]


async def keep_asking(it: Front, offset: int, seen: list[Answer], enough: asyncio.Event, kinds: int) -> None:
    number = offset
    while not enough.is_set():
        seen.append(await ASKED[number % kinds](it, QUESTIONS[number // kinds % len(QUESTIONS)]))
        number += 1


async def answered(seen: list[Answer], more: int, clients: list[asyncio.Task[None]]) -> None:
    """Wait for so many more answers; fail with the first client that fails."""
    until = len(seen) + more
    while len(seen) < until:
        await asyncio.sleep(0.01)
        for task in clients:
            assert not task.done(), task.exception()


async def test_no_request_fails_or_mixes_versions_while_the_alias_moves_over_two_replicas(
    vllm_servers: SharedServers, tmp_path: Path
) -> None:
    async with over(vllm_servers.take(2), vllm_servers.model, tmp_path) as (it, adapters):
        alone: dict[tuple[str, str, str], str] = {}
        for adapter in adapters:
            it.move(adapter)
            for question in QUESTIONS:
                for answer in (await chat(it, question), await complete(it, question)):
                    alone[adapter, answer.kind, question] = answer.text
        assert all(alone[adapters[0], "chat", q] != alone[adapters[1], "chat", q] for q in QUESTIONS)
        seen: list[Answer] = []
        enough = asyncio.Event()
        clients = [asyncio.create_task(keep_asking(it, n, seen, enough, len(ASKED))) for n in range(CLIENTS)]
        for move in range(MOVES):
            await answered(seen, 3 * CLIENTS, clients)
            it.move(adapters[move % 2])
        enough.set()
        await asyncio.gather(*clients)
        mixtures = [answer for answer in seen if alone[answer.adapter, answer.kind, answer.question] != answer.text]
        assert mixtures == []
        assert min(Counter(answer.adapter for answer in seen).values()) >= CLIENTS
        assert it.pool.down == {}
        assert all(it.alias.running(adapter) == 0 for adapter in adapters)


async def test_what_clients_send_beside_the_model_reaches_vllm(vllm_servers: SharedServers, tmp_path: Path) -> None:
    async with over(vllm_servers.take(1), vllm_servers.model, tmp_path) as (it, adapters):
        assert (await chat(it, "x", structured_outputs={"choice": ["red", "blue"]})).text in ("red", "blue")
        async with it.ask(logprobs=True, top_logprobs=2, max_tokens=2, n=2, temperature=1) as response:
            choices = (await response.json())["choices"]
        assert [len(choice["logprobs"]["content"][0]["top_logprobs"]) for choice in choices] == [2, 2]
        async with it.ask(stream=True, stream_options={"include_usage": True}, max_tokens=2) as response:
            assert events(await response.read())[-2]["usage"]["completion_tokens"] == 2
        for mistake in ({"temperature": -1}, {"messages": []}, {"max_tokens": 4000}, {"top_p": "x"}):
            async with it.ask(**mistake) as response:
                assert response.status == 400, mistake
                assert (await response.json())["error"]["message"]
            # What the gateway refuses by itself was bound to no version.
            assert response.headers.get("x-semievol-adapter", adapters[0]) == adapters[0]
        async with it.session.get(f"{it.url}/v1/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == [ALIAS]
        async with it.ask("/v1/embeddings", input="x") as response:  # this model gives none
            assert response.status in (400, 404)


async def test_a_replica_that_is_killed_under_load_fails_no_request(
    vllm_servers: SharedServers, tmp_path: Path
) -> None:
    replicas = vllm_servers.take(2)
    async with over(replicas, vllm_servers.model, tmp_path) as (it, _):
        seen: list[Answer] = []
        enough = asyncio.Event()
        clients = [asyncio.create_task(keep_asking(it, n, seen, enough, 1)) for n in range(CLIENTS)]
        await answered(seen, 2 * CLIENTS, clients)
        async with asyncio.timeout(30):
            while not it.pool.busy["replica-0"]:  # noqa: ASYNC110 - between two requests it may have none
                await asyncio.sleep(0.001)
        await asyncio.to_thread(replicas[0].kill)
        await answered(seen, 4 * CLIENTS, clients)
        enough.set()
        await asyncio.gather(*clients)
        assert set(it.pool.down) == {"replica-0"}
        with pytest.raises(aiohttp.ClientConnectionError):
            await it.session.get(f"{replicas[0].url}/health")
