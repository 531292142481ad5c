"""openai-python, responses: text in and out, nothing kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import CITY, NEWEST, PIRATE, QUESTION, TOOL, USER, async_client, client

FORMAT = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}


@call(NEWEST, "responses, a text")
def text(at: Gateway) -> object:
    answer = respond(at)
    assert answer.model == at.model
    assert answer.output_text
    assert answer.usage.output_tokens <= 24
    return _told(answer)


@call(NEWEST, "responses, instructions")
def instructions(at: Gateway) -> object:
    answer = respond(at, instructions=PIRATE)
    assert answer.instructions == PIRATE
    assert answer.usage.input_tokens > respond(at).usage.input_tokens + 40, "the instructions are read"
    return _told(answer)


@call(NEWEST, "responses, a conversation")
def conversation(at: Gateway) -> object:
    earlier = respond(at)
    turns = [*USER, *earlier.output, {"role": "user", "content": [{"type": "input_text", "text": "Say it again."}]}]
    return _told(respond(at, input=turns))


@call(NEWEST, "responses, cut at max_output_tokens")
def cut(at: Gateway) -> object:
    answer = respond(at, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    return _told(answer)


@call(NEWEST, "responses, a schema")
def schema(at: Gateway) -> object:
    answer = respond(at, text=FORMAT, max_output_tokens=60)
    assert set(json.loads(answer.output_text)) == {"city", "sure"}
    return _told(answer)


@call(NEWEST, "responses, parse into a pydantic model")
def parsed(at: Gateway) -> object:
    from typing import Literal

    from pydantic import BaseModel

    class City(BaseModel):
        city: Literal["Paris", "Rome"]
        sure: bool

    body = {"model": at.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 60}
    answer = client(at).responses.parse(**body, text_format=City)
    assert isinstance(answer.output_parsed, City)
    return answer.output_parsed


@call(NEWEST, "responses, log-probabilities")
def logprobs(at: Gateway) -> object:
    answer = respond(at, include=["message.output_text.logprobs"], top_logprobs=2)
    told = answer.output[0].content[0].logprobs
    assert told
    assert all(len(each.top_logprobs) == 2 for each in told)
    return told


@call(NEWEST, "responses, stream")
def stream(at: Gateway) -> object:
    return _streamed(list(respond(at, stream=True)))


@call(NEWEST, "responses, helper for streams")
def helper(at: Gateway) -> object:
    body = {"model": at.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 12}
    with client(at).responses.stream(**body) as events:
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response()
    assert final.output_text == said
    return _told(final)


@call(NEWEST, "responses, asynchronous")
def asynchronous(at: Gateway) -> object:
    async def ask() -> Any:
        async with async_client(at) as asking:
            return await asking.responses.create(model=at.model, input=QUESTION, max_output_tokens=8)

    return _told(asyncio.run(ask()))


@call(NEWEST, "responses, store false, truncation disabled, metadata")
def without_effect(at: Gateway) -> object:
    answer = respond(at, store=False, truncation="disabled", metadata={"a": "b"})
    assert answer.metadata == {"a": "b"}
    return _told(answer)


@call(NEWEST, "responses, previous_response_id")
def previous(at: Gateway) -> object:
    return respond(at, previous_response_id="resp_1")


@call(NEWEST, "responses, background")
def background(at: Gateway) -> object:
    return respond(at, background=True)


@call(NEWEST, "responses, store true")
def stored(at: Gateway) -> object:
    return respond(at, store=True)


@call(NEWEST, "responses, tools", refused="tools")
def tools(at: Gateway) -> object:
    return respond(at, tools=[{"type": "function", "strict": False, **TOOL["function"]}]).output[0].type


@call(NEWEST, "responses, a tool of OpenAI's")
def web_search(at: Gateway) -> object:
    return respond(at, tools=[{"type": "web_search"}])


@call(NEWEST, "responses, reasoning", refused="reasoning")
def reasoning(at: Gateway) -> object:
    return respond(at, reasoning={"effort": "low"}).output[0].type


@call(NEWEST, "responses, an image")
def image(at: Gateway) -> object:
    part = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
    return respond(at, input=[{"role": "user", "content": [part]}])


@call(NEWEST, "responses, retrieve one")
def retrieve(at: Gateway) -> object:
    return client(at).responses.retrieve("resp_1")


def respond(at: Gateway, **asked: Any) -> Any:
    body = {"model": at.model, "input": QUESTION, "temperature": 0, "max_output_tokens": 24, **asked}
    return client(at).responses.create(**body)


def _told(answer: Any) -> dict[str, Any]:
    """What a program reads of a response; much else is an echo of its request, with each server's own defaults."""
    names = ("id", "object", "created_at", "model", "status", "output", "usage", "metadata", "incomplete_details")
    return {name: getattr(answer, name) for name in names}


def _streamed(events: list[Any]) -> dict[str, Any]:
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    assert said == done.text == events[-1].response.output_text
    # Each kind of event, as its own field.
    return {event.type: {**_told(event.response)} if hasattr(event, "response") else event for event in events}
