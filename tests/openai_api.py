"""A small server with the documented state of OpenAI's API: files, fine-tuning jobs, their events, chat completions.

A base model answers the last of LABELS to everything; a model that was fine-tuned here answers the label that the
question names, as its rows taught it. `faults` fail the next requests of a path; other switches say what it cannot do.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

LABELS = ("a", "b")
BASE = "gpt-tiny"
KEY = "key-of-the-tests"
STATES = ("validating_files", "queued", "running", "running", "succeeded")


@dataclass
class Job:
    """One fine-tuning job; every look at it moves it one state on, up to `until`."""

    id: str
    asked: dict[str, Any]
    looks: int = 0
    error: str | None = None
    cancelled: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)

    def status(self, hold: bool) -> str:
        if self.cancelled:
            return "cancelled"
        if self.error is not None:
            return "failed"
        return STATES[min(self.looks, 3 if hold else len(STATES) - 1)]


@dataclass
class OpenAIApi:
    """The server. `fail` is what the next job fails with; `hold` keeps jobs running."""

    url: str = ""
    files: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    hold: bool = False
    fail: str | None = None
    lose_answers: int = 0
    logprobs: bool = True
    several: bool = True
    newer_limit: bool = False
    filtered: bool = False
    longest_chars: int = 10_000
    spoilt: dict[str, str] = field(default_factory=dict)
    """By the text of a question what is wrong with each answer to it: `broken`, `down`, `empty`, `few` or `usage`."""
    odd: dict[str, Any] = field(default_factory=dict)
    """What GET requests whose path ends so are answered with."""
    held: asyncio.Event = field(default_factory=asyncio.Event)
    chat_asked: asyncio.Event = field(default_factory=asyncio.Event)
    stop_after_chats: int | None = None
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_post("/v1/fine_tuning/jobs", self._create)
        app.router.add_get("/v1/fine_tuning/jobs", self._list)
        app.router.add_get("/v1/fine_tuning/jobs/{id}", self._retrieve)
        app.router.add_get("/v1/fine_tuning/jobs/{id}/events", self._events)
        app.router.add_post("/v1/fine_tuning/jobs/{id}/cancel", self._cancel)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def chats(self) -> list[dict[str, Any]]:
        return [body for path, body in self.asked if path == "/v1/chat/completions"]

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls[f"{request.method} {request.path}"] += 1
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return refusal(401, "Incorrect API key provided.", code="invalid_api_key")
        for place, (path, status, headers) in enumerate(self.faults):
            if request.path.startswith(path):
                del self.faults[place]
                return refusal(status, "slow down" if status == 429 else "overloaded", headers=headers)
        for ending, answer in self.odd.items():
            if request.method == "GET" and request.path.endswith(ending):
                return web.json_response(answer)
        response: web.StreamResponse = await handler(request)
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert form["purpose"] == "fine-tune"
        assert isinstance(file, web.FileField)
        name = f"file-{len(self.files) + 1}"
        self.files[name] = file.file.read().decode()
        return web.json_response({"id": name, "object": "file", "purpose": "fine-tune", "filename": file.filename})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append((request.path, body))
        if body["model"] != BASE and body["model"] not in self._tuned():
            return refusal(400, "The model cannot be fine-tuned.", code="model_not_available", param="model")
        if body["training_file"] not in self.files:
            return refusal(400, "No such file.", param="training_file")
        job = Job(f"ftjob-{len(self.jobs) + 1}", body, error=self.fail)
        self.fail = None
        rows = [json.loads(line) for line in self.files[body["training_file"]].splitlines()]
        if len(rows) < 10 and job.error is None:
            job.error = f"Training file has {len(rows)} example(s), but must have at least 10 examples"
        self.jobs[job.id] = job
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(self._shown(job))

    async def _list(self, request: web.Request) -> web.Response:
        newest = [self._shown(job) for job in reversed(self.jobs.values())]
        after, limit = request.query.get("after"), int(request.query.get("limit", "20"))
        start = 0 if after is None else [job["id"] for job in newest].index(after) + 1
        page = newest[start : start + limit]
        return web.json_response({"object": "list", "data": page, "has_more": start + limit < len(newest)})

    async def _retrieve(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        job.looks += 1
        status = job.status(self.hold)
        if self.hold and status == "running":
            self.held.set()
        step = min(job.looks, 4)
        # Newer APIs put the numbers into `data`, all of them into the message.
        data = {"step": step, "total_steps": 4} if step % 2 else {}
        event = {"message": f"Step {step}/4: training loss=0.10", "data": data, "type": "metrics", "level": "info"}
        job.events.append({"object": "fine_tuning.job.event", "id": f"ftevent-{len(job.events)}", **event})
        return web.json_response(self._shown(job))

    async def _events(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        return web.json_response({"object": "list", "data": job.events[::-1], "has_more": False})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["id"]]
        job.cancelled = True
        return web.json_response(self._shown(job))

    def _shown(self, job: Job) -> dict[str, Any]:
        status = job.status(self.hold)
        return {
            "object": "fine_tuning.job",
            "id": job.id,
            "model": job.asked["model"],
            "training_file": job.asked["training_file"],
            "status": status,
            "fine_tuned_model": f"ft:{BASE}:{job.id}" if status == "succeeded" else None,
            "error": {} if job.error is None else {"code": "invalid", "message": job.error, "param": None},
            "trained_tokens": 120 if status == "succeeded" else None,
        }

    def _tuned(self) -> set[str]:
        return {f"ft:{BASE}:{job.id}" for job in self.jobs.values() if job.status(self.hold) == "succeeded"}

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append((request.path, body))
        if self.stop_after_chats is not None and len(self.chats) > self.stop_after_chats:
            self.chat_asked.set()
            await asyncio.sleep(3600)
        model, question = body["model"], body["messages"][-1]["content"]
        wrong = self.spoilt.get(question)
        if wrong == "broken":
            assert request.transport is not None
            request.transport.abort()
        if wrong == "down":
            return refusal(500, "it broke")
        if model != BASE and model not in self._tuned():
            return refusal(404, f"The model `{model}` does not exist.", code="model_not_found")
        if self.newer_limit and "max_tokens" in body:
            message = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return refusal(400, f"Unsupported parameter: {message}", code="unsupported_parameter", param="max_tokens")
        if len(question) > self.longest_chars:
            return refusal(400, "This model's maximum context length is 9 tokens.", code="context_length_exceeded")
        text = LABELS[-1]
        if model != BASE:
            text = next((label for label in LABELS if label in question.split()), LABELS[-1])
        tokens = [{"token": text, "logprob": math.log(0.9), "bytes": None, "top_logprobs": []}]
        count = body.get("n", 1) if self.several else 1
        count = {"empty": 0, "few": max(1, count - 1)}.get(wrong or "", count)
        used: Any = "none to speak of" if wrong == "usage" else {"prompt_tokens": 7, "completion_tokens": count}
        choice = {
            "message": {"role": "assistant", "content": text},
            "logprobs": {"content": tokens} if self.logprobs and body.get("logprobs") else None,
            "finish_reason": "stop",
        }
        if self.filtered:
            choice |= {"message": {"role": "assistant", "content": None}, "logprobs": None}
            choice["finish_reason"] = "content_filter"
        return web.json_response(
            {
                "object": "chat.completion",
                "model": model,
                "choices": [{"index": place, **choice} for place in range(count)],
                "usage": used,
            }
        )


def refusal(
    status: int, message: str, *, code: str = "", param: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "code": code, "param": param}
    return web.json_response({"error": error}, status=status, headers=headers)
