"""Several clients with tokens of their own, and limits that hold when a request leaves them out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from semievol.types import Completion, GenerationRequest
from semievold.gateway.local import LocalBackend
from tests.openai_double import ALIAS, Double, Front, front

APP, OTHER, OLD = "secret-of-the-app", "secret-of-the-other", "secret-that-is-revoked"
TOKENS = {
    "app": {"secret": APP, "requests_at_once": 2, "requests_per_minute": 100},
    "other": {"secret": OTHER, "requests_per_minute": 2},
    "old": {"secret": OLD, "revoked": True},
}


def ask(it: Front, token: str, path: str = "/v1/chat/completions", **body: Any) -> Any:
    asked = {"model": ALIAS, "messages": [{"role": "user", "content": "hello"}], **body}
    return it.session.post(it.url + path, json=asked, headers={"Authorization": f"Bearer {token}"})


def counted(it: Front, token: str, code: str) -> float:
    return it.metrics.token_requests.labels("tests", token, code)._value.get()


async def test_each_token_opens_the_gateway_but_a_revoked_one_and_is_counted_by_its_name() -> None:
    async with front([Double("a")], tokens=TOKENS) as it:
        for token, status in ((APP, 200), (OTHER, 200), (OLD, 401), (APP + "x", 401), (APP[:-1], 401)):
            async with ask(it, token) as response:
                assert response.status == status
        async with it.ask() as response:
            assert response.status == 200
        assert [counted(it, name, "200") for name in ("app", "other", "default")] == [1, 1, 1]
        assert counted(it, "none", "401") == 3
        rendered = it.metrics.render().decode()
        assert "secret-" not in rendered
        assert 'token="app"' in rendered


async def test_one_client_at_its_limit_is_told_when_to_come_again_and_the_others_are_served() -> None:
    async with front([Double("a", pause_s=0.3)], tokens=TOKENS) as it:
        running = [asyncio.create_task(_status(ask(it, APP))) for _ in range(6)]
        async with ask(it, OTHER) as response:
            assert response.status == 200
        assert sorted(await asyncio.gather(*running)) == [200, 200, 429, 429, 429, 429]
        async with ask(it, OTHER) as response:
            assert response.status == 200
        async with ask(it, OTHER) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= 60
            assert (await response.json())["error"]["code"] == "rate_limit_exceeded"


async def _status(asked: Any) -> int:
    async with asked as response:
        return int(response.status)


async def test_a_list_of_prompts_is_no_way_around_a_limit() -> None:
    async with front([Double("a")], tokens=TOKENS, max_in_flight=4) as it:
        for token, prompts, status in ((APP, 2, 200), (APP, 3, 400), ("token-of-the-gateway", 4, 200)):
            async with ask(it, token, "/v1/completions", prompt=["x"] * prompts) as response:
                assert response.status == status, (token, prompts)
        async with ask(it, "token-of-the-gateway", "/v1/completions", prompt=[[1, 2]] * 5) as response:
            assert response.status == 400
            assert "counts as 5 requests" in (await response.json())["error"]["message"]
        assert len(it.doubles[0].asked) == 2


async def test_the_limit_of_tokens_holds_when_a_request_leaves_it_out() -> None:
    async with front([Double("a")], max_tokens=100) as it:
        for body in ({}, {"max_tokens": None}, {"max_completion_tokens": None, "n": 2}, {"stream": True}):
            async with it.ask(**body) as response:
                await response.read()
                assert response.status == 200
            assert it.doubles[0].asked[-1][1]["max_completion_tokens"] == 100
        for body, kept in (({"max_tokens": 7}, 7), ({"max_tokens": 100}, 100)):
            async with it.ask(**body) as response:
                assert response.status == 200
            assert it.doubles[0].asked[-1][1].get("max_completion_tokens") is None
            assert it.doubles[0].asked[-1][1]["max_tokens"] == kept
        async with it.ask("/v1/completions", prompt="x", max_tokens=None) as response:
            assert response.status == 200
        assert it.doubles[0].asked[-1][1]["max_tokens"] == 100
        for body in ({"max_tokens": 101}, {"min_tokens": 101}, {"max_tokens": 1, "max_completion_tokens": 101}):
            async with it.ask(**body) as response:
                assert response.status == 400


def beyond(wanted: int, context: str) -> str:
    said = f"max_completion_tokens={wanted} cannot be greater than max_model_len={context}."
    return f"{said} Please request fewer output tokens."


def too_many(wanted: int) -> dict[str, Any]:
    """As vLLM says it."""
    said = (
        f"max_completion_tokens={wanted} cannot be greater than max_model_len=50. Please request fewer output tokens."
    )
    message = f"{said} (parameter=max_completion_tokens, value={wanted})"
    return {"message": message, "type": "BadRequestError", "param": "max_completion_tokens", "code": 400}


@dataclass
class ShortContext(Double):
    """Refuses more tokens than its context holds, in vLLM's words."""

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if (wanted := body.get("max_completion_tokens") or 0) > 50:
            return web.json_response({"error": too_many(wanted)}, status=400)
        if "tokens=" in (last := body["messages"][-1]["content"]):
            return web.json_response({"error": {"message": last, "param": "messages", "code": 400}}, status=400)
        return await super()._answer(request, body)


