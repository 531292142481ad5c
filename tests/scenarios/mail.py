"""What customers write in the scenarios: the demo's phrasings of eight intents, and mail of no intent.

Owns the drawing. No question is drawn twice for one run, so that nothing of the test was ever asked. Out of scope is
the demo's mail to another desk, or the queries of a file that the environment names (`SCENARIOS_OUT_OF_SCOPE`, say
clinc150's out_of_scope.jsonl).
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

from semievol.seeds import derive
from semievol.types import Example, Query
from semievold.demo.support_desk import write_question

INTENTS = (
    *("order status", "late delivery", "cancel order", "return item"),
    *("refund status", "damaged item", "wrong item", "payment failed"),
)
OUT_OF_SCOPE = "SCENARIOS_OUT_OF_SCOPE"
MAX_DRAWS = 10_000


class Mail:
    """All mail of one run."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(derive(seed, "mail"))
        self._seen: set[str] = set()
        self._numbers = itertools.count()
        self._elsewhere = _elsewhere(os.environ.get(OUT_OF_SCOPE), self._rng)

    def written(self, count: int, kind: str = "q") -> list[Example]:
        """Mail, about each intent as often as it goes, with the truth."""
        intents = [INTENTS[number % len(INTENTS)] for number in range(count)]
        self._rng.shuffle(intents)
        return [
            Example(Query(f"{kind}{next(self._numbers)}", self._new(intent), category=intent), intent)
            for intent in intents
        ]

    def out_of_scope(self, count: int) -> list[Query]:
        """Mail of no intent."""
        return [Query(f"o{next(self._numbers)}", self._new(None)) for _ in range(count)]

    def _new(self, intent: str | None) -> str:
        for _ in range(MAX_DRAWS):
            if intent is None and self._elsewhere is not None:
                if (question := next(self._elsewhere, "")) == "":
                    break
            else:
                question = write_question(self._rng, intent)
            if question.casefold() not in self._seen:
                self._seen.add(question.casefold())
                return question
        raise ValueError(f"there is no more mail about {intent or 'anything else'}")


def _elsewhere(path: str | None, rng: random.Random) -> Iterator[str] | None:
    if path is None:
        return None
    with Path(path).open(encoding="utf-8") as lines:
        questions = [json.loads(line)["question"] for line in lines]
    rng.shuffle(questions)
    return iter(questions)
