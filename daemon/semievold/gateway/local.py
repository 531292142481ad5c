"""The gateway over the embedded generator: chat answers, whole or in the shape of a stream.

Owns the OpenAI shapes of answers that this process generates; not the generator. The generator answers whole, so a
stream is its finished answer in a few events. Invariant: an answer comes from the one version that its call names.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from semievol.protocols import Generator
from semievol.types import Completion, GenerationRequest, Message, Role
from semievold.gateway.call import CHAT, Call, refusal
from semievold.gateway.turns import generated

DEFAULT_TOKENS = 64


class _Turn(BaseModel):
    role: Role
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, value: object) -> object:
        if isinstance(value, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in value):
            return "\n".join(str(part.get("text", "")) for part in value)
        return value


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The part of OpenAI's chat completion request that is honoured; other fields are ignored as clients expect."""

    model_config = ConfigDict(extra="ignore")

    messages: list[_Turn] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    logprobs: bool | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class LocalBackend:
    """Answers with the generator of this process."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def close(self) -> None:
        """The generator is not ours to close."""

    async def answer(self, call: Call) -> web.StreamResponse:
        if call.path != CHAT:
            return refusal(404, "not_offered", f"the embedded generator answers {CHAT} alone", call)
        try:
            asked = ChatRequest.model_validate(call.body)
        except ValidationError as invalid:
            first = invalid.errors()[0]
            return refusal(400, "invalid_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", call)
        temperature = 1.0 if asked.temperature is None else asked.temperature
        if temperature == 0 and (asked.n or 1) > 1:
            return refusal(400, "invalid_request", "n: more than one answer needs temperature above 0", call)
        answers = await generated(self._generator, _generation(asked, temperature, call.adapter), call)
        body = _response(call.alias or "", answers, bool(asked.logprobs))
        headers = call.headers(body["id"])
        if not asked.stream:
            return web.json_response(body, headers=headers)
        return await _stream(call, body, headers, asked.stream_options or _StreamOptions())


def _generation(asked: ChatRequest, temperature: float, adapter: str | None) -> GenerationRequest:
    return GenerationRequest(
        messages=tuple(Message(turn.role, turn.content) for turn in asked.messages),
        adapter=adapter,
        samples=asked.n or 1,
        temperature=temperature,
        max_tokens=asked.max_completion_tokens or asked.max_tokens or DEFAULT_TOKENS,
        seed=uuid.uuid4().int % 2**63 if asked.seed is None else asked.seed,
        interactive=True,
    )


def _response(model: str, answers: Sequence[Completion], logprobs: bool) -> dict[str, Any]:
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


async def _stream(
    call: Call, body: dict[str, Any], headers: dict[str, str], options: _StreamOptions
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", **headers}
    )
    try:
        await response.prepare(call.request)
        for chunk in _chunks(body, options.include_usage):
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has left
    return response


def _chunks(body: dict[str, Any], include_usage: bool) -> Iterator[dict[str, Any]]:
    """The events of a finished answer: each choice's content, then its end; the usage last, when it was asked for."""
    common = {name: body[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    if include_usage:
        common["usage"] = None
    for choice in body["choices"]:
        index = choice["index"]
        content: dict[str, Any] = {"index": index, "delta": choice["message"], "finish_reason": None}
        if "logprobs" in choice:
            content["logprobs"] = choice["logprobs"]
        yield {**common, "choices": [content]}
        yield {**common, "choices": [{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    if include_usage:
        yield {**common, "choices": [], "usage": body["usage"]}
