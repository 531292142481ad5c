"""`semievold`, its state where the configuration says and its local stream in the SQLite file STREAM_FILE.

A daemon on PostgreSQL takes its records from a broker; what is tested here is the state, and needs none.
"""

from __future__ import annotations

import os

from semievold import service
from semievold.commands.cli import main
from semievold.config.streams import StreamSettings
from semievold.store.database import Database
from semievold.streams.local import LocalStream


def open_stream(settings: StreamSettings, _state: Database) -> LocalStream:
    database = Database(f"sqlite:///{os.environ['STREAM_FILE']}")
    database.migrate()
    return LocalStream(database, settings)


service.open_stream = open_stream  # type: ignore[assignment]
main()
