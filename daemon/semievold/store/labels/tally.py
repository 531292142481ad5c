"""What is asked of all pseudo-labels at every look, kept beside them: how many, and how far the stream was read.

Owns the tables `label_counts` and `label_positions`. Invariant: they move in the transaction that moves the rows, so
that they say what a count of all rows would, at the cost of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from semievold.store.database import Database
from semievold.store.tables import label_counts, label_positions


class Tally(NamedTuple):
    """labelled: queries so far; deleted: labels of these that retention has deleted; unparsed: labels that are there,
    without an answer.
    """

    labelled: int = 0
    deleted: int = 0
    unparsed: int = 0

    @property
    def stored(self) -> int:
        """Pseudo-labels that are there."""
        return self.labelled - self.deleted


class LabelTally:
    """The counts of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._workload = workload
        # Built once: the intake runs them for every batch.
        count, place = database.insert(label_counts), database.insert(label_positions)
        c, new = label_counts.c, count.excluded
        sums = {name: c[name] + new[name] for name in Tally._fields}
        self._add_up = count.on_conflict_do_update(index_elements=["workload"], set_=sums)
        further = sa.case((place.excluded.offset > label_positions.c.offset, place.excluded.offset))
        self._move = place.on_conflict_do_update(
            index_elements=["workload", "topic", "partition"],
            set_={"offset": sa.func.coalesce(further, label_positions.c.offset)},
        )
        mine = sa.select(*c["labelled", "deleted", "unparsed"]).where(c.workload == workload)
        self._read = mine

    def read(self, connection: Connection) -> Tally:
        row = connection.execute(self._read).first()
        return Tally() if row is None else Tally(*row)

    def add(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """These rows of `pseudo_labels` were inserted, within a transaction."""
        labelled = unparsed = 0
        positions: dict[tuple[str, int], int] = {}
        for row in rows:
            labelled += 1
            unparsed += row["answer"] is None
            if row["topic"] is not None and row["partition"] is not None and row["offset"] is not None:
                place = row["topic"], row["partition"]
                positions[place] = max(row["offset"], positions.get(place, row["offset"]))
        if labelled:
            self._sum(connection, Tally(labelled, 0, unparsed))
        if positions:
            places = [
                {"workload": self._workload, "topic": topic, "partition": partition, "offset": offset}
                for (topic, partition), offset in positions.items()
            ]
            connection.execute(self._move, places)

    def replace(self, connection: Connection, parsed: int) -> None:
        """So many more labels have an answer than before (fewer, below zero), within a transaction."""
        if parsed:
            self._sum(connection, Tally(0, 0, -parsed))

    def delete(self, connection: Connection, labels: int, unparsed: int) -> None:
        """So many labels were deleted, some of them without an answer, within a transaction."""
        if labels:
            self._sum(connection, Tally(0, labels, -unparsed))

    def offsets(self, connection: Connection) -> dict[str, dict[str, int]]:
        """{topic: {partition: highest offset that got a label}}; partitions as text, for JSON."""
        c = label_positions.c
        found: dict[str, dict[str, int]] = {}
        places = sa.select(*c["topic", "partition", "offset"]).where(c.workload == self._workload)
        for topic, partition, offset in connection.execute(places.order_by(c.topic, c.partition)):
            found.setdefault(topic, {})[str(partition)] = offset
        return found

    def _sum(self, connection: Connection, change: Tally) -> None:
        connection.execute(self._add_up, {"workload": self._workload, **change._asdict()})
