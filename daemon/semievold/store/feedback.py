"""What clients said about answers, and the one place where it is decided what becomes of it.

Owns the table `feedback`, and of the examples those whose source is feedback. Invariants: what an operator or the
labels topic said, or took back, is never changed here; a client has one answer to a question; where two clients differ,
neither's is used until an operator says what is right.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from semievol.examples.split import HoldoutRule, asked_key
from semievol.types import Example
from semievold.store.database import Database, chunks
from semievold.store.examples import FEEDBACK, NOBODY_HELD, ExampleStore, StoredExample, stored_of
from semievold.store.review.contradictions import Claim, ContradictionStore
from semievold.store.tables import examples, feedback

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a client's word; a closed set, for a metric."""

    USED = "used"  # it is an example
    CONFIRMED = "confirmed"  # what is known is said again
    DENIED = "denied"  # an answer is wrong, and nobody says that it is right: pseudo-labels with it are not trained on
    CONTRADICTED = "contradicted"  # an operator, or another client, says something else: kept apart
    WITHHELD = (
        "withheld"  # the example was taken back, or an operator's label of it is or would be held out: kept apart
    )
    SECOND = "second"  # the client has said something else before: not kept


class Word(NamedTuple):
    """An answer to a question, and whether it is said to be wrong (`against`), or right."""

    answer: str
    against: bool = False

    def contradicts(self, other: Word) -> bool:
        """Whether both cannot be true: a question has one answer."""
        if self.against and other.against:
            return False
        return (self.answer == other.answer) == (self.against != other.against)


class Said(NamedTuple):
    """The answer that a client gives to a query, or says is wrong (`against`), and who it is (a keyed hash; empty:
    unknown).
    """

    example: Example
    client: str
    against: bool = False

    @property
    def word(self) -> Word:
        return Word(self.example.answer, self.against)


class Kept(NamedTuple):
    """What became of one `Said`.

    new: it was not known before; a redelivered one is not.
    stored: the example that was made of it.
    removed: ids of examples that are none any more.
    """

    said: Said
    outcome: Outcome
    new: bool
    stored: StoredExample | None = None
    removed: tuple[str, ...] = ()


