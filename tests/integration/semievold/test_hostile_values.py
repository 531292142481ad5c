"""What some parser or store chokes on, through every entry and into both databases: everywhere the same comes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.examples.json_values import fault_of
from semievol.examples.records import query_from_json, query_to_json
from semievol.tasks.task import Task
from semievol.types import Example, Query
from semievold.api.deliveries import read_delivery
from semievold.config.daemon import DaemonConfig
from semievold.config.fronts import GatewayConfig
from semievold.errors import PoisonRecord
from semievold.gateway.admission import Admission
from semievold.gateway.feedback import Feedback
from semievold.gateway.words import WaitingWords
from semievold.intake.messages import RecordParser
from semievold.intake.reading import parse_target
from semievold.monitoring.metrics import Metrics
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.requests import RequestStore
from semievold.store.tables import examples, operator_requests, pseudo_labels
from semievold.streams.protocol import OutgoingRecord, StreamRecord
from semievold.web.body_limits import limited_app
from tests.hostile_values import FIELDS, VALUES, every_record, hostile_record
from tests.servers.postgres import PostgresServer
from tests.stream_world import ListIndex, RuleLabeller, World, pseudo_label, run_until

CONFIG = DaemonConfig.model_validate(
    {
        "workload": {"name": "w"},
        "task": {"labels": ["even", "odd"]},
        "model": {"name": "m"},
    }
)
PARSER = RecordParser(Task(TaskConfig(labels=("even", "odd"))), 1_048_576)

values = (
    st.sampled_from(list(VALUES.values())) | st.binary(max_size=12) | st.text().map(lambda t: json.dumps(t).encode())
)
records = st.builds(hostile_record, st.integers(0, 10**6), st.sampled_from(FIELDS), values)


def of_topic(value: bytes) -> Query | str:
    try:
        return PARSER.query(StreamRecord("t", 0, 0, None, value, {}, 0.0))
    except PoisonRecord as poison:
        return poison.detail


def of_api(value: bytes) -> Query | str:
    delivery = read_delivery(CONFIG, "queries", value)
    if delivery.problems:
        return delivery.problems[0].detail
    assert len(delivery.records) == 1
    return of_topic(delivery.records[0].value or b"")


@settings(max_examples=300)
@given(records)
def test_a_record_has_one_outcome_at_the_topic_and_at_the_api_which_files_share(value: bytes) -> None:
    topic, api = of_topic(value), of_api(value)
    if isinstance(api, Query):
        # The API leaves the answer of a query out before it looks at it.
        assert topic == api or str(topic).startswith("answer")
        assert fault_of(query_to_json(api)) is None
        assert query_from_json(query_to_json(api)) == api
    elif isinstance(topic, Query):
        # The API reads more forms of files, and refuses what is not one of them, or may be meant in two ways.
        assert any(each in api for each in ("two ways", "expected a JSON object", "is there twice")), api
    else:
        assert topic
        assert api


@settings(max_examples=200)
@given(st.sampled_from(["start_round", "cancel_round", "promote", "rollback", "\0"]), values, values)
def test_a_request_of_an_operator_is_kept_as_it_is_or_refused(kind: str, first: bytes, second: bytes) -> None:
    from semievold.store.requests import checked

    try:
        payload = json.loads(b'{"reason": %s, "round": %s, "adapter": %s}' % (first, second, first))
    except (ValueError, RecursionError):
        return
    for some in (payload, payload["reason"], {"reason": payload["reason"]}, {"round": payload["round"]}):
        try:
            said = checked(kind, some)
        except DataError as error:
            assert str(error)  # noqa: PT017 - both ways out are right
        else:
            assert fault_of(said.model_dump()) is None


@given(st.text() | st.integers().map(str) | st.sampled_from(["9" * 30, "9" * 5000, "0001-01-01", "9999-12-31"]))
def test_a_place_for_a_group_has_64_bits_or_is_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except ConfigError as error:
        assert "--to" in str(error)  # noqa: PT017 - both ways out are right
    else:
        assert fault_of(target.value) is None


# --- both databases -------------------------------------------------------------------------------------------------


async def outcome(world: World) -> dict[str, Any]:
    """What became of each record of the two topics: its row, or the reason of its dead letter."""
    index = ListIndex()
    wanted = sum(each.end for each in world.stream.offsets("semievol.queries", "reader"))
    intake, labels = world.intake(RuleLabeller(), batch_size=64), world.labels_intake(index)
    await run_until(intake, lambda: world.committed("intake", "semievol.queries") == wanted)
    await run_until(labels, lambda: world.committed("labels", "semievol.labels") == wanted)
    letters = await world.read("semievol.dead-letter")
    places = [(each.headers["source_topic"], int(each.headers["source_offset"])) for each in letters]
    assert len(places) == len(set(places))
    with world.database.read() as connection:
        columns = pseudo_labels.c["query_id", "query", "content_hash", "answer", "offset"]
        labelled = {row.offset: tuple(row) for row in connection.execute(sa.select(*columns))}
        columns = examples.c["id", "query", "answer", "source", "category", "asked", "retracted"]
        kept = {row.id: tuple(row) for row in connection.execute(sa.select(*columns))}
    refused = {offset for topic, offset in places if topic == "semievol.queries"}
    assert sorted([*labelled, *refused]) == list(range(wanted))  # each labelled once or dead-lettered once
    assert len(kept) == wanted - sum(topic == "semievol.labels" for topic, _ in places)
    assert len(await world.predictions()) == len(labelled)
    assert "unexpected_error" not in {each.headers["reason"] for each in letters}
    assert "not_storable" not in {each.headers["reason"] for each in letters}
    said = [
        (*place, each.headers["reason"], each.headers["detail"]) for place, each in zip(places, letters, strict=True)
    ]
    return {"labelled": labelled, "examples": kept, "letters": sorted(said), "indexed": sorted(index.examples)}


async def restarted(world: World) -> None:
    """What was stored is read again by a new process."""
    total = world.labels.counts().total
    assert len(world.labels.load([row.id for row in world.labels.pool()])) == len(world.labels.pool()) <= total
    index = ListIndex()
    await run_until(world.labels_intake(index), lambda: len(index.examples) == len(world.examples.training()))


async def publish(world: World, values: Sequence[bytes]) -> None:
    for topic in ("semievol.queries", "semievol.labels"):
        await world.producer.publish(topic, [OutgoingRecord("k", value, {"h": "\0\uffff"}) for value in values])


async def test_sqlite_and_postgresql_keep_the_same_of_every_hostile_record(
    tmp_path: Path, postgres: PostgresServer, migrated: str
) -> None:
    (tmp_path / "postgres").mkdir()
    here, there = World(tmp_path), World(tmp_path / "postgres", url=postgres.create_database(migrated))
    for world in (here, there):
        await publish(world, [*every_record(), b"", b"\0", b"[]", b"null", b"{}", b"[" * 100_000])
    first, second = await outcome(here), await outcome(there)
    assert first == second
    assert len(first["labelled"]) > 200
    assert len(first["letters"]) > 500
    for world in (here, there):
        await restarted(world)
        await world.close()


async def test_feedback_is_taken_whole_or_refused_with_the_field(new_world: Any) -> None:
    world: World = new_world()
    config = GatewayConfig.model_validate({"feedback": {"trusted": True}})
    words = WaitingWords(config.feedback, "semievol.labels", world.stores, world.parser, world.producer, Metrics("w"))
    feedback = Feedback(config, "semievol.labels", words, world.stores, world.parser, world.producer, "key")
    admission = Admission(config)

    async def asked(request: Any) -> Any:
        return await feedback(await admission.read_object(request), request)

    app = limited_app(GatewayConfig(), [])
    app.router.add_post("/v1/feedback", asked)
    taken = 0
    async with TestClient(TestServer(app)) as client:
        fields = ("id", "question", "answer", "options", "source")
        for number, (field, value) in enumerate((field, value) for field in fields for value in VALUES.values()):
            body = hostile_record(number, field, value).replace(b', "metadata": {"channel": "mail"}', b"")
            with suppress(PoisonRecord):  # the query of each that is one was answered
                query = world.parser.query(StreamRecord("semievol.queries", 0, 0, None, body, {}, 0.0))
                world.labels.add([NewLabel(pseudo_label(query), query_hash(query))])
            answer = await client.post("/v1/feedback", data=body, headers={"Content-Type": "application/json"})
            assert answer.status in (202, 400, 404, 409), (field, value[:40], await answer.text())
            taken += answer.status == 202
    assert taken > 20
    index = ListIndex()
    await run_until(world.labels_intake(index), lambda: world.committed("labels", "semievol.labels") == taken)
    assert await world.dead_letters() == []  # what a client was told is taken, is


def test_requests_of_operators_are_read_back_as_they_were_left(new_world: Any) -> None:
    world: World = new_world()
    store = RequestStore(world.database, "w")
    left = 0
    for value in VALUES.values():
        try:
            store.add("start_round", {"reason": json.loads(value)})
        except (DataError, ValueError, RecursionError):
            continue
        left += 1
    assert left > 5
    with world.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(operator_requests)).scalar() == left
    assert len(store.pending()) == left


async def test_an_example_of_a_hostile_label_is_written_and_read_alike(new_world: Any) -> None:
    world: World = new_world()
    kept = []
    for value in every_record():
        try:
            label = world.parser.label(StreamRecord("t", 0, 0, None, value, {}, 0.0))
        except PoisonRecord:
            continue
        assert isinstance(label, Example)
        kept.append(label)
    unique = list({each.id: each for each in kept}.values())
    await asyncio.to_thread(world.examples.upsert, [(each, False) for each in unique])
    assert sorted(world.examples.training(), key=lambda e: e.id) == sorted(unique, key=lambda e: e.id)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_in_an_unknown_field_is_taken_or_named_by_its_path(name: str) -> None:
    said = of_topic(hostile_record(1, "more", VALUES[name]))
    if isinstance(said, str):
        assert said.startswith(("more", "record:", "byte")) or "JSON object" in said, said
