"""Finds the one record that an unexpected error is about, so that it stops neither the others nor the process.

Owns the search by halves, and the question who is to blame: the record, or what works on it. No I/O of its own.
Invariant: a record is given up only after it failed alone while an innocent one passed; an error that would meet every
record (a component is away, or broken) is never blamed on one, and is raised.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from semievol.errors import DataError, SemiEvolError
from semievol.tasks.task import Task
from semievol.types import Query
from semievold.errors import PoisonRecord, Reason, RecordRefused, ValueRefused
from semievold.retry import Stopped
from semievold.streams.protocol import StreamRecord

logger = logging.getLogger(__name__)

_SURE = (DataError, ValueRefused, RecordRefused)
"""Errors of ours that say themselves that a record is at fault."""

Work = Callable[[Sequence[StreamRecord]], Awaitable[None]]
Unfinished = Callable[[Sequence[StreamRecord]], list[StreamRecord]]
Innocent = Callable[[], Awaitable[object]]
GiveUp = Callable[[StreamRecord, PoisonRecord], Awaitable[None]]


async def each_to_its_end(
    records: Sequence[StreamRecord], work: Work, unfinished: Unfinished, innocent: Innocent, give_up: GiveUp
) -> None:
    """Work on the records together, and where that fails by halves, down to the record that is at fault.

    Args:
        records: in the order in which they are worked on, also by halves.
        work: may be called again with records that it has not finished.
        unfinished: those that it has not.
        innocent: does the same with what cannot be at fault; raises where the fault is not a record's.
        give_up: is told of a record that can never be worked on.

    Raises:
        Whatever is no record's fault.
    """
    waiting = [list(records)]
    while waiting:
        some = waiting.pop()
        try:
            await work(some)
            continue
        except Exception as error:
            if not may_be_a_records(error):
                raise
            failure = error
        some = unfinished(some)
        if len(some) > 1:
            logger.warning("an unexpected error among %d records, which are tried by halves: %r", len(some), failure)
            waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
        elif some:
            await _alone(some[0], failure, work, innocent, give_up)


async def _alone(record: StreamRecord, failure: Exception, work: Work, innocent: Innocent, give_up: GiveUp) -> None:
    if not isinstance(failure, _SURE):
        await innocent()
        try:
            await work([record])
            return
        except Exception as error:
            if not may_be_a_records(error):
                raise
            failure = error
    place = f"{record.topic}, partition {record.partition}, offset {record.offset}"
    logger.error("the record at %s is given up", place, exc_info=failure)
    reason = Reason.NOT_STORABLE if isinstance(failure, ValueRefused) else Reason.UNEXPECTED
    await give_up(record, PoisonRecord(reason, f"{type(failure).__name__}: {failure}"))


def innocent_query(task: Task) -> Query:
    """A query that nothing is wrong with."""
    options = ("yes", "no") if task.config.asks_with_options else None
    return Query("semievol-innocent", "Is this a question?", options)


def may_be_a_records(error: Exception) -> bool:
    """Whether the error can be one record's fault; what can be waited for, or concerns the process, is not."""
    return isinstance(error, _SURE) or not isinstance(error, (SemiEvolError, Stopped))
