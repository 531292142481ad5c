"""What a client's request is to the engine of this process: whose it is, and how long it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from semievol.errors import LateError, TransientError
from semievol.types import GenerationRequest, Message
from semievold.config.fronts import DEFAULT
from semievold.gateway.call import Call
from semievold.gateway.turns import generated
from semievold.web.tokens import HOLDER


class Peer:
    """A transport, as far as a request asks who is at its other end."""

    def __init__(self, address: str) -> None:
        self._address = address

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self._address, 1) if name == "peername" else default


class Engine:
    """Remembers what it is asked, and does then what it is made for."""

    def __init__(self, then: Any = None) -> None:
        self.turns: list[str | None] = []
        self._then = then

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Any]:
        self.turns += [request.turn for request in requests]
        if isinstance(self._then, Exception):
            raise self._then
        if self._then is not None:
            await self._then()
        return [[] for _ in requests]


def call(address: str, holder: str | None = None, left_s: float = 60.0) -> Call:
    request = make_mocked_request("POST", "/", transport=cast(Any, Peer(address)))
    if holder is not None:
        request[HOLDER] = holder
    deadline = asyncio.get_running_loop().time() + left_s
    return Call(request, "/", {}, None, None, deadline, lambda _: None)


async def turn(*who: Any) -> str | None:
    engine = Engine()
    await generated(cast(Any, engine), [GenerationRequest((Message("user", "x"),), interactive=True)], call(*who))
    return engine.turns[0]


async def test_turns_are_the_named_tokens_wherever_it_comes_from_and_else_the_networks() -> None:
    assert await turn("10.0.0.1", "team") == await turn("2001:db8::1", "team") != await turn("10.0.0.1", "others")
    assert await turn("10.0.0.1", DEFAULT) == await turn("::ffff:10.0.0.1") != await turn("10.0.0.2", DEFAULT)
    assert await turn("2001:db8::1") == await turn("2001:db8::ffff:1") != await turn("2001:db8:0:1::1")
    assert await turn("10.0.0.1") != await turn("10.0.0.9", "10.0.0.1")


async def test_who_waits_for_others_is_told_to_ask_again_and_who_takes_long_is_late() -> None:
    requests = [GenerationRequest((Message("user", "x"),), interactive=True)]
    with pytest.raises(TransientError, match="ask again"):
        await generated(cast(Any, Engine(asyncio.Event().wait)), requests, call("10.0.0.1", left_s=0.02))
    with pytest.raises(TimeoutError):
        await generated(cast(Any, Engine(LateError("worked on"))), requests, call("10.0.0.1"))
