"""vLLM servers: requests into the OpenAI-compatible wire format, answers and errors into ours.

Owns the fields that are sent and read, and what each refusal means. Owns neither the HTTP (semievol.http) nor a choice
among servers, nor retries (engines.vllm). Invariant: whatever a server does, the caller sees one of our errors, and its
text names the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from semievol.errors import AdapterError, ConfigError, DataError, TooLongError, TransientError
from semievol.http.answer import Answer
from semievol.http.client import HttpClient
from semievol.http.errors import (
    KeyRefusedError,
    OddAnswerError,
    OverloadedError,
    RefusedError,
    ServerDownError,
    UnsendableError,
)
from semievol.http.server_address import ServerAddress
from semievol.http.wire_text import count, logprob, said, whole_text
from semievol.types import Completion, GenerationRequest, Message

# Sample i is drawn with this seed plus i on the server, and the sum must stay within 64 bits.
_SEEDS = 1 << 62
_CONNECTIONS = 256
_PROBE_S = 5.0
_ADMIN_S = 60.0
_UNFINISHED = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{.*\})? (\d[\d.e+]*)$", re.MULTILINE)
_TOO_LONG = ("maximum context length", "max_model_len", "longer than the maximum")


class NotServedError(AdapterError):
    """The server does not know the adapter's name."""


class NotThereError(AdapterError):
    """The server finds no files where the adapter should be: they may come yet."""


