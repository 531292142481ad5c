"""A server in OpenAI's shapes, and in vLLM's, that is slow on command: so much at a time, and so long for each.

Counts what it was asked and what it answered, so that a test sees whether anything that was answered was asked twice.
It answers the base model's name and any other; `stopped` it takes connections and says nothing, as after SIGSTOP.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class SlowServer:
    """One server. `seconds` for each request, `places` of them at a time, the others wait in it."""

    seconds: float = 0.0
    places: int = 1_000
    delays: dict[str, float] = field(default_factory=dict)
    """Further seconds of requests whose last message holds the text."""
    refusals: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    """What the next requests get: a status and headers."""
    odd: dict[str, list[Any]] = field(default_factory=dict)
    """Bodies, in turn, of answers to requests whose last message holds the text; the last one stays."""
    text: str = "a"
    stopped: bool = False
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most_running: int = 0
    signs: int = 0
    url: str = ""
    asked_again: list[str] = field(default_factory=list)
    """What had been answered when it was asked once more."""
    _line: deque[asyncio.Future[None]] = field(default_factory=deque)
    _working: int = 0
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._sign)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """As a killed process."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _sign(self, _: web.Request) -> web.Response:
        await self._going()
        self.signs += 1
        return web.json_response({})

    async def _models(self, _: web.Request) -> web.Response:
        await self._going()
        self.signs += 1
        return web.json_response({"data": [{"id": "base"}]})

    async def _going(self) -> None:
        while self.stopped:  # noqa: ASYNC110 - the tests set a plain switch
            await asyncio.sleep(0.01)

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        key = json.dumps([body["messages"], body.get("n", 1), body["temperature"], body.get("seed")])
        question = body["messages"][-1]["content"]
        await self._going()
        if self.refusals:
            status, headers = self.refusals.popleft()
            return web.json_response({"error": {"message": "not now"}}, status=status, headers=headers)
        self.asked[key] += 1
        if self.answered[key]:
            self.asked_again.append(key)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self._work(question)
            await self._going()
        finally:
            self.running -= 1
        self.answered[key] += 1
        for part, bodies in self.odd.items():
            if part in question:
                said = bodies[0] if len(bodies) == 1 else bodies.pop(0)
                text = said if isinstance(said, str) else json.dumps(said)
                return web.Response(text=text, content_type="application/json")
        return web.json_response(completion(self.text, body.get("n", 1)))

    def release(self, places: int) -> None:
        """From now on it works on so many at a time."""
        self.places = places
        self._begin_more()

    async def _work(self, question: str) -> None:
        begin = asyncio.get_running_loop().create_future()
        self._line.append(begin)
        self._begin_more()
        try:
            await begin
        except asyncio.CancelledError:
            if begin.done() and not begin.cancelled():
                self._end()
            raise
        try:
            await asyncio.sleep(self.seconds + sum(s for part, s in self.delays.items() if part in question))
        finally:
            self._end()

    def _begin_more(self) -> None:
        while self._line and self._working < self.places:
            begin = self._line.popleft()
            if not begin.done():
                self._working += 1
                begin.set_result(None)

    def _end(self) -> None:
        self._working -= 1
        self._begin_more()


def completion(text: Any, samples: int = 1, **choice: Any) -> dict[str, Any]:
    """The body of an answer, with what both kinds of endpoint tell."""
    tokens = [{"token": "token_id:5", "logprob": -0.1, "bytes": None, "top_logprobs": []}]
    one = {"message": {"role": "assistant", "content": text}, "logprobs": {"content": tokens}, "finish_reason": "stop"}
    return {
        "object": "chat.completion",
        "choices": [{"index": place, **one, **choice} for place in range(samples)],
        "usage": {"prompt_tokens": 5, "completion_tokens": samples},
    }
