"""A real PostgreSQL for tests: one cluster in a temporary directory, on a free port, stopped and killed at will.

PostgreSQL refuses to run as root; started by root it runs as the user `postgres`, which Debian's package creates.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tests.servers import free_port, unavailable

USER, PASSWORD = "semievol", "secret-of-the-tests"
WAIT_S = 30

# With both, a statement of the test waits for no disk; a process that is killed loses nothing by it.
FAST = ("-c fsync=off", "-c full_page_writes=off")


def _binaries() -> Path:
    """Where initdb and pg_ctl are; skips the test when they are nowhere."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        unavailable("PostgreSQL's server is missing: install it (Debian, Ubuntu: apt-get install postgresql)")
    return Path(on_path).resolve().parent


class PostgresServer:
    """One PostgreSQL cluster. Its databases survive `stop` and `kill`, as they would on a real machine.

    `settings`: options of the server.
    """

    def __init__(self, settings: Sequence[str] = FAST) -> None:
        self._settings = settings
        self._bin = _binaries()
        self._root = os.geteuid() == 0
        if self._root and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
            unavailable("PostgreSQL does not run as root, and there is no user postgres for it")
        # Not under pytest's directory, which only its owner may enter. Short, because a socket's path may be.
        self._directory = Path(tempfile.mkdtemp(prefix="semievol-pg-"))
        self._data = self._directory / "data"
        self._numbers = itertools.count()
        self.port = free_port()
        try:
            self._initialise()
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise

    def _initialise(self) -> None:
        password = self._directory / "password"
        password.write_text(PASSWORD)
        if self._root:
            postgres = pwd.getpwnam("postgres")
            for path in (self._directory, password):
                os.chown(path, postgres.pw_uid, postgres.pw_gid)
        self._run("initdb", "-D", str(self._data), "-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", "-N")

    def start(self) -> None:
        options = [f"-p {self.port}", f"-k {self._directory}", "-c listen_addresses=127.0.0.1", *self._settings]
        log = str(self._directory / "server.log")
        self._control("start", "-l", log, "-o", " ".join(options))

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """`fast` disconnects the clients; `immediate` dies like a crash, and the next start recovers."""
        self._control("stop", "-m", mode)

    def kill(self) -> None:
        self.stop("immediate")

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()

    @property
    def running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def close(self) -> None:
        """Stop and delete everything."""
        try:
            if self.running:
                self.kill()
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def url(self, database: str, *, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, template: str = "template1") -> str:
        """A new database, a copy of `template`; its URL."""
        name = f"test{next(self._numbers)}"
        self.execute(f'create database "{name}" template "{template}"')
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement as the superuser, outside any transaction."""
        import psycopg

        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _control(self, action: str, *options: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", str(WAIT_S), *options, action)

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._bin / program), *arguments]
        if self._root:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(
            # The server inherits standard output: a pipe would stay open for as long as it lives.
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=2 * WAIT_S,
            cwd="/",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        if done.returncode != 0:
            log = self._directory / "server.log"
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program} {' '.join(arguments)} failed with {done.returncode}\n{said}")
