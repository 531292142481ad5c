"""What lies in a topic of Kafka, read by a client that knows nothing of ours."""

from __future__ import annotations

import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition

_READ_S = 60.0


def committed_records(bootstrap: str, topic: str) -> list[Any]:
    """Everything that a consumer with read_committed sees."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", metrics_enabled=False)
    try:
        places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        found: list[Any] = []
        deadline = time.monotonic() + _READ_S
        while any(consumer.position(place) < ends[place] for place in places):
            assert time.monotonic() < deadline
            found += [record for some in consumer.poll(200).values() for record in some]
        return found
    finally:
        consumer.close()
