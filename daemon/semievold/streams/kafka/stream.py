"""Apache Kafka as the stream: consumer groups, an idempotent producer, topics made on demand.

Owns which part does what: reading is `kafka.consumer`, writing `kafka.producer`, administration `kafka.topics`, and
`kafka.client` alone knows kafka-python. Nothing is opened before it is used.
"""

from __future__ import annotations

from semievold.config.streams import StreamSettings
from semievold.streams.kafka.consumer import KafkaStreamConsumer
from semievold.streams.kafka.producer import KafkaStreamProducer
from semievold.streams.kafka.topics import KafkaTopics
from semievold.streams.kafka.transactions import KafkaTransactions
from semievold.streams.protocol import PartitionOffsets, ResetTarget, StreamConsumer


class KafkaStream:
    """The topics of one daemon on one cluster (see semievold.streams.protocol.Stream)."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self.topics = KafkaTopics(settings)

    def consumer(self, topic: str, group: str) -> KafkaStreamConsumer:
        """A member of `group` that joins with its first poll."""
        return KafkaStreamConsumer(self._settings.kafka, self.topics, topic, self._group(group))

    def producer(self) -> KafkaStreamProducer:
        return KafkaStreamProducer(self._settings, self.topics)

    def transactions(self, consumer: StreamConsumer) -> KafkaTransactions | None:
        if not self._settings.kafka.exactly_once or not isinstance(consumer, KafkaStreamConsumer):
            return None
        return KafkaTransactions(self._settings, self.topics, consumer)

    def offsets(self, topic: str, group: str) -> list[PartitionOffsets]:
        self.topics.ensure(topic)
        return self.topics.offsets(topic, self._group(group))

    def reset(self, topic: str, group: str, target: ResetTarget) -> None:
        self.topics.ensure(topic)
        self.topics.reset(topic, self._group(group), target)

    def _group(self, name: str) -> str:
        return self._settings.kafka.group_prefix + name
