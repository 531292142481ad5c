"""`/v1/responses` of the generator in this process: text in, text out, and nothing kept.

Owns OpenAI's newer shape over the same generator. Invariant: an answer cannot be asked for again; what would need
memory (previous_response_id, background, store) or tools is refused.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from semievol.types import Completion, GenerationRequest, Message, Sampling
from semievold.gateway.dialect.chat import token_fields, usage_of
from semievold.gateway.dialect.fields import (
    MAX_TOP_LOGPROBS,
    Asked,
    ClientMistake,
    format_constraint,
    parsed,
)
from semievold.gateway.dialect.kinds import check_text
from semievold.gateway.dialect.messages import messages_of

DEFAULT_TOKENS = 64
LOGPROBS = "message.output_text.logprobs"


class ResponseRequest(Asked):
    """What is honoured."""

    input: Any
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    text: dict[str, Any] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    include: list[str] | None = None


class ResponseDialect:
    """One request, read; makes what the generator is asked and what the client is answered.

    Raises:
        ClientMistake: the request cannot be honoured.
    """

    def __init__(self, body: Mapping[str, Any], adapter: str | None) -> None:
        self._asked = asked = parsed(ResponseRequest, body)
        self._metadata = body.get("metadata") or {}
        self.streamed = bool(asked.stream)
        if asked.include and set(asked.include) != {LOGPROBS}:
            raise ClientMistake("include", f"nothing but {LOGPROBS} can be included", "unsupported_parameter")
        asked.checked_stream_options()
        check_text(asked.text)
        self._told = bool(asked.include) or bool(asked.top_logprobs)
        self.requests = [
            GenerationRequest(
                messages=_conversation(asked),
                adapter=adapter,
                temperature=1.0 if asked.temperature is None else asked.temperature,
                max_tokens=asked.max_output_tokens or DEFAULT_TOKENS,
                seed=uuid.uuid4().int % 2**63,
                interactive=True,
                sampling=Sampling(
                    top_p=1.0 if asked.top_p is None else asked.top_p,
                    top_logprobs=(asked.top_logprobs or 0) if self._told else None,
                    constraint=format_constraint((asked.text or {}).get("format"), "text.format"),
                ),
            )
        ]

    def answer(self, model: str, answers: Sequence[Sequence[Completion]]) -> dict[str, Any]:
        ((answer,),) = answers
        asked, usage = self._asked, usage_of(answers)
        cut = answer.finish_reason == "length"
        logprobs = [
            {**token_fields(token), "top_logprobs": [token_fields(each) for each in others]}
            for token, others in answer.details
        ]
        part = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": logprobs}
        return {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "status": "incomplete" if cut else "completed",
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": self._metadata,
            "output": [
                {
                    "id": f"msg_{uuid.uuid4().hex}",
                    "type": "message",
                    "status": "incomplete" if cut else "completed",
                    "role": "assistant",
                    "content": [part],
                }
            ],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "temperature": self.requests[0].temperature,
            "text": asked.text or {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": self.requests[0].sampling.top_p,
            "truncation": "disabled",
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage["total_tokens"],
            },
        }

    def events(self, body: Mapping[str, Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """OpenAI's events of one message, numbered."""
        for number, (name, fields) in enumerate(_events(body)):
            yield name, {"type": name, "sequence_number": number, **fields}


def _events(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    (item,) = body["output"]
    (part,) = item["content"]
    begun = {**body, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    place = {"output_index": 0, "item_id": item["id"], "content_index": 0}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    yield "response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}}
    yield "response.content_part.added", {**place, "part": {**part, "text": "", "logprobs": []}}
    yield "response.output_text.delta", {**place, "delta": part["text"], "logprobs": part["logprobs"]}
    yield "response.output_text.done", {**place, "text": part["text"], "logprobs": part["logprobs"]}
    yield "response.content_part.done", {**place, "part": part}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield f"response.{body['status']}", {"response": body}


def _conversation(asked: ResponseRequest) -> tuple[Message, ...]:
    """`instructions` as the system turn, then what was said."""
    given = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    turns = messages_of(
        [_turn(item, place) for place, item in enumerate(given)] if isinstance(given, list) else given, "input"
    )
    return turns if asked.instructions is None else (Message("system", asked.instructions), *turns)


def _turn(item: Any, place: int) -> Any:
    """An item as a chat turn; earlier answers come back with an id and a status."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type", "message")
    if kind != "message":
        raise ClientMistake(f"input[{place}].type", "items other than messages are not read", "unsupported_parameter")
    return {name: value for name, value in item.items() if name not in ("type", "id", "status")}
