"""Slow is not dead: what came is kept, what a living server works on is waited for, and one late answer is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from semievol.engines import patience, vllm_client
from semievol.engines.concurrency import FIRST
from semievol.engines.openai import OpenAIGenerator
from semievol.engines.openai_client import OpenAIClient
from semievol.engines.vllm import FixedServers, VllmGenerator
from semievol.engines.vllm_client import VllmClient
from semievol.errors import ConfigError, TransientError
from semievol.http.server_address import ServerAddress
from semievol.protocols import Generator
from semievol.types import GenerationRequest, Late, Message, Refused, Reply
from tests.slow_server import SlowServer, completion

Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts servers, and stops them."""
    async with AsyncExitStack() as stack:

        async def started(**settings: Any) -> SlowServer:
            server = SlowServer(**settings)
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        yield started


def openai(server: SlowServer, timeout_s: float = 0.4, **options: Any) -> OpenAIGenerator:
    client = OpenAIClient(f"{server.url}/v1", None, key_setting="generation.api_key")
    return OpenAIGenerator(client, "base", timeout_s=timeout_s, **options)


def vllm(*servers: SlowServer, timeout_s: float = 0.4, **options: Any) -> VllmGenerator:
    client = VllmClient()
    addresses = [ServerAddress(f"s{place}", server.url) for place, server in enumerate(servers)]
    return VllmGenerator(client, FixedServers(client, addresses), timeout_s=timeout_s, **options)


KINDS = [openai, vllm]


def ask(*questions: str) -> list[GenerationRequest]:
    return [GenerationRequest((Message("user", question),), max_tokens=4) for question in questions]


async def replies(generator: Generator, requests: Sequence[GenerationRequest]) -> list[Reply]:
    """All that is told, in the order of the requests; closes the generator."""
    told: dict[int, Reply] = {}
    try:
        await generator.answer(requests, told.__setitem__)
    finally:
        await generator.close()
    return [told[place] for place in range(len(requests))]


@pytest.mark.parametrize("kind", KINDS)
async def test_one_late_answer_of_eight_is_late_alone_and_the_others_are_not_asked_again(
    start: Start, kind: Callable[..., Generator]
) -> None:
    server = await start(seconds=0.05, delays={"q3": 30.0})
    found = await replies(kind(server), ask(*(f"q{number}" for number in range(8))))
    assert [isinstance(reply, list) for reply in found] == [number != 3 for number in range(8)]
    assert isinstance(found[3], Late)
    assert "no answer within 1 s from a server that is alive" in found[3].reason
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_takes_longer_than_the_timeout_comes_from_a_server_that_lives(
    start: Start, kind: Callable[..., Generator]
) -> None:
    server = await start(delays={"slow": 0.6})
    (reply,) = await replies(kind(server), ask("slow"))
    assert isinstance(reply, list)
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_time_of_a_request_begins_when_it_is_sent(start: Start, kind: Callable[..., Generator]) -> None:
    server = await start(seconds=0.1, places=1)
    found = await replies(kind(server, timeout_s=0.7), ask(*(f"q{number}" for number in range(16))))
    assert all(isinstance(reply, list) for reply in found)  # 1.6 s of work: the last would be late by far
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_gets_few_requests_at_first_and_more_while_all_is_well(
    start: Start, kind: Callable[..., Generator]
) -> None:
    server = await start(seconds=0.02)
    at_first: list[int] = []
    generator = kind(server, concurrency=12)
    await generator.answer(
        ask(*(f"q{number}" for number in range(200))), lambda place, reply: at_first.append(server.most_running)
    )
    await generator.close()
    assert at_first[0] == FIRST
    assert FIRST < server.most_running <= 12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_with_too_much_to_do_gets_less_and_is_asked_again_after_the_wait_that_it_names(
    start: Start, kind: Callable[..., Generator], status: int
) -> None:
    server = await start(seconds=0.05)
    server.refusals.extend([(status, {"Retry-After": "0.3"})] * 4)
    began = time.monotonic()
    found = await replies(kind(server, timeout_s=5.0), ask(*(f"q{number}" for number in range(6))))
    assert all(isinstance(reply, list) for reply in found)
    assert time.monotonic() - began >= 0.3
    assert server.most_running <= FIRST // 2 + 1
    assert set(server.asked.values()) == {1}


