"""pydantic-ai."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import QUESTION

NAME = "pydantic-ai"


@call(NAME, "run")
def run(at: Gateway) -> object:
    return _seen(agent(at).run_sync(QUESTION))


@call(NAME, "run, instructions and an earlier conversation")
def conversation(at: Gateway) -> object:
    asking = agent(at, instructions="Be brief.")
    first = asking.run_sync("Hi")
    return _seen(asking.run_sync(QUESTION, message_history=first.all_messages()))


@call(NAME, "run_stream")
def stream(at: Gateway) -> object:
    async def ask() -> str:
        async with agent(at).run_stream(QUESTION) as events:
            return "".join([text async for text in events.stream_text(delta=True)])

    said = asyncio.run(ask())
    assert said
    return said


@call(NAME, "run, native output")
def native(at: Gateway) -> object:
    from pydantic_ai import NativeOutput

    result = agent(at, output_type=NativeOutput(_city()), tokens=60).run_sync(QUESTION)
    assert result.output.city in ("Paris", "Rome")
    return result.output


@call(NAME, "run, output by a tool", refused="tools")
def by_tool(at: Gateway) -> object:
    return agent(at, output_type=_city(), tokens=60).run_sync(QUESTION).output


@call(NAME, "run over responses")
def responses(at: Gateway) -> object:
    from pydantic_ai.models.openai import OpenAIResponsesModel

    return _seen(agent(at, kind=OpenAIResponsesModel).run_sync(QUESTION))


@call(NAME, "run, temperature out of range")
def hot(at: Gateway) -> object:
    return agent(at, temperature=3.0).run_sync(QUESTION)


def agent(at: Gateway, *, kind: Any = None, tokens: int = 12, temperature: float = 0.0, **options: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = (kind or OpenAIChatModel)(at.model, provider=OpenAIProvider(base_url=at.url, api_key=at.token))
    return Agent(model, model_settings={"max_tokens": tokens, "temperature": temperature}, retries=0, **options)


def _city() -> Any:
    from pydantic import BaseModel

    class City(BaseModel):
        city: Literal["Paris", "Rome"]
        sure: bool

    return City


def _seen(result: Any) -> dict[str, Any]:
    assert isinstance(result.output, str)
    usage = result.usage() if callable(result.usage) else result.usage
    return {"output": result.output, "in": usage.input_tokens, "out": usage.output_tokens}
