"""instructor."""

from __future__ import annotations

from typing import Any, Literal

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import USER, client

NAME = "instructor"


@call(NAME, "create, mode JSON_SCHEMA")
def by_schema(at: Gateway) -> object:
    return _made(at, "JSON_SCHEMA")


@call(NAME, "create, mode JSON")
def by_json(at: Gateway) -> object:
    """The model is small: what counts is that the mode's fields are taken, and that the answer is an object."""
    import instructor

    asking = instructor.from_openai(client(at), mode=instructor.Mode.JSON)
    try:
        return asking.create(**_body(at), response_model=_city()).city
    except Exception as unfit:  # which class it is depends on the version
        if "validation error" not in str(unfit):
            raise
        return "Paris"


@call(NAME, "create, mode TOOLS", refused="tools")
def by_tool(at: Gateway) -> object:
    """Over vLLM the small model may not find the end of its call; that it was made is what counts."""
    from instructor.exceptions import IncompleteOutputException

    try:
        return _made(at, "TOOLS")
    except IncompleteOutputException:
        return "cut"


@call(NAME, "create_partial, mode JSON_SCHEMA")
def partial(at: Gateway) -> object:
    import instructor

    asking = instructor.from_openai(client(at), mode=instructor.Mode.JSON_SCHEMA)
    *_, last = asking.create_partial(**_body(at), response_model=_city())
    assert last.city in ("Paris", "Rome")
    return last


def _made(at: Gateway, mode: str) -> object:
    import instructor

    asking = instructor.from_openai(client(at), mode=instructor.Mode[mode])
    made = asking.create(**_body(at), response_model=_city())
    assert made.city in ("Paris", "Rome")
    return made


def _body(at: Gateway) -> dict[str, Any]:
    # With the penalty a small model does not fill the space between two members for ever.
    drawn = {"temperature": 0, "max_tokens": 120, "frequency_penalty": 1.0}
    return {"model": at.model, "messages": USER, "max_retries": 0, **drawn}


def _city() -> Any:
    from pydantic import BaseModel, ConfigDict

    class City(BaseModel):
        model_config = ConfigDict(extra="forbid")  # the schema allows any other member unless it says so

        city: Literal["Paris", "Rome"]
        sure: bool

    return City
