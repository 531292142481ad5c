"""`semievold`, its state where the configuration says and its local stream in the SQLite file STREAM_FILE.

A daemon on PostgreSQL takes its records from a broker; what is tested here is the state, and needs none.
"""

from __future__ import annotations

import os

from daemon import service
from daemon.cli import main
from daemon.config_sections import StreamSettings
from daemon.store.database import Database
from daemon.streams.local import LocalStream


def open_stream(settings: StreamSettings, _state: Database) -> LocalStream:
    database = Database(f"sqlite:///{os.environ['STREAM_FILE']}")
    database.migrate()
    return LocalStream(database, settings)


service.open_stream = open_stream  # type: ignore[assignment]
main()
