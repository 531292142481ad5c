"""Prompts on their way into the cache, in parts that keep nobody waiting for long.

Owns how much of which prompts is one unit of work: short prompts of several requests together, a long one in parts, a
batch of labelling whole where nobody is to be disturbed. Owns not whose turn it is (batching).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from semievol.engines import decoding
from semievol.engines.request_queue import QueuedRequest, longest
from semievol.engines.stepwise import cache_rows
from semievol.engines.stepwise.cache_budget import CacheBudget
from semievol.engines.stepwise.holdings import Batch, Drawing, Holdings, LabellingBatch, Prefilling

Tokens = Counter[str | None]
"""What a unit did for whom; None stands for labelling."""

_FIRST_ROOM = 64
"""Tokens of its answer that there has to be room for before a client's prompt is computed."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The model and what a unit of work needs of it.

    activate: lets the model answer as an adapter. finished: the answer to a request whose rows have ended.
    translated: an error of a unit, as the requests are told it.
    """

    model: Any
    end_tokens: frozenset[int]
    padding: int
    activate: Callable[[str | None], None]
    finished: Callable[[QueuedRequest, Sequence[decoding.Decoded]], Any]
    translated: Callable[[Exception], Exception]


@dataclass(frozen=True, slots=True)
class Unit:
    adapter: str | None
    rows: Sequence[Drawing]
    run: Callable[[], Tokens]


class Prefills:
    """Makes units of work of prompts."""

    def __init__(self, engine: Engine, held: Holdings, budget: CacheBudget, chunk: int | None) -> None:
        self._engine = engine
        self._held = held
        self._budget = budget
        self._chunk = chunk
        self._joins = decoding.can_share(engine.model)

    def for_labelling(self, held: LabellingBatch) -> Unit | None:
        """The next prompts of a batch; None: there are none, or there is no room."""
        if held.prefilling is not None:
            return self.on(held.prefilling)
        if not held.waiting:
            return None
        return self._whole_prefill(held) if self._chunk is None or not self._joins else self._piece(held)

    def for_client(self, row: Drawing) -> Unit | None:
        """Begin a client's request, with as many of its rows as there is room for, and others' short ones with it."""
        job, prefix = row.job, row.prefix
        rows = [each for each in self._held.waiting if each.job is job and each.length == row.length]
        rows = rows if not row.decoded.token_ids else [row]
        need = len(prefix) + min(row.remaining, _FIRST_ROOM)
        count = min(len(rows), max(1, self._held.left(job.turn) // need))
        if not self._held.room(count * need, job.turn):
            count = 1
            if not self._held.room(need, job.turn):
                return None
        rows = rows[:count]
        chunk = self._chunk or self._budget.unit
        if len(prefix) > chunk:
            for each in rows:
                self._held.waiting.remove(each)
            begun = Prefilling(rows, prefix, decoding.empty_cache(self._engine.model))
            self._held.prefilling.append(begun)
            return self.on(begun)
        rows += self._companions(rows, need, chunk)
        for each in rows:
            self._held.waiting.remove(each)
        return Unit(job.request.adapter, rows, lambda: self._prefill(rows, self._held.batches))

    def _companions(self, rows: Sequence[Drawing], need: int, chunk: int) -> list[Drawing]:
        """Rows of other requests that can be computed in the same pass, without anybody giving way."""
        found: list[Drawing] = []
        first, widest = rows[0], rows[0].length
        prompts, free = {tuple(first.prefix)}, self._held.free() - len(rows) * need
        for row in self._held.waiting:
            if row.job is first.job or row.job.request.adapter != first.job.request.adapter:
                continue
            wide = max(widest, row.length)
            more = prompts | {tuple(row.prefix)}
            need = wide + _FIRST_ROOM
            if len(more) * wide > chunk or need > free or len(rows) + len(found) >= self._budget.rows:
                continue
            prompts, widest, free = more, wide, free - need
            found.append(row)
        return found

    def _prefill(self, rows: Sequence[Drawing], batches: list[Batch], cache: Any = None, done: int = 0) -> Tokens:
        """Compute the prompts of these rows, each once, and put the rows among `batches`.

        The first `done` tokens are the same in all, and `cache` holds them.
        """
        places: dict[tuple[int, ...], int] = {}
        held = [places.setdefault(tuple(row.prefix), len(places)) for row in rows]
        model, prompts = self._engine.model, [list(prompt) for prompt in places]
        if done:
            cache = cache_rows.repeated(cache, len(prompts))
            prefix, logits = decoding.continued(model, cache, done, prompts, self._engine.padding)
        else:
            prefix, logits = decoding.prefill(model, prompts, self._engine.padding)
        batches.append(Batch(decoding.begun(prefix, logits, rows, held), rows[0].job.request.adapter, 0))
        tokens: Tokens = Counter()
        for prompt, place in places.items():
            tokens[rows[held.index(place)].job.turn] += len(prompt) - done
        return tokens

    def on(self, begun: Prefilling) -> Unit:
        """The next part of a long prompt; after the last one its rows are a batch."""
        job = begun.rows[0].job
        return Unit(job.request.adapter, begun.rows, lambda: self._part(begun))

    def _part(self, begun: Prefilling) -> Tokens:
        tokens = begun.tokens[begun.done : begun.done + (self._chunk or self._budget.unit)]
        prefix, logits = decoding.extended(self._engine.model, begun.cache, tokens, begun.done)
        begun.done += len(tokens)
        job = begun.rows[0].job
        if begun.done == len(begun.tokens):
            running = decoding.begun(prefix, logits, begun.rows, [0] * len(begun.rows))
            batch = Batch(running, job.request.adapter, 0)
            held = self._held.labelling
            if held is not None and held.prefilling is begun:
                held.prefilling = None
                held.batches.append(batch)
            else:
                self._held.prefilling.remove(begun)
                self._held.batches.append(batch)
        return Counter({job.turn: len(tokens)})

    def _whole_prefill(self, held: LabellingBatch) -> Unit | None:
        """All prompts of the batch at once, or as many rows as there is room for."""
        most = max(longest(row.job) for row in held.waiting)
        count = min(len(held.waiting), max(1, self._held.free() // most))
        if not self._held.room(count * most, None):
            return None
        rows, held.waiting = held.waiting[:count], held.waiting[count:]
        return Unit(held.adapter, rows, lambda: self._prefill(rows, held.batches))

    def _piece(self, held: LabellingBatch) -> Unit | None:
        """Some prompts of the batch, or a part of a long one; what all begin with is computed first."""
        assert self._chunk is not None
        if held.shared is None:
            held.shared = held.waiting[0].prefix[
                : decoding.shared_length(list({tuple(row.prefix) for row in held.waiting}))
            ]
        if held.shared_done < len(held.shared):
            return Unit(held.adapter, held.all_rows(), lambda: self._shared_part(held))
        first = held.waiting[0].prefix
        rows: list[Drawing] = []
        prompts, wide = {tuple(first)}, len(first)
        for row in held.waiting:
            wide, more = max(wide, row.length), prompts | {tuple(row.prefix)}
            # Further samples of the same prompts cost no time: a long prompt is computed once for all of them.
            if len(more) > len(prompts) and len(more) * (wide - held.shared_done) > self._chunk:
                break
            prompts = more
            rows.append(row)
        rows = self._with_room(rows)
        if not rows:
            return None
        prompts = {tuple(row.prefix) for row in rows}
        held.waiting = [row for row in held.waiting if row not in rows]
        shares = held.shared_done > 0 and all(row.prefix[: held.shared_done] == held.shared for row in rows)
        done = held.shared_done if shares else 0
        if len(prompts) == 1 and len(first) - done > self._chunk:
            cache = cache_rows.repeated(held.cache, 1) if done else decoding.empty_cache(self._engine.model)
            held.prefilling = Prefilling(rows, first, cache, done)
            return self.on(held.prefilling)
        return Unit(held.adapter, rows, lambda: self._prefill(rows, held.batches, held.cache, done))

    def _with_room(self, rows: list[Drawing]) -> list[Drawing]:
        """As many of these rows of labelling, the first ones, as there is room for; none: there is none for one."""

        def fit(some: Sequence[Drawing]) -> bool:
            return self._held.room(len(some) * max(longest(row.job) for row in some), None)

        if fit(rows):
            return rows
        rows = rows[: max(1, self._held.left(None) // max(longest(row.job) for row in rows))]
        if len(rows) > 1 and fit(rows):
            return rows
        rows = rows[:1]
        return rows if fit(rows) else []

    def _shared_part(self, held: LabellingBatch) -> Tokens:
        assert held.shared is not None
        if held.cache is None:
            held.cache = decoding.empty_cache(self._engine.model)
        tokens = held.shared[held.shared_done : held.shared_done + (self._chunk or len(held.shared))]
        decoding.extended(self._engine.model, held.cache, tokens, held.shared_done)
        held.shared_done += len(tokens)
        return Counter({None: len(tokens)})
