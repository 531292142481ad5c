"""`/v1/completions` of the generator in this process: a prompt goes on as it stands, without a template."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from semievol.types import Completion, GenerationRequest
from semievold.gateway.dialect.chat import fingerprint, sampling_of, seed_of, temperature_of, usage_of
from semievold.gateway.dialect.fields import ClientMistake, Sampled, parsed

DEFAULT_TOKENS = 16
MAX_PROMPTS = 16
MAX_LOGPROBS = 5


class CompletionRequest(Sampled):
    """What is honoured."""

    prompt: Any
    max_tokens: int | None = Field(default=None, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    best_of: int | None = Field(default=None, ge=1)


class CompletionDialect:
    """One request, read; makes what the generator is asked and what the client is answered.

    Raises:
        ClientMistake: the request cannot be honoured.
    """

    def __init__(self, body: Mapping[str, Any], adapter: str | None) -> None:
        self._asked = asked = parsed(CompletionRequest, body)
        if asked.best_of not in (None, asked.n or 1):
            raise ClientMistake("best_of", "answers are not ranked; leave it out, or at n", "unsupported_parameter")
        self.streamed = bool(asked.stream)
        self._usage = asked.include_usage
        self._fingerprint = fingerprint(adapter)
        common = GenerationRequest(
            messages=(),
            adapter=adapter,
            samples=asked.n or 1,
            temperature=temperature_of(asked),
            max_tokens=asked.max_tokens or DEFAULT_TOKENS,
            seed=seed_of(asked),
            interactive=True,
            sampling=sampling_of(asked, asked.logprobs),
        )
        self.requests = [replace(common, prompt=prompt) for prompt in _prompts(asked.prompt)]

    def answer(self, model: str, answers: Sequence[Sequence[Completion]]) -> dict[str, Any]:
        several = [each for samples in answers for each in samples]
        return {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": self._fingerprint,
            "choices": [
                {
                    "index": index,
                    "text": each.text,
                    "logprobs": None if self._asked.logprobs is None else _logprobs(each),
                    "finish_reason": each.finish_reason,
                }
                for index, each in enumerate(several)
            ],
            "usage": usage_of(answers),
        }

    def events(self, body: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """Each choice with its end; the usage last, when it was asked for."""
        common = {name: body[name] for name in ("id", "object", "created", "model", "system_fingerprint")}
        if self._usage:
            common["usage"] = None
        for choice in body["choices"]:
            yield None, {**common, "choices": [choice]}
        if self._usage:
            yield None, {**common, "choices": [], "usage": body["usage"]}


def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    """A text, texts, token ids, or lists of token ids, as OpenAI takes them."""
    several = value if isinstance(value, list) and value and not _are_tokens(value) else [value]
    if len(several) > MAX_PROMPTS:
        raise ClientMistake("prompt", f"more than {MAX_PROMPTS} prompts at once")
    prompts: list[str | tuple[int, ...]] = []
    for each in several:
        if isinstance(each, str) and each:
            prompts.append(each)
        elif isinstance(each, list) and each and _are_tokens(each):
            prompts.append(tuple(each))
        else:
            raise ClientMistake("prompt", "not a text, a list of texts, or token ids; and not empty")
    return prompts


def _are_tokens(value: Sequence[Any]) -> bool:
    return all(isinstance(each, int) and not isinstance(each, bool) for each in value)


def _logprobs(answer: Completion) -> dict[str, Any]:
    tokens = [token for token, _ in answer.details]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [max(token.logprob, -9999.0) for token in tokens],
        "top_logprobs": [
            {each.text: max(each.logprob, -9999.0) for each in (*others, token)} for token, others in answer.details
        ],
        "text_offset": offsets,
    }
