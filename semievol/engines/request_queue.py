"""Who is answered next by a model in this process, and which requests share its batch.

Owns the queue between asyncio callers and the one thread that owns the model, and the cut of a batch. Owns not what a
job is answered with (engines.local). Invariant: every answer is settled once, also when its caller has gone.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from semievol.errors import TransientError
from semievol.types import GenerationRequest

if TYPE_CHECKING:
    from semievol.engines.sampling.sampler import Sampler
    from semievol.engines.stepwise.holdings import Drawing

logger = logging.getLogger(__name__)

# Samples of one prompt share its prefill but not its cache: these bound the memory of a batch.
_ROWS_PER_PROMPT = 8
_BATCH_TOKENS = 65_536


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A queued request and the future that waits for it; tokens and samplers come when it is looked at.

    rows: what is drawn for it, once it is worked on. worked_s: seconds of the engine that it had a part in.
    """

    request: GenerationRequest
    answer: Answer
    arrival: int = 0
    tokens: list[int] = field(default_factory=list)
    samplers: list[Sampler] = field(default_factory=list)
    rows: list[Drawing] = field(default_factory=list)
    worked_s: float = 0.0

    @property
    def turn(self) -> str | None:
        """Whose request it is; None: it is for labelling."""
        return (self.request.turn or "") if self.request.interactive else None


class Answer:
    """A future of the caller's event loop that the worker thread may settle, also after the caller has gone."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    @property
    def abandoned(self) -> bool:
        return self.future.done()

    def settle(self, result: Any) -> None:
        """Resolve with a result, or fail with an exception."""
        try:
            self.loop.call_soon_threadsafe(self.settle_here, result)
        except RuntimeError:
            logger.debug("an answer came after its event loop was closed")

    def settle_here(self, result: Any) -> None:
        """As `settle`, in the event loop's own thread."""
        if self.future.done():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


def settle_together(answers: Iterable[tuple[Answer, Any]]) -> None:
    """In one turn of each event loop: what follows from the answers of a batch can then be asked in one call, too."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Answer, Any]]] = {}
    for answer, result in answers:
        by_loop.setdefault(answer.loop, []).append((answer, result))
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_here, settled)
        except RuntimeError:
            logger.debug("answers came after their event loop was closed")


def _settle_here(settled: Sequence[tuple[Answer, Any]]) -> None:
    for answer, result in settled:
        answer.settle_here(result)


@dataclass(frozen=True, slots=True)
class Taken:
    """What the worker thread is to begin with: a command, or requests of clients and for labelling."""

    command: tuple[Callable[[], Any], Answer] | None = None
    clients: list[QueuedRequest] = field(default_factory=list)
    labelling: list[QueuedRequest] = field(default_factory=list)


class RequestQueue:
    """Hands work to the worker thread: commands first, then all that clients ask and a window of the rest."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._commands: deque[tuple[Callable[[], Any], Answer]] = deque()
        self._jobs: list[QueuedRequest] = []
        self._arrivals = itertools.count()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, jobs: Sequence[QueuedRequest]) -> None:
        with self._changed:
            self._check_open()
            for job in jobs:
                job.arrival = next(self._arrivals)
            self._jobs.extend(jobs)
            self._changed.notify()

    def put_command(self, command: Callable[[], Any], answer: Answer) -> None:
        with self._changed:
            self._check_open()
            self._commands.append((command, answer))
            self._changed.notify()

    def take(self, limit: int, *, labelling: bool, wait: bool) -> Taken | None:
        """A command alone, or what clients ask; None: closed.

        Args:
            limit: with `labelling` also the oldest other request, and up to so many of its adapter.
            labelling: whether there is room for those.
            wait: until there is something; else it may be nothing.
        """
        with self._changed:
            while not self._closed:
                if self._commands:
                    return Taken(self._commands.popleft())
                self._jobs = [job for job in self._jobs if not job.answer.abandoned]
                clients = [job for job in self._jobs if job.request.interactive]
                others = self._window(limit) if labelling else []
                if clients or others or not wait:
                    taken = {id(job) for job in (*clients, *others)}
                    self._jobs = [job for job in self._jobs if id(job) not in taken]
                    return Taken(None, clients, others)
                self._changed.wait()
            return None

    def _window(self, limit: int) -> list[QueuedRequest]:
        waiting = sorted((job for job in self._jobs if not job.request.interactive), key=lambda job: job.arrival)
        return [job for job in waiting if job.request.adapter == waiting[0].request.adapter][:limit]

    def put_back(self, jobs: Sequence[QueuedRequest]) -> None:
        """Return requests that were taken but not answered; they keep their turn."""
        with self._changed:
            self._jobs.extend(jobs)

    def close(self) -> list[Answer]:
        """Refuse all further work; returns the answers that nobody will give."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            unanswered = [*(answer for _, answer in self._commands), *(job.answer for job in self._jobs)]
            self._commands.clear()
            self._jobs.clear()
            return unanswered

    def _check_open(self) -> None:
        if self._closed:
            raise TransientError("the generator is closed")


def cut_batch(jobs: Sequence[QueuedRequest], max_batch: int, tokens: int) -> list[QueuedRequest]:
    """The batch that holds the first job, and prompts near in length; beyond one job it fills `tokens` at the most."""
    if not jobs:
        return []
    pool = sorted(jobs, key=lambda job: (len(job.tokens), job.tokens))
    low = high = pool.index(jobs[0])
    different, rows, most = {tuple(jobs[0].tokens)}, jobs[0].request.samples, longest(jobs[0])
    while high - low + 1 < len(pool):
        shorter = pool[low - 1] if low else None
        longer = pool[high + 1] if high + 1 < len(pool) else None
        nearest = min(
            (job for job in (shorter, longer) if job is not None),
            key=lambda job: abs(len(job.tokens) - len(jobs[0].tokens)),
        )
        different.add(tuple(nearest.tokens))
        rows += nearest.request.samples
        most = max(most, longest(nearest))
        if len(different) > max_batch or rows > max_batch * _ROWS_PER_PROMPT:
            break
        if rows * most > min(tokens, _BATCH_TOKENS):
            break
        low, high = (low - 1, high) if nearest is shorter else (low, high + 1)
    return pool[low : high + 1]


def longest(job: QueuedRequest) -> int:
    """Places in the cache that a row of this request may fill."""
    return len(job.tokens) + job.request.max_tokens
