"""Which replicas rest while a round trains on their GPU (training.share_gpu).

Owns the row: written by the leader, read by every process that lends replicas. It is written before a replica is put
to sleep and goes when it has woken, so that whoever leads next knows what to wake.
Invariant: a replica that is in no row is not asleep by our doing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import delete, select

from semievold.store.database import Database
from semievold.store.tables import rests

SHORTEST_S, UNKNOWN_S, LONGEST_S = 5, 30, 60
"""When a client may ask again: a training that ends early should not be found out late, nor asked for all the time."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Who rests, for which round, since when (UTC seconds)."""

    round: int
    replicas: tuple[str, ...]
    since: float
    expected_s: float | None = None
    """How long the last training took; None: there was none."""
    waking: bool = False
    """The training is over, and they are woken."""

    def said(self) -> str:
        who = ", ".join(self.replicas)
        be, rest, its = ("is", "rests", "its") if len(self.replicas) == 1 else ("are", "rest", "their")
        if self.waking:  # also one that was put to sleep by hand: of no round
            return f"{who} {be} woken: nothing trains on {its} GPU (training.share_gpu)"
        return f"{who} {rest} while round {self.round} trains on {its} GPU (training.share_gpu)"

    def ask_again_s(self, now: float) -> int:
        """When a client may ask again, seconds; `now`: UTC seconds."""
        if self.waking:
            return SHORTEST_S
        if self.expected_s is None:
            return UNKNOWN_S
        return round(min(LONGEST_S, max(SHORTEST_S, self.since + self.expected_s - now)))


class RestStore:
    """Who rests of one workload's replicas."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    @property
    def now(self) -> float:
        """UTC seconds, by the clock of the rows."""
        return self._database.now()

    def get(self) -> Rest | None:
        with self._database.read() as connection:
            row = connection.execute(select(rests).where(rests.c.workload == self._workload)).first()
        return None if row is None else Rest(row.round, tuple(row.replicas), row.since, row.expected_s, row.waking)

    def of_others(self) -> frozenset[str]:
        """Who rests for other workloads of this state."""
        with self._database.read() as connection:
            rows = connection.execute(select(rests.c.replicas).where(rests.c.workload != self._workload))
            return frozenset(name for row in rows for name in row.replicas)

    def write(self, rest: Rest) -> None:
        """These rest from now on, and no others."""
        columns = {**asdict(rest), "replicas": list(rest.replicas)}
        with self._database.write() as connection:
            self._database.upsert(connection, rests, [{"workload": self._workload, **columns}], tuple(columns))

    def clear(self) -> None:
        """Nobody rests."""
        with self._database.write() as connection:
            connection.execute(delete(rests).where(rests.c.workload == self._workload))
