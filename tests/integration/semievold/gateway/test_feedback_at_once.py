"""Feedback by the id of an answer, right after it: it waits in the state, is joined once, and never lost in silence."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import make_mocked_request

from semievol.types import Query
from semievold.config.fronts import CaptureConfig, FeedbackConfig, GatewayConfig
from semievold.gateway.capture import Capture
from semievold.gateway.clients import client_of
from semievold.gateway.feedback import Feedback
from semievold.gateway.front import FEEDBACK_PATH
from semievold.gateway.words import WaitingWords
from semievold.monitoring.metrics import Metrics
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.tables import pseudo_labels
from semievold.web.tokens import HOLDER
from tests.openai_double import Double
from tests.openai_double import front as gateway
from tests.stream_world import ListIndex, RuleLabeller, World, pseudo_label, run_until

QUESTION = "is seven even?"


class Place:
    """One gateway's capture and feedback over a state that others may use too."""

    def __init__(self, world: World, share: float = 1.0, **feedback: Any) -> None:
        self.world = world
        config = GatewayConfig(capture=CaptureConfig(share=share), feedback=FeedbackConfig(**feedback))
        self.metrics = Metrics("w")
        producer, parser, stores = world.producer, world.parser, world.stores
        topics, state = world.topics, stores.captured
        self.capture = Capture(
            config.capture, topics.queries, None, parser, producer, self.metrics, state=state, secret="secret"
        )
        self.words = WaitingWords(config.feedback, topics.labels, stores, parser, producer, self.metrics)
        self.route = Feedback(config, topics.labels, self.words, stores, parser, producer, "secret", self.capture)

    async def asked(self, client: str, question: str, query_id: str, text: str | None = "Odd.") -> None:
        """A chat request of the client that the gateway has answered, and the intake does not know of."""
        drawn = self.capture.drawn({"messages": [{"role": "user", "content": question}]}, self.name(client))
        assert drawn is not None
        assert self.capture.offer(drawn, {}, query_id, "v1") == query_id
        self.capture.answered(query_id, text)
        await self.flush()

    async def flush(self) -> None:
        stop = asyncio.Event()
        stop.set()
        await self.capture.run(stop)

    async def says(self, client: str = "app", **body: Any) -> tuple[int, Any]:
        return _read(await self.route(body, self._request(client)))

    async def stands(self, query_id: str, client: str = "app") -> tuple[int, Any]:
        return _read(await self.route.standing(self._request(client, f"?id={query_id}")))

    def name(self, client: str) -> str:
        return client_of(self._request(client), b"secret")

    def counted(self, standing: str) -> int:
        return int(self.metrics.feedback_standing.labels("w", standing)._value.get())

    def _request(self, client: str, query: str = "") -> Any:
        request = make_mocked_request("POST", FEEDBACK_PATH + query)
        request[HOLDER] = client
        return request


def _read(response: Any) -> tuple[int, Any]:
    return response.status, json.loads(response.body)


async def intake(world: World) -> None:
    """Have the intake answer all queries."""
    role = world.intake(RuleLabeller())
    end = sum(each.end for each in world.stream.offsets(world.topics.queries, "reader"))
    await run_until(role, lambda: world.committed("intake", world.topics.queries) == end)


