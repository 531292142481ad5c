"""Two candidates for one lease that change places by force, and a witness in the database who sees every write.

The witness is a trigger of PostgreSQL: it compares who writes (the process id that a candidate gives as its name) with
who holds the lease in the very transaction, and counts the rounds that are open.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from semievold.round_states import ENDED
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.stores import Stores, open_stores
from tests.control_world import HELD_OUT, WORKLOAD, Weights, example
from tests.scripted import pseudo_label
from tests.servers.postgres import PostgresServer

T = TypeVar("T")
LEASE_S = 1.0
PATIENCE_S = 60.0
STILL_S = 40.0
"""So long a leader stands still; longer than the server lets it be idle in a transaction."""
WITNESSED = ("rounds", "round_events", "round_members", "adapters", "aliases")
WITNESS = """
create table witnessed
    (id bigserial primary key, what text, writer text, holder text, open_rounds bigint, statement text, at timestamptz);
create function witness() returns trigger language plpgsql as $$
declare
    held text;
    still_open bigint;
begin
    select split_part(holder, '/', 2) into held from leases where role = 'control';
    select count(*) into still_open from rounds where not (state = any (string_to_array('{ended}', ',')));
    insert into witnessed (what, writer, holder, open_rounds, statement, at) values
        (tg_table_name, current_setting('application_name'), held, still_open, current_query(), clock_timestamp());
    return null;
end $$;
"""


class Seen(NamedTuple):
    """What the witness saw.

    by_others: writes of a process that does not hold the lease. withdrawn: the one that it may make, which takes its
    own count of an attempt back (`RoundStore.forget_attempt`). most_open: rounds at once.
    """

    writes: int
    writers: int
    by_others: int
    withdrawn: int
    most_open: int


class Candidates:
    """Two processes that want to lead; one of them does.

    Args:
        server: a PostgreSQL that is running.
        directory: of artifacts and logs.
        witness: whether every write is noted, in a table that grows.
    """

    def __init__(self, server: PostgresServer, directory: Path, *, witness: bool = True) -> None:
        self._url = server.create_database()
        self._directory = directory
        self.stores: Stores = open_stores(self._url, WORKLOAD, WORKLOAD)
        if witness:
            self._call_a_witness()
        self.stores.examples.upsert([(example(number), False) for number in range(10)])
        self.stores.examples.upsert([(example(number), True) for number in HELD_OUT])
        self._asked = 0
        self.held = 0
        """Changes that did not come about before the leader woke up."""
        self.processes = [self._start(), self._start()]

    def _call_a_witness(self) -> None:
        with self.stores.database.write() as connection:
            connection.exec_driver_sql(WITNESS.replace("{ended}", ",".join(state.value for state in ENDED)))
            for table in WITNESSED:
                connection.exec_driver_sql(
                    f"create trigger seen after insert or update or delete on {table} "
                    "for each statement execute function witness()"
                )

    def _start(self) -> subprocess.Popen[bytes]:
        # The shell's process becomes Python's: it knows its id before the URL is written.
        command = 'exec "$0" -m tests.candidate "$1&application_name=$$" "$2" "$3"'
        with (self._directory / "candidates.log").open("ab") as log:
            return subprocess.Popen(
                [
                    "sh",
                    "-c",
                    command,
                    sys.executable,
                    f"{self._url}?connect_timeout=5",
                    str(self._directory),
                    str(LEASE_S),
                ],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parent.parent,
            )

    @property
    def log(self) -> str:
        return (self._directory / "candidates.log").read_text()

    def ask(self, count: int = 6) -> None:
        """Queries are answered, as an intake does it; no process of these writes that."""
        said = []
        for number in range(self._asked, self._asked + count):
            question = f"is {number} even?"
            label = pseudo_label(f"q{number}", question, Weights(8, 0.2).answer(question), 0.2, "now")
            said.append(NewLabel(label, query_hash(label.query)))
        self._asked += count
        added = self.stores.pseudo_labels.add(said)
        self.stores.pseudo_labels.mark_published(added)

    def leader(self) -> subprocess.Popen[bytes]:
        """Who holds the lease, once somebody does."""
        return self._until(self._leader)

    def _leader(self) -> subprocess.Popen[bytes] | None:
        lease = self.stores.leases.get()
        if lease is None or lease.left_s <= 0:
            return None
        return next((each for each in self.processes if str(each.pid) == lease.holder.split("/")[1]), None)

    def change(self, kind: signal.Signals, rng: random.Random) -> float:
        """Take the lead from who has it, at some moment of a round; seconds until the other one has it.

        SIGKILL: a new candidate takes the place of the dead. SIGSTOP: it wakes up when the other one leads, or after
        STILL_S, where it kept its locks all that time (`held` counts that).
        """
        before = self.leader()
        epoch = self._epoch()
        self.ask()
        time.sleep(rng.random() * 1.5)
        began = time.monotonic()
        os.kill(before.pid, kind)
        self._until(lambda: self._epoch() > epoch or time.monotonic() - began > STILL_S or None)
        if self._epoch() <= epoch:
            self.held += 1
            assert kind == signal.SIGSTOP, self.log[-3000:]
        took = time.monotonic() - began
        if kind == signal.SIGKILL:
            before.wait()
            self.processes[self.processes.index(before)] = self._start()
        else:
            time.sleep(rng.random() * 0.5)  # the new leader writes; then both are awake
            os.kill(before.pid, signal.SIGCONT)
        return took

    def rollback(self) -> None:
        """A person goes back to the version before; refused where there is none."""
        self.stores.requests.add("rollback", {})

    def settle(self, rounds: int = 0) -> None:
        """Until there are so many rounds at least, and all have ended."""
        self._until(lambda: self._settled(rounds) or None)

    def _settled(self, rounds: int) -> bool:
        last = self.stores.rounds.all(1)
        return bool(last) and last[0].number + 1 >= rounds and last[0].ended

    def seen(self) -> Seen:
        deposed = "writer is distinct from holder"
        withdrawn = "statement like 'UPDATE rounds SET attempts=(rounds.attempts - %'"
        query = (
            f"select count(*), count(distinct writer), count(*) filter (where {deposed} and not {withdrawn}), "
            f"count(*) filter (where {deposed} and {withdrawn}), max(open_rounds) from witnessed where writer <> ''"
        )
        with self.stores.database.read() as connection:
            return Seen(*connection.exec_driver_sql(query.replace("%", "%%")).one())

    def assert_rounds_were_whole(self) -> None:
        """Each round moved along one path, no state of it twice, and what was promoted moved the alias."""
        promoted = 0
        for round_ in self.stores.rounds.all():
            path = [event["to_state"] for event in self.stores.rounds.events(round_.number)]
            assert len(path) == len(set(path)), f"round {round_.number}: {path}"
            promoted += "promoted" in path
        assert promoted <= self.stores.alias.get().generation

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.stores.database.close()

    def _epoch(self) -> int:
        lease = self.stores.leases.get()
        return 0 if lease is None else lease.epoch

    def _until(self, found: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while not (reached := found()):
            assert time.monotonic() < deadline, self.log[-3000:]
            for process in self.processes:
                assert process.poll() in (None, -signal.SIGKILL), self.log[-3000:]
            time.sleep(0.02)
        return reached
