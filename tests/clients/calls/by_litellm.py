"""litellm, with its provider `openai`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.clients.calls import PATIENCE_S, Gateway, call
from tests.clients.calls.openai_client import CITY, QUESTION, TOOL, USER

NAME = "litellm"


@call(NAME, "completion")
def completion(at: Gateway) -> object:
    return _seen(_asked(at))


@call(NAME, "completion, stream")
def stream(at: Gateway) -> object:
    chunks = list(_asked(at, stream=True, stream_options={"include_usage": True}))
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == _asked(at).choices[0].message.content
    return text


@call(NAME, "acompletion")
def asynchronous(at: Gateway) -> object:
    import litellm

    return _seen(asyncio.run(litellm.acompletion(**_body(at))))


@call(NAME, "completion, n, top_p, penalties, seed, stop, user")
def fields(at: Gateway) -> object:
    more = {"presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 1, "stop": ["zzz"], "user": "ann"}
    answer = _asked(at, n=2, temperature=1.0, top_p=0.9, **more)
    assert len(answer.choices) == 2
    return _seen(answer)


@call(NAME, "completion, a schema")
def schema(at: Gateway) -> object:
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    answer = _asked(at, max_tokens=60, response_format=form)
    assert set(json.loads(answer.choices[0].message.content)) == {"city", "sure"}
    return _seen(answer)


@call(NAME, "completion, tools", refused="tools")
def tools(at: Gateway) -> object:
    return _asked(at, tools=[TOOL]).choices[0].message.role


@call(NAME, "text_completion")
def text(at: Gateway) -> object:
    import litellm

    body = {name: each for name, each in _body(at).items() if name != "messages"}
    body["model"] = f"text-completion-openai/{at.model}"
    return litellm.text_completion(**body, prompt="One, two, three,").choices[0].text


@call(NAME, "responses")
def responses(at: Gateway) -> object:
    import litellm

    body = {name: each for name, each in _body(at).items() if name not in ("messages", "max_tokens")}
    return litellm.responses(**body, input=QUESTION, max_output_tokens=12).status


@call(NAME, "completion, unknown model")
def unknown_model(at: Gateway) -> object:
    return _asked(at, model="openai/gpt-4o")


@call(NAME, "completion, a prompt beyond the model's context")
def long_prompt(at: Gateway) -> object:
    return _asked(at, messages=[{"role": "user", "content": "one two three four five " * 4_000}])


def _body(at: Gateway, **asked: Any) -> dict[str, Any]:
    to = {"model": f"openai/{at.model}", "api_base": at.url, "api_key": at.token, "timeout": PATIENCE_S}
    return {**to, "messages": USER, "temperature": 0, "max_tokens": 12, "num_retries": 0, "max_retries": 0, **asked}


def _asked(at: Gateway, **asked: Any) -> Any:
    import litellm

    litellm.suppress_debug_info = True
    return litellm.completion(**_body(at, **asked))


def _seen(answer: Any) -> dict[str, Any]:
    choices = [
        {"index": each.index, "finish_reason": each.finish_reason, "content": each.message.content}
        for each in answer.choices
    ]
    usage = {"prompt": answer.usage.prompt_tokens, "completion": answer.usage.completion_tokens}
    return {"id": answer.id, "model": answer.model, "created": answer.created, "choices": choices, "usage": usage}
