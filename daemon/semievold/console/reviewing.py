"""The review queue at the console: one question at a time, one key for each answer.

Owns the page and its form; what is asked and what an answer does is `semievold.review`'s. Invariant: an answer has the
same key for every question with the same answers, and at a gate nothing tells which answer a model gave.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from semievol.errors import DataError
from semievold.api.api import ApiTools
from semievold.config.daemon import DaemonConfig
from semievold.console.door import Visit, see
from semievold.console.pages import packed
from semievold.errors import StateConflict
from semievold.review.answering import KINDS, Reviewers
from semievold.store.review.items import ItemState

SKIP, UNDO = "s", "u"
KEYS = [*"123456789", *(each for each in string.ascii_lowercase if each not in (SKIP, UNDO))]
MOST_BUTTONS = len(KEYS)
MOST_COUNTED = 100
"""More questions than so many are not counted, on any page."""
SAID: Mapping[ItemState, str] = {
    ItemState.OPEN: "is open again",
    ItemState.GIVEN: "was answered",
    ItemState.LABELLED: "has its label",
    ItemState.SKIPPED: "was skipped",
    ItemState.OVER: "is asked no more",
}
Shown = Callable[[Visit, str, Mapping[str, Any]], str]


class ReviewDesk:
    """Where a person answers."""

    def __init__(self, config: DaemonConfig, tools: ApiTools, shown: Shown) -> None:
        self._stores = tools.stores
        self._reviewers = Reviewers(config, tools.stores, tools.producer)
        self._shown = shown

    def open(self) -> str:
        """How many questions wait, in words; empty where none does."""
        contradictions = self._stores.contradictions.open(MOST_COUNTED + 1)
        return _counted(sum(self._stores.reviews.waiting().values()) + contradictions)

    def page(self, visit: Visit) -> tuple[str, dict[str, Any]]:
        """The first question that waits, of the kind that was chosen."""
        return self._page(visit.query.get("purpose"), visit.query.get("last"), None)

    async def answer(self, visit: Visit) -> web.Response:
        """Do what a button or key said; then the next question."""
        key, purpose = visit.form.get("review", ""), visit.form.get("purpose", "")
        try:
            if visit.form.get("does") == "skip":
                await self._reviewers.skip(key)
            elif visit.form.get("does") == "undo":
                await self._reviewers.undo(key)
            else:
                await self._reviewers.give(key, visit.form.get("answer", "").strip(), "api")
        except (DataError, StateConflict) as problem:
            # Also to a script, which passes over pages of errors.
            template, values = await asyncio.to_thread(self._page, purpose, None, str(problem))
            return packed(visit.request, await asyncio.to_thread(self._shown, visit, template, values))
        return see("/review?" + urlencode({"purpose": purpose, "last": key}))

    def _page(self, purpose: str | None, last: str | None, problem: str | None) -> tuple[str, dict[str, Any]]:
        kind = next((each for each in KINDS if each == purpose), None)
        waiting = self._reviewers.waiting(kind, 1, MOST_COUNTED + 1)
        item = waiting["items"][0] if waiting["items"] else None
        return "review.html.jinja", {
            "item": item,
            "choices": None if item is None else choices(item),
            "skip": SKIP,
            "undo": UNDO,
            "open": {each: _counted(n) or "0" for each, n in waiting["open"].items()},
            "nothing": waiting["nothing"] if kind is None else {kind: waiting["nothing"].get(kind, "")},
            "purpose": kind,
            "last": self._last(last),
            "problem": problem,
        }

    def _last(self, key: str | None) -> dict[str, Any] | None:
        """What became of the question before."""
        found = self._stores.reviews.get(key) if key else None
        if found is None:
            return None
        undoable = found.state in (ItemState.GIVEN, ItemState.LABELLED, ItemState.SKIPPED)
        query = found.draft.query
        return {
            "review": found.key,
            "question": query.question,
            "said": SAID[found.state],
            "answer": found.answer,
            "undoable": undoable,
        }


def choices(item: Mapping[str, Any]) -> dict[str, Any]:
    """The buttons of a question with their keys; `others`: answers that are typed.

    All answers where there are not too many, in their own order; else those that somebody gave. At a gate none of them
    is marked as given.
    """
    given = [each["answer"] for each in item["candidates"]]
    answers: Sequence[str] | None = item["answers"]
    every = answers is not None and len(answers) <= MOST_BUTTONS
    buttons = list(answers or ()) if every else given[:MOST_BUTTONS]
    marked = set() if item["purpose"] == "gate" or not every else set(given)
    options: Sequence[str] = item.get("options") or ()
    return {
        "buttons": [
            {"key": key, "answer": answer, "given": answer in marked, "option": _option(answer, options)}
            for key, answer in zip(KEYS, buttons, strict=False)
        ],
        "typed": not every,
        "others": list(answers or ()) if not every else [],
    }


def _counted(n: int) -> str:
    return f"{MOST_COUNTED}+" if n > MOST_COUNTED else str(n or "")


def _option(answer: str, options: Sequence[str]) -> str | None:
    """What a letter of a multiple choice stands for."""
    place = string.ascii_uppercase.find(answer) if len(answer) == 1 else -1
    return options[place] if 0 <= place < len(options) else None
