"""What a person says of an item becomes one label, closes the item, and can be taken back; by the API and without."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core
import pytest

from semievol.errors import TransientError
from semievold.errors import StateConflict
from semievold.intake.messages import CLIENT_HEADER
from semievold.store.drift.events import Position
from semievold.streams.protocol import OutgoingRecord
from tests.control_world import ControlWorld, OpenWorld
from tests.reviewers import ReviewDesk

HOLD_ALL = {"holdout_share": 0.9}


async def teaching(open_world: OpenWorld, *numbers: int, **settings: Any) -> tuple[ControlWorld, ReviewDesk]:
    world = open_world(**settings)
    await world.here.take_lease()
    world.ask(numbers)
    desk = ReviewDesk(world)
    await desk.look()
    return world, desk


def stored(world: ControlWorld, query_id: str) -> Any:
    found = world.stores.examples.get(query_id)
    return None if found is None else (found.example.answer, found.example.source, found.holdout)


async def hear(
    world: ControlWorld, desk: ReviewDesk, query_id: str, question: str, answer: str, client: str | None
) -> None:
    """A client says what is right; None: an operator."""
    fields = {"id": query_id, "question": question, "answer": answer}
    source = {} if client is None else {"source": "feedback"}
    headers = {} if client is None else {CLIENT_HEADER: client}
    record = OutgoingRecord(f"{client}:{query_id}", pydantic_core.to_json({**fields, **source}), headers)
    await desk.roles.producer.publish(world.config.stream.labels, [record])
    await desk.settled()


async def test_an_answer_closes_its_item_and_becomes_a_label_that_is_never_held_out(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, *range(12), labels=HOLD_ALL)
    assert len(desk.waiting()) == 12
    for item in desk.waiting():
        given = await desk.reviewers.give(item["review"], "EVEN ", "terminal")
        assert (given["id"], given["state"], given["answer"]) == (item["id"], "given", "even")
    assert desk.waiting() == []  # also before the labels role has read it
    await desk.settled()
    assert {stored(world, f"q{number}") for number in range(12)} == {("even", "review", False)}
    assert desk.closed == 12
    await desk.look()
    assert desk.waiting() == []


async def test_labels_that_were_asked_for_say_nothing_of_how_often_the_model_is_right(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1, review={"max_teach": 1}, labels={"holdout_share": 0.0001})
    world.ask([2])
    (item,) = await desk.look()
    await desk.reviewers.give(item["review"], "odd", "terminal")
    await hear(world, desk, "q2", "is 2 even?", "even", None)
    assert {each.id for each in world.stores.examples.training()} == {"q1", "q2"}
    assert desk.joined == 1
    began = Position(1, 0.0, "", 0.0, "")
    assert [truth.query_id for truth in world.stores.drift.truths(began, world.now(), 10)] == ["q2"]


async def test_of_two_that_answer_one_item_the_first_is_heard(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1)
    (item,) = desk.waiting()
    said = [desk.reviewers.give(item["review"], answer, "api") for answer in ("odd", "even")]
    first, second = await asyncio.gather(*said, return_exceptions=True)
    kept, refused = (second, first) if isinstance(first, BaseException) else (first, second)
    assert isinstance(refused, StateConflict)
    await desk.settled()
    assert isinstance(kept, dict)
    assert stored(world, "q1") == (kept["answer"], "review", False)


async def test_an_item_is_as_it_was_where_the_stream_does_not_answer(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1)
    (item,) = desk.waiting()

    class Away:
        async def publish(self, topic: str, records: Any) -> None:
            raise TransientError("the stream is away")

    reviewers = type(desk.reviewers)(world.config, world.stores, Away())  # type: ignore[arg-type]
    with pytest.raises(TransientError):
        await reviewers.give(item["review"], "odd", "terminal")
    assert desk.waiting() == [item]


async def test_a_label_that_was_given_and_never_came_is_asked_again(open_world: OpenWorld) -> None:
    _, desk = await teaching(open_world, 1)
    (item,) = desk.waiting()
    await desk.reviewers.give(item["review"], "odd", "terminal")
    for _ in range(2):
        await desk.world.passes(301.0)
    assert await desk.look() == [item]


async def test_what_was_said_is_taken_back_before_and_after_it_was_stored(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1, 2)
    keys = {item["id"]: item["review"] for item in desk.waiting()}
    await desk.reviewers.give(keys["q1"], "odd", "terminal")
    await desk.reviewers.undo(keys["q1"])
    assert {item["id"] for item in desk.waiting()} == {"q1", "q2"}
    await desk.reviewers.give(keys["q2"], "odd", "terminal")
    await desk.settled()
    assert stored(world, "q1") is None
    assert stored(world, "q2") == ("odd", "review", False)
    await desk.reviewers.undo(keys["q2"])
    await desk.settled()
    assert stored(world, "q2") is None
    assert {item["id"] for item in desk.waiting()} == {"q1", "q2"}
    await desk.reviewers.skip(keys["q2"])
    assert {item["id"] for item in desk.waiting()} == {"q1"}
    await desk.reviewers.undo(keys["q2"])
    await desk.reviewers.give(keys["q2"], "even", "terminal")
    await desk.settled()
    assert stored(world, "q2") == ("even", "review", False)
    with pytest.raises(StateConflict, match="nothing to be undone"):
        await desk.reviewers.undo(keys["q1"])


async def test_a_label_of_the_topic_closes_an_item_whatever_its_id_and_counts_once(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1, 2, labels=HOLD_ALL)
    labels = [{"id": "mine", "question": "IS 1 even?", "answer": "odd"}, {"id": "q2", "question": "is 2 even?"}]
    labels[1]["answer"] = "even"
    publish = world.config.stream.labels, [OutgoingRecord(e["id"], pydantic_core.to_json(e)) for e in labels]
    for _ in range(2):
        await desk.roles.producer.publish(*publish)
        await desk.settled()
    assert desk.waiting() == []
    assert desk.closed == 2
    assert stored(world, "mine") == ("odd", None, False)
    item = world.stores.reviews.open()
    assert item == []


async def test_what_clients_say_closes_an_item_only_where_they_are_trusted(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1, labels={"holdout_share": 0.0001})
    await hear(world, desk, "q1", "is 1 even?", "odd", "1" * 32)
    assert stored(world, "q1") == ("odd", "feedback", False)
    assert [item["id"] for item in desk.waiting()] == ["q1"]


async def test_more_contradictions_than_are_counted_are_said_to_be_at_least_so_many(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1)
    for question in range(3):
        for number, answer in enumerate(("even", "odd"), 1):
            await hear(world, desk, f"c{question}{number}", f"is 9{question} even?", answer, str(number) * 32)
    few, all_ = desk.reviewers.waiting(counted=2), desk.reviewers.waiting(counted=3)
    assert (few["open"]["contradiction"], few["at_least"]) == (2, ["contradiction"])
    assert (all_["open"]["contradiction"], all_["at_least"]) == (3, [])


async def test_the_api_lists_takes_one_answer_and_names_what_is_wrong(open_world: OpenWorld) -> None:
    world, desk = await teaching(open_world, 1, 2)
    for number, answer in enumerate(("even", "odd"), 1):
        await hear(world, desk, f"c{number}", "is 9 even?", answer, str(number) * 32)
    async with desk.roles.api() as client:
        assert (await client.get("/v1/review", headers={"Authorization": ""})).status == 401
        seen = await (await client.get("/v1/review")).json()
        assert seen["open"] == {"gate": 0, "teach": 2, "contradiction": 1}
        assert seen["nothing"] == {"gate": "no gate waits for labels"}
        teach, other, contradiction = seen["items"]
        assert teach["answers"] == ["even", "odd"]
        assert [each["answer"] for each in contradiction["candidates"]] == ["even", "odd"]
        only = await (await client.get("/v1/review?purpose=contradiction&limit=1")).json()
        assert only["items"] == [contradiction]
        for path in ("?purpose=all", "?limit=0", "?limit=501", "?limit=x"):
            assert (await client.get(f"/v1/review{path}")).status == 400

        async def say(item: Any, body: Any) -> tuple[int, str]:
            answer = await client.post(f"/v1/review/{item['review']}", json=body)
            told = await answer.json()
            return answer.status, told["error"]["message"] if "error" in told else told["state"]

        for body, words in (
            ({}, "send one of answer, skip, undo"),
            ({"answer": "odd", "skip": True}, "send one of"),
            ({"anwser": "odd"}, "'anwser': unknown"),
            ({"answer": "blue"}, "'blue'"),
            ({"answer": ["odd"]}, "'answer'"),
            ({"skip": "yes"}, "expected true"),
        ):
            status, message = await say(teach, body)
            assert status == 400
            assert words in message
        assert await say(teach, {"answer": "odd"}) == (200, "given")
        assert (await say(teach, {"answer": "even"}))[0] == 409
        assert await say(teach, {"undo": True}) == (200, "open")
        assert await say(other, {"skip": True}) == (200, "skipped")
        assert (await say(contradiction, {"skip": True}))[0] == 409
        assert await say(contradiction, {"answer": "odd"}) == (200, "given")
        assert (await (await client.get("/v1/review?purpose=contradiction")).json())["items"] == []
        assert (await say({"review": "0" * 32}, {"skip": True}))[0] == 404
        assert (await client.post("/v1/review/x", json={})).status == 404
    await desk.settled()
    assert stored(world, "c2")[:2] == ("odd", "review")
    assert world.stores.contradictions.open() == 0