async def labels(world: World) -> Any:
    """Have the labels role read all there is; its counters."""
    role = world.labels_intake(ListIndex(), holdout_share=0.0001)
    end = sum(each.end for each in world.stream.offsets(world.topics.labels, "reader"))
    await run_until(role, lambda: world.committed("labels", world.topics.labels) == end and role.counters.received)
    return role.counters


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same gateway", "another gateway"])
async def test_feedback_waits_for_the_intake_and_is_joined_once(new_world: Any, elsewhere: bool) -> None:
    world: World = new_world()
    first = Place(world)
    await first.asked("app", QUESTION, "chatcmpl-1")
    here = Place(world) if elsewhere else first
    said = {"id": "chatcmpl-1", "answer": " ODD "}
    assert await here.says(**said) == (202, {"id": "chatcmpl-1", "answer": "odd", "status": "pending"})
    assert await here.says(**said) == (202, {"id": "chatcmpl-1", "answer": "odd", "status": "pending"})
    assert (await here.stands("chatcmpl-1"))[1]["status"] == "pending"
    assert (await here.stands("chatcmpl-1", "another"))[0] == 404
    assert await here.words.join() == 0
    await intake(world)
    assert [await each.words.join() for each in (here, first)] == [1, 0]
    assert (await here.stands("chatcmpl-1"))[1]["status"] == "joined"
    counters = await labels(world)
    assert counters.feedback == {"used": 1}
    assert await here.stands("chatcmpl-1") == (
        200,
        {"id": "chatcmpl-1", "answer": "odd", "status": "joined", "outcome": "used"},
    )
    (example,) = world.examples.training()
    assert (example.id, example.query.question, example.answer, example.source) == (
        "chatcmpl-1",
        QUESTION,
        "odd",
        "feedback",
    )
    assert await here.says(**said) == (202, {"id": "chatcmpl-1", "answer": "odd", "status": "joined"})
    assert await here.words.join() == 0


async def test_the_same_messages_may_be_sent_along_and_others_are_refused(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world)
    await here.asked("app", QUESTION, "a")
    turns = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    for more in ({"messages": turns}, {"question": QUESTION}, {"messages": [{"role": "user", "content": QUESTION}]}):
        assert (await here.says(id="a", answer="odd", **more))[0] == 202
    for more in ({"question": "is eight even?"}, {"messages": [*turns, {"role": "assistant", "content": "x"}, *turns]}):
        status, said = await here.says(id="a", answer="odd", **more)
        assert (status, said["error"]["code"]) == (409, "duplicate_id")


async def test_what_cannot_wait_is_refused_at_once(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world)
    await here.asked("app", QUESTION, "a", text="odd or even, who knows")
    for body, status, code in (
        ({"answer": "prime"}, 400, "answer_not_allowed"),
        ({"thumb": "sideways"}, 400, "invalid_request"),
        ({"thumb": ["up"]}, 400, "invalid_request"),
        ({"thumb": "up", "answer": "odd"}, 400, "invalid_request"),
        ({}, 400, "missing_field"),
        ({"id": None, "answer": "odd"}, 400, "invalid_field"),
        ({"id": ["a"], "answer": "odd"}, 400, "invalid_field"),
        ({"thumb": "up"}, 409, "no_answer"),
    ):
        got, said = await here.says(**{"id": "a", **body})
        assert (got, said["error"]["code"]) == (status, code), body
    assert world.stores.waiting.count() == 0


@pytest.mark.parametrize(
    ("share", "says"), [(0.0, "gateway.capture.share is 0"), (1e-9, "not drawn"), (1.0, "too_long")]
)
async def test_the_error_says_why_nothing_was_captured(new_world: Any, share: float, says: str) -> None:
    world: World = new_world()
    here = Place(world, share)
    async with gateway([Double("one")], capture=here.capture if share else None, feedback=here.route) as gate:
        question = "x" * 9_000 if share == 1 else QUESTION
        answer = await gate.ask(messages=[{"role": "user", "content": question}])
        body = {"id": (await answer.json())["id"], "answer": "odd"}
        refused = await gate.session.post(gate.url + FEEDBACK_PATH, json=body)
        assert refused.status == 404
        assert says in (await refused.json())["error"]["message"]
        unknown = await gate.session.get(gate.url + FEEDBACK_PATH, params={"id": body["id"]})
        assert unknown.status == 404


async def test_as_much_waits_as_may_and_one_client_takes_no_others_place(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world, max_waiting=20)
    for number in range(6):
        await here.asked("loud", f"is {number} even?", f"q{number}")
    statuses = [(await here.says("loud", id=f"q{number}", answer="odd"))[0] for number in range(6)]
    assert statuses == [202, 202, 429, 429, 429, 429]
    assert (await here.says("quiet", id="q5", answer="odd"))[0] == 202
    assert (await here.says("loud", id="q1", answer="odd"))[0] == 202  # what waits may be said again
    here = Place(world, max_waiting=3)
    assert (await here.says("third", id="q5", answer="odd"))[0] == 429
    assert world.stores.waiting.count() == 3


