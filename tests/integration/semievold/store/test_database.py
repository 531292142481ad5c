import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from semievol.errors import ConfigError
from semievold.errors import SchemaError, StoreError, TransientStoreError
from semievold.store.database import _MIGRATION, Database
from semievold.store.tables import freezes, metadata, stream_offsets
from tests.stream_world import forkserver


def database(directory: Path, **options: float) -> Database:
    return Database(f"sqlite:///{directory / 'state.db'}", **options)


def offset_row(group: str, offset: int) -> dict[str, object]:
    return {"group": group, "topic": "t", "partition": 0, "next_offset": offset}


def migrate(url: str) -> None:
    mine = Database(url)
    mine.migrate()
    mine.close()


def count_up(url: str, times: int) -> None:
    mine = Database(url)
    for _ in range(times):
        with mine.write() as connection:
            now = connection.execute(sa.select(stream_offsets.c.next_offset)).scalar_one()
            connection.execute(sa.update(stream_offsets).values(next_offset=now + 1))
    mine.close()


@pytest.fixture
def db(store_url: str) -> Iterator[Database]:
    database = Database(store_url)
    database.migrate()
    yield database
    database.close()


def test_the_migrated_schema_is_the_tables(empty_url: str) -> None:
    db = Database(empty_url)
    db.migrate()
    with db.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    db.close()


def test_long_reasons_of_a_freeze_are_cut_for_the_schema_before_them(empty_url: str) -> None:
    db = Database(empty_url)
    config = Config()
    config.set_main_option("script_location", "semievold.store:migrations")
    config.set_main_option("path_separator", "os")
    with db._writing(_MIGRATION) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0018")
        connection.execute(sa.insert(freezes), {"workload": "w", "reason": "because " * 100, "at": 1.0})
        command.downgrade(config, "0017")
        assert connection.execute(sa.select(freezes.c.reason)).scalar_one() == "because " * 25
    db.close()


def test_the_migrated_indexes_have_the_conditions_of_the_tables(tmp_path: Path) -> None:
    db = database(tmp_path)
    db.migrate()
    # Autogenerate does not compare the conditions of partial indexes.
    fresh = sa.create_engine("sqlite://")
    metadata.create_all(fresh)
    query = "select name, sql from sqlite_master where type = 'index' and sql is not null order by name"
    with fresh.connect() as by_tables, db.read() as by_migrations:
        assert by_migrations.exec_driver_sql(query).all() == by_tables.exec_driver_sql(query).all()
    fresh.dispose()


def test_migrating_twice_changes_nothing(db: Database) -> None:
    with db.write() as connection:
        db.upsert(connection, stream_offsets, [offset_row("g", 1)], ["next_offset"])
    db.migrate()
    with db.read() as connection:
        assert connection.execute(sa.select(stream_offsets.c.next_offset)).scalars().all() == [1]


