"""Labels that are taken back: what is not known of them is said, in few queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from semievol.types import Example, Query
from semievold.api.retracting import retract
from semievold.store.stores import open_stores
from semievold.streams.protocol import OutgoingRecord


class Producer:
    """A StreamProducer that keeps what it is given."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []

    async def publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        self.keys += [record.key for record in records]


async def test_which_of_many_ids_no_label_has_is_said_in_few_queries(tmp_path: Path) -> None:
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    stores.examples.upsert([(Example(Query("a", "a"), "even"), False), (Example(Query("b", "b"), "even"), True)])
    ids = ["a", "b", *(f"x{n}" for n in range(1500))]
    asked: list[str] = []

    def heard(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", heard)
    producer: Any = Producer()
    try:
        report = await retract(stores, producer, "labels", ids, now=False)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", heard)
        stores.database.close()
    assert report["unknown"] == ids[2:]
    assert producer.keys == ids
    assert len(asked) < 100
