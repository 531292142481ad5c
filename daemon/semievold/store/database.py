"""The connection to the state: transactions, dialect differences and error translation, in one place.

SQLite (WAL) by default; the same calls run on PostgreSQL. Everything that only one of them understands is in this
file. Synchronous and thread-safe: the daemon calls it through `asyncio.to_thread`.
Invariant: a write transaction takes the write lock when it begins, so that what it reads cannot change under it.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pydantic_core
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, Table, event, exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url

from semievol.backoff import Backoff
from semievol.errors import ConfigError
from semievold.errors import StoreError, TransientStoreError, ValueRefused

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
_T = TypeVar("_T")

MAX_INTEGER = 2**31 - 1
"""The largest number that an INTEGER column takes on every database; a driver raises its own errors beyond."""
_TRANSIENT_SQLITE = ("is locked", "disk is full", "disk i/o error", "unable to open")
_WRITE_LOCK = 0x53454D49  # the first key of PostgreSQL's advisory locks; the second is the workload's
_MIGRATION = 0
_WAL_SWITCH = Backoff(0.01, 0.1, jitter=(0.5, 1.0))

# A host that is gone answers nothing, not even a refusal: without these a call would wait for hours.
_POSTGRES_CONNECTION: Mapping[str, int] = {
    "connect_timeout": 5,  # seconds
    "keepalives": 1,
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 3,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
}
# A process that is stopped (SIGSTOP, a frozen container) inside a transaction keeps its locks; the server takes them
# back after this. Far longer than any pause of ours between two statements.
_MAX_PAUSE_MS = 10_000
_BEYOND_MS = 1_000
# Stopped in the middle of what it sends or takes, it is not idle to the server, which waits for it for ever; nor does
# the server count how long it is idle once a Flush has come after a Sync, as psycopg sends them after many rows. So
# whoever waits for its lock in vain ends its session. Known by the lock that each of our writers holds, and by what its
# session waits for: no writer of ours that lives pauses there for so long.
_END_HALF_SENT = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and state <> 'idle' and wait_event in ('ClientRead', 'ClientWrite')
  and state_change < clock_timestamp() - :pause_ms * interval '1 millisecond'
  and pid in (
    select pid from pg_locks
    where locktype = 'advisory' and granted and classid = :lock and objid in (cast(:key as bigint), :migration)
      and database = (select oid from pg_database where datname = current_database()))
"""
_LOCK_NOT_AVAILABLE = "55P03"
# libpq gives no error code for a refused connection, so the server's words must do (in English: another language is
# merely tried again for ever). What is wrong, and the way out.
_REFUSALS = (
    (r"password authentication failed|no password supplied", "check user and password"),
    (r"role .* does not exist", "create the user, or correct its name"),
    (r"database .* does not exist", "create the database, or correct its name"),
    (r"no pg_hba\.conf entry", "allow this host and user in the server's pg_hba.conf"),
    (r"permission denied for database", "grant CONNECT on the database"),
)


