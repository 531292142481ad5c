"""A server that answers as vLLM does, and sleeps as vLLM does, without a GPU: for what happens around its sleep.

In its sleep it forgets adapters and goes on listing them; then the base model answers under their names. What is in its
queue when it is told to sleep, or is asked of it later, is answered when it wakes, unless it is told to sleep with
`mode=abort`, even in its sleep: what runs or waits is answered then, with an empty text. A sleep that waits for what
runs goes on when nobody waits for it any more, comes when the last request has ended, even after a waking, and is shown
from the moment that it was asked for.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class SleepingServer:
    """One server; the adapter `w-r0007-...` answers with the token 7, the base model with 99."""

    seconds: float = 0.0
    """Of each answer to a client."""
    calls: list[str] = field(default_factory=list)
    """What changed it, in order."""
    listed: dict[str, str] = field(default_factory=lambda: {"base": ""})
    engine: set[str] = field(default_factory=set)
    asleep: bool = False
    places: int = 1000
    """Requests at a time; others are in its queue."""
    counts: bool = True
    """Its metrics say how many requests it has."""
    running: int = 0
    queued: int = 0
    answered: int = 0
    broken: list[str] = field(default_factory=list)
    """What was worked on while the memory was gone: the real one would die."""
    url: str = ""
    _paused: bool = False
    _aborts: int = 0
    _sleeps: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _runner: web.AppRunner | None = None

    @property
    def name(self) -> str:
        return self.url.removeprefix("http://")

    async def start(self) -> None:
        app = web.Application()
        for method, path, handler in (
            ("GET", "/health", self._health),
            ("GET", "/metrics", self._metrics),
            ("GET", "/v1/models", self._models),
            ("POST", "/v1/load_lora_adapter", self._load),
            ("POST", "/v1/unload_lora_adapter", self._unload),
            ("POST", "/v1/chat/completions", self._chat),
            ("GET", "/is_sleeping", self._is_sleeping),
            ("POST", "/sleep", self._sleep),
            ("POST", "/wake_up", self._wake_up),
        ):
            app.router.add_route(method, path, handler)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        for task in self._sleeps:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        labels = '{engine="0",model_name="base"}'
        figures = {"running": self.running, "waiting": self.queued} if self.counts else {}
        lines = [f"vllm:num_requests_{name}{labels} {value:.1f}\n" for name, value in figures.items()]
        return web.Response(text="".join(("# TYPE vllm:num_requests_running gauge\n", *lines)))

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.listed]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(f"load {body['lora_name']}")
        self.listed[body["lora_name"]] = body["lora_path"]
        self.engine.add(body["lora_name"])
        return web.Response(text="loaded")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if self.listed.pop(name, None) is None:
            return web.json_response({"message": "not found"}, status=404)
        self.calls.append(f"unload {name}")
        self.engine.discard(name)
        return web.Response(text="unloaded")

    async def _is_sleeping(self, _: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": self.asleep or self._paused})

    async def _sleep(self, request: web.Request) -> web.Response:
        assert request.query["level"] == "1"
        self._paused = True
        if request.query["mode"] == "abort":
            async with self._changed:
                self._aborts += 1
                self._changed.notify_all()
            if waiting := list(self._sleeps):
                await asyncio.gather(*waiting)
        task = asyncio.create_task(self._fall_asleep())
        self._sleeps.add(task)
        task.add_done_callback(self._sleeps.discard)
        await asyncio.shield(task)
        return web.json_response({"status": "sleeping"})

    async def _fall_asleep(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self.running)
        if not self.asleep:
            self.calls.append("sleep")
        self.asleep = True
        self.engine.clear()

    async def _wake_up(self, _: web.Request) -> web.Response:
        self.calls.append("wake up")
        async with self._changed:
            self.asleep = self._paused = False
            self._changed.notify_all()
        return web.json_response({"status": "awake"})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        model = body["model"]
        if model not in self.listed:
            message = f"The model `{model}` does not exist."
            return web.json_response({"error": {"message": message, "code": 404}}, status=404)
        token = int(model.split("-")[-2][1:]) if model in self.engine else 99  # also after an unload meanwhile
        aborts = self._aborts
        self.queued += 1
        try:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: self._aborts > aborts or (not self._paused and self.running < self.places)
                )
                if self._aborts > aborts:
                    return web.json_response(_cut_off(model))
                self.running += 1
        finally:
            self.queued -= 1
        try:
            if body.get("logprobs") is None:  # a client's; proofs are quick
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.seconds), self._changed:
                        await self._changed.wait_for(lambda: self._aborts > aborts)
                        return web.json_response(_cut_off(model))
                self.answered += 1
            if self.asleep:
                self.broken.append(model)
            return web.json_response(_answer(model, token))
        finally:
            self.running -= 1
            async with self._changed:
                self._changed.notify_all()


def _answer(model: str, token: int) -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": str(token)},
        "logprobs": {"content": [{"token": f"token_id:{token}", "logprob": -0.5}]},
        "finish_reason": "stop",
    }
    return _completion(model, choice)


def _cut_off(model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": ""}
    return _completion(model, {"index": 0, "message": message, "logprobs": None, "finish_reason": "abort"})


def _completion(model: str, choice: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "x", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage}
