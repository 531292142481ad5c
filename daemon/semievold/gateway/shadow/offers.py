"""Answered chat requests that are not captured, for the shadow pairs of the open round (`shadow.gateway`).

Owns the sample, its bound and the queue to the state; the leader has both versions answer what is put there.
Invariants: a client waits for nothing of this and fails with nothing of it; who opts out of capture is not drawn.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core

from semievol.errors import SemiEvolError
from semievol.types import Query
from semievold.config.shadow import ShadowSettings
from semievold.errors import PoisonRecord
from semievold.gateway.asked import asked_fields, text_turns
from semievold.gateway.capture import OPT_OUT_HEADER
from semievold.intake.messages import SCHEMA_VERSION, RecordParser
from semievold.retry import set_within
from semievold.store.shadow_pairs import ShadowPairStore
from semievold.streams.protocol import StreamRecord

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often what was drawn is written, and the state is asked whether pairs are wanted."""


class ShadowOffers:
    """Draws from one gateway's requests.

    Args:
        max_chars: longer conversations are not drawn (`gateway.capture.max_chars`).
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        max_chars: int,
        instruction: str | None,
        parser: RecordParser,
        store: ShadowPairStore,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._max_chars = max_chars
        self._instruction = instruction
        self._parser = parser
        self._store = store
        self._monotonic = monotonic
        self._round: int | None = None
        self._drawn: list[Query] = []
        self._allowed = 0.0
        self._looked_at = monotonic()
        self._error: str | None = None

    def offer(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """A chat request that was answered, where pairs are wanted now and it is in the share."""
        if self._round is None or self._allowed < 1 or random.random() >= self._settings.share:
            return
        query = None if OPT_OUT_HEADER in headers else self._query(body)
        if query is not None:
            self._allowed -= 1
            self._drawn.append(query)

    async def run(self, stop: asyncio.Event) -> None:
        """Write what was drawn, and look whether pairs are wanted, until stopped. What is left then is dropped."""
        while not await set_within(stop, LOOK_S):
            try:
                await self._look()
                self._error = None
            except SemiEvolError as error:
                if self._error is None:
                    log.warning("no chat request becomes a shadow pair for now: %s", error)
                self._error = str(error)
                self._round = None

    async def _look(self) -> None:
        drawn, self._drawn = self._drawn, []
        if drawn and self._round is not None:
            await asyncio.to_thread(self._store.draw, self._round, drawn, "gateway")
        self._round = await asyncio.to_thread(self._store.wanted)
        now = self._monotonic()
        most = max(1.0, self._settings.per_second * LOOK_S)
        self._allowed = min(most, self._allowed + self._settings.per_second * (now - self._looked_at))
        self._looked_at = now

    def _query(self, body: Mapping[str, Any]) -> Query | None:
        """The request as the intake would read it; None: it would not."""
        turns = text_turns(body.get("messages"))
        if turns is None or sum(len(turn["content"]) for turn in turns) > self._max_chars:
            return None
        id_ = f"shadow-{secrets.token_hex(12)}"
        fields = {"schema_version": SCHEMA_VERSION, "id": id_, **asked_fields(turns, self._instruction)}
        try:
            return self._parser.query(StreamRecord("", 0, 0, id_, pydantic_core.to_json(fields), {}, 0.0))
        except PoisonRecord:
            return None
