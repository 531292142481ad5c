"""The OpenAI-compatible front: clients ask the alias, and each request is answered whole by one adapter version.

Owns admission (token, limits, binding) and the OpenAI shapes; not generation. Invariant: a request is bound when
it is admitted and finishes there, however the alias moves meanwhile; `x-semievol-adapter` says where that was.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from daemon.alias import Alias
from daemon.config import GatewayConfig
from daemon.metrics import Metrics
from daemon.web import error, guarded, read_json
from semievol.errors import AdapterError
from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest, Message

ADAPTER_HEADER = "x-semievol-adapter"
BASE = "base"


class _Turn(BaseModel):
    role: str = Field(pattern="^(system|user|assistant)$")
    content: str


class ChatRequest(BaseModel):
    """The part of OpenAI's chat completion request that is honoured; other fields are ignored as clients expect."""

    model_config = ConfigDict(extra="ignore")

    model: str
    messages: list[_Turn] = Field(min_length=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=4096)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=4096)
    n: int = Field(default=1, ge=1, le=16)
    seed: int | None = Field(default=None, ge=0)
    logprobs: bool = False
    stream: bool = False

    @field_validator("stream")
    @classmethod
    def _no_stream(cls, value: bool) -> bool:
        if value:
            raise ValueError("streaming is not offered by the embedded generator; leave it out")
        return value


class Gateway:
    """Answers clients with the adapter that the alias stands for."""

    def __init__(
        self, config: GatewayConfig, served_alias: str, generator: Generator, alias: Alias, metrics: Metrics, token: str
    ) -> None:
        self._config = config
        self._served_alias = served_alias
        self._generator = generator
        self._alias = alias
        self._metrics = metrics
        self._token = token
        self._in_flight = 0

    def app(self) -> web.Application:
        app = web.Application(
            client_max_size=self._config.max_body_bytes,
            middlewares=[self._measured, guarded(self._token, frozenset({"/healthz"}))],
        )
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        return app

    @web.middleware
    async def _measured(self, request: web.Request, handler: Any) -> web.StreamResponse:
        started = time.perf_counter()
        code = "500"
        try:
            response: web.StreamResponse = await handler(request)
            code = str(response.status)
            return response
        finally:
            self._metrics.requests.labels(self._metrics.workload, code).inc()
            self._metrics.latency.labels(self._metrics.workload).observe(time.perf_counter() - started)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _models(self, _request: web.Request) -> web.Response:
        serving = {
            "id": self._served_alias,
            "object": "model",
            "owned_by": "semievol",
            "root": self._alias.adapter or BASE,
        }
        return web.json_response({"object": "list", "data": [serving]})

    async def _chat(self, request: web.Request) -> web.Response:
        try:
            asked = ChatRequest.model_validate(await read_json(request))
        except ValidationError as invalid:
            first = invalid.errors()[0]
            return error(400, "invalid_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        if asked.model != self._served_alias:
            return error(404, "model_not_found", f"model: {asked.model!r} is not served; ask {self._served_alias!r}")
        if self._in_flight >= self._config.max_in_flight:
            return error(429, "busy", f"{self._in_flight} requests are in flight; try again")
        self._in_flight += 1
        try:
            async with self._alias.bind() as adapter:
                answers = (await self._generator.generate([_generation(asked, adapter)]))[0]
        except AdapterError as missing:
            return error(503, "adapter_unavailable", str(missing))
        finally:
            self._in_flight -= 1
        body = _response(self._served_alias, answers, asked.logprobs)
        return web.json_response(body, headers={ADAPTER_HEADER: adapter or BASE})


def _generation(asked: ChatRequest, adapter: str | None) -> GenerationRequest:
    if asked.temperature == 0 and asked.n > 1:
        raise web.HTTPBadRequest(text="n: more than one answer needs temperature above 0")
    return GenerationRequest(
        messages=tuple(Message(turn.role, turn.content) for turn in asked.messages),  # type: ignore[arg-type]
        adapter=adapter,
        samples=asked.n,
        temperature=asked.temperature,
        max_tokens=asked.max_completion_tokens or asked.max_tokens or 64,
        seed=uuid.uuid4().int % 2**63 if asked.seed is None else asked.seed,
        interactive=True,
    )


def _response(model: str, answers: list[Completion], logprobs: bool) -> dict[str, Any]:
    generated = sum(len(answer.token_ids) for answer in answers)
    choices = []
    for index, answer in enumerate(answers):
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.finish_reason,
        }
        if logprobs:
            choice["logprobs"] = {
                "content": [
                    {"token": str(token), "logprob": value}
                    for token, value in zip(answer.token_ids, answer.logprobs, strict=True)
                ]
            }
        choices.append(choice)
    prompt = answers[0].prompt_tokens
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated},
    }
