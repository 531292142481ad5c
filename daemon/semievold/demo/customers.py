"""The demo's customers: each asks the gateway in a name of its own, without pause while two versions are compared.

Owns who asks, and which version answered whom in each stage of a canary; not what becomes of the answers. Invariant: a
question comes again only when all of the mail was asked.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from semievol.errors import TransientError
from semievol.types import Example
from semievold.demo.client import DaemonClient
from semievold.store.shadow_pairs import COMPARING

CUSTOMERS = 60
AT_ONCE = 3
PAUSE_S = 4.0
"""Between two questions while nothing is compared."""
COMPARED = frozenset(state.value for state in COMPARING)


class Stage(NamedTuple):
    """A stage of a round's canary."""

    round: int
    stage: str  # as the status says it: 1 of 2
    share: float


@dataclass(slots=True)
class CustomerRecord:
    """What the customers have seen. `answered_by`: in each stage of a canary, who was answered by which versions."""

    answered: int = 0
    failed: int = 0
    answered_by: dict[Stage, dict[str, set[str]]] = field(default_factory=dict)


class Customers:
    """Asks until it is cancelled; one at a time, but many while the daemon compares versions."""

    def __init__(self, client: DaemonClient, mail: Sequence[Example]) -> None:
        self._client = client
        self._mail: Iterator[Example] = itertools.cycle(mail)
        self._names = itertools.cycle(f"customer-{number:02d}" for number in range(CUSTOMERS))
        self.record = CustomerRecord()

    async def run(self) -> None:
        while True:
            before = await self._client.get("/v1/status")
            compared = _state(before) in COMPARED
            seen = await asyncio.gather(*(self._ask() for _ in range(AT_ONCE if compared else 1)))
            stage = _stage(before)
            if stage is not None and stage == _stage(await self._client.get("/v1/status")):
                by = self.record.answered_by.setdefault(stage, {})
                for name, version in seen:
                    if version is not None:
                        by.setdefault(name, set()).add(version)
            if not compared:
                await asyncio.sleep(PAUSE_S)

    async def _ask(self) -> tuple[str, str | None]:
        """The customer's name, and the version that answered; None: none did."""
        name, question = next(self._names), next(self._mail).query.question
        try:
            reply = await self._client.ask(question, user=name)
        except TransientError:
            self.record.failed += 1
            return name, None
        self.record.answered += 1
        return name, reply.adapter


def _state(status: dict[str, Any]) -> str | None:
    return None if status["round"] is None else str(status["round"]["state"])


def _stage(status: dict[str, Any]) -> Stage | None:
    trial = status.get("canary")
    return None if trial is None else Stage(int(status["round"]["number"]), trial["stage"], float(trial["share"]))
