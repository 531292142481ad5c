"""openai-python, chat: forms that an answer is held to."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import CITY, NEWEST, USER, chat, client, text_of


@call(NEWEST, "chat, response_format text")
def text(at: Gateway) -> object:
    return chat(at, response_format={"type": "text"})


@call(NEWEST, "chat, response_format json_object")
def json_object(at: Gateway) -> object:
    answer = chat(
        at,
        messages=[{"role": "user", "content": "Answer with {}"}],
        max_tokens=24,
        response_format={"type": "json_object"},
    )
    assert text_of(answer).lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text_of(answer)), dict)
    return answer


@call(NEWEST, "chat, response_format json_schema")
def json_schema(at: Gateway) -> object:
    answer = chat(at, max_tokens=60, response_format=_format(CITY))
    _check(json.loads(text_of(answer)))
    return answer


@call(NEWEST, "chat, response_format json_schema, drawn four times")
def json_schema_drawn(at: Gateway) -> object:
    answer = chat(at, max_tokens=60, temperature=1.5, n=4, seed=3, response_format=_format(CITY))
    for each in answer.choices:
        if each.finish_reason == "stop":
            _check(json.loads(each.message.content))
        else:  # space between members may go on for long
            assert each.message.content.lstrip().startswith("{")
    return answer


@call(NEWEST, "chat, response_format json_schema that is no schema")
def no_schema(at: Gateway) -> object:
    return chat(at, response_format=_format({"type": "nothing"}))


@call(NEWEST, "chat, response_format json_schema without a schema")
def missing_schema(at: Gateway) -> object:
    return chat(at, response_format={"type": "json_schema", "json_schema": {"name": "city"}})


@call(NEWEST, "chat, response_format of an unknown type")
def unknown_format(at: Gateway) -> object:
    return chat(at, response_format={"type": "xml"})


@call(NEWEST, "chat, parse into a pydantic model")
def parsed(at: Gateway) -> object:
    from typing import Literal

    from pydantic import BaseModel

    class City(BaseModel):
        city: Literal["Paris", "Rome"]
        sure: bool

    answer = client(at).chat.completions.parse(
        model=at.model, messages=USER, temperature=0, max_tokens=60, response_format=City
    )
    assert isinstance(answer.choices[0].message.parsed, City)
    return answer


@call(NEWEST, "chat, structured_outputs, choice")
def choice(at: Gateway) -> object:
    answer = chat(at, temperature=1.5, extra_body={"structured_outputs": {"choice": ["Rome", "Oslo"]}})
    assert text_of(answer) in ("Rome", "Oslo")
    return answer


@call(NEWEST, "chat, structured_outputs, regex")
def regex(at: Gateway) -> object:
    answer = chat(at, temperature=1.5, extra_body={"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}})
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", text_of(answer))
    return answer


@call(NEWEST, "chat, structured_outputs, json")
def structured_json(at: Gateway) -> object:
    answer = chat(at, max_tokens=60, extra_body={"structured_outputs": {"json": CITY}})
    _check(json.loads(text_of(answer)))
    return answer


@call(NEWEST, "chat, structured_outputs, grammar", refused="structured_outputs.grammar")
def grammar(at: Gateway) -> object:
    answer = chat(at, extra_body={"structured_outputs": {"grammar": 'root ::= "Rome" | "Oslo"'}})
    assert text_of(answer) in ("Rome", "Oslo")
    return answer


@call(NEWEST, "chat, structured_outputs, a regex that is none")
def broken_regex(at: Gateway) -> object:
    return chat(at, extra_body={"structured_outputs": {"regex": "[0-9"}})


@call(NEWEST, "chat, structured_outputs, two forms")
def two_forms(at: Gateway) -> object:
    return chat(at, extra_body={"structured_outputs": {"regex": "[0-9]", "choice": ["1"]}})


@call(NEWEST, "chat, structured_outputs beside response_format")
def two_fields(at: Gateway) -> object:
    return chat(at, response_format=_format(CITY), extra_body={"structured_outputs": {"choice": ["1"]}})


@call(NEWEST, "chat, guided_choice, the field of older vLLMs")
def guided(at: Gateway) -> object:
    return chat(at, extra_body={"guided_choice": ["Rome", "Oslo"]})


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}


def _check(value: Any) -> None:
    assert set(value) == {"city", "sure"}, value
    assert value["city"] in ("Paris", "Rome")
    assert isinstance(value["sure"], bool)
