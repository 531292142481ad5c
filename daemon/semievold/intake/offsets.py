"""Which offsets may be committed: everything below the oldest record that is still being worked on.

Pure bookkeeping, no I/O and no tasks. Records finish in any order; a commit must never pass one that has not
finished. Offsets may have gaps (compacted topics), so "contiguous" means contiguous among the records delivered.
Invariant: `committable()[p]` is above every finished offset that it passes and at most the oldest unfinished one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping


class _Partition:
    __slots__ = ("committed", "next_offset", "order", "unfinished")

    def __init__(self) -> None:
        self.order: deque[int] = deque()  # delivered and not passed by next_offset, rising
        self.unfinished: set[int] = set()  # subset of order
        self.next_offset: int | None = None  # None: nothing could be passed yet
        self.committed: int | None = None

    def last(self) -> int:
        """The highest offset delivered, -1 when none was."""
        if self.order:
            return self.order[-1]
        return -1 if self.next_offset is None else self.next_offset - 1


class OffsetTracker:
    """Follows the records of the owned partitions from delivery to commit."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}

    @property
    def in_flight(self) -> int:
        """Records delivered and not finished."""
        return sum(len(state.unfinished) for state in self._partitions.values())

    def add(self, partition: int, offset: int) -> None:
        """A record was delivered.

        Raises:
            ValueError: the offsets of a partition must rise until it is revoked.
        """
        state = self._partitions.setdefault(partition, _Partition())
        if offset <= state.last():
            raise ValueError(f"partition {partition}: offset {offset} was delivered after {state.last()}")
        state.order.append(offset)
        state.unfinished.add(offset)

    def holds(self, partition: int, offset: int) -> bool:
        """Whether it was delivered, and no offset above it could be committed yet."""
        state = self._partitions.get(partition)
        return state is not None and (state.next_offset or 0) <= offset <= state.last()

    def done(self, partition: int, offset: int) -> None:
        """Everything that the record causes is durable. Unknown records (of a revoked partition) are ignored."""
        state = self._partitions.get(partition)
        if state is None:
            return
        state.unfinished.discard(offset)
        while state.order and state.order[0] not in state.unfinished:
            state.next_offset = state.order.popleft() + 1

    def revoke(self, partitions: Iterable[int]) -> None:
        """The partitions belong to someone else: forget their records, finished or not."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def committable(self) -> dict[int, int]:
        """{partition: next offset to read}, where it has moved since the last commit."""
        return {
            partition: state.next_offset
            for partition, state in self._partitions.items()
            if state.next_offset is not None and state.next_offset != state.committed
        }

    def committed(self, next_offsets: Mapping[int, int]) -> None:
        """These offsets are stored."""
        for partition, next_offset in next_offsets.items():
            state = self._partitions.get(partition)
            if state is not None:
                state.committed = next_offset
