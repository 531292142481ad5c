"""vLLM servers over HTTP: requests into the OpenAI-compatible wire format, answers and errors into ours.

Owns the fields that are sent and read, and what each refusal means. Owns no choice among servers and no retries
(engines.vllm). Invariant: whatever a server does, the caller sees one of our errors, and its text names the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import httpx

from semievol.errors import AdapterError, DataError, TooLongError, TransientError
from semievol.http.server_address import ServerAddress
from semievol.http.wire_text import OddAnswerError, asked_wait_s, logprob, said, whole_text
from semievol.types import Completion, GenerationRequest

# Sample i is drawn with this seed plus i on the server, and the sum must stay within 64 bits.
_SEEDS = 1 << 62
_PROBE_S = 5.0
# vLLM closes a connection that was quiet for 5 s; a request on one that is being closed would look like a dead server.
_KEEP_ALIVE_S = 3.0
_ADMIN_S = 60.0
_TOO_LONG = ("maximum context length", "max_model_len", "longer than the maximum")


class ServerDownError(TransientError):
    """The server refuses connections, breaks them, or fails by itself (5xx): another one may answer."""


class OverloadedError(TransientError):
    """The server has too much to do (429, 503); it may have said how long to wait, in seconds."""

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class NotServedError(AdapterError):
    """The server does not know the adapter's name."""


