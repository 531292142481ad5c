"""Prompts that show neighbours, asked with fewer where they are too long.

Owns which neighbour gives way: the longest, for the others may well fit. How long is too long is the engine's to say,
in the tokens of its model. Invariant: what is asked is the prompt with all neighbours, or the longest of these that the
engine takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from semievol.types import Example, GenerationRequest, Refused, Reply

Ask = Callable[[Sequence[GenerationRequest]], Awaitable[list[Reply]]]


@dataclass(frozen=True, slots=True)
class Shown:
    """A request, and how it is made from the examples that it shows."""

    examples: tuple[Example, ...]
    make: Callable[[Sequence[Example]], GenerationRequest]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked in the end, what it showed, and what became of it."""

    request: GenerationRequest
    examples: tuple[Example, ...]
    reply: Reply


async def asked(shown: Sequence[Shown], ask: Ask) -> list[Asked]:
    """Ask them together, and those that are too long again with one example less, until they fit or show none."""
    requests = [each.make(each.examples) for each in shown]
    found = [
        Asked(request, each.examples, reply)
        for request, each, reply in zip(requests, shown, await ask(requests), strict=True)
    ]
    while again := [place for place, each in enumerate(found) if _can_be_shorter(each)]:
        fewer = {place: without_longest(found[place].examples) for place in again}
        requests = [shown[place].make(fewer[place]) for place in again]
        for place, request, reply in zip(again, requests, await ask(requests), strict=True):
            found[place] = Asked(request, fewer[place], reply)
    return found


def without_longest(examples: Sequence[Example]) -> tuple[Example, ...]:
    """All but the longest; of equally long ones the first stays away."""
    longest = max(range(len(examples)), key=lambda place: (_characters(examples[place]), -place))
    return (*examples[:longest], *examples[longest + 1 :])


def _can_be_shorter(each: Asked) -> bool:
    return bool(each.examples) and isinstance(each.reply, Refused) and each.reply.too_long


def _characters(example: Example) -> int:
    query = example.query
    turns = [query.question] if query.messages is None else [message.content for message in query.messages]
    return sum(map(len, [*turns, *(query.options or ()), example.answer]))