def chunks(items: Sequence[_T], size: int = 500) -> Iterator[Sequence[_T]]:
    """Slices small enough for one statement: for bound parameters of an `IN (...)`, and for rows held at once."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Database:
    """One database file or server.

    Args:
        url: an SQLAlchemy URL, `sqlite:////absolute/state.db` or `postgresql+psycopg://...`.
        workload: on PostgreSQL writers of other workloads are not waited for.
        busy_timeout_s: how long a write waits for other writers before TransientStoreError.
        now: UTC seconds: when a row was written. Whoever compares a time with a row's asks `now` too.

    Raises:
        ConfigError: the URL cannot work.
    """

    def __init__(
        self, url: str, workload: str = "", *, busy_timeout_s: float = 30.0, now: Callable[[], float] = time.time
    ) -> None:
        self._url = checked_url(url)
        self.now = now
        self._busy_timeout_s = busy_timeout_s
        self._lock_key = _lock_key(workload)
        self._check: Callable[[Connection], None] | None = None
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        # Writers of one process queue here: SQLite's own waiting is a poll with sleeps, and not fair.
        self._turn = threading.Lock() if self._is_sqlite else None
        # Built once: the intake runs one for every batch.
        self._insertions: dict[sa.Column[Any], Any] = {}
        self._upserts: dict[tuple[Table, tuple[str, ...]], Any] = {}
        self._engine = self._build_engine()
        # SQLite's transactions are snapshots anyway.
        repeatable = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self._engine.execution_options(**({} if self._is_sqlite else repeatable))

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for a server."""
        return _file_of(self._url)

    @property
    def description(self) -> str:
        """The URL without its password, for people."""
        if self._is_sqlite:
            return f"sqlite:///{self._url.database}"
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock; committed when the block ends, rolled back when it raises.

        Not re-entrant: a thread that opens a second one inside the first waits for itself until the busy timeout.

        Raises:
            TransientStoreError: busy, full or away.
            StoreError: the statement or the schema is wrong.
            ConfigError: the server refuses the connection, and will refuse it again.
        """
        with self._writing(self._lock_key) as connection:
            if self._check is not None:
                self._check(connection)
            yield connection

    @contextmanager
    def statement(self, *, briefly: bool = False) -> Iterator[Connection]:
        """A transaction for one statement that is atomic by itself: on PostgreSQL it waits for no other writer, but for
        one that holds its rows, and for that one no longer than any may pause; `briefly`: half as long, so that it has
        given up when a writer of its own process, which stands still, loses those rows.

        Raises: as `write`.
        """
        with self._writing(None, briefly=briefly) as connection:
            yield connection

    def checked(self, check: Callable[[Connection], None]) -> Database:
        """The same database, whose every write first asks `check` in its own transaction; what that raises ends it."""
        twin = copy.copy(self)
        twin._check = check
        return twin

    def clock(self) -> sa.ColumnElement[float]:
        """Now by the database's clock, UTC seconds: the one clock that all processes share."""
        if self._is_sqlite:
            return (sa.func.julianday("now") - 2440587.5) * 86400.0
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read-only transaction: all its statements see one state.

        Raises:
            TransientStoreError: busy or away.
            StoreError: the statement or the schema is wrong.
            ConfigError: the server refuses the connection, and will refuse it again.
        """
        with self._translated(), self._reader.connect() as connection, connection.begin() as transaction:
            yield connection
            transaction.rollback()

    def insert(self, table: Table) -> Any:
        """The dialect's INSERT, which knows ON CONFLICT."""
        return sqlite.insert(table) if self._is_sqlite else postgresql.insert(table)

    def among(self, column: sa.ColumnElement[str], values: Sequence[str] | None = None) -> sa.ColumnElement[bool]:
        """`column IN (values)` as one parameter, however many there are: one each costs more than the statement itself.

        Args:
            column: of texts without NUL.
            values: None: those that the statement gets as `ids` when it runs.
        """
        name = "ids" if values is None else None
        given = sa.bindparam(name, values, type_=_Texts(), unique=values is not None, required=values is None)
        if not self._is_sqlite:
            return column == sa.any_(given)
        return column.in_(sa.select(sa.func.json_each(given).table_valued("value").c.value))

    def insert_new(
        self, connection: Connection, table: Table, rows: Sequence[Row], returning: sa.Column[Any]
    ) -> set[Any]:
        """Insert the rows whose primary key is free; the values of `returning` of those inserted."""
        if not rows:
            return set()
        if returning not in self._insertions:
            insert = self.insert(table).on_conflict_do_nothing(index_elements=_key(table))
            self._insertions[returning] = insert.returning(returning)
        return set(connection.execute(self._insertions[returning], rows).scalars())

    def upsert(self, connection: Connection, table: Table, rows: Sequence[Row], update: Sequence[str]) -> None:
        """Insert the rows, or set the columns `update` of those whose primary key is taken."""
        if not rows:
            return
        kind = (table, tuple(update))
        if kind not in self._upserts:
            insert = self.insert(table)
            set_ = {name: insert.excluded[name] for name in update}
            self._upserts[kind] = insert.on_conflict_do_update(index_elements=_key(table), set_=set_)
        connection.execute(self._upserts[kind], rows)

    def migrate(self) -> None:
        """Bring the schema to the newest version; safe to call from several processes at once.

        Raises:
            SchemaError: the database was written by a newer version of the code.
            TransientStoreError: another process held the write lock for too long.
        """
        from semievold.store.migrate import upgrade  # Alembic is slow to import and needed once

        with self._writing(_MIGRATION) as connection:
            upgrade(connection)

    def close(self) -> None:
        """Close the pooled connections. Open transactions must have ended."""
        self._engine.dispose()

    # --- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=self._busy_timeout_s):
            raise TransientStoreError(f"{self.description}: no write was possible for {self._busy_timeout_s:g} s")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _writing(self, lock_key: int | None, *, briefly: bool = False) -> Iterator[Connection]:
        with self._translated(), self._my_turn(), self._freed(), self._engine.connect() as connection:
            connection.execution_options(semievol_write=True)
            with connection.begin():
                if not self._is_sqlite:
                    self._lock_server(connection, lock_key, briefly=briefly)
                yield connection

    @contextmanager
    def _freed(self) -> Iterator[None]:
        """After a wait for a lock in vain: free it of one that stands still, so that the next attempt gets it."""
        try:
            yield
        except exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                self._end_half_sent()
            raise

    def _end_half_sent(self) -> None:
        """Of this workload's writers, and of who migrates; sessions of another database user are not ours to see."""
        parameters = {
            "lock": _WRITE_LOCK,
            "key": self._lock_key % 2**32,
            "migration": _MIGRATION,
            "pause_ms": _MAX_PAUSE_MS,
        }
        try:
            with self._engine.connect() as connection, connection.begin():
                ended = connection.execute(sa.text(_END_HALF_SENT), parameters).scalar()
        except exc.DBAPIError as error:  # what is told is that the lock was waited for in vain
            logger.warning("%s: a writer that stands still could not be ended: %s", self.description, error.orig)
            return
        if ended:
            logger.warning(
                "%s: a writer stopped in the middle of what it sent and kept its locks; its session was ended",
                self.description,
            )

    def _lock_server(self, connection: Connection, key: int | None, *, briefly: bool) -> None:
        """One writer of a workload at a time on PostgreSQL too: stores check and then act, and need no retries.

        One statement, because each is a way to the server and back; PostgreSQL evaluates its columns in order.
        """
        patience_ms = int(self._busy_timeout_s * 1000)
        if key is None:
            # A little longer: what paused when this began to wait is found to have paused for too long when it ends.
            patience_ms = min(patience_ms, _MAX_PAUSE_MS // 2 if briefly else _MAX_PAUSE_MS + _BEYOND_MS)
        columns = [
            sa.func.set_config("lock_timeout", f"{patience_ms}ms", True),
            sa.func.set_config("idle_in_transaction_session_timeout", f"{_MAX_PAUSE_MS}ms", True),
        ]
        if key is not None:
            columns.append(sa.func.pg_advisory_xact_lock(sa.cast(_WRITE_LOCK, sa.Integer), sa.cast(key, sa.Integer)))
        connection.execute(sa.select(*columns))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError as error:
            raise TransientStoreError(f"{self.description}: no free connection: {error}") from error
        except exc.DBAPIError as error:
            if (way_out := _refusal(error)) is not None:
                raise ConfigError(f"store.url: {self.description}: {error.orig}; {way_out}") from error
            text = f"{self.description}: {error.orig}"
            if _is_of_a_value(error):
                raise ValueRefused(text) from error
            raise (TransientStoreError if _is_transient(error) else StoreError)(text) from error
        except (exc.StatementError, OverflowError, UnicodeEncodeError) as error:  # before the database was asked
            raise ValueRefused(f"{self.description}: {getattr(error, 'orig', None) or error}") from error

    def _build_engine(self) -> Engine:
        options: dict[str, Any] = {
            "pool_size": 8,
            "max_overflow": 8,
            # The one that was used last goes first: each keeps pages or plans of its own, so the fewer the better.
            "pool_use_lifo": True,
            "json_serializer": _to_json,
            "json_deserializer": _from_json,
        }
        if not self._is_sqlite:
            # What the URL says itself (?connect_timeout=30) goes before.
            arguments = {key: value for key, value in _POSTGRES_CONNECTION.items() if key not in self._url.query}
            return sa.create_engine(self._url, pool_pre_ping=True, connect_args=arguments, **options)
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(self._url, **options)
        event.listen(engine, "connect", self._prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _prepare_sqlite(self, connection: sqlite3.Connection, _record: object) -> None:
        """Settings of a new SQLite connection."""
        connection.isolation_level = None  # we say BEGIN ourselves: the driver would say it too late
        connection.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout_s * 1000)}")
        self._switch_to_wal(connection)
        # FULL: a commit survives power loss, not only kill -9. NORMAL would lose the last commits then, and with them
        # the promise that a committed offset means a stored pseudo-label.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        # KiB, of each connection: what it has read stays with it, and four times as much made nothing faster.
        connection.execute("PRAGMA cache_size = -4096")

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """Two processes that open a new file together race for this switch, and SQLite does not wait in it."""
        _WAL_SWITCH.call_blocking(
            lambda: connection.execute("PRAGMA journal_mode = WAL"),
            retry_on=lambda error: isinstance(error, sqlite3.OperationalError) and "locked" in str(error),
            patience_s=self._busy_timeout_s,
        )


