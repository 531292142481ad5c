"""openai-python: what goes wrong, as the exceptions that programs catch."""

from __future__ import annotations

from typing import Any

from tests.clients.calls import Gateway, call
from tests.clients.calls.openai_client import NEWEST, USER, chat, client


@call(NEWEST, "chat, unknown model")
def unknown_model(at: Gateway) -> object:
    return chat(at, model="gpt-4o")


@call(NEWEST, "chat, wrong token")
def wrong_token(at: Gateway) -> object:
    return client(at, api_key="not-the-token").chat.completions.create(model=at.model, messages=USER)


@call(NEWEST, "chat, an unknown field")
def unknown_field(at: Gateway) -> object:
    return chat(at, extra_body={"temprature": 0})


@call(NEWEST, "chat, no messages")
def no_messages(at: Gateway) -> object:
    return chat(at, messages=[])


@call(NEWEST, "chat, messages, a text")
def text_for_messages(at: Gateway) -> object:
    return chat(at, messages="hello")


@call(NEWEST, "chat, an unknown role", refused="messages[0].role")
def unknown_role(at: Gateway) -> object:
    return chat(at, messages=[{"role": "critic", "content": "x"}])


@call(NEWEST, "chat, a turn without content", refused="messages[0].content")
def no_content(at: Gateway) -> object:
    return chat(at, messages=[{"role": "user"}])


@call(NEWEST, "chat, max_tokens, a fraction")
def fraction(at: Gateway) -> object:
    return chat(at, max_tokens=1.5)


@call(NEWEST, "chat, n 0")
def no_answers(at: Gateway) -> object:
    return chat(at, n=0)


@call(NEWEST, "chat, stop, numbers")
def numbers_for_stop(at: Gateway) -> object:
    return chat(at, stop=[1, 2])


@call(NEWEST, "chat, stream, a text")
def text_for_stream(at: Gateway) -> object:
    return chat(at, extra_body={"stream": "true"})


@call(NEWEST, "chat, logit_bias, words")
def words_for_bias(at: Gateway) -> object:
    return chat(at, logit_bias={"Paris": 5})


@call(NEWEST, "chat, a client that waits for a moment only")
def impatient(at: Gateway) -> object:
    return client(at, timeout=0.001).chat.completions.create(model=at.model, messages=USER)


@call(NEWEST, "chat, a refused request is not repeated")
def not_repeated(at: Gateway) -> object:
    asked: list[Any] = []
    import httpx

    counted = httpx.Client(event_hooks={"request": [asked.append]})
    try:
        client(at, max_retries=3, http_client=counted).chat.completions.create(
            model=at.model, messages=USER, temperature=2.5
        )
    finally:
        assert len(asked) == 1, "400 is no reason to ask again"
    return None


@call(NEWEST, "an address that is not there")
def no_address(at: Gateway) -> object:
    return client(at).files.list()


@call(NEWEST, "chat, a method that is not answered")
def wrong_method(at: Gateway) -> object:
    return client(at).get("/chat/completions", cast_to=object)
