"""langchain-openai."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.clients.calls import PATIENCE_S, Gateway, call
from tests.clients.calls.openai_client import CITY, QUESTION

NAME = "langchain"


@call(NAME, "invoke")
def invoke(at: Gateway) -> object:
    return _seen(model(at).invoke(QUESTION))


@call(NAME, "invoke, a conversation")
def conversation(at: Gateway) -> object:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    turns = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hello."), HumanMessage(QUESTION)]
    return _seen(model(at).invoke(turns))


@call(NAME, "stream")
def stream(at: Gateway) -> object:
    chunks = list(model(at, stream_usage=True).stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.content
    return _seen(whole)


@call(NAME, "batch")
def batch(at: Gateway) -> object:
    return [_seen(each) for each in model(at).batch([QUESTION, "Hi"])]


@call(NAME, "ainvoke")
def asynchronous(at: Gateway) -> object:
    return _seen(asyncio.run(model(at).ainvoke(QUESTION)))


@call(NAME, "logprobs")
def logprobs(at: Gateway) -> object:
    answer = model(at).bind(logprobs=True, top_logprobs=1).invoke(QUESTION)
    return answer.response_metadata["logprobs"]


@call(NAME, "stop")
def stop(at: Gateway) -> object:
    free = model(at).invoke(QUESTION).content
    assert model(at).invoke(QUESTION, stop=[free[3:6]]).content == free[: free.index(free[3:6])]
    return free


@call(NAME, "with_structured_output by json_schema")
def structured(at: Gateway) -> object:
    schema = {"title": "city", "description": "A city", **CITY}
    answer = model(at, max_tokens=60).with_structured_output(schema, method="json_schema").invoke(QUESTION)
    assert set(answer) == {"city", "sure"}
    return answer


@call(NAME, "with_structured_output by function calling", refused="tools")
def called(at: Gateway) -> object:
    schema = {"title": "city", "description": "A city", **CITY}
    return model(at, max_tokens=60).with_structured_output(schema, method="function_calling").invoke(QUESTION)


@call(NAME, "bind_tools", refused="tools")
def tools(at: Gateway) -> object:
    from langchain_core.tools import tool

    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    return type(model(at).bind_tools([weather]).invoke(QUESTION)).__name__


@call(NAME, "responses API")
def responses(at: Gateway) -> object:
    answer = model(at, use_responses_api=True).invoke(QUESTION)
    assert answer.text
    return answer.usage_metadata


@call(NAME, "OpenAI, a completion")
def completion(at: Gateway) -> object:
    from langchain_openai import OpenAI

    asking = OpenAI(model=at.model, base_url=at.url, api_key=at.token, max_tokens=8, temperature=0, max_retries=0)
    return asking.invoke("One, two, three,")


@call(NAME, "temperature out of range")
def hot(at: Gateway) -> object:
    return model(at, temperature=3.0).invoke(QUESTION)


def model(at: Gateway, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    common = {"model": at.model, "base_url": at.url, "api_key": at.token, "timeout": PATIENCE_S, "max_retries": 0}
    return ChatOpenAI(**{**common, "temperature": 0, "max_tokens": 12, **options})


def _seen(message: Any) -> dict[str, Any]:
    """What chains read of a message."""
    told = message.response_metadata
    return {
        "content": message.content,
        "usage": message.usage_metadata,
        "finish_reason": told.get("finish_reason"),
        "model_name": told.get("model_name"),
    }