class VllmClient:
    """Speaks to any number of servers over kept-alive connections; one event loop."""

    def __init__(self, *, connections: int = 256) -> None:
        """Open nothing yet; `connections` bounds all servers together."""
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=_KEEP_ALIVE_S
        )
        self._http = httpx.AsyncClient(limits=limits, timeout=_ADMIN_S)

    async def close(self) -> None:
        await self._http.aclose()

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
        response = await self._call(server, "GET", "/v1/models", None, _PROBE_S)
        try:
            return frozenset(str(model["id"]) for model in response.json()["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise TransientError(f"{server.name}: /v1/models is not a list of models ({error!r})") from error

    async def load(self, server: ServerAddress, name: str, path: str) -> None:
        """Load the directory `path`, as the server sees it, under `name`; a loaded name is left alone.

        Raises:
            AdapterError: the server cannot use the directory; its reason is in the text.
            TransientError: it does not answer.
        """
        body = {"lora_name": name, "lora_path": path, "load_inplace": False}
        response = await self._send(server, "POST", "/v1/load_lora_adapter", body, _ADMIN_S)
        if response.status_code == 400 and "already been loaded" in response.text:
            return
        # 500 is also what a rank above the limit and a truncated file come back as: the engine lives on.
        if response.status_code in (400, 404, 500):
            raise AdapterError(f"{server.name}: cannot load {name} from {path}: {_message(response)}")
        _check(server, response)

    async def unload(self, server: ServerAddress, name: str) -> None:
        """Forget `name`; running requests finish. Unknown names are a no-op.

        Raises:
            TransientError: it does not answer.
        """
        response = await self._send(server, "POST", "/v1/unload_lora_adapter", {"lora_name": name}, _ADMIN_S)
        if response.status_code != 404:
            _check(server, response)

    async def complete(self, server: ServerAddress, request: GenerationRequest, timeout_s: float) -> list[Completion]:
        """All samples of one request.

        Raises:
            DataError: the server refuses this prompt (too long, or against its chat template).
            NotServedError: the adapter is not loaded there.
            OddAnswerError: what it answers is no answer.
            OverloadedError: not now.
            ServerDownError: another server may answer.
            TransientError: no answer in time, or the server is not set up for such requests.
        """
        path = "/v1/chat/completions"
        response = await self._send(server, "POST", path, _chat_body(server, request), timeout_s)
        if response.status_code == 404 and request.adapter is not None:
            raise NotServedError(f"{server.name}: adapter {request.adapter} is not loaded")
        if response.status_code in (400, 422):
            await self._raise_refusal(server, request, _message(response), timeout_s)
        if response.status_code in (429, 503):
            text = f"{server.name}: HTTP {response.status_code}, {_message(response)}"
            raise OverloadedError(text, asked_wait_s(response))
        _check(server, response)
        try:
            answers = _completions(response.json(), request)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise OddAnswerError(f"{server.name}: an answer is not as vLLM writes it ({said(repr(error))})") from error
        for answer in answers:
            # It cuts max_tokens to what is left of its context without a word.
            if answer.finish_reason == "length" and len(answer.token_ids) < request.max_tokens:
                raise TooLongError(
                    f"the prompt is too long for {server.name}: its {answer.prompt_tokens} tokens leave room for "
                    f"{len(answer.token_ids)} of {request.max_tokens}; shorten it or show fewer neighbours"
                )
        return answers

    async def _raise_refusal(
        self, server: ServerAddress, request: GenerationRequest, why: str, timeout_s: float
    ) -> None:
        """Tell a prompt that can never be answered from a server that answers no such request."""
        if any(sign in why for sign in _TOO_LONG):
            raise TooLongError(f"the prompt is too long for {server.name}: {why}")
        harmless = {**_chat_body(server, request), "messages": [{"role": "user", "content": "?"}]}
        if (await self._send(server, "POST", "/v1/chat/completions", harmless, timeout_s)).status_code == 200:
            raise DataError(f"{server.name} refuses the prompt: {why}")
        raise TransientError(f"{server.name} refuses every such request: {why}")

    async def _call(self, server: ServerAddress, method: str, path: str, body: Any, timeout_s: float) -> httpx.Response:
        return _check(server, await self._send(server, method, path, body, timeout_s))

    async def _send(self, server: ServerAddress, method: str, path: str, body: Any, timeout_s: float) -> httpx.Response:
        try:
            return await self._http.request(
                method, server.base_url + path, json=body, headers=dict(server.headers), timeout=timeout_s
            )
        except UnicodeEncodeError:
            raise DataError("messages: a text holds half of a surrogate pair, which no encoding takes") from None
        except httpx.PoolTimeout as error:
            raise TransientError(f"{server.name}: no free connection within {timeout_s:.0f} s") from error
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise TransientError(f"{server.name}: no answer within {timeout_s:.0f} s") from error
        except httpx.LocalProtocolError as error:  # its text may hold the header with the key
            raise ServerDownError(f"{server.name}: {type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise ServerDownError(f"{server.name}: {type(error).__name__} {error}".rstrip()) from error


def _check(server: ServerAddress, response: httpx.Response) -> httpx.Response:
    status = response.status_code
    if status < 400:
        return response
    if status in (401, 403):
        raise TransientError(f"{server.name}: HTTP {status}, it wants another key; set generation.api_key")
    if status == 404:
        raise TransientError(f"{server.name}: HTTP 404, {_message(response)}")
    kind = ServerDownError if status >= 500 else TransientError
    raise kind(f"{server.name}: HTTP {status}, {_message(response)}")


def _message(response: httpx.Response) -> str:
    """What the server says in an error, shortened."""
    try:
        text = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        text = response.text
    return said(text) or "no reason given"


def _chat_body(server: ServerAddress, request: GenerationRequest) -> dict[str, Any]:
    """The request; what a model's own generation_config.json may set is set here, so that temperature alone decides."""
    body: dict[str, Any] = {
        "model": request.adapter or server.base_model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
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
        "logprobs": True,
        # Tokens come as `token_id:17`, ends of turn included; return_token_ids would repeat the whole prompt.
        "return_tokens_as_token_ids": True,
    }
    if request.choices is not None:
        body["structured_outputs"] = {"choice": list(request.choices)}
    return body


def _completions(body: Mapping[str, Any], request: GenerationRequest) -> list[Completion]:
    choices = sorted(body["choices"], key=lambda choice: choice["index"])
    if len(choices) != request.samples:
        raise ValueError(f"{len(choices)} choices for {request.samples} samples")
    prompt_tokens = int(body["usage"]["prompt_tokens"])
    return [_completion(choice, request.adapter, prompt_tokens) for choice in choices]


def _completion(choice: Mapping[str, Any], adapter: str | None, prompt_tokens: int) -> Completion:
    tokens = choice["logprobs"]["content"]
    finish: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
    return Completion(
        text=whole_text(choice["message"]["content"]),
        token_ids=tuple(int(token["token"].removeprefix("token_id:")) for token in tokens),
        logprobs=tuple(logprob(token["logprob"]) for token in tokens),
        finish_reason=finish,
        adapter=adapter,
        prompt_tokens=prompt_tokens,
    )