def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    url = empty_url.replace("/state.db", "/new/state.db")
    processes = [forkserver().Process(target=migrate, args=(url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_newer_schema_is_refused_with_the_way_out(db: Database) -> None:
    with db.write() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '9999'")
    with pytest.raises(SchemaError, match=r"9999.*newer semievol.*restore the backup"):
        db.migrate()


def test_a_failed_block_leaves_nothing(db: Database) -> None:
    with pytest.raises(RuntimeError), db.write() as connection:  # noqa: PT012 - the block is what fails
        db.upsert(connection, stream_offsets, [offset_row("g", 1)], ["next_offset"])
        raise RuntimeError
    with db.read() as connection:
        assert connection.execute(sa.select(stream_offsets)).all() == []


def test_insert_new_returns_the_rows_that_were_free(db: Database) -> None:
    rows = [offset_row(f"g{n}", n) for n in range(1500)]
    with db.write() as connection:
        assert db.insert_new(connection, stream_offsets, rows[:3], stream_offsets.c.group) == {"g0", "g1", "g2"}
        added = db.insert_new(connection, stream_offsets, rows, stream_offsets.c.group)
        assert added == {f"g{n}" for n in range(3, 1500)}
        assert db.insert_new(connection, stream_offsets, [], stream_offsets.c.group) == set()


AMONG = {"plain": "g3", "quoted": "g\"3'", "a brace": "{g3,g4}", "an escape": "g\\3\n", "far away": "géné 例 😀"}


@pytest.mark.parametrize("group", AMONG.values(), ids=AMONG)
def test_among_finds_those_that_are_named_however_many_there_are(db: Database, group: str) -> None:
    names = [group, *(f"other {n}" for n in range(5))]
    with db.write() as connection:
        db.insert_new(connection, stream_offsets, [offset_row(name, 1) for name in names], stream_offsets.c.group)
    asked = [group, names[2], *(f"missing {n}" for n in range(40_000))]
    c = stream_offsets.c
    later = sa.select(c.group).where(db.among(c.group))
    with db.read() as connection:
        now = connection.execute(sa.select(c.group).where(db.among(c.group, asked))).scalars().all()
        assert sorted(now) == sorted([group, names[2]])
        assert sorted(connection.execute(later, {"ids": asked}).scalars()) == sorted(now)
        assert connection.execute(later, {"ids": []}).scalars().all() == []


def test_among_does_not_take_a_name_for_another_that_a_nul_ends(tmp_path: Path) -> None:
    mine = database(tmp_path)
    mine.migrate()
    c = stream_offsets.c
    with mine.write() as connection:
        mine.insert_new(connection, stream_offsets, [offset_row("g", 1)], c.group)
        assert connection.execute(sa.select(c.group).where(mine.among(c.group, ["g\0x"]))).scalars().all() == []
    mine.close()


def test_threads_that_read_then_write_do_not_lose_updates(db: Database, store_url: str) -> None:
    with db.write() as connection:
        db.upsert(connection, stream_offsets, [offset_row("g", 0)], ["next_offset"])
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(count_up, store_url, 20) for _ in range(8)]:
            future.result()
    with db.read() as connection:
        assert connection.execute(sa.select(stream_offsets.c.next_offset)).scalar_one() == 160


def test_a_reader_sees_one_state_while_others_write(db: Database) -> None:
    with db.read() as reader:
        assert reader.execute(sa.select(sa.func.count()).select_from(stream_offsets)).scalar_one() == 0
        with db.write() as connection:
            db.upsert(connection, stream_offsets, [offset_row("g", 1)], ["next_offset"])
        assert reader.execute(sa.select(sa.func.count()).select_from(stream_offsets)).scalar_one() == 0


def test_a_commit_is_on_disk_before_it_returns(tmp_path: Path) -> None:
    db = database(tmp_path)
    with db.read() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("pragma synchronous").scalar() == 2


def test_a_write_lock_held_elsewhere_is_a_transient_error(tmp_path: Path) -> None:
    db = database(tmp_path, busy_timeout_s=0.1)
    db.migrate()
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransientStoreError, match="locked"), db.write():
        pass
    other.execute("ROLLBACK")
    other.close()
    with db.write():
        pass


def test_a_write_lock_held_by_another_thread_is_a_transient_error(tmp_path: Path) -> None:
    db = database(tmp_path, busy_timeout_s=0.1)
    db.migrate()
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with db.write():
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    with pytest.raises(TransientStoreError, match="no write was possible"), db.write():
        pass
    release.set()
    thread.join()


def test_a_full_disk_is_a_transient_error(tmp_path: Path) -> None:
    db = database(tmp_path)
    db.migrate()
    with pytest.raises(TransientStoreError, match="full"), db.write() as connection:  # noqa: PT012 - one transaction
        pages = connection.exec_driver_sql("pragma page_count").scalar()
        connection.exec_driver_sql(f"pragma max_page_count = {pages}")
        db.upsert(connection, stream_offsets, [offset_row("g" * 199 + str(n), n) for n in range(2000)], ["next_offset"])


def test_a_missing_table_is_no_transient_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such table"), database(tmp_path).read() as connection:
        connection.execute(sa.select(stream_offsets))


def test_a_file_that_is_no_database_is_no_transient_error(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database, but long enough to look like a file of one" * 20)
    with pytest.raises(StoreError, match="not a database"):
        database(tmp_path).migrate()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "no url at all"])
def test_a_url_that_cannot_work_is_refused_with_the_way_out(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url.*sqlite:////"):
        Database(url)


@pytest.mark.parametrize("port", [0, 99999])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=rf"store\.url: there is no port {port}"):
        Database(f"postgresql+psycopg://host:{port}/db")


def test_a_password_is_never_described() -> None:
    pytest.importorskip("psycopg")
    assert "secret" not in Database("postgresql+psycopg://user:secret@host/db").description
