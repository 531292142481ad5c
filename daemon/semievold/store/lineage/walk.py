"""What was made from what: labels, pseudo-labels (each revision for itself), rounds and adapters, in both directions.

Owns the table `round_examples`, and the walk over all edges: a pseudo-label descends from its neighbours and from the
adapter that answered; a round from its examples, from the pseudo-labels that it selected, where there was a consensus
from its whole pool, and from the adapter that it went on from; an adapter from its round. Reads alone but for those
rows. Invariant: what was recorded before schema 0011, which kept less, counts as descending where it may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from semievold.round_states import RoundState
from semievold.store.database import Database, chunks
from semievold.store.tables import (
    adapters,
    examples,
    pseudo_label_history,
    pseudo_labels,
    round_examples,
    round_members,
    rounds,
)

Role = Literal["training", "calibration"]
Revision = tuple[str, int]
"""A pseudo-label as it was: query id and revision, from 1."""
_TABLES = (pseudo_labels, pseudo_label_history)
_SPELLINGS = 100
"""With more than so many texts to look for, rows are compared here and not by the database."""


@dataclass(frozen=True, slots=True)
class Descendants:
    """Everything that was made from something, the rounds in order; pseudo-labels also as they were earlier."""

    pseudo_labels: frozenset[Revision] = frozenset()
    rounds: tuple[int, ...] = ()
    adapters: tuple[str, ...] = ()


@dataclass(slots=True)
class Reached:
    """How far a walk has come: each thing with one of the origins from which it descends.

    seen: the pseudo-labels that it began from.
    known: the rounds as they were when the walk looked at them, by number.
    """

    seen: dict[Revision, str] = field(default_factory=dict)
    rounds: dict[int, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    known: dict[int, tuple[str, float]] = field(default_factory=dict)


def write_round_examples(connection: Connection, workload: str, number: int, taken: Mapping[str, Role]) -> None:
    """Remember which labelled examples a round was made from; inside the caller's transaction."""
    rows = [{"workload": workload, "number": number, "example_id": id_, "role": role} for id_, role in taken.items()]
    if rows:
        connection.execute(sa.insert(round_examples), rows)