class VllmClient:
    """Speaks to any number of servers over kept-alive connections; one event loop."""

    def __init__(self, http: HttpClient | None = None) -> None:
        """Open nothing yet; `http` is closed with this client."""
        self._http = http or HttpClient(connections=_CONNECTIONS)

    async def close(self) -> None:
        await self._http.close()

    async def check_health(self, server: ServerAddress) -> None:
        """Raises:
        ServerDownError: it does not answer, or says that its engine is dead.
        """
        await self._call(server, "GET", "/health", None, _PROBE_S)

    async def models(self, server: ServerAddress) -> frozenset[str]:
        """The names that it answers to, base model and adapters.

        Raises:
            TransientError: it does not answer, or not as an OpenAI-compatible server does.
        """
        answer = await self._call(server, "GET", "/v1/models", None, _PROBE_S)
        try:
            return frozenset(str(model["id"]) for model in answer.object()["data"])
        except (OddAnswerError, KeyError, TypeError) as error:
            raise TransientError(f"{server.name}: /v1/models is not a list of models ({error!r})") from error

    async def load(self, server: ServerAddress, name: str, path: str) -> None:
        """Load the directory `path`, as the server sees it, under `name`; a loaded name is left alone.

        Raises:
            NotThereError: the server finds no such directory, or nothing in it.
            AdapterError: the server cannot use the directory; its reason is in the text.
            TransientError: it does not answer.
        """
        body = {"lora_name": name, "lora_path": path, "load_inplace": False}
        answer = await self._send(server, "POST", "/v1/load_lora_adapter", body, _ADMIN_S)
        if answer.status == 400 and "already been loaded" in answer.text:
            return
        # 500 is also what a rank above the limit and a truncated file come back as: the engine lives on.
        if answer.status in (400, 404, 500):
            kind = NotThereError if answer.status == 404 else AdapterError
            raise kind(f"{server.name}: cannot load {name} from {path}: {answer.message}")
        _check(server, answer)

    async def unload(self, server: ServerAddress, name: str) -> None:
        """Forget `name`; running requests finish. Unknown names are a no-op.

        Raises:
            TransientError: it does not answer.
        """
        answer = await self._send(server, "POST", "/v1/unload_lora_adapter", {"lora_name": name}, _ADMIN_S)
        if answer.status != 404:
            _check(server, answer)

    async def unfinished(self, server: ServerAddress) -> int:
        """How many requests it works on, or has in its queue, whoever sent them; 0 also where it does not count them.

        Raises:
            TransientError: it does not answer.
        """
        answer = await self._call(server, "GET", "/metrics", None, _PROBE_S)
        return round(sum(float(value) for value in _UNFINISHED.findall(answer.text)))

    async def is_sleeping(self, server: ServerAddress) -> bool:
        """Whether it has given its GPU memory free.

        Raises:
            ConfigError: it is not set up to sleep.
            TransientError: it does not answer.
        """
        answer = await self._of_sleep(server, "GET", "/is_sleeping", _PROBE_S)
        try:
            return bool(answer.object()["is_sleeping"])
        except (OddAnswerError, KeyError, TypeError) as error:
            raise TransientError(f"{server.name}: /is_sleeping does not say whether it sleeps ({error!r})") from error

    async def sleep(self, server: ServerAddress, timeout_s: float) -> None:
        """Have it end what runs, begin nothing new, and move its weights to the host's memory; the rest is forgotten,
        adapters in the engine too, though it goes on listing them.

        Raises:
            ConfigError: it is not set up to sleep.
            TransientError: what runs has not ended in time, or it does not answer.
        """
        await self._of_sleep(server, "POST", "/sleep?level=1&mode=wait", timeout_s)

    async def wake_up(self, server: ServerAddress) -> None:
        """Have it take its GPU memory again; what was asked of it meanwhile it answers now.

        Raises:
            ConfigError: it is not set up to sleep.
            TransientError: it does not answer, or finds no memory.
        """
        # A sleep that still waits for what runs would come after the waking, and take the memory from under whatever
        # is asked then: it is ended first. One that has come is not disturbed.
        await self._of_sleep(server, "POST", "/sleep?level=1&mode=abort", _ADMIN_S)
        await self._of_sleep(server, "POST", "/wake_up", _ADMIN_S)

    async def complete(self, server: ServerAddress, request: GenerationRequest, timeout_s: float) -> list[Completion]:
        """All samples of one request.

        Raises:
            DataError: the server refuses this prompt (too long, or against its chat template).
            NotServedError: the adapter is not loaded there.
            OddAnswerError: what it answers is no answer.
            OverloadedError: not now.
            ServerDownError: another server may answer.
            TransientError: no answer in time, or one that the server has cut off; or it is not set up for such
                requests.
        """
        answer = await self._send(server, "POST", _path(request), _body(server, request), timeout_s)
        if answer.status == 404 and request.adapter is not None:
            raise NotServedError(f"{server.name}: adapter {request.adapter} is not loaded")
        if answer.status in (400, 422):
            await self._raise_refusal(server, request, answer.message, timeout_s)
        try:
            body = _understood(server, answer).object()
            # What runs, and what is in the queue, when a server is told to sleep or to stop: however much text it has,
            # nobody has answered.
            if any(choice["finish_reason"] == "abort" for choice in body["choices"]):
                raise TransientError(f"{server.name}: it has cut off its answer (it sleeps, wakes or ends)")
            completions = _completions(body, request)
        except (OddAnswerError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
            raise OddAnswerError(f"{server.name}: an answer is not as vLLM writes it ({said(repr(error))})") from error
        for each in completions:
            # It cuts max_tokens to what is left of its context without a word.
            if each.finish_reason == "length" and len(each.token_ids) < request.max_tokens:
                raise TooLongError(
                    f"the prompt is too long for {server.name}: its {each.prompt_tokens} tokens leave room for "
                    f"{len(each.token_ids)} of {request.max_tokens}; shorten it or show fewer neighbours"
                )
        return completions

    async def _raise_refusal(
        self, server: ServerAddress, request: GenerationRequest, why: str, timeout_s: float
    ) -> None:
        """Tell a prompt that can never be answered from a server that answers no such request."""
        if any(sign in why for sign in _TOO_LONG):
            raise TooLongError(f"the prompt is too long for {server.name}: {why}")
        asked = replace(request, messages=(Message("user", "?"),), prompt_ids=None)
        if (await self._send(server, "POST", _path(asked), _body(server, asked), timeout_s)).status == 200:
            raise DataError(f"{server.name} refuses the prompt: {why}")
        raise TransientError(f"{server.name} refuses every such request: {why}")

    async def _of_sleep(self, server: ServerAddress, method: str, path: str, timeout_s: float) -> Answer:
        answer = await self._send(server, method, path, None, timeout_s)
        if answer.status in (404, 405):
            raise ConfigError(
                f"{server.name}: {path.partition('?')[0]} is not there (HTTP {answer.status}); start it with "
                "--enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, behind what keeps strangers from its other paths"
            )
        return _check(server, answer)

    async def _call(self, server: ServerAddress, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        return _check(server, await self._send(server, method, path, body, timeout_s))

    async def _send(self, server: ServerAddress, method: str, path: str, body: Any, timeout_s: float) -> Answer:
        try:
            return await self._http.ask(server, method, path, json=body, timeout_s=timeout_s)
        except UnsendableError as error:
            raise ServerDownError(str(error)) from error


def _check(server: ServerAddress, answer: Answer) -> Answer:
    """An answer to what is no work: a server that has too much to do for it (503) has an engine that is dead."""
    try:
        return _understood(server, answer)
    except OverloadedError as overloaded:
        if overloaded.status != 503:
            raise
        raise ServerDownError(str(overloaded), status=503) from overloaded


def _understood(server: ServerAddress, answer: Answer) -> Answer:
    try:
        return answer.check()
    except KeyRefusedError as refused:
        raise TransientError(
            f"{server.name}: HTTP {refused.status}, it wants another key; set generation.api_key"
        ) from refused
    except RefusedError as refused:
        raise TransientError(str(refused)) from refused


def _path(request: GenerationRequest) -> str:
    return "/v1/chat/completions" if request.prompt_ids is None else "/v1/completions"


def _body(server: ServerAddress, request: GenerationRequest) -> dict[str, Any]:
    """The request; what a model's own generation_config.json may set is set here, so that temperature alone decides."""
    body: dict[str, Any] = {
        "model": request.adapter or server.base_model,
        "n": request.samples,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "seed": request.seed % _SEEDS,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        # Tokens come as `token_id:17`, ends of turn included; return_token_ids would repeat the whole prompt.
        "return_tokens_as_token_ids": True,
    }
    if request.prompt_ids is None:
        body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
        body["logprobs"] = True
    else:
        body |= {"prompt": list(request.prompt_ids), "logprobs": 0}  # of no other token
    if request.choices is not None:
        body["structured_outputs"] = {"choice": list(request.choices)}
    return body


def _completions(body: Mapping[str, Any], request: GenerationRequest) -> list[Completion]:
    choices = sorted(body["choices"], key=lambda choice: choice["index"])
    if len(choices) != request.samples:
        raise ValueError(f"{len(choices)} choices for {request.samples} samples")
    prompt_tokens = count(body["usage"]["prompt_tokens"])
    return [_completion(choice, request.adapter, prompt_tokens) for choice in choices]


def _completion(choice: Mapping[str, Any], adapter: str | None, prompt_tokens: int) -> Completion:
    if "message" in choice:
        text, tokens = choice["message"]["content"], choice["logprobs"]["content"]
        pairs = [(token["token"], token["logprob"]) for token in tokens]
    else:
        text, given = choice["text"], choice["logprobs"]
        pairs = list(zip(given["tokens"], given["token_logprobs"], strict=True))
    finish: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
    return Completion(
        text=whole_text(text),
        token_ids=tuple(int(token.removeprefix("token_id:")) for token, _ in pairs),
        logprobs=tuple(logprob(value) for _, value in pairs),
        finish_reason=finish,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
    )