async def test_what_waits_too_long_is_told_as_expired(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world, wait_s=100.0)
    await here.asked("app", QUESTION, "a")
    await here.says(id="a", answer="odd")
    now = world.database.now()
    world.database.now = lambda: now + 50  # type: ignore[method-assign]
    await here.words.tidy()
    assert (await here.stands("a"))[1]["status"] == "pending"
    world.database.now = lambda: now + 101  # type: ignore[method-assign]
    await here.words.tidy()
    assert (await here.stands("a"))[1]["status"] == "expired"
    assert here.counted("expired") == 1
    assert world.stores.captured.get("a") is None
    await intake(world)  # it comes after all: nothing is made of what is over
    assert await here.words.join() == 0
    world.database.now = lambda: now + 300  # type: ignore[method-assign]
    await here.words.tidy()
    assert (await here.stands("a"))[0] == 404


@pytest.mark.parametrize("attack", ["another query under the id", "another's capture under the id"])
async def test_feedback_is_not_joined_to_another_query(new_world: Any, attack: str) -> None:
    world: World = new_world()
    here, there = Place(world), Place(world)
    await here.asked("app", QUESTION, "order-1")
    assert (await here.says(id="order-1", answer="odd"))[0] == 202
    if attack == "another query under the id":  # from the topic, before the captured one
        query = Query("order-1", "is something else even?", metadata={"source": "gateway"})
        world.labels.add([NewLabel(pseudo_label(query), query_hash(query))])
        assert await here.words.join() == 1
        _, said = await here.stands("order-1")
        assert said["status"] == "refused"
        assert "another query" in said["reason"]
        assert here.counted("refused") == 1
        assert world.stream.offsets(world.topics.labels, "reader")[0].end == 0
        return
    drawn = there.capture.drawn({"messages": [{"role": "user", "content": "is another even?"}]}, "two")
    assert drawn is not None
    claimed = await there.capture.claimed(drawn, {"x-semievol-id": "order-1"})
    assert there.capture.offer(drawn, {"x-semievol-id": "order-1"}, "b", None, claimed=claimed) is None
    await intake(world)
    assert await there.words.join() == 1
    await labels(world)
    assert [each.query.question for each in world.examples.training()] == [QUESTION]


async def asks(place: Place, question: str, answer_id: str | None, text: str | None = "Odd.") -> None:
    """A chat request under the session's id; `answer_id` None: the answer does not come."""
    headers = {"x-semievol-id": "session-1"}
    drawn = place.capture.drawn({"messages": [{"role": "user", "content": question}]}, place.name("app"))
    assert drawn is not None
    claimed = await place.capture.claimed(drawn, headers)
    if answer_id is not None and place.capture.offer(drawn, headers, answer_id, None, claimed=claimed) is not None:
        place.capture.answered("session-1", text)
    place.capture.ended(drawn, headers, claimed)
    await place.flush()


@pytest.mark.parametrize("read", [False, True], ids=["waiting", "answered"])
async def test_an_id_that_was_seen_with_several_questions_does_not_say_which_is_meant(
    new_world: Any, read: bool
) -> None:
    world: World = new_world()
    here, there = Place(world), Place(world)
    await asks(here, QUESTION, "chatcmpl-1")
    await asks(there, "is eight even?", "chatcmpl-5")
    if read:
        await intake(world)
    for place in (here, there, Place(world)):
        for word in ({"answer": "even"}, {"thumb": "up"}):
            status, said = await place.says(id="session-1", **word)
            assert (status, said["error"]["code"]) == (409, "duplicate_id")
            assert "several questions" in said["error"]["message"]
        assert (await place.says(id="chatcmpl-5", answer="even"))[0] == 404
        assert (await place.says(id="session-1", answer="odd", question=QUESTION))[0] == 202
        assert (await place.says(id="chatcmpl-1", answer="odd"))[0] == 202  # an answer is one question's


