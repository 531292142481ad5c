"""Publishes what records cause in one transaction with their offsets: a reader of what is committed sees it once.

Who may do so for a partition is said twice over. The transactional.id is that of the lowest partition that this member
owns, so whoever takes partitions over ends and fences what their last owner left open under any of them; and the broker
takes offsets only of a member that has seen the last rebalance.
Invariants: the committed offset is the only memory of what was published; after anything that went wrong it is asked
for before something is published again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from semievol.errors import SemiEvolError
from semievold.config.streams import StreamSettings
from semievold.errors import RecordRefused, TransientStreamError
from semievold.streams.kafka.client.administrator import administrator
from semievold.streams.kafka.client.sender import Addressed
from semievold.streams.kafka.client.transactions import TransactionalSender
from semievold.streams.kafka.consumer import KafkaStreamConsumer
from semievold.streams.kafka.producer import CLOSE_S, smaller
from semievold.streams.kafka.topics import KafkaTopics
from semievold.streams.protocol import Due

logger = logging.getLogger(__name__)

T = TypeVar("T")


class KafkaTransactions:
    """See semievold.streams.protocol.Transactions. Connects with the first commit."""

    def __init__(self, settings: StreamSettings, topics: KafkaTopics, consumer: KafkaStreamConsumer) -> None:
        self._settings = settings
        self._topics = topics
        self._consumer = consumer
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kafka-transactions")
        self._client: TransactionalSender | None = None
        self._taken: frozenset[int] = frozenset()  # partitions of which nobody else's transaction is open
        self._decided = False  # whether the committed offsets say what this member has published

    async def commit(self, due: Mapping[int, Due]) -> dict[int, int]:
        owned = self._consumer.assigned
        if owned:
            await self._in_thread(lambda: self._take_over(owned))
        # In this order: where a rebalance comes between, the broker refuses the identity.
        identity = self._consumer.identity
        kept = self._consumer.committable(due) & owned
        if not kept:
            return {}
        if identity is None:
            raise TransientStreamError("this process is not a member of its consumer group at the moment")
        committed = {}
        if not self._decided:
            committed = await self._consumer.committed(kept)
            self._decided = True
        wanted = {number: due[number] for number in kept}
        open_ = {number: each for number, each in wanted.items() if committed.get(number, 0) < each.next_offset}
        if open_:
            records = [
                Addressed(caused.topic, caused.record)
                for number, each in open_.items()
                for caused in each.caused
                if caused.offset >= committed.get(number, 0)
            ]
            offsets = {number: each.next_offset for number, each in open_.items()}
            await self._in_thread(lambda: self._transact(records, offsets, identity))
        done = {number: each.next_offset for number, each in wanted.items()}
        self._consumer.committed_with(done)
        return done

    async def passed(self) -> dict[int, int]:
        return await asyncio.to_thread(self._topics.committed, self._consumer.topic, self._consumer.group)

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    # --- in the one thread of the pool ------------------------------------------------------------------------------

    def _take_over(self, owned: frozenset[int]) -> None:
        """End what former owners of newly owned partitions left open; without that it would last its time limit."""
        new = owned - self._taken
        if not new and self._name(owned) == self._name(self._taken):
            self._taken = owned
            return
        self._drop()  # its id may be another one now
        theirs = {self._name([number]) for number in new} - {self._name(owned)}
        with administrator(self._settings.kafka) as admin:
            unfinished = admin.unfinished()
        for name in sorted(theirs & unfinished):
            logger.info("ending the transaction that %s left open", name)
            TransactionalSender(self._settings.kafka, name).abandon(CLOSE_S)
        self._taken = owned
        self._open()

    def _open(self) -> None:
        if self._client is None:
            self._client = TransactionalSender(self._settings.kafka, self._name(self._taken))

    def _transact(self, records: Sequence[Addressed], offsets: Mapping[int, int], identity: Any) -> None:
        for topic in {each.topic for each in records}:
            self._topics.ensure(topic)
        records = list(records)
        while True:
            self._open()
            assert self._client is not None
            deadline = time.monotonic() + self._settings.kafka.transaction_timeout_s  # the broker's, too
            try:
                oversized = self._client.commit(records, self._consumer.topic, offsets, identity, deadline)
            except BaseException:
                self._drop()
                raise
            if not oversized:
                return
            self._drop(decided=self._decided)  # it ends with nothing committed, which is known
            # The others may only have shared the fate of the largest.
            largest = max(oversized, key=lambda each: _size(each))
            place = records.index(largest)
            try:
                records[place] = Addressed(largest.topic, smaller(*largest, self._settings.dead_letter))
            except RecordRefused as refused:  # whatever it says, the others are not to wait for it
                logger.error("%r is not published: %s", largest.record.key, refused)
                del records[place]

    def _drop(self, decided: bool = False) -> None:
        client, self._client = self._client, None
        self._decided = decided
        if client is not None:
            client.abandon(CLOSE_S)

    def _close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        try:
            self._drop()
        except SemiEvolError as error:
            logger.warning("the sender in transactions did not close: %s", error)

    def _name(self, owned: frozenset[int] | Sequence[int]) -> str:
        """The transactional.id of whoever owns these partitions."""
        return f"{self._consumer.group}-{min(owned, default=-1)}"

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


def _size(each: Addressed) -> int:
    return len(each.record.value or b"") + sum(len(name) + len(text) for name, text in each.record.headers.items())
