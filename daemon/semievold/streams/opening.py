"""Chooses the stream that the configuration names; drivers are imported only when they are used."""

from __future__ import annotations

from semievold.config.streams import StreamSettings
from semievold.store.database import Database
from semievold.streams.protocol import Stream


def open_stream(settings: StreamSettings, database: Database) -> Stream:
    """The stream of `settings.kind`.

    Raises:
        ConfigError: the settings do not fit the stream (local needs an SQLite file), or its package is not installed.
    """
    if settings.kind == "kafka":
        from semievold.streams.kafka.stream import KafkaStream

        return KafkaStream(settings)
    from semievold.streams.local import LocalStream

    return LocalStream(database, settings)
