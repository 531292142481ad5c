"""The labelled examples: which are trained on and retrieved, which are held out, which the index still lacks.

Those that selection is calibrated on are held out as well, and the gate does not see them. Owns the table `examples`.
The index itself is written by `semievold.intake.labels`; this only remembers what it holds.
Invariant: an example never changes sides: once held out (or not) it stays so, or the gate would test on what was
trained on; and what asks the same as one that is stored goes to its side. What clients said decides no side: an
operator's label is placed as if they had said nothing, and what they said on the other side is moved aside.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from semievol.errors import DataError
from semievol.examples.records import query_to_json, stored_example
from semievol.examples.split import HoldoutRule, asked_key, first_to_ask
from semievol.types import Example
from semievold.store.database import Database, chunks
from semievold.store.tables import example_vectors, examples

logger = logging.getLogger(__name__)


NOBODY_HELD = HoldoutRule(0.0)
"""Holds out what is held out already, and nothing else."""
FEEDBACK = "feedback"
"""The source of what a client said; set by the gateway, never by the client."""


class StoredExample(NamedTuple):
    """An example as the store holds it; `change` is what the upsert did to it.

    `indexed`: the index holds it as it is (never true of a held-out one).
    """

    example: Example
    holdout: bool
    indexed: bool
    change: Literal["new", "changed", "same"] = "same"


class ExampleCounts(NamedTuple):
    """How many examples there are; `unindexed` of the training ones are not in the index yet.

    Of those that ask the same one counts among the `questions`. `holdout` is what the gate may see; `calibration` are
    questions of their own.
    """

    training: int
    holdout: int
    retracted: int
    unindexed: int
    training_questions: int
    holdout_questions: int
    calibration: int = 0


class ExampleStore:
    """The examples of one workload."""

    def __init__(self, database: Database, workload: str, *, feedback_trusted: bool = False) -> None:
        """`feedback_trusted`: what clients said and was held out counts among what the gate may see."""
        self._database = database
        self.workload = workload
        self._feedback_trusted = feedback_trusted

    def upsert(self, labelled: Sequence[tuple[Example, bool]]) -> list[StoredExample]:
        """Add or update (example, held out?) by example id, in one transaction; a retracted one comes back.

        The held-out flag counts for new ids alone. Changed examples are to be indexed again. Of several with one
        id the last wins; the result has one entry per id, in the order of first appearance.
        """
        last = {example.id: (example, holdout) for example, holdout in labelled}
        with self._database.write() as connection:
            known = self.rows_in(connection, list(last))
            return self.write_in(connection, list(last.values()), known)

    def keep(
        self, given: Sequence[Example], rule: HoldoutRule, only_to_train: Collection[str] = ()
    ) -> list[StoredExample]:
        """As `upsert`, with the sides of new examples chosen by `rule`, in the same transaction as all others are.

        What clients said about the same questions, and stands on the other side, is retracted with it.
        `only_to_train`: what is asked (`asked_key`) and goes to no other side, unless it has one.
        """
        last = {example.id: example for example in given}
        with self._database.write() as connection:
            known = self.rows_in(connection, list(last))
            new = [each for each in last.values() if each.id not in known or _is_operators(each, known[each.id])]
            asked = first_to_ask(new)
            chosen = {key: id_ for key, id_ in asked.items() if key in only_to_train}
            calibrated = self._calibrated(connection, asked.keys() - chosen.keys(), rule)
            calibrated |= self._calibrated(connection, chosen, NOBODY_HELD)
            asked = {key: id_ for key, id_ in asked.items() if key not in calibrated}
            sides = self.sides_in(connection, {key: id_ for key, id_ in asked.items() if key not in chosen}, rule)
            sides |= self.sides_in(connection, {key: id_ for key, id_ in asked.items() if key in chosen}, NOBODY_HELD)
            sides |= dict.fromkeys(calibrated, True)
            placed = [(each, sides.get(asked_key(each.query), False)) for each in last.values()]
            stored = self.write_in(connection, placed, known, calibrated)
            self._move_aside(connection, [each for each in stored if each.example.source != FEEDBACK])
            return stored

    def _calibrated(self, connection: Connection, asked: Iterable[str], rule: HoldoutRule) -> set[str]:
        """Those of the questions that are calibrated on: known as such, or new and chosen by the rule."""
        known: dict[str, bool] = {}
        columns = examples.c["asked", "calibration"]
        for some in chunks(list(asked)):
            statement = sa.select(*columns).where(self._mine(), _OPERATORS, examples.c.asked.in_(some))
            for row in connection.execute(statement):
                known[row.asked] = known.get(row.asked, False) or row.calibration
        return {key for key in asked if known.get(key, key not in known and rule.calibrates(key))}

    def sides_in(
        self, connection: Connection, asked: Mapping[str, str], rule: HoldoutRule, *, clients: bool = False
    ) -> dict[str, bool]:
        """{what is asked: held out?}; where an older version put copies on both sides, they count as held out.

        What clients said counts only for what `clients` say, where no operator has said anything: it decides neither
        which nor how many of the operators' labels are held out.
        """
        found: dict[str, bool] = {}
        theirs: dict[str, bool] = {}
        columns = examples.c["asked", "holdout", "source"]
        for some in chunks(list(asked)):
            statement = sa.select(*columns).where(self._mine(), examples.c.asked.in_(some))
            for row in connection.execute(statement):
                sides = theirs if row.source == FEEDBACK else found
                sides[row.asked] = sides.get(row.asked, False) or row.holdout
        known = {**theirs, **found} if clients else found
        if not rule.least or asked.keys() <= known.keys():  # then no number of questions decides anything
            return rule.sides(asked, known, 0, 0)
        operators = self._counted(connection, _OPERATORS)
        held = self._counted(connection).holdout_questions if clients else operators.holdout_questions
        return rule.sides(asked, known, operators.training_questions, held)

    def _move_aside(self, connection: Connection, placed: Sequence[StoredExample]) -> None:
        """Retract what clients said about these questions, where it stands on the other side."""
        sides = {asked_key(each.example.query): each.holdout for each in placed}
        columns = examples.c["id", "asked", "holdout"]
        for some in chunks(list(sides)):
            statement = sa.select(*columns).where(
                self._mine(), examples.c.asked.in_(some), examples.c.source == FEEDBACK, examples.c.retracted.is_(False)
            )
            rows = connection.execute(statement).all()
            self.retract_in(connection, [row.id for row in rows if row.holdout != sides[row.asked]])

    def write_in(
        self,
        connection: Connection,
        placed: Sequence[tuple[Example, bool]],
        known: Mapping[str, RowMapping],
        calibrated: Collection[str] = (),
    ) -> list[StoredExample]:
        """As `upsert`, within a transaction.

        Args:
            connection: of the transaction.
            placed: (example, held out?).
            known: the rows that the ids have (`rows_in`).
            calibrated: what those ask that are held out for calibration.
        """
        now = self._database.now()
        stored: list[StoredExample] = []
        rows: list[dict[str, Any]] = []
        for example, holdout in placed:
            old = known.get(example.id)
            row = self._row(example, holdout, now)
            row["calibration"] = row["asked"] in calibrated
            if old is not None:
                if not _is_operators(example, old):
                    row["holdout"], row["calibration"] = old["holdout"], old["calibration"]
                if not old["retracted"] and _content(old) == _content(row):
                    stored.append(stored_of(old))
                    continue
            stored.append(StoredExample(example, row["holdout"], False, "new" if old is None else "changed"))
            rows.append(row)
        update = ("query", "answer", "source", "category", "asked", "holdout", "calibration", "indexed", "retracted")
        self._database.upsert(connection, examples, rows, (*update, "updated_at"))
        return stored

    def retract(self, ids: Iterable[str]) -> None:
        """Take the examples out of training, holdout and index; unknown ids are a no-op."""
        with self._database.write() as connection:
            self.retract_in(connection, list(ids))

    def retract_in(self, connection: Connection, ids: Sequence[str]) -> None:
        """As `retract`, within a transaction."""
        values = {"retracted": True, "indexed": False, "updated_at": self._database.now()}
        for some in chunks(ids):
            connection.execute(sa.update(examples).where(self._mine(), examples.c.id.in_(some)).values(values))
            vectors = sa.delete(example_vectors).where(
                example_vectors.c.workload == self.workload, example_vectors.c.example_id.in_(some)
            )
            connection.execute(vectors)

    def get(self, example_id: str) -> StoredExample | None:
        """The example, unless it is unknown or retracted."""
        with self._database.read() as connection:
            row = self.rows_in(connection, [example_id]).get(example_id)
        if row is None or row["retracted"]:
            return None
        return stored_of(row)

    def present(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that an example has which is not retracted."""
        found: set[str] = set()
        with self._database.read() as connection:
            for some in chunks(ids):
                kept = (self._mine(), examples.c.id.in_(some), examples.c.retracted.is_(False))
                found.update(connection.execute(sa.select(examples.c.id).where(*kept)).scalars())
        return found

    def training(self, among: Sequence[str] | None = None) -> list[Example]:
        """The examples that may be trained on and retrieved; those `among` the given ids (of which few), or all."""
        chosen = sa.true() if among is None else examples.c.id.in_(among)
        return self._select(examples.c.holdout.is_(False), chosen)

    def holdout(self) -> list[Example]:
        """The examples that only the gate may see; of clients none, unless they are trusted."""
        return self._select(self._held())

    def arrived(self, since: float, *, held_out: bool = False, clients: bool = False) -> list[Example]:
        """Operators' labels that were new `since` (UTC seconds) and stand on the training side, or are held out.

        `clients`: and what clients said, where that is trusted.
        """
        by = sa.true() if clients and self._feedback_trusted else _OPERATORS
        c = examples.c
        kind = (c.holdout.is_(held_out), c.calibration.is_(False), c.created_at > since)
        return self._select(*kind, by)

    def asked(self, ids: Sequence[str]) -> dict[str, str]:
        """{id: what is asked} of those that are known, retracted ones too."""
        found: dict[str, str] = {}
        with self._database.read() as connection:
            for some in chunks(ids):
                statement = sa.select(*examples.c["id", "asked"]).where(self._mine(), examples.c.id.in_(some))
                found.update((row.id, row.asked) for row in connection.execute(statement))
        return found

    def known(self, asked: Collection[str]) -> set[str]:
        """Those of the questions (`asked_key`) to which somebody has said the answer."""
        found: set[str] = set()
        with self._database.read() as connection:
            for some in chunks(list(asked)):
                kept = (self._mine(), examples.c.asked.in_(some), examples.c.retracted.is_(False))
                found.update(connection.execute(sa.select(examples.c.asked).where(*kept)).scalars())
        return found

    def calibration(self) -> list[Example]:
        """The examples that only selection may be calibrated on."""
        return self._select(examples.c.calibration.is_(True))

    def changes(self, at: float) -> dict[str, float]:
        """{id: when it was last added, changed or retracted} of those for which that was since `at` (UTC seconds)."""
        columns = examples.c["id", "updated_at"]
        statement = sa.select(*columns).where(self._mine(), examples.c.updated_at >= at)
        with self._database.read() as connection:
            return {row.id: row.updated_at for row in connection.execute(statement)}

    def unindexed(self) -> list[Example]:
        """Training examples that the index lacks or holds in an older form."""
        return self._select(examples.c.holdout.is_(False), examples.c.indexed.is_(False))

    def mark_indexed(self, ids: Iterable[str]) -> None:
        """The index holds these examples durably."""
        with self._database.write() as connection:
            for some in chunks(list(ids)):
                connection.execute(
                    sa.update(examples).where(self._mine(), examples.c.id.in_(some)).values(indexed=True)
                )

    def counts(self) -> ExampleCounts:
        with self._database.read() as connection:
            return self._counted(connection)

    def _counted(self, connection: Connection, among: sa.ColumnElement[bool] | None = None) -> ExampleCounts:
        def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)

        def questions(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.count(sa.distinct(sa.case((condition, examples.c.asked))))

        kept, held, trained = examples.c.retracted.is_(False), self._held(), examples.c.holdout.is_(False)
        statement = sa.select(
            count(kept & trained),
            count(kept & held),
            count(examples.c.retracted.is_(True)),
            count(kept & trained & examples.c.indexed.is_(False)),
            questions(kept & trained),
            questions(kept & held),
            questions(kept & examples.c.calibration.is_(True)),
        ).where(self._mine(), sa.true() if among is None else among)
        return ExampleCounts(*(int(value) for value in connection.execute(statement).one()))

    def last_change(self) -> float | None:
        """When an example was last added, changed or retracted, UTC seconds; None when there is none."""
        statement = sa.select(sa.func.max(examples.c.updated_at)).where(self._mine())
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    def _mine(self) -> sa.ColumnElement[bool]:
        return examples.c.workload == self.workload

    def _held(self) -> sa.ColumnElement[bool]:
        held: sa.ColumnElement[bool] = examples.c.holdout.is_(True) & examples.c.calibration.is_(False)
        return held if self._feedback_trusted else held & _OPERATORS

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Example]:
        kept = (self._mine(), examples.c.retracted.is_(False), *conditions)
        statement = sa.select(examples).where(*kept).order_by(examples.c.id)
        with self._database.read() as connection:
            return list(_readable(connection.execute(statement).mappings()))

    def rows_in(self, connection: Connection, ids: Sequence[str]) -> dict[str, RowMapping]:
        """{id: row} of those that are known, retracted ones too."""
        found: dict[str, RowMapping] = {}
        for some in chunks(ids):
            statement = sa.select(examples).where(self._mine(), examples.c.id.in_(some))
            found.update((row["id"], row) for row in connection.execute(statement).mappings())
        return found

    def _row(self, example: Example, holdout: bool, now: float) -> dict[str, Any]:
        return {
            "workload": self.workload,
            "id": example.id,
            "query": _query(example),
            "answer": example.answer,
            "source": example.source,
            "category": example.query.category,
            "asked": asked_key(example.query),
            "holdout": holdout,
            "calibration": False,
            "indexed": False,
            "retracted": False,
            "created_at": now,
            "updated_at": now,
        }


