"""The demo's people, who know what each mail is about: they answer what the review queue asks, in its order.

Owns when they look and what they said; which questions wait, and what their labels prove, is the daemon's. Invariant:
they see the queue as anybody does, through the API, and never what a version answered but where an item shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from semievol.types import Example, Query
from semievold.demo.client import ConflictError, DaemonClient

LOOK_S = 0.5
MOST = 50
SOURCE = "review"


class People:
    """Answers gate items as they come, until it is cancelled; what teaches, when told to.

    Args:
        truth: {question: right answer}; what it lacks nobody can say.
    """

    def __init__(self, client: DaemonClient, truth: Mapping[str, str]) -> None:
        self._client = client
        self._truth = truth
        self.said: dict[str, Example] = {}
        """By id of the label."""

    async def run(self) -> None:
        while True:
            await self.answer("gate")
            await asyncio.sleep(LOOK_S)

    async def answer(self, purpose: str, most: int = MOST) -> int:
        """Answer what waits, in the order in which it counts; how many labels were given."""
        found = await self._client.get(f"/v1/review?purpose={purpose}&limit={most}")
        before = len(self.said)
        for item in found["items"]:
            question = item.get("question", "")
            answer = self._truth.get(question)
            path = f"/v1/review/{item['review']}"
            with suppress(ConflictError):  # its gate was closed meanwhile, or somebody else was faster
                if answer is None:
                    await self._client.post(path, {"skip": True})
                    continue
                given = await self._client.post(path, {"answer": answer})
                self.said[given["id"]] = Example(Query(given["id"], question), answer, source=SOURCE)
        return len(self.said) - before
