"""The work of a model in this process, step by step: what is begun, who goes on, who gives way.

Owns the requests that were taken from the queue until they are answered. One unit of work is a part of a prompt or one
token for the rows of a batch; between units anybody may come, go, or be next (turns), so that a short request passes a
long one. Owns not the arithmetic of a batch (decoding, cache_rows), nor who keeps which memory (holdings).
Invariants: the caches hold no more than the budget; a row that gave its cache up goes on with the token after its last;
labelling that nobody disturbs is computed batch by batch, each whole, so that its numbers do not depend on the clock.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from semievol.engines import decoding
from semievol.engines.request_queue import QueuedRequest, settle_together
from semievol.engines.stepwise import cache_rows
from semievol.engines.stepwise.cache_budget import LABELLING_UNIT, CacheBudget
from semievol.engines.stepwise.holdings import Batch, Drawing, Holdings, LabellingBatch
from semievol.engines.stepwise.prefilling import Engine, Prefills, Tokens, Unit
from semievol.engines.stepwise.turns import Turns
from semievol.errors import LateError, TransientError

logger = logging.getLogger(__name__)


class Batching:
    """Works on requests, a unit at a time. Used by one thread."""

    def __init__(self, engine: Engine, turns: Turns, budget: CacheBudget, chunk: int | None) -> None:
        """Begin with nothing to do.

        Args:
            engine: the model.
            turns: whose turn it is.
            budget: how much caches may hold.
            chunk: tokens of prompts in one unit. None: labelling's prompts are computed whole, a batch at a time.
        """
        self._engine = engine
        self._turns = turns
        self._budget = budget
        self._chunk = chunk
        self._joins = decoding.can_share(engine.model)
        self._held = Holdings(budget.tokens, turns)
        self._prefills = Prefills(engine, self._held, budget, chunk)
        self._steps = 0
        self._at: Sequence[Drawing] = ()  # whose choice of work is being made

    @property
    def busy(self) -> bool:
        return bool(self._held.labelling or self._held.clients())

    @property
    def labels(self) -> bool:
        """Whether it is at a batch of labelling; one at a time."""
        return self._held.labelling is not None

    @property
    def labelling_tokens(self) -> int:
        """How large a batch of labelling may be now."""
        return self._held.labelling_part() if self._chunk and self._held.clients() else self._budget.whole

    def add(self, job: QueuedRequest) -> None:
        """Take a client's request; it has its tokens and samplers."""
        self._held.waiting += self._rows(job)

    def add_labelling(self, jobs: Sequence[QueuedRequest]) -> None:
        """Take a batch of labelling; all have their tokens and samplers, and one adapter."""
        self._held.labelling = LabellingBatch(list(jobs), [row for job in jobs for row in self._rows(job)])

    def unanswered(self) -> list[QueuedRequest]:
        """Give up all that it is at."""
        rows = self._held.release()
        return list({id(row.job): row.job for row in rows}.values())

    @torch.inference_mode()
    def work(self) -> None:
        """Do one unit, if anybody still wants one. Choosing it, and what is joined for it, is paid with it."""
        started = time.perf_counter()
        self._forget()
        clients = self._held.clients()
        order = self._turns.order(clients, labelling=self.labels)
        if not order:
            return
        free = self._held.free()
        try:
            unit = self._chosen(order)
        except Exception as error:
            self._fail(self._at, error)
            return
        if unit is None:
            if not self._held.yield_one() and self._held.free() <= free:
                self._give_up()
            return
        try:
            self._engine.activate(unit.adapter)
            tokens = unit.run()
        except Exception as error:
            self._fail(unit.rows, error)
            return
        self._account(unit, tokens, time.perf_counter() - started)

    # --- choosing --------------------------------------------------------------------------------------------------

    def _chosen(self, order: Sequence[str | None]) -> Unit | None:
        """What is done next; None: nothing, for want of room."""
        crowded, begins = len(order) > 1, True
        for who in order:
            if (unit := self._unit(who, crowded, begins)) is not None:
                return unit
            # Whose turn it is lacks room alone. Those behind go on with what runs, and begin nothing that takes the
            # next places to come free: many small requests would keep a large one waiting for ever.
            begins = begins and not self._waits(who)
        return None

    def _waits(self, who: str | None) -> bool:
        if who is None:
            return self._held.labelling is not None and bool(self._held.labelling.waiting)
        return any(row.job.turn == who for row in self._held.waiting)

    def _unit(self, who: str | None, crowded: bool, begins: bool) -> Unit | None:
        """What can be done for them; None: nothing, for want of room. begins: also prompts of theirs that wait."""
        if who is None:
            return self._labelling_unit(crowded, begins)
        begun = next((each for each in self._held.prefilling if each.rows[0].job.turn == who), None)
        if begun is not None:
            self._at = begun.rows
            return self._prefills.on(begun)
        row = next((row for row in self._held.waiting if row.job.turn == who), None)
        if row is not None and begins:
            self._at = [row]
            if (unit := self._prefills.for_client(row)) is not None:
                return unit
        own = [batch for batch in self._held.batches if any(row.job.turn == who for row in batch.alive)]
        for batch in sorted(own, key=lambda batch: batch.stepped):
            self._at = batch.rows
            # Making room may have taken all rows from it.
            if self._held.room(len(batch.rows), who) and batch in self._held.batches:
                return self._step(batch, self._held.batches, crowded)
        return None

    def _labelling_unit(self, crowded: bool, begins: bool) -> Unit | None:
        held = self._held.labelling
        assert held is not None
        self._at = held.all_rows()
        if (begins or held.prefilling is not None) and (unit := self._prefills.for_labelling(held)) is not None:
            return unit
        if not held.batches:
            return None
        if not held.joined and self._joins and len(held.batches) > 1:
            most = LABELLING_UNIT * self._budget.unit if crowded else self._budget.whole
            held.batches = _grouped(held.batches, most, self._held.free())
        held.joined = True
        batch = min(held.batches, key=lambda batch: batch.stepped)
        if not self._held.room(len(batch.rows), None):
            return None
        return self._step(batch, held.batches, crowded and self._chunk is not None)

    # --- tokens ----------------------------------------------------------------------------------------------------

    def _step(self, batch: Batch, batches: list[Batch], crowded: bool) -> Unit:
        """A token for each row of a batch; where others wait, of no more rows than keep them waiting a moment."""
        if self._joins:
            larger = 1 if batches is self._held.batches else LABELLING_UNIT
            size = max(1, min(larger * self._budget.rows, larger * self._budget.unit // batch.width))
            if crowded and len(batch.rows) > size:
                # A part of ended rows alone would be nobody's, and its places never free again.
                batch.without([])
            if crowded and len(batch.rows) > size:
                parts = [Batch(each, batch.adapter, batch.stepped) for each in cache_rows.parted(batch.running, size)]
                batches[:] = [each for each in batches if each is not batch] + parts
                batch = parts[0]
            elif batches is self._held.batches:
                batch = self._joined(batch, batches)
        return Unit(batch.adapter, batch.rows, lambda: self._token(batch, batches))

    def _joined(self, batch: Batch, batches: list[Batch]) -> Batch:
        """With other batches that it can go on with, without much padding, and without a client losing by it."""
        for other in [each for each in batches if each is not batch and each.adapter == batch.adapter]:
            rows = len(batch.rows) + len(other.rows)
            wide = max(batch.width, other.width)
            places = batch.running.places + other.running.places
            if rows > self._budget.rows or rows * wide > min(self._budget.unit, places + places // 4):
                continue
            # The step that follows takes one place more of each row.
            if rows * (wide + 1) - places > self._held.free() or not self._alike(batch, other):
                continue
            both = Batch(cache_rows.joined([batch.running, other.running]), batch.adapter, batch.stepped)
            batches[:] = [each for each in batches if each not in (batch, other)] + [both]
            batch = both
        return batch

    def _alike(self, batch: Batch, other: Batch) -> bool:
        turns = {row.job.turn for each in (batch, other) for row in each.alive}
        ordered = self._turns.ahead([turn for turn in turns if turn is not None])
        return len(ordered) < 2 or self._turns.close(ordered[0], ordered[-1])

    def _token(self, batch: Batch, batches: list[Batch]) -> Tokens:
        self._steps += 1
        batch.stepped = self._steps
        tokens: Tokens = Counter(row.job.turn for row in batch.alive)
        rows = len(batch.rows)
        ended = batch.running.advance(self._engine.model, self._engine.end_tokens)
        if batches is self._held.batches and self._joins and 0 < len(batch.rows) < rows:
            cache_rows.trimmed(batch.running)
        if not batch.running.rows:
            batches.remove(batch)
        for row in ended:
            assert isinstance(row, Drawing)
            self._ended(row.job)
        return tokens

    # --- ends ------------------------------------------------------------------------------------------------------

    def _rows(self, job: QueuedRequest) -> list[Drawing]:
        job.rows = [Drawing(sampler, job.request.max_tokens, job=job) for sampler in job.samplers]
        return list(job.rows)

    def _ended(self, job: QueuedRequest) -> None:
        """Tell of a request whose last row has ended; a batch of labelling is told of as a whole."""
        held = self._held.labelling
        if job.turn is not None:
            if all(row.ended for row in job.rows):
                job.answer.settle(self._finished(job))
        elif held is not None and all(row.ended for each in held.jobs for row in each.rows):
            self._held.labelling = None
            settle_together([(each.answer, self._finished(each)) for each in held.jobs])

    def _finished(self, job: QueuedRequest) -> Any:
        return self._engine.finished(job, [row.decoded for row in job.rows])

    def _fail(self, rows: Sequence[Drawing], error: Exception) -> None:
        """Requests with a row in a unit that failed, fail; nobody else."""
        failed = {id(row.job): row.job for row in rows}
        if (held := self._held.labelling) is not None and any(id(job) in failed for job in held.jobs):
            failed |= {id(job): job for job in held.jobs}
        self._held.drop(set(failed))
        translated = self._engine.translated(error)
        for job in failed.values():
            job.answer.settle(translated)

    def _give_up(self) -> None:
        """Nothing runs, nothing can give way, and what waits has no room: who waits is told, and all places are free.

        No request that is let in needs more than there is (local), so that this is a fault in the count of places.
        """
        used, jobs = self._budget.tokens - self._held.free(), self.unanswered()
        text = f"the engine found no room for a request, {used} of {self._budget.tokens} places of its caches are lost"
        logger.error("%s; %d requests fail, and the places are taken back", text, len(jobs))
        for job in jobs:
            job.answer.settle(TransientError(f"{text}; they are taken back, ask again"))

    def _account(self, unit: Unit, tokens: Tokens, seconds: float) -> None:
        if unit.rows and unit.rows[0].job.turn is None:
            self._turns.charge_labelling(seconds)
            return
        self._turns.charge_clients({turn: count for turn, count in tokens.items() if turn is not None}, seconds)
        for job in {id(row.job): row.job for row in unit.rows}.values():
            job.worked_s += seconds

    def _forget(self) -> None:
        """Requests that nobody waits for any more, and those that were worked on for as long as they may."""
        gone = set()
        for job in self._held.client_jobs():
            if job.answer.abandoned:
                gone.add(id(job))
            elif job.request.time_s is not None and job.worked_s > job.request.time_s:
                gone.add(id(job))
                job.answer.settle(LateError(f"the engine worked on it for {job.request.time_s:g} s without an end"))
        if (held := self._held.labelling) is not None and all(job.answer.abandoned for job in held.jobs):
            gone |= {id(job) for job in held.jobs}
        if gone:
            self._held.drop(gone)


def _grouped(batches: Sequence[Batch], most: int, free: int) -> list[Batch]:
    """Batches put together, in order, each of `most` places at most; their padding takes no more than is `free`."""
    groups: list[list[Batch]] = []
    for batch in batches:
        both = [*(groups[-1] if groups else []), batch]
        places = _together(both)
        padding = places - _together(both[:-1]) - _together([batch])
        if len(both) > 1 and places <= most and padding <= free:
            groups[-1].append(batch)
            free -= padding
        else:
            groups.append([batch])
    return [
        Batch(cache_rows.joined([each.running for each in group]), group[0].adapter, group[0].stepped)
        for group in groups
    ]


def _together(batches: Sequence[Batch]) -> int:
    """Places of batches that are put together: each row gets as wide as the widest."""
    return sum(len(each.rows) for each in batches) * max((each.width for each in batches), default=0)