class LineageStore:
    """The lineage of one workload."""

    def __init__(self, database: Database, workload: str) -> None:
        self._database = database
        self._workload = workload

    def of_example(self, example_id: str) -> Descendants:
        """What descends from a labelled example; nothing does from an unknown one."""
        with self._database.read() as connection:
            return self.made_by(connection, self.reached(connection, [example_id]))

    def taught(self, example_id: str) -> bool:
        """Whether a round has learned from a labelled example, or was calibrated on it; along an index.

        What was shown it taught no other rounds than these: a round takes its examples last, all that there are.
        """
        with self._database.read() as connection:
            return bool(self._taught(connection, [example_id]))

    def of_adapter(self, name: str) -> Descendants:
        """What descends from an adapter, itself left out."""
        with self._database.read() as connection:
            reached = Reached(adapters={name: name})
            self._go_on(connection, reached, {})
            found = self.made_by(connection, reached)
        return Descendants(found.pseudo_labels, found.rounds, tuple(each for each in found.adapters if each != name))

    def of_pseudo_label(self, query_id: str) -> Descendants:
        """What descends from any revision of a pseudo-label, its own revisions left out."""
        with self._database.read() as connection:
            own: dict[Revision, str] = {}
            for table in _TABLES:
                mine = (table.c.workload == self._workload) & (table.c.query_id == query_id)
                revisions = connection.execute(sa.select(table.c.revision).where(mine)).scalars()
                own |= {(query_id, revision): query_id for revision in revisions}
            reached = Reached(seen=dict(own))
            self._go_on(connection, reached, {})
            found = self.made_by(connection, reached)
        return Descendants(found.pseudo_labels - own.keys(), found.rounds, found.adapters)

    def examples_of(self, number: int) -> dict[str, Role]:
        """{example id: what for} of a round; empty for one before schema 0011."""
        statement = sa.select(*round_examples.c["example_id", "role"]).where(
            round_examples.c.workload == self._workload, round_examples.c.number == number
        )
        with self._database.read() as connection:
            return {row.example_id: row.role for row in connection.execute(statement.order_by("example_id"))}

    def learned(self, number: int, most: int | None = None) -> list[dict[str, Any]]:
        """The pseudo-labels that a round selected, the first `most` by their query's id: query id, revision, depth,
        answer, and the adapter that answered.
        """
        m = round_members.c
        mine = (m.workload == self._workload) & (m.number == number) & m.selected.is_(True)
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(*m["query_id", "revision", "depth", "answer"]).where(mine).order_by(m.query_id).limit(most)
            ).mappings()
            found = [dict(row) for row in rows]
            by: dict[Revision, str | None] = {}
            for some in chunks([row["query_id"] for row in found]):
                for table in _TABLES:
                    which = (table.c.workload == self._workload) & table.c.query_id.in_(some)
                    columns = table.c["query_id", "revision", "adapter"]
                    by |= {(row[0], row[1]): row[2] for row in connection.execute(sa.select(*columns).where(which))}
        return [{**row, "labelled_by": by.get((row["query_id"], row["revision"]))} for row in found]

    def quarantined(self) -> dict[str, set[str | None]]:
        """{query id: the answers that it had} of the pseudo-labels that rounds learned which were rolled back; as long
        as the state knows what was in those rounds.
        """
        return self._quarantined(sa.true())

    def _quarantined(self, among: sa.ColumnElement[bool]) -> dict[str, set[str | None]]:
        """`among`: a condition on `rounds`."""
        r, m = rounds.c, round_members.c
        statement = (
            sa.select(m.query_id, m.answer)
            .join(rounds, (r.workload == m.workload) & (r.number == m.number))
            .where(m.workload == self._workload, r.state == RoundState.ROLLED_BACK.value, m.selected.is_(True), among)
        )
        found: dict[str, set[str | None]] = {}
        with self._database.read() as connection:
            for row in connection.execute(statement):
                found.setdefault(row.query_id, set()).add(row.answer)
        return found

    def depths(self) -> dict[str | None, int]:
        """{adapter: how many self-trainings lie one on another in it}; the base model and warm adapters have 0."""
        statement = sa.select(*rounds.c["adapter", "snapshot"]).where(
            rounds.c.workload == self._workload, rounds.c.adapter.is_not(None)
        )
        with self._database.read() as connection:
            return {row.adapter: int((row.snapshot or {}).get("depth") or 0) for row in connection.execute(statement)}

    # --- the walk -----------------------------------------------------------------------------------------------

    def reached(self, connection: Connection, example_ids: Sequence[str]) -> Reached:
        """All rounds and adapters that descend from any of the examples, and the pseudo-labels that were shown one."""
        found = Reached(seen=self._shown(connection, example_ids))
        self._go_on(connection, found, self._taught(connection, example_ids))
        return found

    def catch_up(self, connection: Connection, example_ids: Sequence[str], reached: Reached) -> None:
        """Look again at the rounds that have moved since, and at them alone: short, for a transaction that writes.

        A pseudo-label that was written since is not looked for: it shows its neighbours to every round that judges it.
        """
        self._go_on(connection, reached, self._taught(connection, example_ids))

    def made_by(self, connection: Connection, reached: Reached) -> Descendants:
        """The walk's end: with what the adapters answered. Looks through both tables of pseudo-labels."""
        found = set(reached.seen)
        for some in chunks(sorted(reached.adapters)):
            for table in _TABLES:
                statement = sa.select(*table.c["query_id", "revision"]).where(
                    table.c.workload == self._workload, table.c.adapter.in_(some)
                )
                found.update((row[0], row[1]) for row in connection.execute(statement))
        return Descendants(frozenset(found), tuple(sorted(reached.rounds)), tuple(reached.adapters))

    def _shown(self, connection: Connection, example_ids: Sequence[str]) -> dict[Revision, str]:
        """The revisions of pseudo-labels that had one of the examples as a neighbour, with it."""
        found: dict[Revision, str] = {}
        wanted = frozenset(example_ids)
        spelled = {json.dumps(each, ensure_ascii=ascii_) for each in wanted for ascii_ in (True, False)}
        find = sa.func.instr if self._database.file is not None else sa.func.strpos
        for table in _TABLES:
            text = sa.cast(table.c.neighbours, sa.Text)
            named = [find(text, each) > 0 for each in spelled] if len(spelled) <= _SPELLINGS else [sa.true()]
            statement = sa.select(*table.c["query_id", "revision", "neighbours"]).where(
                table.c.workload == self._workload, sa.or_(*named)
            )
            for row in connection.execute(statement):
                origin = next((each[0] for each in row.neighbours or () if each[0] in wanted), None)
                if origin is not None:
                    found[row.query_id, row.revision] = origin
        return found

    def _taught(self, connection: Connection, example_ids: Sequence[str]) -> dict[int, str]:
        """The rounds that had one of the examples in their mix, or were calibrated on it, with it."""
        e, r = round_examples.c, rounds.c
        mine = e.workload == self._workload
        found: dict[int, str] = {}
        arrived: dict[str, float] = {}
        for some in chunks(example_ids):
            given = sa.select(e.number, e.example_id).where(mine, e.example_id.in_(some))
            found |= {row.number: row.example_id for row in connection.execute(given)}
            came = sa.select(*examples.c["id", "created_at"]).where(
                examples.c.workload == self._workload, examples.c.id.in_(some), examples.c.holdout.is_(False)
            )
            arrived |= {row.id: row.created_at for row in connection.execute(came)}
        if not arrived:
            return found
        # Examples are in every round's mix: of those that did not say so, in each later one's.
        first = min(arrived, key=lambda key: arrived[key])
        said = sa.exists().where(e.workload == r.workload, e.number == r.number)
        later = sa.select(r.number).where(
            r.workload == self._workload, r.snapshot.is_not(None), r.updated_at >= arrived[first], ~said
        )
        return dict.fromkeys(connection.execute(later).scalars(), first) | found

    def _go_on(self, connection: Connection, reached: Reached, taught: Mapping[int, str]) -> None:
        """Rounds in their order: each is made from what was there before it. One that stands as it was is passed."""
        a, r = adapters.c, rounds.c
        made = {
            row.round: row
            for row in connection.execute(sa.select(*a["name", "round", "parent"]).where(a.workload == self._workload))
        }
        stand = sa.select(*r["number", "state", "updated_at"]).where(r.workload == self._workload).order_by(r.number)
        for number, state, updated_at in connection.execute(stand).all():
            if reached.known.get(number) == (state, updated_at):
                continue
            reached.known[number] = (state, updated_at)
            version = made.get(number)
            origin = reached.rounds.get(number) or taught.get(number)
            if origin is None and version is not None:
                origin = reached.adapters.get(version.parent)
            if origin is None:
                origin = self._learned_from(connection, number, reached.seen, reached.adapters)
            if origin is not None:
                reached.rounds[number] = origin
                if version is not None:
                    reached.adapters[version.name] = origin

    def _learned_from(
        self, connection: Connection, number: int, seen: Mapping[Revision, str], unclean: Mapping[str, str]
    ) -> str | None:
        """The origin of one of these revisions, or of one that these adapters made, that a round learned from."""
        m = round_members.c
        # The consensus hears the whole pool: each answer in it has helped to place the centres.
        heard = m.selected.is_(True) | m.consensus.is_not(None)
        mine = (m.workload == self._workload) & (m.number == number) & heard
        names = sorted(unclean)
        for table in _TABLES if names else ():
            same = (table.c.workload == m.workload) & (table.c.query_id == m.query_id)
            revision = m.revision.is_(None) | (table.c.revision == m.revision)
            joined = sa.select(table.c.adapter).select_from(round_members.join(table, same & revision))
            for some in chunks(names):
                by = connection.execute(joined.where(mine, table.c.adapter.in_(some)).limit(1)).scalar()
                if by is not None:
                    return unclean[by]
        origins = {query_id: origin for (query_id, _), origin in seen.items()}
        for some in chunks(sorted(origins)):
            statement = sa.select(*m["query_id", "revision"]).where(mine, m.query_id.in_(some))
            for row in connection.execute(statement):
                if row.revision is None:
                    return origins[row.query_id]
                if (row.query_id, row.revision) in seen:
                    return seen[row.query_id, row.revision]
        return None
