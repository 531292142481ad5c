"""Prompts that show neighbours, asked with fewer where the engine refuses them: one example must not refuse a query.

Owns which neighbour gives way: a conversation before a plain question, for a chat template may refuse its turns, and
the longest before the others, which may well fit. What is too long is the engine's to say, in the tokens of its model.
Invariant: what is left unanswered is refused without any neighbour, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from semievol.types import Example, GenerationRequest, Refused, Reply

Ask = Callable[[Sequence[GenerationRequest]], Awaitable[list[Reply]]]


class Shown(NamedTuple):
    """A request, and how it is made from the examples that it shows."""

    examples: tuple[Example, ...]
    make: Callable[[Sequence[Example]], GenerationRequest]


class Asked(NamedTuple):
    """What was asked in the end, what it showed, and what became of it."""

    request: GenerationRequest
    examples: tuple[Example, ...]
    reply: Reply


async def asked(shown: Sequence[Shown], ask: Ask) -> list[Asked]:
    """Ask them together, and those that are refused again with one example less, until they are taken or show none."""
    requests = [each.make(each.examples) for each in shown]
    examples = [each.examples for each in shown]
    found = list(map(Asked._make, zip(requests, examples, await ask(requests), strict=True)))
    while again := [place for place, each in enumerate(found) if isinstance(each.reply, Refused) and each.examples]:
        fewer = {place: without_worst(found[place].examples) for place in again}
        requests = [shown[place].make(fewer[place]) for place in again]
        for place, request, reply in zip(again, requests, await ask(requests), strict=True):
            found[place] = Asked(request, fewer[place], reply)
    return found


def without_worst(examples: Sequence[Example]) -> tuple[Example, ...]:
    """All but the one that is most likely at fault; of equal ones the first stays away."""

    def guilt(place: int) -> tuple[bool, int, int]:
        return examples[place].query.messages is not None, _characters(examples[place]), -place

    worst = max(range(len(examples)), key=guilt)
    return (*examples[:worst], *examples[worst + 1 :])


def _characters(example: Example) -> int:
    query = example.query
    turns = [query.question] if query.messages is None else [message.content for message in query.messages]
    return sum(map(len, [*turns, *(query.options or ()), example.answer]))
