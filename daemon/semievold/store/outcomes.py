"""What the models of a round answered to labelled examples: rows of `round_outcomes`, inside the caller's transaction.

Invariant: a model has one outcome for an example in a round, so that no label counts twice, however often it is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from semievol.examples.json_values import mended_text
from semievol.types import Outcome
from semievold.store.database import Database
from semievold.store.tables import round_outcomes, rounds

_SAID = ("expected", "answer", "correct", "entropy", "content")


@dataclass(frozen=True, slots=True)
class StoredOutcome:
    """An outcome, and the hash of the example's content that it belongs to; None: not known (before schema 0004)."""

    outcome: Outcome
    content: str | None = None


def write_outcomes(
    database: Database,
    connection: Connection,
    workload: str,
    number: int,
    by_role: Mapping[str, Sequence[StoredOutcome]],
) -> None:
    """Keep what was answered in the round; a newer answer to the same example takes the place of the older one."""
    rows = [
        {
            "workload": workload,
            "number": number,
            "role": role,
            "example_id": each.outcome.id,
            "expected": each.outcome.expected,
            "answer": None if each.outcome.answer is None else mended_text(each.outcome.answer),
            "correct": each.outcome.correct,
            "entropy": each.outcome.entropy,
            "content": each.content,
        }
        for role, found in by_role.items()
        for each in found
    ]
    database.upsert(connection, round_outcomes, rows, _SAID)


def read_outcomes(connection: Connection, workload: str, number: int) -> dict[str, dict[str, StoredOutcome]]:
    """{role: {example id: what the model in that role answered in the round}}; categories are the examples'."""
    statement = select(round_outcomes).where(round_outcomes.c.workload == workload, round_outcomes.c.number == number)
    by_role: dict[str, dict[str, StoredOutcome]] = {}
    for row in connection.execute(statement).mappings():
        outcome = Outcome(row["example_id"], row["expected"], row["answer"], row["correct"], row["entropy"])
        by_role.setdefault(row["role"], {})[outcome.id] = StoredOutcome(outcome, row["content"])
    return by_role


def outcomes_of(
    connection: Connection,
    workload: str,
    adapter: str,
    settings: str | None,
    roles: Collection[str] = ("candidate", "incumbent", "anchor"),
) -> dict[str, StoredOutcome]:
    """What `adapter` answered in one of these roles of any round, by example id; the newest counts.

    `settings`: only in rounds that were evaluated under these; None: under whichever.
    """
    r = rounds.c
    columns = select(*r["number", "adapter", "incumbent", "evaluation"])
    found: dict[str, StoredOutcome] = {}
    for row in connection.execute(columns.where(r.workload == workload).order_by(r.number)).all():
        evaluation = row.evaluation or {}
        anchor = (evaluation.get("anchor") or {}).get("adapter")
        names = {"candidate": row.adapter, "incumbent": row.incumbent, "anchor": anchor}
        mine = [role for role in roles if names[role] == adapter]
        if mine and settings in (None, evaluation.get("settings", "")):
            rows = read_outcomes(connection, workload, row.number)
            for role in mine:
                found |= rows.get(role, {})
    return found
