"""Labels that are taken back, and the marks on what descends from them.

Owns the columns `unclean`: on adapters and rounds the id of the label, on pseudo-labels that they had it as a
neighbour. What an unclean adapter answered is unclean by that, and not marked row by row. Invariant: label and marks go
in one transaction, so that nothing is promoted in between for want of a mark.
"""

from __future__ import annotations

import sqlalchemy as sa

from semievold.store.database import Database, chunks
from semievold.store.examples import ExampleStore
from semievold.store.lineage.walk import Descendants, LineageStore
from semievold.store.tables import adapters, pseudo_labels, rounds

SERVED = ("serving", "previous", "retired")
"""States of versions that were promoted once and whose directory may be there."""


class RetractionStore:
    """The retractions of one workload."""

    def __init__(self, database: Database, workload: str, examples: ExampleStore, lineage: LineageStore) -> None:
        self._database = database
        self._workload = workload
        self._examples = examples
        self._lineage = lineage

    def retract(self, example_id: str) -> Descendants:
        """Take a label out of training, holdout and index, and mark what descends from it; what that is."""
        a, r, p = adapters.c, rounds.c, pseudo_labels.c
        with self._database.write() as connection:
            found = self._lineage.of_example_in(connection, example_id)
            self._examples.retract_in(connection, [example_id])
            for some in chunks(found.adapters):
                made = (a.workload == self._workload) & a.name.in_(some) & a.unclean.is_(None)
                connection.execute(sa.update(adapters).where(made).values(unclean=example_id))
            for numbers in chunks(found.rounds):
                begun = (r.workload == self._workload) & r.number.in_(numbers) & r.unclean.is_(None)
                connection.execute(sa.update(rounds).where(begun).values(unclean=example_id))
            shown = self._lineage.shown_in(connection, example_id)
            for ids in chunks(sorted({query_id for query_id, _ in shown})):
                mine = (p.workload == self._workload) & p.query_id.in_(ids)
                rows = connection.execute(sa.select(p.query_id, p.revision).where(mine)).all()
                seen = [row.query_id for row in rows if (row.query_id, row.revision) in shown]  # as they are now
                marked = (p.workload == self._workload) & p.query_id.in_(seen)
                connection.execute(sa.update(pseudo_labels).where(marked).values(unclean=True))
        return found

    def unclean(self, adapter: str | None) -> str | None:
        """The label from which the adapter descends and which was taken back; None: there is none."""
        if adapter is None:
            return None
        statement = sa.select(adapters.c.unclean).where(
            adapters.c.workload == self._workload, adapters.c.name == adapter
        )
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    def last_clean(self) -> str | None:
        """The newest version that served and descends from no label that was taken back; None: the base model."""
        a = adapters.c
        statement = (
            sa.select(a.name)
            .where(a.workload == self._workload, a.unclean.is_(None), a.state.in_(SERVED))
            .order_by(a.round.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    def unclean_labels(self) -> set[str]:
        """The ids of pseudo-labels that had seen such a label, or were made by an adapter that descends from one."""
        p, a = pseudo_labels.c, adapters.c
        names = sa.select(a.name).where(a.workload == self._workload, a.unclean.is_not(None))
        statement = sa.select(p.query_id).where(
            p.workload == self._workload, p.unclean.is_(True) | p.adapter.in_(names)
        )
        with self._database.read() as connection:
            return set(connection.execute(statement).scalars())
