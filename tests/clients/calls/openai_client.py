"""openai-python's clients, and turns that many calls send."""

from __future__ import annotations

from typing import Any

from tests.clients.calls import PATIENCE_S, Gateway

NEWEST = "openai-python"
QUESTION = "Name the capital of France."
USER: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
PIRATE = "You are a pirate and speak like one. " * 12
"""Longer than what a template says where no system turn is given."""
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
    "required": ["city", "sure"],
    "additionalProperties": False,
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)


def client(at: Gateway, **options: Any) -> Any:
    from openai import OpenAI

    return OpenAI(**{"base_url": at.url, "api_key": at.token, "timeout": PATIENCE_S, "max_retries": 0, **options})


def async_client(at: Gateway, **options: Any) -> Any:
    from openai import AsyncOpenAI

    return AsyncOpenAI(**{"base_url": at.url, "api_key": at.token, "timeout": PATIENCE_S, "max_retries": 0, **options})


def chat(at: Gateway, **asked: Any) -> Any:
    """A greedy answer of few tokens, unless something else is asked."""
    body = {"model": at.model, "messages": USER, "temperature": 0, "max_tokens": 12, **asked}
    return client(at).chat.completions.create(**{name: each for name, each in body.items() if each is not Ellipsis})


def text_of(answer: Any) -> str:
    return answer.choices[0].message.content or ""
