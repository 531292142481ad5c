"""What only a server can do to the state: refuse, go away, come back, and keep locks of clients that stand still."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from semievol.errors import ConfigError
from semievold.errors import StoreError, TransientStoreError
from semievold.store import database as database_module
from semievold.store.database import Database
from semievold.store.tables import stream_offsets
from tests.servers.postgres import PASSWORD, PostgresServer

ROW = {"group": "g", "topic": "t", "partition": 0, "next_offset": 1}


@pytest.fixture
def url(postgres: PostgresServer, migrated: str) -> str:
    return postgres.create_database(migrated)


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    database = Database(url, "w")
    yield database
    database.close()


def count(database: Database) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(stream_offsets)).scalar_one()


def test_connections_mend_themselves_when_the_server_returns(own_postgres: PostgresServer) -> None:
    db = Database(own_postgres.create_database())
    db.migrate()
    for mode in ("fast", "immediate"):
        assert count(db) == 0
        own_postgres.stop(mode)  # type: ignore[arg-type]
        with pytest.raises(TransientStoreError, match="127"):
            count(db)
        with pytest.raises(TransientStoreError), db.write():
            pass
        own_postgres.start()
        assert count(db) == 0
    with db.write() as connection:
        db.upsert(connection, stream_offsets, [ROW], ["next_offset"])
    assert count(db) == 1
    db.close()


def test_a_server_that_dies_inside_a_transaction_is_a_transient_error(own_postgres: PostgresServer) -> None:
    db = Database(own_postgres.create_database())
    db.migrate()
    with pytest.raises(TransientStoreError), db.write() as connection:  # noqa: PT012 - it dies in the middle
        db.upsert(connection, stream_offsets, [ROW], ["next_offset"])
        own_postgres.restart("immediate")
        connection.execute(sa.select(stream_offsets))
    assert count(db) == 0
    db.close()


@pytest.mark.parametrize(
    ("part", "other", "words"),
    [
        (PASSWORD, "wrong-password", "password authentication failed.*check user and password"),
        ("semievol:", "nobody:", "check user and password|create the user"),
        ("/test", "/no-such-database-", "does not exist.*create the database"),
    ],
)
def test_a_refused_connection_names_the_setting_and_the_way_out(url: str, part: str, other: str, words: str) -> None:
    db = Database(url.replace(part, other))
    with pytest.raises(ConfigError, match=rf"(?s)store\.url: postgresql.*{words}") as refused:
        db.migrate()
    assert PASSWORD not in str(refused.value)
    assert "wrong-password" not in str(refused.value)
    db.close()


def test_a_missing_driver_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"semievol\[postgres\]"):
        Database("postgresql+psycopg://u@h/d")


def test_another_driver_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"postgresql\+psycopg://"):
        Database("postgresql+psycopg2://u@h/d")


def test_a_server_that_does_not_answer_is_a_transient_error_within_its_timeout() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        db = Database(f"postgresql+psycopg://u:p@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2")
        started = time.monotonic()
        with pytest.raises(TransientStoreError, match="timeout"):
            count(db)
        assert time.monotonic() - started < 10
        db.close()


def test_writers_of_one_workload_take_turns_and_do_not_wait_for_others(url: str) -> None:
    mine, same, other = (Database(url, name, busy_timeout_s=0.2) for name in ("mine", "mine", "other"))
    with mine.write():
        with pytest.raises(TransientStoreError, match="lock timeout"), same.write():
            pass
        with other.write() as connection:
            other.upsert(connection, stream_offsets, [ROW], ["next_offset"])
        with same.statement():
            pass
    with same.write():
        pass
    assert count(mine) == 1
    for database in (mine, same, other):
        database.close()


def test_a_writer_that_stands_still_loses_its_lock(db: Database, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 200)
    next_one = Database(url, "w", busy_timeout_s=10)
    taken = threading.Event()

    def take() -> None:
        with next_one.write():
            taken.set()

    thread = threading.Thread(target=take)
    with pytest.raises(TransientStoreError, match="idle-in-transaction"), db.write() as connection:  # noqa: PT012
        db.upsert(connection, stream_offsets, [ROW], ["next_offset"])
        thread.start()
        assert taken.wait(10)
        connection.execute(sa.select(stream_offsets))
    thread.join()
    assert count(db) == 0
    next_one.close()


def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(StoreError, match="read-only"), db.read() as connection:
        db.upsert(connection, stream_offsets, [ROW], ["next_offset"])


def test_the_clock_is_the_servers_and_moves_within_a_transaction(db: Database) -> None:
    with db.read() as connection:
        first = connection.execute(sa.select(db.clock())).scalar_one()
        second = connection.execute(sa.select(db.clock())).scalar_one()
    assert first < second
    assert abs(second - time.time()) < 60