async def test_what_was_with_a_server_that_was_stopped_is_answered_by_another(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_client, "_PROBE_S", 0.2)
    monkeypatch.setattr(patience, "LOOK_S", 0.3)
    stopped, other = await start(seconds=0.02), await start(seconds=0.02)
    generator = vllm(stopped, other, timeout_s=60.0)

    async def stop_at_work() -> None:
        while not stopped.answered:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
        stopped.stopped = True

    began = time.monotonic()
    stopping = asyncio.create_task(stop_at_work())
    found = await replies(generator, ask(*(f"q{number}" for number in range(120))))
    await stopping
    assert all(isinstance(reply, list) for reply in found)
    assert time.monotonic() - began < 20.0
    assert stopped.answered
    both = stopped.answered + other.answered
    assert set(both.values()) == {1}
    stopped.stopped = False


async def test_when_every_server_is_stopped_the_call_fails_and_keeps_what_came(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_client, "_PROBE_S", 0.1)
    monkeypatch.setattr(patience, "LOOK_S", 0.1)
    server = await start(delays={"q1": 0.2})
    told: dict[int, Reply] = {}
    generator = vllm(server, timeout_s=1.0)

    def tell(place: int, reply: Reply) -> None:
        told[place] = reply
        server.stopped = True

    with pytest.raises(TransientError):
        await generator.answer(ask("q0", "q1"), tell)
    assert list(told) == [0]
    server.stopped = False
    await generator.close()


BAD_GATEWAY = {"error": {"message": "the provider is away", "code": 502}}
SHAPES: list[Any] = [
    {"choices": None},
    {"choices": ["a"]},
    [],
    "<html>",
    {"error": "it broke"},
    completion(["a"]),
    completion("a", logprobs={"content": [{"token": "a", "logprob": None}]}),
    completion("a", logprobs={"content": [{"token": "a", "logprob": float("nan")}]}),
    completion("", finish_reason="error", error={"message": "it broke off"}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [BAD_GATEWAY, *SHAPES], ids=lambda shape: str(shape)[:40])
async def test_an_odd_answer_is_asked_for_again_and_is_then_as_good_as_any(
    start: Start, kind: Callable[..., Generator], shape: Any
) -> None:
    if kind is vllm and shape in SHAPES[-2:]:
        pytest.skip("vLLM writes no such thing")
    server = await start(odd={"odd": [shape, completion("a")]})
    found = await replies(kind(server, timeout_s=10.0), ask("odd"))
    assert isinstance(found[0], list)
    assert found[0][0].text == "a"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES[:7], ids=lambda shape: str(shape)[:40])
async def test_a_request_that_is_always_answered_oddly_is_refused_alone(
    start: Start, kind: Callable[..., Generator], shape: Any
) -> None:
    server = await start(odd={"odd": [shape]}, delays={"odd": 0.2})
    found = await replies(kind(server, timeout_s=2.0), ask("well", "odd", "well too"))
    assert [isinstance(reply, list) for reply in found] == [True, False, True]
    # An error in an answer may pass, as one instead of an answer may: it is asked for until the time is up.
    assert isinstance(found[1], Late if kind is openai and shape == {"error": "it broke"} else Refused)


async def test_an_endpoint_that_answers_every_request_oddly_is_named_as_a_setting(start: Start) -> None:
    server = await start(odd={"": [{"choices": None}]})
    with pytest.raises(ConfigError, match=r"generation\.base_url: .* does not answer as OpenAI's chat completions do"):
        await replies(openai(server), ask("one", "two"))


@pytest.mark.parametrize("kind", KINDS)
async def test_half_of_a_surrogate_pair_in_an_answer_becomes_a_character_that_can_be_written(
    start: Start, kind: Callable[..., Generator]
) -> None:
    server = await start(odd={"": [completion("ref\ud83dund \U0001f600")]})
    (reply,) = await replies(kind(server), ask("q"))
    assert isinstance(reply, list)
    assert reply[0].text == "ref\ufffdund \U0001f600"


@pytest.mark.parametrize("kind", KINDS)
async def test_half_of_a_surrogate_pair_in_a_question_is_refused_alone(
    start: Start, kind: Callable[..., Generator]
) -> None:
    server = await start()
    good, bad = await replies(kind(server), ask("q", "half \ud83d"))
    assert isinstance(good, list)
    assert isinstance(bad, Refused)
