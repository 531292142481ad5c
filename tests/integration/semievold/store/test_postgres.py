"""What only a server can do to the state: refuse, go away, come back, and keep locks of clients that stand still."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from semievol.errors import ConfigError
from semievold.errors import StoreError, TransientStoreError
from semievold.store import database as database_module
from semievold.store.database import Database
from semievold.store.leases import LeaseStore
from semievold.store.retention import ROWS_OF_ROUNDS
from semievold.store.tables import pseudo_label_history, pseudo_labels, stream_offsets
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


@contextmanager
def half_sent(
    url: str, workload: str | None, statement: bytes = b"select 1", *, synchronised: bool = False
) -> Iterator[None]:
    """A write of a leader of which the server waits for the rest for ever: it was stopped before it sent the end.

    workload: None: of who migrates. statement: whose answer nobody takes. synchronised: all but the end of the
    transaction was sent, and answered.
    """
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        key = database_module._MIGRATION if workload is None else database_module._lock_key(workload)
        connection.execute("select pg_advisory_xact_lock(%s, %s)", (database_module._WRITE_LOCK, key))
        connection.execute("select epoch from leases for share")
        connection.pgconn.enter_pipeline_mode()
        connection.pgconn.send_query_params(statement, None)
        if synchronised:
            connection.pgconn.pipeline_sync()
        connection.pgconn.send_flush_request()
        connection.pgconn.flush()
        yield
        connection.close()


def test_a_writer_that_stopped_in_the_middle_of_what_it_sent_keeps_no_lock(
    db: Database, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 200)
    next_one, patient = Database(url, "w", busy_timeout_s=1.0), Database(url, "other", busy_timeout_s=0.1)
    with half_sent(url, "other"), half_sent(url, "w"):
        # Longer than an idle one may pause: it still has its lock, and the first who waits for it in vain ends it.
        with pytest.raises(TransientStoreError, match="lock timeout"), next_one.write():
            pass
        with next_one.write() as connection:
            next_one.upsert(connection, stream_offsets, [ROW], ["next_offset"])
        assert caplog.text.count("stopped in the middle") == 1
        # Another workload's, and one that may still be sending, is not touched.
        monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 60_000)
        for _ in range(2):
            with pytest.raises(TransientStoreError, match="lock timeout"), patient.write():
                pass
        assert caplog.text.count("stopped in the middle") == 1
    assert count(db) == 1
    next_one.close()
    patient.close()


def test_a_writer_that_stopped_before_it_took_its_answer_keeps_no_lock(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 200)
    next_one = Database(url, "w", busy_timeout_s=1.0)
    with half_sent(url, "w", b"select repeat('x', 20000000)"):
        with pytest.raises(TransientStoreError, match="lock timeout"), next_one.write():
            pass
        with next_one.write():
            pass
    next_one.close()


def test_a_migration_that_stopped_in_the_middle_of_what_it_sent_keeps_nobody_from_starting(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 200)
    starting = Database(url, "w", busy_timeout_s=1.0)
    with half_sent(url, None):
        with pytest.raises(TransientStoreError, match="lock timeout"):
            starting.migrate()
        starting.migrate()
    starting.close()


def test_a_lease_is_taken_from_a_holder_that_stopped_in_the_middle_of_what_it_sent(
    db: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 200)
    standby = Database(url, "w")
    epoch = LeaseStore(db, "w").acquire("stopped", 0.1)
    assert epoch == 1
    with half_sent(url, "w"):
        time.sleep(0.2)
        with pytest.raises(TransientStoreError, match="lock timeout"):
            LeaseStore(standby, "w").acquire("standby", 1.0)
        assert LeaseStore(standby, "w").acquire("standby", 1.0) == 2
    standby.close()


def test_a_renewal_gives_up_before_the_write_of_its_own_process_that_it_waits_for_is_ended(
    db: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process that stands still would hold the lease's row twice as long: by its write, then by its renewal."""
    assert LeaseStore(db, "w").acquire("stopped", 0.1) == 1
    monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 2000)
    own = Database(url, "w")
    said: list[str] = []

    def renew() -> None:
        try:
            LeaseStore(own, "w").renew("stopped", 1, 10.0)
        except TransientStoreError as error:
            said.append(str(error))

    with pytest.raises(TransientStoreError, match="idle-in-transaction"), db.write() as connection:  # noqa: PT012
        LeaseStore(db, "w").check(connection, "stopped", 1)
        renewing = threading.Thread(target=renew)
        renewing.start()
        assert LeaseStore(own, "w").acquire("standby", 10.0) == 2
        renewing.join()
        connection.execute(sa.select(stream_offsets))
    assert "lock timeout" in said[0]
    own.close()


def test_a_lease_is_taken_from_a_holder_that_stopped_after_many_rows_of_whom_the_server_does_not_count_the_time(
    db: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_MAX_PAUSE_MS", 200)
    standby = Database(url, "w")
    assert LeaseStore(db, "w").acquire("stopped", 0.1) == 1
    timed = f"{url}?options=-c%20idle_in_transaction_session_timeout%3D200ms"
    with half_sent(timed, "w", synchronised=True):
        time.sleep(1.0)
        with db.read() as connection:
            states = connection.execute(sa.text("select state from pg_stat_activity where wait_event = 'ClientRead'"))
            assert "idle in transaction" in states.scalars()  # though the server was told to end it
        with pytest.raises(TransientStoreError, match="lock timeout"):
            LeaseStore(standby, "w").acquire("standby", 1.0)
        assert LeaseStore(standby, "w").acquire("standby", 1.0) == 2
    standby.close()


def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(StoreError, match="read-only"), db.read() as connection:
        db.upsert(connection, stream_offsets, [ROW], ["next_offset"])


def test_the_clock_is_the_servers_and_moves_within_a_transaction(db: Database) -> None:
    with db.read() as connection:
        first = connection.execute(sa.select(db.clock())).scalar_one()
        second = connection.execute(sa.select(db.clock())).scalar_one()
    assert first < second
    assert abs(second - time.time()) < 60


def test_what_retention_deletes_from_is_vacuumed_sooner_than_the_server_would(db: Database) -> None:
    options = sa.text("select relname from pg_class where reloptions @> '{autovacuum_vacuum_scale_factor=0.05}'")
    with db.read() as connection:
        found = set(connection.execute(options).scalars())
    deleted_from = (pseudo_labels, pseudo_label_history, *(table for table, _ in ROWS_OF_ROUNDS))
    assert found == {table.name for table in deleted_from}