_OPERATORS = examples.c.source.is_distinct_from(FEEDBACK)


def _is_operators(example: Example, old: RowMapping) -> bool:
    """Whether an operator speaks where so far a client had: the example is placed as a new one."""
    return old["source"] == FEEDBACK and example.source != FEEDBACK


def _content(row: Any) -> tuple[Any, ...]:
    return row["query"], row["answer"], row["source"]


def stored_of(row: RowMapping) -> StoredExample:
    """The example of a row, unchanged.

    Raises:
        DataError: it cannot be read; names the row.
    """
    return StoredExample(_example(row), row["holdout"], row["indexed"])


def _query(example: Example) -> dict[str, Any]:
    """The query's JSON and, in it as in a record, the other right answers: most examples have none."""
    alternatives = {"answers": list(example.alternatives)} if example.alternatives else {}
    return {**query_to_json(example.query), **alternatives}


def _readable(rows: Iterable[RowMapping]) -> Iterator[Example]:
    for row in rows:
        try:
            yield _example(row)
        except DataError as error:
            logger.warning("%s; it is left out", error)


def _example(row: RowMapping) -> Example:
    """The example of a row.

    Raises:
        DataError: it cannot be read; names the row.
    """
    try:
        return stored_example({**row["query"], "answer": row["answer"], "source": row["source"]}, row["id"])
    except (DataError, TypeError) as error:
        raise DataError(f"examples: row {row['id']!r} cannot be read: {error}") from error