class FeedbackStore:
    """The feedback of one workload."""

    def __init__(self, database: Database, workload: str, kept: ExampleStore) -> None:
        self._database = database
        self._workload = workload
        self._examples = kept
        self._review = ContradictionStore(database, workload)

    def keep(
        self,
        given: Sequence[Said],
        rule: HoldoutRule,
        secret: str | None = None,
        only_to_train: Collection[str] = (),
    ) -> list[Kept]:
        """Decide on each in turn, all in one transaction.

        Args:
            given: in the order in which they came.
            rule: who is held out.
            secret: of the service: the key by which it is drawn; None: feedback is not trusted, and never held out; it
                is kept apart where an operator's label under its id would be.
            only_to_train: what is asked (`asked_key`) and not held out, unless it is.
        """
        with self._database.write() as connection:
            return [
                self._decided(
                    connection, said, NOBODY_HELD if asked_key(said.example.query) in only_to_train else rule, secret
                )
                for said in given
            ]

    def settle(self, truths: Sequence[Example]) -> list[str]:
        """Set aside what clients say otherwise than these labels of an operator, or about what of them is held out.

        Returns:
            The ids that are no examples now, those that `ExampleStore.keep` has moved aside among them.
        """
        wanted: dict[str, set[str]] = {}
        for each in truths:
            wanted.setdefault(asked_key(each.query), set()).update(each.answers)
        removed: list[str] = []
        aside: list[str] = []
        # Most labels are about what no client spoke of: they do not wait for the lock.
        told = self._spoken_of(list(wanted))
        if not told:
            return removed
        wanted = {asked: wanted[asked] for asked in told}
        with self._database.write() as connection:
            for some in chunks(list(wanted)):
                statement = sa.select(examples).where(examples.c.workload == self._workload, examples.c.asked.in_(some))
                rows = connection.execute(statement).mappings().all()
                held = {row["asked"] for row in rows if row["source"] != FEEDBACK and row["holdout"]}
                theirs = [row for row in rows if row["source"] == FEEDBACK]
                aside += [row["id"] for row in theirs if row["retracted"]]
                removed += [
                    row["id"]
                    for row in theirs
                    if not row["retracted"] and (row["asked"] in held or row["answer"] not in wanted[row["asked"]])
                ]
                for asked in held:
                    self._mark(connection, asked, feedback.c.outcome == Outcome.USED.value, outcome=Outcome.WITHHELD)
            self._examples.retract_in(connection, removed)
            self._review.settle_in(connection, list(wanted))
            for asked, answers in wanted.items():
                right = feedback.c.answer.in_(answers)
                against = feedback.c.against.is_(True)
                self._mark(connection, asked, (right & against) | (~right & ~against))
                self._mark(connection, asked, ~right & against, outcome=Outcome.CONFIRMED)
        return aside + removed

    def withdraw(self, ids: Sequence[str]) -> list[str]:
        """Take back those of the examples that are feedback; their ids."""
        with self._database.write() as connection:
            rows = self._examples.rows_in(connection, ids)
            removed = [key for key, row in rows.items() if row["source"] == FEEDBACK]
            self._examples.retract_in(connection, removed)
        return removed

    def of(self, query_id: str) -> list[dict[str, Any]]:
        """What was said about a query: client, answer, whether that is said to be wrong (`against`), outcome and time
        (UTC seconds), oldest first.
        """
        columns = feedback.c["client", "answer", "against", "outcome", "created_at"]
        statement = sa.select(*columns).where(self._mine(), feedback.c.query_id == query_id)
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(feedback.c.created_at, feedback.c.client)).mappings()
            return [dict(row) for row in rows]

    def words_of(self, client: str, asked: str) -> list[Word]:
        """What the client has said to a question (`asked_key`) before."""
        with self._database.read() as connection:
            return [_word(row) for row in self._said(connection, asked) if row["client"] == client]

    def givers(self) -> dict[str, str]:
        """{id of an example that feedback made: the client whose word it is}, the oldest first."""
        statement = sa.select(*feedback.c["query_id", "client"]).where(
            self._mine(), feedback.c.outcome == Outcome.USED.value
        )
        with self._database.read() as connection:
            rows = connection.execute(statement.order_by(feedback.c.created_at, feedback.c.query_id))
            return {row.query_id: row.client for row in rows}

    def open_words(self) -> dict[str, list[Word]]:
        """What clients say to questions (`asked_key`) to which no operator's answer is known."""
        return self._open_words(sa.true(), sa.true())

    def _open_words(self, said: sa.ColumnElement[bool], given: sa.ColumnElement[bool]) -> dict[str, list[Word]]:
        """`said` and `given`: conditions on the clients' words and on the operator's answers that count."""
        known = sa.exists().where(
            examples.c.workload == feedback.c.workload,
            examples.c.asked == feedback.c.asked,
            examples.c.retracted.is_(False),
            examples.c.source.is_distinct_from(FEEDBACK),
            given,
        )
        statement = sa.select(*feedback.c["asked", "answer", "against"]).where(self._mine(), said, ~known).distinct()
        found: dict[str, list[Word]] = {}
        with self._database.read() as connection:
            for row in connection.execute(statement).mappings():
                found.setdefault(row["asked"], []).append(_word(row))
        return found

    # --- the decision -------------------------------------------------------------------------------------------

    def _decided(self, connection: Connection, said: Said, rule: HoldoutRule, secret: str | None) -> Kept:
        example, asked = said.example, asked_key(said.example.query)
        before = self._said(connection, asked)
        own = [row for row in before if row["client"] == said.client]
        if any(_word(row).contradicts(said.word) for row in own):
            logger.warning("feedback of client %r on query %r is its second answer: left out", said.client, example.id)
            return Kept(said, Outcome.SECOND, False)
        of_id = self._examples.rows_in(connection, [example.id])
        again = next((row for row in own if row["query_id"] == example.id), None)
        if again is not None and _word(again) == said.word:
            return Kept(said, Outcome(again["outcome"]), False, _standing(of_id.get(example.id)))
        if again is not None and said.against:  # it has said what is right, and so that this is wrong
            return Kept(said, Outcome.CONFIRMED, False)
        outcome, stored, removed = self._placed(connection, said, asked, before, of_id.get(example.id), rule, secret)
        if again is not None:  # it said what is wrong, and says what is right now
            self._forget(connection, example.id, said.client)
        row = {
            "workload": self._workload,
            "query_id": example.id,
            "client": said.client,
            "asked": asked,
            "answer": example.answer,
            "against": said.against,
            "outcome": outcome.value,
            "created_at": self._database.now(),
        }
        new = self._database.insert_new(connection, feedback, [row], feedback.c.query_id)
        if new and outcome is Outcome.CONTRADICTED:
            self._review.note_in(connection, asked, example.query, self._claims(connection, asked))
        # One id for two questions: the client has said something to the first.
        return Kept(said, outcome if new else Outcome.SECOND, bool(new), stored if new else None, removed)

    def _placed(
        self,
        connection: Connection,
        said: Said,
        asked: str,
        before: Sequence[RowMapping],
        known: RowMapping | None,
        rule: HoldoutRule,
        secret: str | None,
    ) -> tuple[Outcome, StoredExample | None, tuple[str, ...]]:
        example = said.example
        statement = sa.select(examples).where(
            examples.c.workload == self._workload, examples.c.asked == asked, examples.c.retracted.is_(False)
        )
        rows = connection.execute(statement).mappings().all()
        if known is not None and known["asked"] != asked:
            self._tell(said, "the id is an example's that asks something else")
            return Outcome.WITHHELD, None, ()
        if said.against:
            return self._denied(connection, said, asked, before, rows)
        others = [row for row in rows if example.answer not in _answers(row)]
        differing = [row for row in before if row["client"] != said.client and _word(row).contradicts(said.word)]
        if any(row["source"] != FEEDBACK for row in others):
            self._tell(said, f"an operator says {others[0]['answer'][:100]!r}")
            return Outcome.CONTRADICTED, None, ()
        if all(row["source"] == FEEDBACK for row in rows) and (others or differing):
            self._tell(said, "another client says otherwise")
            removed = tuple(row["id"] for row in rows)
            self._examples.retract_in(connection, removed)
            self._mark(connection, asked)
            return Outcome.CONTRADICTED, None, removed
        if rows:
            return Outcome.CONFIRMED, None, ()
        if known is not None:
            self._tell(said, "the example was taken back")
            return Outcome.WITHHELD, None, ()
        if secret:  # not by the id alone, which a client may choose
            place = hashlib.blake2b(asked.encode(), key=secret.encode()[:64], digest_size=16).hexdigest()
        else:  # as an operator's label would be: it finds its question as if nobody had spoken
            place, rule = example.id, HoldoutRule(rule.share, rule.salt, calibration=rule.calibration)
        if rule.calibrates(asked):
            self._tell(said, "its question is one to calibrate on, which operators' labels alone are for")
            return Outcome.WITHHELD, None, ()
        held_out = self._examples.sides_in(connection, {asked: place}, rule, clients=True)[asked]
        if held_out and not secret:
            self._tell(said, "its question is held out")
            return Outcome.WITHHELD, None, ()
        stored = self._examples.write_in(connection, [(example, held_out)], {})
        return Outcome.USED, stored[0], ()

    def _claims(self, connection: Connection, asked: str) -> list[Claim]:
        """All that is said about a question."""
        mine = (examples.c.workload == self._workload, examples.c.asked == asked, examples.c.retracted.is_(False))
        statement = sa.select(examples).where(*mine, examples.c.source.is_distinct_from(FEEDBACK))
        labels = connection.execute(statement).mappings()
        claims = [
            Claim(answer, False, "label", {"id": row["id"], "source": row["source"]}, row["updated_at"])
            for row in labels
            for answer in _answers(row)
        ]
        return claims + [
            Claim(row["answer"], row["against"], "client", {"client": row["client"]}, row["created_at"])
            for row in self._said(connection, asked)
        ]

    def _denied(
        self,
        connection: Connection,
        said: Said,
        asked: str,
        before: Sequence[RowMapping],
        rows: Sequence[RowMapping],
    ) -> tuple[Outcome, StoredExample | None, tuple[str, ...]]:
        """As `_placed`, where a client says that an answer is wrong; `rows`: the examples of the question."""
        operators = [row for row in rows if row["source"] != FEEDBACK]
        if any(said.example.answer in _answers(row) for row in operators):
            self._tell(said, "an operator says that it is right")
            return Outcome.CONTRADICTED, None, ()
        if operators:
            return Outcome.CONFIRMED, None, ()
        removed = tuple(row["id"] for row in rows if said.example.answer in _answers(row))
        differing = [row for row in before if row["client"] != said.client and _word(row).contradicts(said.word)]
        if removed or differing:
            self._tell(said, "another client says that it is right")
            self._examples.retract_in(connection, removed)
            right = feedback.c.against.is_(False)
            self._mark(connection, asked, right, feedback.c.answer == said.example.answer)
            return Outcome.CONTRADICTED, None, removed
        return (Outcome.CONFIRMED if rows else Outcome.DENIED), None, ()

    def _tell(self, said: Said, why: str) -> None:
        logger.warning(
            "feedback of client %r on query %r says that %r is %s, and %s: kept apart",
            said.client,
            said.example.id,
            said.example.answer[:100],
            "wrong" if said.against else "right",
            why,
        )

    def _forget(self, connection: Connection, query_id: str, client: str) -> None:
        which = (feedback.c.query_id == query_id, feedback.c.client == client)
        connection.execute(sa.delete(feedback).where(self._mine(), *which))

    def _spoken_of(self, asked: Sequence[str]) -> set[str]:
        """Those questions (`asked_key`) about which the state has clients' answers."""
        found: set[str] = set()
        with self._database.read() as connection:
            for some in chunks(asked):
                for statement in (
                    sa.select(feedback.c.asked).where(self._mine(), feedback.c.asked.in_(some)),
                    sa.select(examples.c.asked).where(
                        examples.c.workload == self._workload,
                        examples.c.asked.in_(some),
                        examples.c.source == FEEDBACK,
                    ),
                ):
                    found.update(connection.execute(statement).scalars())
        return found

    def _said(self, connection: Connection, asked: str) -> Sequence[RowMapping]:
        statement = sa.select(feedback).where(self._mine(), feedback.c.asked == asked).order_by(feedback.c.created_at)
        return connection.execute(statement).mappings().all()

    def _mark(
        self,
        connection: Connection,
        asked: str,
        *which: sa.ColumnElement[bool],
        outcome: Outcome = Outcome.CONTRADICTED,
    ) -> None:
        statement = sa.update(feedback).where(self._mine(), feedback.c.asked == asked, *which)
        connection.execute(statement.values(outcome=outcome.value))

    def _mine(self) -> sa.ColumnElement[bool]:
        return feedback.c.workload == self._workload


def _word(row: RowMapping) -> Word:
    return Word(row["answer"], row["against"])


def _answers(row: RowMapping) -> tuple[str, ...]:
    """Those of an example that are right."""
    return row["answer"], *row["query"].get("answers", ())


def _standing(row: RowMapping | None) -> StoredExample | None:
    """The example of a redelivered answer: an earlier attempt may not have come to the index."""
    return None if row is None or row["retracted"] or row["source"] != FEEDBACK else stored_of(row)
