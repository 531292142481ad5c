"""A Generator on any OpenAI-compatible chat endpoint; an adapter is a fine-tuned model that the endpoint knows by name.

Owns the wire format of chat completions as OpenAI documents it, and what an endpoint must be able to do. Owns neither
how many run at a time (concurrency) nor how long is waited (patience). Invariant: a completion with text has
log-probabilities, or it is none: entropy and selection would be blind without them. One without text (refused,
filtered) has no tokens and is never selected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from semievol import adapter_directory
from semievol.backoff import Backoff
from semievol.engines.concurrency import Line, Turn
from semievol.engines.openai_client import NotJsonError, OpenAIClient
from semievol.engines.patience import TIMES, Signs, waited_for
from semievol.engines.plain.reading import PromptReader
from semievol.engines.requests import each_for_itself
from semievol.errors import AdapterError, ConfigError, DataError, LateError, SemiEvolError, TooLongError
from semievol.http.errors import BusyError, OverloadedError, RefusedError, TimedOutError, UnreachedError
from semievol.http.wire_text import count, logprob, said, whole_text
from semievol.protocols import Generator, Tell
from semievol.types import Completion, GenerationRequest, Late, Refused, Reply

# Endpoints keep seeds in 32 bits, or in 64.
_SEEDS = 1 << 31
UNKNOWN_TOKEN = -1
"""The id of a token of which the endpoint tells the text alone."""
_NEWER_LIMIT = "max_completion_tokens"
_TOO_LONG = ("context_length_exceeded", "maximum context length", "context window")
_SAMPLING = ("temperature", "top_p", "seed", "n")
_BUSY = Backoff(0.5, 30.0, jitter=(0.5, 1.0))
_SIGN_S = 5.0


class _OddAnswerError(ConfigError):
    """An answer that is none: of every request, the endpoint cannot be used; of one, that one cannot."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """The one server of the line."""

    name: str


class OpenAIGenerator(Generator):
    """Answers prompts with one endpoint."""

    def __init__(
        self,
        client: OpenAIClient,
        model: str,
        *,
        setting: str = "generation",
        concurrency: int = 32,
        timeout_s: float = 120.0,
        samples_in_one_request: bool = True,
    ) -> None:
        """Ask nothing yet.

        Args:
            client: speaks to the endpoint; closed with this generator.
            model: answers where no adapter is asked for.
            setting: the section that errors name.
            concurrency: most requests at a time.
            timeout_s: what the endpoint gets for one request, counted from when it is sent; while it lives, it gets as
                long again. So long it may also be too busy to take one before the call fails.
            samples_in_one_request: ask for several samples by `n`; off: one request a sample.
        """
        self._client = client
        self._model = model
        self._setting = setting
        self._endpoint = _Endpoint(client.base_url)
        # Which tokenizer reads a prompt is not known: what the usual families take for control tokens is broken.
        self._reader = PromptReader()
        self._line = Line(concurrency)
        self._signs = Signs(self._check)
        self._understood, self._answered_at = False, 0.0
        self._timeout_s = timeout_s
        self._together = samples_in_one_request
        self._asked: dict[str, Any] | None = None
        """What was answered last."""
        self._several = False  # it has given several answers to one request
        self._models: dict[str, str] = {}
        self._limit = "max_tokens"

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        """See Generator; an adapter that was not loaded is asked for under its own name."""
        if any(request.choices is not None for request in requests):
            raise ConfigError("labelling.structured: an endpoint of kind openai cannot hold to a set; turn it off")
        await each_for_itself(requests, self._reply, tell)

    async def load_adapter(self, name: str, path: Path) -> None:
        adapter_directory.check_name(name)
        self._models[name] = await asyncio.to_thread(adapter_directory.hosted_model, path)

    async def unload_adapter(self, name: str) -> None:
        self._models.pop(name, None)

    async def loaded_adapters(self) -> frozenset[str]:
        return frozenset(self._models)

    async def close(self) -> None:
        await self._signs.close()
        await self._client.close()

    def _parts(self, request: GenerationRequest) -> list[GenerationRequest]:
        """The requests that are sent for one: itself, or one a sample."""
        if self._together or request.samples == 1:
            return [request]
        return [replace(request, samples=1, seed=request.seed + place) for place in range(request.samples)]

    def _name(self, adapter: str | None) -> str:
        return self._model if adapter is None else self._models.get(adapter, adapter)

    async def _reply(self, request: GenerationRequest) -> Reply:
        """One request with all its samples."""
        request = await self._reader.neutral(request)
        tasks = [asyncio.create_task(self._answer(part)) for part in self._parts(request)]
        try:
            return [completion for answered in await asyncio.gather(*tasks) for completion in answered]
        except DataError as refusal:
            return Refused(str(refusal), too_long=isinstance(refusal, TooLongError))
        except LateError as late:
            return Late(f"{self._endpoint.name}: {late}")
        except _OddAnswerError as odd:
            if not self._understood:
                raise
            return Refused(str(odd))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: GenerationRequest) -> list[Completion]:
        """One request, sent until the endpoint takes it; asked once more where the answer is odd."""
        began_at = asyncio.get_running_loop().time()
        odd_before = False

        async def sent() -> list[Completion]:
            nonlocal odd_before
            while True:
                limit = self._limit
                try:
                    async with self._line.turn(lambda _: nullcontext(self._endpoint)) as (_, turn):
                        return await self._attempt(request, limit, turn)
                except _OddAnswerError:
                    if odd_before:
                        raise
                    odd_before = True
                except RefusedError as refused:
                    # Newer models take the newer name of the limit alone, older endpoints only the older one.
                    if limit == _NEWER_LIMIT or _NEWER_LIMIT not in refused.message:
                        raise self._translated(request, refused) from refused
                    self._limit = _NEWER_LIMIT

        try:
            return await _BUSY.call(sent, retry_on=BusyError, patience_s=self._timeout_s)
        except BusyError as busy:
            others = busy.status is not None and self._answered_at > began_at and not isinstance(busy, OverloadedError)
            if others or await self._is_its_own(busy):
                raise LateError(f"others are answered, and this one is not: {busy}") from busy
            raise

    async def _is_its_own(self, busy: BusyError) -> bool:
        """Whether a request that failed again and again is what the endpoint fails at.

        Where no other was answered meanwhile, one that was answered before is asked again, for a single token: that
        tells an endpoint that is down, be there something alive before it, from a request that it cannot take.
        """
        if isinstance(busy, OverloadedError | UnreachedError | TimedOutError) or self._asked is None:
            return False
        kept = {name: value for name, value in self._asked.items() if name not in ("n", "max_tokens", _NEWER_LIMIT)}
        try:
            await self._client.call(
                "POST",
                "/chat/completions",
                json={**kept, self._limit: 1},
                patience_s=0,
                timeout_s=self._timeout_s,
                wanted="choices",
            )
        except SemiEvolError:
            return False
        return True

    async def _attempt(self, request: GenerationRequest, limit: str, turn: Turn) -> list[Completion]:
        longest_s = TIMES * self._timeout_s
        asked = self._body(request, limit)
        call = self._client.call(
            "POST",
            "/chat/completions",
            json=asked,
            patience_s=0,
            timeout_s=longest_s + 1.0,
            wanted="choices",
        )
        try:
            body = await waited_for(call, None, self._timeout_s, turn.overloaded)
        except LateError as late:
            silence = await self._signs.silence(self._endpoint.name, self._endpoint)
            if silence is not None:
                raise BusyError(silence) from late
            raise
        except NotJsonError as odd:
            raise _OddAnswerError(str(odd)) from odd
        except OverloadedError as busy:
            turn.overloaded(busy.wait_s)
            raise
        completions = self._completions(body, request)
        turn.answered()
        self._asked = asked
        self._understood, self._answered_at = True, asyncio.get_running_loop().time()
        return completions

    async def _check(self, _: object) -> None:
        """A sign of life; one that refuses the question gives it too.

        Raises:
            BusyError: there is none.
        """
        try:
            await self._client.call("GET", "/models", patience_s=0, timeout_s=_SIGN_S)
        except BusyError as busy:
            if busy.status is None:
                raise
        except SemiEvolError:
            pass

    def _body(self, request: GenerationRequest, limit: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._name(request.adapter),
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": request.temperature,
            "top_p": 1.0,
            "seed": request.seed % _SEEDS,
            "logprobs": True,
            limit: request.max_tokens,
        }
        if request.samples > 1:
            body["n"] = request.samples
        return body

    def _translated(self, request: GenerationRequest, refused: RefusedError) -> Exception:
        """A refusal by what it says about the settings, the model or the prompt."""
        model, api = self._name(request.adapter), self._client.base_url
        if refused.status == 404:
            if request.adapter is not None:
                return AdapterError(f"adapter {request.adapter}: {api} does not know {model} ({refused.message})")
            return ConfigError(f"{self._setting}.model: {api} does not know {model} ({refused.message}); name another")
        if refused.code in _TOO_LONG or any(sign in refused.message for sign in _TOO_LONG):
            return TooLongError(f"the prompt is too long for {model} at {api}: {refused.message}")
        if refused.param == "logprobs" or "logprobs" in refused.message:
            return self._without_logprobs(model, refused.message)
        if refused.param == "n":
            return self._without_n(refused.message)
        if refused.param in _SAMPLING or refused.status == 429:
            return ConfigError(f"{self._setting}.model: {model} at {api} cannot answer as asked: {refused.message}")
        return DataError(f"{api} refuses the prompt: {refused.message}")

    def _without_logprobs(self, model: str, why: str) -> ConfigError:
        return _OddAnswerError(
            f"{self._setting}.model: {model} at {self._client.base_url} gives no log-probabilities ({why}), and "
            "entropy and selection need them; name a model that gives logprobs"
        )

    def _without_n(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._setting}.samples_in_one_request: {self._client.base_url} does not give several answers to one "
            f"request ({why}); set it to false"
        )

    def _completions(self, body: Mapping[str, Any], request: GenerationRequest) -> list[Completion]:
        try:
            choices = body["choices"]
            if len(choices) != request.samples:
                if choices and request.samples > 1 and not self._several:
                    raise self._without_n(f"{len(choices)} of {request.samples}")
                raise ValueError(f"{len(choices)} of {request.samples} choices")
            self._several |= request.samples > 1
            usage = body.get("usage")
            prompt_tokens = count(usage.get("prompt_tokens")) if isinstance(usage, Mapping) else 0
            return [
                self._completion(choice, request, prompt_tokens)
                for choice in sorted(choices, key=lambda choice: choice.get("index", 0))
            ]
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise _OddAnswerError(
                f"{self._setting}.base_url: {self._client.base_url} does not answer as OpenAI's chat completions do "
                f"({said(repr(error))})"
            ) from error

    def _completion(self, choice: Mapping[str, Any], request: GenerationRequest, prompt_tokens: int) -> Completion:
        if choice.get("error") or choice.get("finish_reason") == "error":
            raise ValueError(f"it broke off: {choice.get('error')}")
        text = whole_text(choice["message"].get("content"))
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        if text and not tokens:
            raise self._without_logprobs(self._name(request.adapter), "its answer has none")
        # What a content filter cut is no whole answer either.
        finish: Literal["stop", "length"] = "stop" if choice.get("finish_reason") in ("stop", None) else "length"
        return Completion(
            text=text,
            token_ids=(UNKNOWN_TOKEN,) * len(tokens),
            logprobs=tuple(logprob(token["logprob"]) for token in tokens),
            finish_reason=finish,
            adapter=request.adapter,
            prompt_tokens=prompt_tokens,
        )
