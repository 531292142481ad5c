"""llama-index, by its class for servers like OpenAI's."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.clients.calls import PATIENCE_S, Gateway, call
from tests.clients.calls.openai_client import QUESTION

NAME = "llama-index"


@call(NAME, "complete")
def complete(at: Gateway) -> object:
    return model(at, chat=False).complete("One, two, three,").text


@call(NAME, "chat")
def chat(at: Gateway) -> object:
    answer = model(at).chat(_turns())
    return {"role": answer.message.role.value, "text": answer.message.content, "raw": answer.raw}


@call(NAME, "stream_chat")
def stream_chat(at: Gateway) -> object:
    said = "".join(each.delta or "" for each in model(at).stream_chat(_turns()))
    assert said == model(at).chat(_turns()).message.content
    return said


@call(NAME, "stream_complete")
def stream_complete(at: Gateway) -> object:
    said = "".join(each.delta or "" for each in model(at, chat=False).stream_complete("One, two, three,"))
    assert said
    return said


@call(NAME, "achat")
def asynchronous(at: Gateway) -> object:
    return asyncio.run(model(at).achat(_turns())).message.content


@call(NAME, "chat with a schema")
def schema(at: Gateway) -> object:
    from typing import Literal

    from pydantic import BaseModel

    class City(BaseModel):
        city: Literal["Paris", "Rome"]
        sure: bool

    made = model(at, tokens=60, should_use_structured_outputs=True).as_structured_llm(City).chat(_turns())
    assert made.raw.city in ("Paris", "Rome")
    return made.raw


@call(NAME, "chat with logprobs")
def logprobs(at: Gateway) -> object:
    answer = model(at, logprobs=True, top_logprobs=2).chat(_turns())
    return answer.raw.choices[0].logprobs.content


def model(at: Gateway, *, chat: bool = True, tokens: int = 12, **options: Any) -> Any:
    from llama_index.llms.openai_like import OpenAILike

    to = {"model": at.model, "api_base": at.url, "api_key": at.token, "timeout": PATIENCE_S, "max_retries": 0}
    return OpenAILike(**to, is_chat_model=chat, max_tokens=tokens, temperature=0.0, context_window=1_024, **options)


def _turns() -> list[Any]:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]
