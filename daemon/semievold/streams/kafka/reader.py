"""The thread that owns a Kafka consumer: it joins the group, reads into the shared buffer, commits, and leaves.

Only this thread touches the client, with one exception: the client calls the rebalance listener from its own I/O thread
while this one waits inside `poll`. Nothing is committed from there.
Invariants: no record that the client has handed over is dropped, unless its partition was revoked; what is committed
is never ahead of a record that is not finished, and catches up with offsets that hold none (markers of transactions).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from semievol.errors import ConfigError, SemiEvolError
from semievold.config.streams import KafkaSettings
from semievold.streams.kafka.client.connection import ClientFailed, GroupRebalances, translate
from semievold.streams.kafka.client.member import GroupMember
from semievold.streams.kafka.shared import Asked, Shared, reader_ended
from semievold.streams.kafka.topics import KafkaTopics, lag_of

logger = logging.getLogger(__name__)

FETCHED_AT_ONCE = 500
WAIT_S = 0.05
"""How long one poll of the client waits for records; a commit waits as long when the topic is quiet."""
HELD_WAIT_S = 0.01
"""The same while the buffer is full: such a poll only keeps the membership alive."""
CATCH_UP_S = 1.0
"""How often a partition of which all is finished is looked at for offsets that hold no record."""
STILL_S = 3.0
"""How long nothing may come of what is written before it is asked why."""
PAUSED_WAIT_S = 0.2
"""How long the thread sleeps between two polls while the buffer is full; a taken record or a job wakes it."""
RETRY_S = 0.5
REBALANCE_S = 5.0
"""How long a commit waits for its group to be shared out; it goes on only while this thread polls."""
CLOSE_S = 5.0
_GONE = -1
"""No offset: the partition was revoked."""


class Reader:
    """One member of the group, for as long as its thread runs."""

    def __init__(self, settings: KafkaSettings, topics: KafkaTopics, topic: str, group: str, shared: Shared) -> None:
        self._settings = settings
        self._topics = topics
        self._topic = topic
        self._group = group
        self._shared = shared
        self._client: GroupMember | None = None
        self._unsettled: dict[int, int | None] = {}  # assigned: the first offset read, None while there was none
        self._committed: dict[int, int] = {}
        self._read_to: dict[int, int] = {}  # the offset after the last record that was handed over
        self._still: dict[int, tuple[int, float]] = {}  # where reading stands although more is written, and since when
        self._next_catch_up = 0.0
        self._waiting: list[tuple[Asked, float]] = []  # jobs for after a rebalance, and until when

    def run(self) -> None:
        """Read until the consumer is closed, or no retry can help."""
        shared = self._shared
        try:
            while not shared.closing:
                try:
                    self._turn()
                except Exception as error:
                    meaning = translate(error, self._settings)
                    rebalances = isinstance(meaning, GroupRebalances)  # no failure: who polls on takes part in it
                    if not rebalances:
                        self._failed(meaning)
                    if isinstance(meaning, ConfigError):
                        break
                    with shared.changed:
                        shared.changed.wait_for(lambda: shared.closing, WAIT_S if rebalances else RETRY_S)
        finally:
            self._leave()
            for (_, answer), _ in self._waiting:
                answer.set_exception(reader_ended())
            shared.end()

    def _turn(self) -> None:
        if self._client is None:
            self._topics.ensure(self._topic)
            self._client = GroupMember(self._settings, self._topic, self._group, self)
        client = self._client
        self._do_jobs()
        full = self._shared.full
        client.hold(full)
        records = client.poll(HELD_WAIT_S if full else WAIT_S, FETCHED_AT_ONCE)
        for record in records:
            self._read_to[record.partition] = record.offset + 1
            if self._unsettled.get(record.partition, 0) is None:
                self._unsettled[record.partition] = record.offset
        self._shared.read(records)
        if not self._shared.joined:
            self._shared.joined = client.stable
        if self._unsettled:
            self._settle(client)
        if time.monotonic() >= self._next_catch_up:
            self._next_catch_up = time.monotonic() + CATCH_UP_S
            self._catch_up(client)
        if full:
            with self._shared.changed:
                self._shared.changed.wait_for(
                    lambda: self._shared.closing or self._shared.jobs or not self._shared.full, PAUSED_WAIT_S
                )

    def _settle(self, client: GroupMember) -> None:
        """Learn where the new partitions were committed; where nowhere, and with `latest`, commit the start.

        Without that commit, whoever takes the partition over before the first one would start at a later end and skip
        what came between.
        """
        for partition, first in list(self._unsettled.items()):
            committed = client.committed(partition)
            if committed is None:
                start = client.position(partition) if first is None else first
                if start is None:
                    continue  # the broker has not said where the partition ends; the next turn asks again
                if self._settings.auto_offset_reset == "latest":
                    client.commit({partition: start})
                committed = start
            # The client's thread may have taken the partition away meanwhile; then its offset is somebody else's.
            if self._unsettled.pop(partition, _GONE) is not _GONE:
                self._committed[partition] = committed

    def _catch_up(self, client: GroupMember) -> None:
        """Commit past offsets that hold no record, where every record before them is finished.

        The end of a transaction takes an offset of its own. Without this a topic that ends in one would lag by it until
        the next record comes, and whoever waits for the end of the topic would wait as long.
        """
        past = {}
        for partition, committed in dict(self._committed).items():  # the client's thread may take one away
            if self._read_to.get(partition, committed) == committed:
                position = client.position(partition)
                if position is not None and position > committed:
                    past[partition] = position
                if position is not None:
                    self._look(partition, position, client.written(partition))
        past = self._shared.committable(past)
        if past:
            self.commit(past)
            self._read_to.update(past)

    def _look(self, partition: int, position: int, written: int) -> None:
        """Note since when a partition, of which all that was read is finished, hands over nothing of what is there."""
        if written <= position:
            self._still.pop(partition, None)
        elif self._still.get(partition, (_GONE, 0.0))[0] != position:
            self._still[partition] = (position, time.monotonic())

    # --- jobs ---------------------------------------------------------------------------------------------------

    def _do_jobs(self) -> None:
        due, self._waiting = self._waiting, []
        while self._shared.jobs:
            asked = self._shared.jobs.popleft()
            if asked[1].set_running_or_notify_cancel():
                due.append((asked, time.monotonic() + REBALANCE_S))
        for asked, until in due:
            job, answer = asked
            try:
                answer.set_result(job(self))
            except Exception as error:
                meaning = translate(error, self._settings)
                if isinstance(meaning, GroupRebalances) and time.monotonic() < until:
                    self._waiting.append((asked, until))
                else:
                    answer.set_exception(meaning)

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        if next_offsets:
            self._joined().commit(next_offsets)
            self._committed.update(next_offsets)

    def note(self, next_offsets: Mapping[int, int]) -> None:
        """These are committed already."""
        self._committed.update(next_offsets)

    def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        client = self._joined()
        found = {partition: client.committed(partition) for partition in partitions}
        return {partition: offset for partition, offset in found.items() if offset is not None}

    @property
    def identity(self) -> Any:
        """See GroupMember.identity; from any thread."""
        client = self._client
        return None if client is None else client.identity

    def lag(self) -> int:
        committed = dict(self._committed)
        if not committed:
            return 0
        return lag_of(committed, self._joined().ends(committed))

    def stands_still(self) -> bool:
        """Whether something is written that nobody is given, as behind a transaction that does not end."""
        return any(time.monotonic() - since >= STILL_S for _, since in dict(self._still).values())

    def _joined(self) -> GroupMember:
        assert self._client is not None, "jobs are done between joining and leaving"
        return self._client

    # --- rebalances (in the client's thread) and failures -----------------------------------------------------------

    def assigned(self, partitions: frozenset[int]) -> None:
        self._unsettled.update(dict.fromkeys(partitions))
        self._shared.assigned(partitions)

    def lost(self, partitions: frozenset[int]) -> None:
        for partition in partitions:
            self._unsettled.pop(partition, None)
            self._committed.pop(partition, None)
            self._read_to.pop(partition, None)
            self._still.pop(partition, None)
        self._shared.lost(partitions)

    def _failed(self, meaning: SemiEvolError) -> None:
        self._shared.failed(meaning)
        if isinstance(meaning, ClientFailed):
            logger.exception("the Kafka client of %s failed; it is made anew", self._topic)
            self._leave()

    def _leave(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        started = time.monotonic()
        try:
            client.close(CLOSE_S)
        except Exception as error:
            logger.warning("left group %s without telling it: %s", self._group, error)
        finally:
            self.lost(self._shared.owned)  # also where the listener was not told
            self._shared.joined = False
        logger.debug("left group %s in %.1f s", self._group, time.monotonic() - started)
