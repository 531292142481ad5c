"""Who holds which part of the cache, and who gives way when another needs room.

Owns the rows that wait, are begun or run, and the rule by which a cache is given up: whoever holds more than its part
gives to who holds less, and nobody to who has its part already. A row that gives its cache up waits with the tokens
that it has, and is asked again only after it has come further: newcomers throw no request back for ever. Owns no
arithmetic and no order of work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from semievol.engines.decoding import Running, Sample
from semievol.engines.request_queue import QueuedRequest
from semievol.engines.stepwise import cache_rows
from semievol.engines.stepwise.turns import Turns

_BEYOND = 1.25
"""Who holds so many times its part gives way: closer, two would take each other's room in turn."""
_PROGRESS = 4
_LEAST_PROGRESS_TOKENS = 16
"""A row that gave way keeps its cache the next time until it has drawn a quarter as many tokens as were computed
again for it, and so many at least."""


@dataclass(eq=False, slots=True, kw_only=True)
class Drawing(Sample):
    """A sample of a request. kept_until: of how many tokens on it may give its cache up again."""

    job: QueuedRequest
    kept_until: int = 0

    @property
    def kept(self) -> bool:
        return len(self.decoded.token_ids) < self.kept_until

    def gave_way(self) -> None:
        self.kept_until = len(self.decoded.token_ids) + max(_LEAST_PROGRESS_TOKENS, self.length // _PROGRESS)

    @property
    def prefix(self) -> list[int]:
        """What its cache is computed from: the prompt, and what was drawn before it had to wait."""
        return [*self.job.tokens, *self.decoded.token_ids]

    @property
    def length(self) -> int:
        """Of the prefix."""
        return len(self.job.tokens) + len(self.decoded.token_ids)

    @property
    def remaining(self) -> int:
        return self.max_tokens - len(self.decoded.token_ids)


@dataclass(eq=False, slots=True)
class Batch:
    """Rows that run together with one adapter. stepped: when they last did, in steps of the engine."""

    running: Running
    adapter: str | None
    stepped: int

    @property
    def rows(self) -> list[Drawing]:
        return self.running.rows  # type: ignore[return-value]

    @property
    def alive(self) -> list[Drawing]:
        return [row for row in self.rows if not row.ended]

    @property
    def width(self) -> int:
        """Places of each row."""
        return int(self.running.prefix.mask.shape[1])

    def without(self, rows: Collection[Drawing]) -> None:
        """Let these rows go, and those that have ended."""
        places = [place for place, row in enumerate(self.rows) if not row.ended and row not in rows]
        if len(places) == len(self.rows):
            return
        if places:
            cache_rows.keep(self.running, places)
        else:
            self.running.rows = []


@dataclass(eq=False, slots=True)
class Prefilling:
    """A long prompt on its way, and the rows that go on from it. done: tokens that the cache holds."""

    rows: list[Drawing]
    tokens: list[int]
    cache: Any
    done: int = 0

    @property
    def places(self) -> int:
        return len(self.rows) * len(self.tokens)


@dataclass(eq=False, slots=True)
class LabellingBatch:
    """Requests that are computed together and told of together.

    shared: what all prompts begin with, and in `cache` the first `shared_done` tokens of it. joined: its parts are put
    together.
    """

    jobs: list[QueuedRequest]
    waiting: list[Drawing]
    batches: list[Batch] = field(default_factory=list)
    prefilling: Prefilling | None = None
    shared: list[int] | None = None
    shared_done: int = 0
    cache: Any = None
    joined: bool = False

    @property
    def adapter(self) -> str | None:
        return self.jobs[0].request.adapter

    @property
    def places(self) -> int:
        begun = 0 if self.prefilling is None else self.prefilling.places
        return begun + self.shared_done + sum(batch.running.places for batch in self.batches)

    def all_rows(self) -> list[Drawing]:
        return [row for job in self.jobs for row in job.rows]


class Holdings:
    """All rows at work, and the places that they hold."""

    def __init__(self, tokens: int, turns: Turns) -> None:
        self._tokens = tokens
        self._turns = turns
        self.waiting: list[Drawing] = []
        self.prefilling: list[Prefilling] = []
        self.batches: list[Batch] = []
        self.labelling: LabellingBatch | None = None

    def clients(self) -> list[str]:
        """The turns of all client requests."""
        return list(dict.fromkeys(row.job.turn for row in self._client_rows() if row.job.turn is not None))

    def client_jobs(self) -> list[QueuedRequest]:
        return list({id(row.job): row.job for row in self._client_rows()}.values())

    def release(self) -> list[Drawing]:
        """Let go of everything; the rows that were not finished."""
        rows = list(self._client_rows())
        if self.labelling is not None:
            rows += self.labelling.all_rows()
        self.waiting, self.prefilling, self.batches, self.labelling = [], [], [], None
        return rows

    def drop(self, jobs: Collection[int]) -> None:
        """Let go of requests, by `id`."""
        self.waiting = [row for row in self.waiting if id(row.job) not in jobs]
        for begun in self.prefilling:
            begun.rows = [row for row in begun.rows if id(row.job) not in jobs]
        self.prefilling = [begun for begun in self.prefilling if begun.rows]
        for batch in self.batches:
            gone = [row for row in batch.rows if id(row.job) in jobs]
            if gone:
                batch.without(gone)
        self.batches = [batch for batch in self.batches if batch.rows]
        if self.labelling is not None and any(id(job) in jobs for job in self.labelling.jobs):
            self.labelling = None

    # --- room ------------------------------------------------------------------------------------------------------

    def free(self) -> int:
        return self._tokens - sum(self._held().values())

    def labelling_part(self) -> int:
        return max(1, int(self._tokens * self._turns.labelling_share))

    def left(self, turn: str | None) -> int:
        """What is left of somebody's part, or free."""
        return max(self.free(), self._parts()[turn] - self._held()[turn])

    def room(self, need: int, who: str | None) -> bool:
        """Whether there are so many places, or are now that others gave way."""
        lack = need - self.free()
        if lack <= 0:
            return True
        held, parts = self._held(), self._parts()
        wanted = held[who] + need
        if held[who] and wanted > parts[who]:
            return False
        # Who is in `held` alone has ended: its idle places go with the rows that they run beside.
        bounds = {each: max(int(_BEYOND * part), wanted - parts[who]) for each, part in parts.items()}
        kept = self._kept()
        more = {each: held[each] - max(parts[each], kept[each]) for each in parts}
        giving = [each for each, bound in bounds.items() if each != who and held[each] > bound and more[each] > 0]
        if sum(more[each] for each in giving) < lack:
            return False
        giving.sort(key=lambda each: more[each], reverse=True)
        for each in giving:
            self._take_from(each, min(lack, more[each]))
            lack = need - self.free()
            if lack <= 0:
                return True
        return False

    def yield_one(self) -> bool:
        """Where nobody can go on, who is furthest ahead gives way with the row that came last; False: nobody can."""
        free = self.free()
        for kept in (False, True):  # those that gave way before only where no other can
            for turn in (*self._turns.ahead(self.clients()), None):
                self._take_from(turn, 1, kept=kept)
                if self.free() > free:
                    return True
        return False

    def _take_from(self, who: str | None, places: int, *, kept: bool = False) -> None:
        """Let rows of somebody wait until so many places are free, those that came last first; `kept`: also those that
        are to keep their cache.
        """
        wanted = self.free() + places
        held = self.labelling
        while self.free() < wanted:
            begun = held.prefilling if who is None and held is not None else self._begun(who, kept)
            if begun is not None:
                self._back(begun.rows, who)
                if who is None and held is not None:
                    held.prefilling = None
                else:
                    self.prefilling.remove(begun)
                continue
            batches = held.batches if who is None and held is not None else self.batches
            rows = [
                (row.job.arrival, place, row, batch) for batch in batches for place, row in self._own(batch, who, kept)
            ]
            if not rows:
                if held is not None and who is None:
                    held.cache, held.shared, held.shared_done = None, [], 0
                return
            _, _, row, batch = max(rows, key=lambda each: each[:2])
            batch.without([row])
            self._back([row], who)
            if not batch.rows:
                batches.remove(batch)

    def _begun(self, who: str | None, kept: bool) -> Prefilling | None:
        own = (each for each in reversed(self.prefilling) if each.rows[0].job.turn == who)
        return next((each for each in own if kept or not any(row.kept for row in each.rows)), None)

    def _back(self, rows: Sequence[Drawing], who: str | None) -> None:
        if who is not None:  # labelling has a part of its own
            for row in rows:
                row.gave_way()
        waiting = self.labelling.waiting if who is None and self.labelling is not None else self.waiting
        waiting += rows
        waiting.sort(key=lambda row: row.job.arrival)

    def _held(self) -> Counter[str | None]:
        held: Counter[str | None] = Counter()
        for begun in self.prefilling:
            held[begun.rows[0].job.turn] += begun.places
        for batch in self.batches:
            for row in batch.rows:
                held[row.job.turn] += batch.width
        if self.labelling is not None:
            held[None] += self.labelling.places
        return held

    def _kept(self) -> Counter[str | None]:
        """The places of rows that keep their cache for now."""
        kept: Counter[str | None] = Counter()
        for begun in self.prefilling:
            if any(row.kept for row in begun.rows):
                kept[begun.rows[0].job.turn] += begun.places
        for batch in self.batches:
            for row in batch.rows:
                kept[row.job.turn] += batch.width * (row.kept and not row.ended)
        return kept

    def _parts(self) -> dict[str | None, int]:
        """What each may hold before others: labelling its share, clients alike."""
        clients = self.clients()
        labelling = 0 if self.labelling is None else self.labelling_part() if clients else self._tokens
        each = (self._tokens - labelling) // max(1, len(clients))
        return {None: labelling, **{turn: max(1, each) for turn in clients}}

    @staticmethod
    def _own(batch: Batch, who: str | None, kept: bool) -> Iterator[tuple[int, Drawing]]:
        own = ((place, row) for place, row in enumerate(batch.rows) if not row.ended and row.job.turn == who)
        return ((place, row) for place, row in own if kept or not row.kept)

    def _client_rows(self) -> Iterator[Drawing]:
        yield from self.waiting
        for begun in self.prefilling:
            yield from begun.rows
        for batch in self.batches:
            yield from batch.alive
