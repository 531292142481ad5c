"""openai-python, chat: answers that come as events."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import CITY, NEWEST, USER, async_client, chat, client, text_of


@call(NEWEST, "chat, stream")
def stream(at: Gateway) -> object:
    whole = gathered(chat(at, stream=True))
    assert whole["texts"] == {"0": text_of(chat(at))}, "a stream says what the whole answer says"
    assert whole["usage"] is None, "nobody asked for the usage"
    return whole


@call(NEWEST, "chat, stream with include_usage")
def usage(at: Gateway) -> object:
    whole = gathered(chat(at, stream=True, stream_options={"include_usage": True}))
    assert whole["usage"].completion_tokens > 0
    return whole


@call(NEWEST, "chat, stream with n")
def several(at: Gateway) -> object:
    whole = gathered(chat(at, stream=True, n=2, temperature=1.0, seed=3))
    assert set(whole["texts"]) == {"0", "1"}
    return whole


@call(NEWEST, "chat, stream with logprobs")
def logprobs(at: Gateway) -> object:
    told = []
    for chunk in chat(at, stream=True, logprobs=True, top_logprobs=2):
        for choice in chunk.choices:
            told += choice.logprobs.content if choice.logprobs else []
    assert told
    assert all(len(each.top_logprobs) == 2 for each in told)
    return told


@call(NEWEST, "chat, stream with stop")
def stop(at: Gateway) -> object:
    free = text_of(chat(at, max_tokens=12))
    word = free[4:7]
    whole = gathered(chat(at, max_tokens=12, stream=True, stop=[word]))
    assert whole["texts"] == {"0": free[: free.index(word)]}
    return whole


@call(NEWEST, "chat, stream with a schema")
def schema(at: Gateway) -> object:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    whole = gathered(chat(at, stream=True, max_tokens=60, response_format=form))
    assert set(json.loads(whole["texts"]["0"])) == {"city", "sure"}
    return whole


@call(NEWEST, "chat, helper for streams")
def helper(at: Gateway) -> object:
    with client(at).chat.completions.stream(model=at.model, messages=USER, max_tokens=12, temperature=0) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    assert final.choices[0].message.content
    return final


@call(NEWEST, "chat, stream, asynchronous")
def asynchronous(at: Gateway) -> object:
    async def ask() -> list[Any]:
        async with async_client(at) as asking:
            body = {"model": at.model, "messages": USER, "max_tokens": 8, "stream": True}
            return [chunk async for chunk in await asking.chat.completions.create(**body)]

    return gathered(asyncio.run(ask()))


@call(NEWEST, "chat, stream that the client leaves, then another request")
def left(at: Gateway) -> object:
    asking = client(at)
    body = {"model": at.model, "messages": USER}
    with asking.chat.completions.create(**body, max_tokens=64, stream=True) as events:
        next(iter(events))
    return asking.chat.completions.create(**body, max_tokens=4)


@call(NEWEST, "chat, stream that is refused")
def refused(at: Gateway) -> object:
    return list(chat(at, stream=True, temperature=2.5))


@call(NEWEST, "chat, stream with a schema that is none")
def refused_late(at: Gateway) -> object:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "nothing"}, "strict": True}}
    return list(chat(at, stream=True, response_format=form))


@call(NEWEST, "chat, stream_options without stream")
def half(at: Gateway) -> object:
    return chat(at, stream_options={"include_usage": True})


def gathered(chunks: Iterable[Any]) -> dict[str, Any]:
    """What a program makes of a stream, with the checks of its order: the role first, one end of each choice, the
    usage last.
    """
    texts: dict[str, str] = defaultdict(str)
    ends: dict[str, str] = {}
    roles: dict[str, str] = {}
    used, seen = None, []
    for chunk in chunks:
        assert used is None, "the usage comes last"
        seen.append(chunk)
        used = chunk.usage
        assert used is None or not chunk.choices
        for choice in chunk.choices:
            at = str(choice.index)
            assert at not in ends, "nothing comes after a choice's end"
            roles.setdefault(at, choice.delta.role)
            texts[at] += choice.delta.content or ""
            if choice.finish_reason is not None:
                ends[at] = choice.finish_reason
    assert len({chunk.id for chunk in seen}) == 1
    assert set(ends) == set(texts)
    assert set(roles.values()) == {"assistant"}
    return {"texts": dict(texts), "ends": ends, "usage": used, "chunk": {**_head(seen[0])}}


def _head(chunk: Any) -> dict[str, Any]:
    return {name: getattr(chunk, name) for name in ("id", "created", "model", "object")}
