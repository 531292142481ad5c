"""The schema that learned what examples ask: rows of an older version get the same hash as new ones."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from semievol.examples.records import query_to_json
from semievol.examples.split import HoldoutRule, asked_key
from semievol.types import Example, Message, Query
from semievold.store.database import _MIGRATION, Database
from semievold.store.examples import ExampleStore
from semievold.store.tables import examples

QUERIES = (
    Query("plain", "  Is this\u00a0NEW?"),
    Query("options", "which?", ("Yes", "no")),
    Query("turns", "hi", None, (Message("system", "be brief"), Message("user", "hi"))),
)


def test_examples_of_an_older_schema_are_asked_for_by_content_and_stay_on_their_side(empty_url: str) -> None:
    database = Database(empty_url)
    config = Config()
    config.set_main_option("script_location", "semievold.store:migrations")
    config.set_main_option("path_separator", "os")
    insert = sa.text(
        "insert into examples (workload, id, query, answer, holdout, indexed, retracted, created_at, updated_at) "
        "values ('w', :id, :query, 'a', :holdout, :no, :no, 0, 0)"
    )
    with database._writing(_MIGRATION) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        for query in QUERIES:
            row = {"id": query.id, "query": json.dumps(query_to_json(query)), "holdout": query.id == "plain"}
            connection.execute(insert, {**row, "no": False})
    database.migrate()
    with database.read() as connection:
        stored = {row.id: row.asked for row in connection.execute(sa.select(*examples.c["id", "asked"]))}
    assert stored == {query.id: asked_key(query) for query in QUERIES}
    store = ExampleStore(database, "w")
    copies = [Example(Query(f"{query.id}2", query.question, query.options, query.messages), "a") for query in QUERIES]
    sides = {item.example.id: item.holdout for item in store.keep(copies, HoldoutRule(0.5))}
    assert sides == {"plain2": True, "options2": False, "turns2": False}
    database.close()
