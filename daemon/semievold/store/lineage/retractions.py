"""Labels that are taken back, and the marks on what descends from them.

Owns the columns `unclean`: on adapters and rounds the id of the label, on pseudo-labels that they had it as a
neighbour. What an unclean adapter answered is unclean by that, and not marked row by row. Invariant: label and marks go
in one transaction, so that nothing is promoted in between for want of a mark; and what was in flight meanwhile, and
has no mark, is found by its neighbours when a round judges its pool, and again when it takes its examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from semievol.errors import TransientError
from semievol.types import PseudoLabel
from semievold.store.adapters import SERVED
from semievold.store.database import Database, chunks
from semievold.store.examples import ExampleStore
from semievold.store.lineage.walk import Descendants, LineageStore, Reached
from semievold.store.tables import adapters, examples, operator_requests, pseudo_labels, rounds

PROVED = ("promoted", "settled")
"""States of rounds whose version the gate let pass and the watch did not take back."""


class RetractionStore:
    """The retractions of one workload."""

    def __init__(self, database: Database, workload: str, examples: ExampleStore, lineage: LineageStore) -> None:
        self._database = database
        self._workload = workload
        self._examples = examples
        self._lineage = lineage

    def retract(self, *example_ids: str) -> Descendants:
        """Take labels out of training, holdout and index, and mark what descends from them; what that is.

        What descends is found while others write, and caught up with under the write lock.
        """
        a, r = adapters.c, rounds.c
        with self._database.read() as connection:
            reached = self._lineage.reached(connection, example_ids)
            found = self._lineage.made_by(connection, reached)
        with self._database.write() as connection:
            self._lineage.catch_up(connection, example_ids, reached)
            self._examples.retract_in(connection, example_ids)
            for origin in sorted({*reached.adapters.values(), *reached.rounds.values()}):
                for names in chunks([name for name, of in reached.adapters.items() if of == origin]):
                    made = (a.workload == self._workload) & a.name.in_(names) & a.unclean.is_(None)
                    connection.execute(sa.update(adapters).where(made).values(unclean=origin))
                for numbers in chunks([number for number, of in reached.rounds.items() if of == origin]):
                    begun = (r.workload == self._workload) & r.number.in_(numbers) & r.unclean.is_(None)
                    connection.execute(sa.update(rounds).where(begun).values(unclean=origin))
            self._mark_shown(connection, reached)
        return replace(found, rounds=tuple(sorted(reached.rounds)), adapters=tuple(reached.adapters))

    def _mark_shown(self, connection: Connection, reached: Reached) -> None:
        """Mark the pseudo-labels that were shown such a label and are still as they were seen."""
        p = pseudo_labels.c
        for ids in chunks(sorted({query_id for query_id, _ in reached.seen})):
            mine = (p.workload == self._workload) & p.query_id.in_(ids)
            rows = connection.execute(sa.select(p.query_id, p.revision).where(mine)).all()
            as_seen = [row.query_id for row in rows if (row.query_id, row.revision) in reached.seen]
            marked = (p.workload == self._workload) & p.query_id.in_(as_seen)
            connection.execute(sa.update(pseudo_labels).where(marked).values(unclean=True))

    def unclean(self, adapter: str | None) -> str | None:
        """The label from which the adapter descends and which was taken back; None: there is none."""
        if adapter is None:
            return None
        statement = sa.select(adapters.c.unclean).where(
            adapters.c.workload == self._workload, adapters.c.name == adapter
        )
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    def taken_back_at(self, example_id: str) -> float:
        """When the label was taken back (or last written), UTC seconds; 0: it is unknown."""
        e = examples.c
        statement = sa.select(e.updated_at).where(e.workload == self._workload, e.id == example_id)
        with self._database.read() as connection:
            return float(connection.execute(statement).scalar() or 0.0)

    def last_clean(self, but: str | None = None) -> str | None:
        """The newest version that served well and descends from no label that was taken back; None: the base model.

        `but`: another one than this.
        """
        return next((name for name in self.clean_versions() if name != but), None)

    def clean_versions(self) -> list[str]:
        """The versions that served well and descend from no label that was taken back, newest first.

        One served well if its round was promoted or a person promoted it since, and nobody has left it for another as
        no good: neither the watch nor a person's `rollback`.
        """
        a, r, q = adapters.c, rounds.c, operator_requests.c
        proved = r.state.in_(PROVED) | (a.approved_at > r.updated_at)
        same_round = (r.workload == a.workload) & (r.number == a.round)
        statement = (
            sa.select(*a["name", "approved_at"])
            .select_from(adapters.join(rounds, same_round))
            .where(a.workload == self._workload, a.unclean.is_(None), a.state.in_(SERVED), proved)
            .order_by(a.round.desc())
        )
        left = sa.select(q.result).where(q.workload == self._workload, q.kind == "rollback", q.state == "done")
        with self._database.read() as connection:
            no_good = {(result or {}).get("from") for result in connection.execute(left).scalars()}
            return [
                str(row.name)
                for row in connection.execute(statement)
                if row.approved_at is not None or row.name not in no_good  # who promotes it again takes it back
            ]

    def unclean_labels(self, ids: Sequence[str]) -> set[str]:
        """Which of the pseudo-labels descend from a label that was taken back, whether they are marked or not."""
        with self._database.read() as connection:
            return unclean_in(connection, self._workload, ids)

    def clean(self, labels: Iterable[PseudoLabel]) -> list[PseudoLabel]:
        """Those that were shown no example that is taken back by now; of labels that may not be stored."""
        with self._database.read() as connection:
            retracted = retracted_in(connection, self._workload)
        return [label for label in labels if all(neighbour not in retracted for neighbour, _ in label.neighbours)]


def descends_from(label: str) -> str:
    """Why a round whose version is unclean goes no further."""
    return f"it descends from the label {label!r}, which was taken back; start another round"


def retracted_in(connection: Connection, workload: str) -> set[str]:
    """The ids of all examples that are retracted now."""
    e = examples.c
    return set(connection.execute(sa.select(e.id).where(e.workload == workload, e.retracted.is_(True))).scalars())


def unclean_in(connection: Connection, workload: str, ids: Sequence[str]) -> set[str]:
    """Those of the pseudo-labels that are marked, were made by an adapter that is, or had a retracted neighbour.

    The last because a batch that retrieved the label before it was taken back may be written afterwards.
    """
    p, a = pseudo_labels.c, adapters.c
    retracted = retracted_in(connection, workload)
    made = sa.select(a.name).where(a.workload == workload, a.unclean.is_not(None))
    names = set(connection.execute(made).scalars())
    found: set[str] = set()
    for some in chunks(ids):
        statement = sa.select(*p["query_id", "unclean", "adapter", "neighbours"]).where(
            p.workload == workload, p.query_id.in_(some)
        )
        for row in connection.execute(statement):
            shown = retracted and any(neighbour[0] in retracted for neighbour in row.neighbours or ())
            if row.unclean or row.adapter in names or shown:
                found.add(row.query_id)
    return found


def check_clean(
    connection: Connection, workload: str, taken: Iterable[str], learned: Sequence[str], snapshot: Mapping[str, object]
) -> None:
    """Refuse what a round is to be made from, where some of it was taken back while the round chose.

    Args:
        connection: of the transaction that makes it the round's: from there on a retraction marks the round.
        workload: whose round it is.
        taken: the ids of its examples.
        learned: the queries whose pseudo-labels it learns from.
        snapshot: of which `parent` is the adapter that it goes on from.

    Raises:
        TransientError: the round is to choose again.
    """
    parent = adapters.c.name == snapshot.get("parent")
    unclean = sa.select(adapters.c.unclean).where(adapters.c.workload == workload, parent)
    gone = sorted(retracted_in(connection, workload).intersection(taken))
    gone = gone or sorted(unclean_in(connection, workload, learned))
    if gone or connection.execute(unclean).scalar() is not None:
        what = repr(gone[0]) if gone else f"adapter {snapshot.get('parent')}"
        raise TransientError(f"{what}, or what it came from, was taken back while the round chose; it chooses again")
