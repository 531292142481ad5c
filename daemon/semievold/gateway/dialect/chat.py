"""`/v1/chat/completions` of the generator in this process: requests, answers and the events of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from semievol.types import Completion, GenerationRequest, Sampling, TokenText
from semievold.gateway.call import BASE
from semievold.gateway.dialect.fields import (
    MAX_TOP_LOGPROBS,
    ClientMistake,
    Sampled,
    format_constraint,
    parsed,
    structured_constraint,
)
from semievold.gateway.dialect.messages import messages_of

DEFAULT_TOKENS = 64


class ChatRequest(Sampled):
    """What is honoured."""

    messages: list[Any] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)


class ChatDialect:
    """One request, read; makes what the generator is asked and what the client is answered.

    Raises:
        ClientMistake: the request cannot be honoured.
    """

    def __init__(self, body: Mapping[str, Any], adapter: str | None) -> None:
        self._asked = asked = parsed(ChatRequest, body)
        if asked.top_logprobs and not asked.logprobs:
            raise ClientMistake("top_logprobs", "needs logprobs true")
        self.streamed = bool(asked.stream)
        self._usage = asked.include_usage
        self._fingerprint = fingerprint(adapter)
        sampling = sampling_of(asked, (asked.top_logprobs or 0) if asked.logprobs else None)
        self.requests = [
            GenerationRequest(
                messages=messages_of(asked.messages),
                adapter=adapter,
                samples=asked.n or 1,
                temperature=temperature_of(asked),
                max_tokens=asked.max_completion_tokens or asked.max_tokens or DEFAULT_TOKENS,
                seed=seed_of(asked),
                interactive=True,
                sampling=sampling,
            )
        ]

    def answer(self, model: str, answers: Sequence[Sequence[Completion]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": self._fingerprint,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": each.text, "refusal": None},
                    "logprobs": {"content": [_logprob(*one) for one in each.details], "refusal": None}
                    if self._asked.logprobs
                    else None,
                    "finish_reason": each.finish_reason,
                }
                for index, each in enumerate(answers[0])
            ],
            "usage": usage_of(answers),
        }

    def events(self, body: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """Each choice's role and content, then its end; the usage last, when it was asked for."""
        common = {name: body[name] for name in ("id", "created", "model", "system_fingerprint")}
        common["object"] = "chat.completion.chunk"
        if self._usage:
            common["usage"] = None
        for choice in body["choices"]:
            index = choice["index"]
            delta = {"role": "assistant", "content": choice["message"]["content"]}
            content = {"index": index, "delta": delta, "logprobs": choice["logprobs"], "finish_reason": None}
            yield None, {**common, "choices": [content]}
            end = {"index": index, "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
            yield None, {**common, "choices": [end]}
        if self._usage:
            yield None, {**common, "choices": [], "usage": body["usage"]}


def sampling_of(asked: Sampled, top_logprobs: int | None) -> Sampling:
    """What is asked beyond temperature and seed.

    Raises:
        ClientMistake: two forms of an answer are asked for.
    """
    forms = (
        format_constraint(asked.response_format, "response_format"),
        structured_constraint(asked.structured_outputs),
    )
    if all(forms):
        raise ClientMistake("structured_outputs", "asks for a form beside response_format; name one")
    return Sampling(
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k if asked.top_k and asked.top_k > 0 else None,
        min_p=asked.min_p or 0.0,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logit_bias=asked.biases,
        stop=tuple(asked.stop or ()),
        top_logprobs=top_logprobs,
        constraint=forms[0] or forms[1],
    )


def temperature_of(asked: Sampled) -> float:
    """OpenAI's default is 1.

    Raises:
        ClientMistake: several answers are asked for that would all be the same.
    """
    temperature = 1.0 if asked.temperature is None else asked.temperature
    if temperature == 0 and (asked.n or 1) > 1:
        raise ClientMistake("n", "more than one answer needs temperature above 0")
    return temperature


def fingerprint(adapter: str | None) -> str:
    """OpenAI's word for what answers: with the same one a seed repeats its answer."""
    return f"fp_{adapter or BASE}"


def seed_of(asked: Sampled) -> int:
    return uuid.uuid4().int % 2**63 if asked.seed is None else asked.seed


def usage_of(answers: Sequence[Sequence[Completion]]) -> dict[str, int]:
    """Tokens of each prompt once, and of all answers."""
    prompt = sum(samples[0].prompt_tokens for samples in answers)
    generated = sum(len(each.token_ids) for samples in answers for each in samples)
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


def _logprob(token: TokenText, others: Sequence[TokenText]) -> dict[str, Any]:
    return {**token_fields(token), "top_logprobs": [token_fields(each) for each in others]}


def token_fields(token: TokenText) -> dict[str, Any]:
    """OpenAI's members of a token."""
    return {"token": token.text, "logprob": max(token.logprob, -9999.0), "bytes": list(token.bytes)}