class _Texts(sa.types.TypeDecorator[Sequence[str]]):
    """Many texts as one parameter: an array, or JSON where there are none."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else postgresql.ARRAY(sa.Text()))

    def process_bind_param(self, value: Sequence[str] | None, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return None if value is None else list(value)
        # SQLite reads a text up to its first NUL; no stored text has one.
        return json.dumps([text for text in value if "\0" not in text], ensure_ascii=False)


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("semievol_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def checked_url(url: str) -> URL:
    """A URL that this can open.

    Raises:
        ConfigError: it never can; the text names the fix.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise ConfigError(f"store.url: not a database URL: {error}; write sqlite:////absolute/path.db") from error
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(f"store.url: {backend} is not supported; use sqlite:////path.db or postgresql+psycopg://...")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ConfigError(f"store.url: there is no port {parsed.port}; give one from 1 to 65535")
    if backend == "postgresql" and parsed.get_driver_name() != "psycopg":
        raise ConfigError("store.url: the driver is psycopg; write postgresql+psycopg://user@host/database")
    if backend == "postgresql" and importlib.util.find_spec("psycopg") is None:
        raise ConfigError("store.url: PostgreSQL needs the package psycopg: pip install 'semievol[postgres]'")
    if backend == "postgresql" and "password" in parsed.query:
        raise ConfigError("store.url: write the password before the @, where it is kept out of logs")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("store.url: an in-memory SQLite database loses everything; write sqlite:////path.db")
    if backend == "sqlite":  # escapes are SQLAlchemy's or not, by its version
        return parsed.set(database=unquote(url.partition(":///")[2].partition("?")[0]))
    return parsed


