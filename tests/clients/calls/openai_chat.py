"""openai-python, chat: roles and contents, models, headers, several clients at once."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import (
    NEWEST,
    PIRATE,
    PIXEL,
    QUESTION,
    TOOL,
    USER,
    async_client,
    chat,
    client,
)


@call(NEWEST, "models, list")
def models(at: Gateway) -> object:
    listed = client(at).models.list()
    assert [each.id for each in listed] == [at.model]
    return listed.data


@call(NEWEST, "models, retrieve")
def model(at: Gateway) -> object:
    return client(at).models.retrieve(at.model)


@call(NEWEST, "models, retrieve one that is not there")
def no_model(at: Gateway) -> object:
    return client(at).models.retrieve("gpt-4o")


@call(NEWEST, "chat")
def plain(at: Gateway) -> object:
    answer = chat(at, temperature=..., max_tokens=8)
    assert answer.model == at.model
    assert answer.choices[0].message.role == "assistant"
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 8, "max_tokens holds"
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return answer


@call(NEWEST, "chat, system turn")
def system(at: Gateway) -> object:
    told = chat(at, messages=[{"role": "system", "content": PIRATE}, *USER])
    assert told.usage.prompt_tokens > chat(at).usage.prompt_tokens + 40, "what the system says is read"
    return told


@call(NEWEST, "chat, developer turn")
def developer(at: Gateway) -> object:
    told = chat(at, messages=[{"role": "developer", "content": PIRATE}, *USER])
    assert told.usage.prompt_tokens > chat(at).usage.prompt_tokens + 40, "what the developer says is read"
    return told


@call(NEWEST, "chat, result of a tool in the conversation")
def tool_result(at: Gateway) -> object:
    called = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
    turns = [
        {"role": "user", "content": "How is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain, 9 degrees."},
    ]
    return chat(at, messages=turns)


@call(NEWEST, "chat, null content of an earlier answer")
def null_content(at: Gateway) -> object:
    turns = [*USER, {"role": "assistant", "content": None}, {"role": "user", "content": "Say it again."}]
    return chat(at, messages=turns)


@call(NEWEST, "chat, earlier answer sent back as it came")
def sent_back(at: Gateway) -> object:
    first = chat(at)
    return chat(at, messages=[*USER, first.choices[0].message, {"role": "user", "content": "Say it again."}])


@call(NEWEST, "chat, content in parts")
def parts(at: Gateway) -> object:
    halves = [{"type": "text", "text": "Name the capital"}, {"type": "text", "text": "of France."}]
    return chat(at, messages=[{"role": "user", "content": halves}])


@call(NEWEST, "chat, a speaker's name")
def named(at: Gateway) -> object:
    return chat(at, messages=[{"role": "user", "name": "Ann", "content": QUESTION}])


@call(NEWEST, "chat, text beyond ASCII")
def beyond_ascii(at: Gateway) -> object:
    return chat(at, messages=[{"role": "user", "content": "Grüße, 日本語, \U0001f600 und \u0000?"}])


@call(NEWEST, "chat, an image")
def image(at: Gateway) -> object:
    part = {"type": "image_url", "image_url": {"url": PIXEL}}
    return chat(at, messages=[{"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}])


@call(NEWEST, "chat, tools", refused="tools")
def tools(at: Gateway) -> object:
    return chat(at, tools=[TOOL])


@call(NEWEST, "chat, a tool that must be called", refused="tools")
def forced_tool(at: Gateway) -> object:
    chosen = {"type": "function", "function": {"name": "weather"}}
    said = [{"role": "user", "content": "Weather in Paris?"}]
    answer = chat(at, messages=said, tools=[TOOL], tool_choice=chosen, max_tokens=60)
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    return answer


@call(NEWEST, "chat, tools that none may be called", refused="tools")
def no_tool(at: Gateway) -> object:
    answer = chat(at, tools=[TOOL], tool_choice="none")
    assert not answer.choices[0].message.tool_calls
    return answer


@call(NEWEST, "chat, an empty list of tools")
def empty_tools(at: Gateway) -> object:
    return chat(at, tools=[])


@call(NEWEST, "chat, what changes no answer (user, metadata, store false, service_tier auto ...)")
def without_effect(at: Gateway) -> object:
    told = {"user": "ann", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    more = {"prompt_cache_key": "k", "safety_identifier": "s", "modalities": ["text"], "verbosity": "medium"}
    return chat(at, **told, **more)


@call(NEWEST, "chat, store true")
def stored(at: Gateway) -> object:
    return chat(at, store=True)


@call(NEWEST, "chat, audio")
def audio(at: Gateway) -> object:
    return chat(at, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})


@call(NEWEST, "chat, predicted output")
def predicted(at: Gateway) -> object:
    return chat(at, prediction={"type": "content", "content": "Paris"})


@call(NEWEST, "chat, functions of the old kind")
def functions(at: Gateway) -> object:
    return chat(at, functions=[TOOL["function"]], function_call={"name": "weather"})


@call(NEWEST, "chat, web search")
def web_search(at: Gateway) -> object:
    return chat(at, web_search_options={})


@call(NEWEST, "chat, reasoning_effort", refused="reasoning_effort")
def reasoning(at: Gateway) -> object:
    return chat(at, reasoning_effort="high")


@call(NEWEST, "chat, service_tier flex")
def tier(at: Gateway) -> object:
    return chat(at, service_tier="flex")


@call(NEWEST, "chat, raw answer with headers and request id")
def raw(at: Gateway) -> object:
    raw_ = client(at).chat.completions.with_raw_response.create(
        model=at.model, messages=USER, max_tokens=4, extra_headers={"x-request-id": "abc-1"}
    )
    assert raw_.headers["x-request-id"] == "abc-1"
    assert raw_.headers["x-semievol-adapter"]
    answer = raw_.parse()
    assert answer._request_id == "abc-1"
    return answer


@call(NEWEST, "chat, a request id is made where none is sent")
def request_id(at: Gateway) -> object:
    answer = chat(at, max_tokens=4)
    assert answer._request_id
    return answer


@call(NEWEST, "chat, asynchronous, three at once")
def several(at: Gateway) -> object:
    async def ask() -> list[Any]:
        async with async_client(at) as asking:
            asked = {"model": at.model, "messages": USER, "max_tokens": 6}
            return await asyncio.gather(*(asking.chat.completions.create(**asked) for _ in range(3)))

    answers = asyncio.run(ask())
    assert len({each.id for each in answers}) == 3
    return answers


@call(NEWEST, "embeddings")
def embeddings(at: Gateway) -> object:
    return client(at).embeddings.create(model=at.model, input="hello")


@call("openai-python 2", "chat")
def plain_by_2(at: Gateway) -> object:
    return chat(at)


@call("openai-python 2", "responses")
def response_by_2(at: Gateway) -> object:
    answer = client(at).responses.create(model=at.model, input=QUESTION, max_output_tokens=12, temperature=0)
    assert answer.output_text
    return answer.output
