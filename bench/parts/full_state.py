"""A state on PostgreSQL as it is after so many queries: filled by the server itself, from one label that was stored.

The template goes through the real store, so that a row has what a row has; the others differ in id, question and time.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import sqlalchemy as sa
from parts.instant_intake import LABELS, WORKLOAD, question

from semievol.examples.records import stored_query
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query
from semievold.store.database import Database
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.stores import Stores, open_stores
from semievold.store.tables import label_counts, pseudo_labels

CHUNK = 250_000
EXAMPLES = 500
SPACING_S = 0.01
ADAPTER = "bench-r0001-0123456789ab"


def name(number: int, run: str = "") -> str:
    """An id as clients have them: they come in no order."""
    return "q-" + hashlib.md5(f"{run}{number}".encode(), usedforsecurity=False).hexdigest()


def filled(url: str, rows: int) -> Stores:
    """A new state with so many published pseudo-labels, and some examples."""
    stores = open_stores(url, WORKLOAD, WORKLOAD)
    rng = random.Random(3)
    examples = [Example(Query(f"example-{n}", question(rng)), rng.choice(LABELS)) for n in range(EXAMPLES)]
    stores.examples.upsert([(each, number % 5 == 0) for number, each in enumerate(examples)])
    fill(stores, rows)
    return stores


def fill(stores: Stores, rows: int) -> None:
    candidates = tuple(CandidateAnswer("sampled", LABELS[0], LABELS[0], 0.12) for _ in range(4))
    near = tuple((f"example-{number}", 0.5) for number in range(3))
    query = Query("template", question(random.Random(4)))
    label = PseudoLabel(query, LABELS[0], 0.1, 1.0, 0.9, False, ADAPTER, near, candidates)
    stores.pseudo_labels.add([NewLabel(label, query_hash(query), "queries", 0, 0)])
    stores.pseudo_labels.mark_published(["template"])
    own = {
        "query_id": "'q-' || md5(n::text)",
        "query": "replace(t.query::text, 'template', 'q-' || md5(n::text))::json",
        "entropy": "(n % 1000) / 1000.0",
        '"offset"': "n",
        "created_at": f"t.created_at - ({rows} - n) * {SPACING_S}",
        "updated_at": f"t.created_at - ({rows} - n) * {SPACING_S}",
    }
    columns = [
        f'"{column.name}"' if column.name in ("partition", "offset") else column.name for column in pseudo_labels.c
    ]
    values = [own.get(column, f"t.{column}") for column in columns]
    insert = (
        f"insert into pseudo_labels ({', '.join(columns)}) select {', '.join(values)} "
        "from pseudo_labels t, generate_series(cast(:first as int), cast(:last as int)) n where t.query_id = 'template'"
    )
    for first in range(1, rows, CHUNK):
        with stores.database.write() as connection:
            connection.execute(sa.text(insert), {"first": first, "last": min(first + CHUNK, rows) - 1})
    with stores.database.write() as connection:
        connection.execute(sa.update(label_counts).values(labelled=rows))


def tidy(database: Database, tables: Sequence[str] = ("pseudo_labels",)) -> None:
    """What autovacuum would have done by now."""
    with database._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in tables:
            connection.exec_driver_sql(f"vacuum analyze {table}")


def check(stores: Stores, rows: int) -> None:
    """The filled state is one that the stores read."""
    assert stores.pseudo_labels.counts() == (rows, 0, 0)
    assert len(stores.pseudo_labels.pool(10)) == 10
    label = stores.pseudo_labels.get(name(1))
    assert label is not None
    assert stored_query({"id": "x", "question": label.label.query.question}, "x")