def file_of(url: str) -> Path | None:
    """The SQLite file of a URL; None for a server.

    Raises:
        ConfigError: the URL cannot work.
    """
    return _file_of(checked_url(url))


def _file_of(url: URL) -> Path | None:
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _lock_key(workload: str) -> int:
    """A signed 32-bit number, as advisory locks take; two workloads with one number merely wait for each other."""
    number = zlib.crc32(workload.encode())
    key = number - 2**32 if number >= 2**31 else number
    return key if key != _MIGRATION else 1


def _refusal(error: exc.DBAPIError) -> str | None:
    """The way out when the server refuses every connection with this URL; None for every other error."""
    if not isinstance(error, exc.OperationalError) or isinstance(error.orig, sqlite3.Error):
        return None
    if getattr(error.orig, "sqlstate", None) is not None:  # a statement failed, not a connection
        return None
    return next((way_out for words, way_out in _REFUSALS if re.search(words, str(error.orig))), None)


def _is_transient(error: exc.DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return any(text in str(error.orig).lower() for text in _TRANSIENT_SQLITE)
    # psycopg: lost connections, shutdown of the server, deadlocks and serialization failures
    return isinstance(error, exc.OperationalError) and not isinstance(error.orig, sqlite3.Error)


def _is_of_a_value(error: exc.DBAPIError) -> bool:
    """Whether the database refuses a value, where it would take another one in its place.

    PostgreSQL's classes 22 (data) and 54 (a limit of the server, such as the size of an index row): psycopg calls the
    latter operational, as if waiting helped.
    """
    if isinstance(error, exc.DataError):
        return True
    if isinstance(error.orig, sqlite3.Error):
        return "binding parameter" in str(error.orig).lower() or "too big" in str(error.orig)
    return str(getattr(error.orig, "sqlstate", None) or "").startswith(("22", "54"))


def _key(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


def _to_json(value: object) -> str:
    """JSON has no infinity: null, as everywhere else."""
    return pydantic_core.to_json(value, inf_nan_mode="null").decode()


def _from_json(text: str | bytes) -> Any:
    """A JSON column. What no parser reads, which an older version may have written, is an empty object."""
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        logger.warning("a JSON value of the state cannot be read, and counts as empty: %s: %.80r", error, text)
        return {}
