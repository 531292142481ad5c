"""What a server cuts off, as vLLM does when it is told to sleep, is no answer, whatever text it has."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from semievol.engines.vllm import FixedServers, VllmGenerator
from semievol.engines.vllm_client import VllmClient
from semievol.errors import TransientError
from semievol.http.client import HttpClient
from semievol.http.server_address import ServerAddress
from semievol.types import Completion, GenerationRequest, Message

SERVER = ServerAddress("a", "http://a")
REQUEST = GenerationRequest((Message("user", "?"),), max_tokens=8)


def client_of(*choices: dict[str, Any]) -> VllmClient:
    """Of a server that answers so, one after the other."""
    left = list(choices)

    def answer(_request: httpx.Request) -> httpx.Response:
        choice = {"index": 0, **left.pop(0)}
        return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 3}})

    return VllmClient(HttpClient(transport=httpx.MockTransport(answer)))


def said(text: str, finish: str) -> dict[str, Any]:
    tokens = [{"token": f"token_id:{len(word)}", "logprob": -0.5} for word in text.split()]
    return {
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": tokens} if tokens else None,
        "finish_reason": finish,
    }


@pytest.mark.parametrize("text", ["", "half an"])
async def test_what_is_cut_off_is_no_answer(text: str) -> None:
    client = client_of(said(text, "abort"))
    with pytest.raises(TransientError, match="a: it has cut off its answer"):
        await client.complete(SERVER, REQUEST, 1.0)
    await client.close()


async def test_what_is_cut_off_is_asked_again() -> None:
    client = client_of(*(said("half an", "abort") for _ in range(4)), said("an answer", "stop"))
    generator = VllmGenerator(client, FixedServers(client, [SERVER]))
    replies: dict[int, Any] = {}
    await generator.answer([REQUEST], lambda place, reply: replies.update({place: reply}))
    await generator.close()
    assert replies == {0: [Completion("an answer", (2, 6), (-0.5, -0.5), "stop", None, 3)]}