async def test_what_is_claimed_and_not_captured_gets_no_promise_and_keeps_no_id(new_world: Any) -> None:
    world: World = new_world()
    here, there = Place(world), Place(world)
    drawn = there.capture.drawn({"messages": [{"role": "user", "content": QUESTION}]}, there.name("app"))
    assert drawn is not None
    assert await there.capture.claimed(drawn, {"x-semievol-id": "session-1"}) is not None
    assert (await here.says(id="session-1", answer="odd"))[0] == 404
    await asks(here, QUESTION, None)
    await asks(here, "is eight even?", "chatcmpl-2")
    for place in (here, there):
        assert (await place.says(id="session-1", answer="even", question="is eight even?"))[0] == 202


async def test_a_thumb_under_an_earlier_answers_id_is_not_judged_by_the_later_answer(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world)
    await asks(here, QUESTION, "chatcmpl-1", "Even.")
    await asks(here, QUESTION, "chatcmpl-2", None)
    for place in (here, Place(world)):
        assert (await place.says(id="chatcmpl-2", thumb="up"))[0] == 409  # it was no answer of the task
    await asks(here, QUESTION, "chatcmpl-3", "Odd.")
    for place in (here, Place(world)):
        assert (await place.says(id="chatcmpl-1", thumb="up"))[0] in (404, 409)
        for id_ in ("chatcmpl-3", "session-1"):
            assert (await place.says(id=id_, thumb="up"))[1]["answer"] == "odd"


async def test_the_answers_id_is_as_good_as_the_clients_own(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world)
    drawn = here.capture.drawn({"messages": [{"role": "user", "content": QUESTION}]}, here.name("app"))
    assert drawn is not None
    assert here.capture.offer(drawn, {"x-semievol-id": "order-1"}, "chatcmpl-9", None) == "order-1"
    here.capture.answered("order-1", "odd")
    await here.flush()
    for gate in (here, Place(world)):
        status, said = await gate.says(id="chatcmpl-9", thumb="up")
        assert (status, said) == (202, {"id": "order-1", "answer": "odd", "status": "pending"})
        assert (await gate.stands("chatcmpl-9"))[1]["status"] == "pending"


async def test_a_thumb_is_a_word_about_the_answer_that_was_served(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world)
    for name in ("up", "down", "mended"):
        await here.asked("app", f"is {name} even?", name, text="even")
    assert (await here.says(id="up", thumb="up"))[1] == {"id": "up", "answer": "even", "status": "pending"}
    assert (await here.says(id="down", thumb="down"))[1] == {"id": "down", "wrong": "even", "status": "pending"}
    assert (await here.says(id="mended", thumb="down"))[0] == 202
    assert (await here.says(id="mended", answer="even"))[0] == 409  # wrong and right
    assert (await here.says(id="mended", answer="odd"))[0] == 202
    await intake(world)
    assert await here.words.join() == 3
    assert (await labels(world)).feedback == {"used": 2, "denied": 1}
    made = {each.id: each.answer for each in world.examples.training()}
    assert made == {"up": "even", "mended": "odd"}
    (word,) = world.feedback.of("down")
    assert (word["answer"], word["against"], word["outcome"]) == ("even", True, "denied")


async def test_a_query_that_cannot_be_read_refuses_its_own_feedback_alone(new_world: Any) -> None:
    world: World = new_world()
    here = Place(world)
    for name in ("broken", "whole"):
        await here.asked("app", f"is {name} even?", name)
        assert (await here.says(id=name, answer="odd"))[0] == 202
    await intake(world)
    with world.database.write() as connection:
        broken = sa.update(pseudo_labels).where(pseudo_labels.c.query_id == "broken")
        connection.execute(broken.values(query={}))
    assert await here.words.join() == 2
    assert (await here.stands("broken"))[1]["status"] == "refused"
    assert (await labels(world)).feedback == {"used": 1}