async def test_a_context_that_is_shorter_than_the_limit_is_found_out_once() -> None:
    async with front([ShortContext("a")], max_tokens=100) as it:
        for _ in range(3):
            async with it.ask() as response:
                assert response.status == 200
        assert [body.get("max_completion_tokens") for _, body, _ in it.doubles[0].asked] == [100, None, None, None]
        async with it.ask(max_completion_tokens=60) as response:  # the client's own number is the client's mistake
            assert response.status == 400


@pytest.mark.parametrize("context", ["1", "9" * 5_000])
async def test_a_clients_words_in_an_error_are_no_context(context: str) -> None:
    words = (
        f"max_completion_tokens=40 cannot be greater than max_model_len={context}. Please request fewer output tokens."
    )
    async with front([ShortContext("a"), ShortContext("b")], max_tokens=40) as it:
        for _ in range(2):
            async with it.ask(messages=[{"role": "user", "content": words}]) as response:
                assert response.status == 400
            async with it.ask() as response:
                assert response.status == 200
        asked = [body for double in it.doubles for _, body, _ in double.asked]
        assert [body.get("max_completion_tokens") for body in asked] == [40] * 4


METERED = {"app": {"secret": APP, "tokens_per_minute": 1_000, "requests_per_minute": 100}}


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_a_minute_are_counted_by_what_the_answer_took(stream: bool) -> None:
    double = Double("a")
    double.usage = {"prompt_tokens": 100, "completion_tokens": 150, "total_tokens": 250}
    async with front([double], tokens=METERED) as it:
        left = []
        for _ in range(5):
            async with ask(it, APP, max_tokens=300, stream=stream) as response:
                said = await response.read()
                assert b'"usage"' not in said or not stream
                left.append(int(response.headers["x-ratelimit-remaining-tokens"]))
                if response.status == 429:
                    assert 1 <= int(response.headers["Retry-After"]) <= 60
                    assert response.headers["x-ratelimit-limit-tokens"] == "1000"
                    assert b"1000 tokens a minute" in said
        # What is taken before an answer is its prompt, about, and max_tokens.
        assert [each // 100 for each in left[:3]] == [6, 4, 1]
        assert counted(it, "app", "200") == 3
        assert counted(it, "app", "429") == 2
        async with it.ask() as response:
            assert response.status == 200
            assert not [name for name in response.headers if name.startswith("x-ratelimit")]


async def test_a_request_that_fails_costs_no_tokens_and_the_embedded_engine_counts_alike() -> None:
    async with front([Double("a", fault="400")], tokens=METERED) as it:
        for _ in range(5):
            async with ask(it, APP, max_tokens=900) as response:
                assert response.status == 400
    async with front([], tokens=METERED, answering=LocalBackend(Words())) as it:
        left = []
        for _ in range(4):
            async with ask(it, APP, max_tokens=400) as response:
                left.append(int(response.headers["x-ratelimit-remaining-tokens"]))
                assert response.status == 200
        assert [left[0] - each for each in left] == pytest.approx([0, 30, 60, 90], abs=25)  # a minute comes back


async def test_what_fails_after_an_engine_was_asked_keeps_its_tokens_and_a_chunked_body_counts() -> None:
    async with front([Double("a", fault="500")], tokens=METERED) as it:
        async with ask(it, APP, max_tokens=900) as response:
            assert response.status == 500
        async with ask(it, APP, max_tokens=900) as response:
            assert response.status == 429
    async with front([Double("a")], tokens=METERED) as it:

        async def chunks() -> Any:
            turns = [{"role": "user", "content": "x" * 2_000}]
            yield json.dumps({"model": ALIAS, "messages": turns, "max_tokens": 1}).encode()

        headers = {"Authorization": f"Bearer {APP}", "Content-Type": "application/json"}
        async with it.session.post(f"{it.url}/v1/chat/completions", data=chunks(), headers=headers) as response:
            assert response.status == 200
            assert int(response.headers["x-ratelimit-remaining-tokens"]) <= 500


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"n": 16, "logprobs": True, "top_logprobs": 20}, "top_logprobs"),
        ("/v1/completions", {"prompt": ["x"] * 16, "logprobs": 5}, "logprobs"),
        ("/v1/chat/completions", {"prompt_logprobs": 20, "user": "x" * 60_000}, "prompt_logprobs"),
    ],
)
async def test_no_answer_of_more_log_probabilities_than_are_held_is_asked_for(path: str, body: Any, field: str) -> None:
    async with front([Double("a")]) as it:
        async with it.ask(path, **body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == field
        assert it.doubles[0].asked == []
        async with it.ask(logprobs=True, top_logprobs=20, max_tokens=100) as response:
            assert response.status == 200


async def test_an_answer_beyond_what_is_held_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semievold.gateway.replica.answers.ANSWER_BYTES", 10)
    async with front([Double("a"), Double("b")]) as it:
        async with it.ask() as response:
            assert response.status == 502
            assert (await response.json())["error"]["code"] == "answer_too_large"
        assert sum(len(double.asked) for double in it.doubles) == 1


class Words:
    """A generator whose every answer is 20 tokens to a prompt of 10."""

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[list[Completion]]:
        return [[Completion("words", (1,) * 20, (-0.1,) * 20, "stop", None, 10)] for _ in requests]
