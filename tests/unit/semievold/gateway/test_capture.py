"""What of the clients' traffic becomes a query, and that a stream which is away costs no client anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.tasks.task import Task
from semievol.types import Message, Query
from semievold.config.fronts import CaptureConfig
from semievold.errors import Dropped, TransientStreamError
from semievold.gateway.capture import Capture
from semievold.intake.messages import RecordParser
from semievold.monitoring.metrics import Metrics
from semievold.store.captured import Captured
from semievold.store.pseudo_labels import query_hash
from semievold.streams.protocol import OutgoingRecord, StreamRecord

INSTRUCTION = "Sort the mail."
PARSER = RecordParser(Task(TaskConfig(labels=("red", "blue"), instruction=INSTRUCTION)), 100_000)


class Producer:
    """A producer that can be away, and remembers what was published."""

    def __init__(self) -> None:
        self.published: list[OutgoingRecord] = []
        self.away = False
        self.attempts = 0

    async def publish(self, topic: str, records: Sequence[OutgoingRecord]) -> None:
        assert topic == "queries"
        self.attempts += 1
        if self.away:
            raise TransientStreamError("the broker is away")
        self.published += records

    async def close(self) -> None:
        pass


class State:
    """What gateways know together; `ids` None: it is away."""

    def __init__(self, ids: dict[str, str] | None) -> None:
        self.ids = ids
        self.noted: list[Captured] = []
        self.marked: list[tuple[str, str]] = []
        self.released: list[tuple[str, str]] = []
        self.parts = 1_000_000
        """So many parts are noted until it is away."""

    def claim(self, query: Captured) -> str:
        if self.ids is None:
            raise TransientStreamError("the state is away")
        return self.ids.setdefault(query.query_id, query.content)

    def note(self, queries: Sequence[Captured]) -> None:
        if self.ids is None or self.parts == 0:
            raise TransientStreamError("the state is away")
        self.parts -= 1
        self.noted += queries

    def release(self, claims: Sequence[tuple[str, str]]) -> None:
        self.released += claims

    def mark(self, seen: Sequence[tuple[str, str]]) -> None:
        self.marked += seen


class World:
    def __init__(self, state: Any = None, secret: str = "key of the service", **settings: Any) -> None:
        self.producer = Producer()
        self.metrics = Metrics("w")
        config = CaptureConfig(**{"share": 1.0, **settings})
        self.capture = Capture(
            config, "queries", INSTRUCTION, PARSER, self.producer, self.metrics, state=state, secret=secret
        )

    def offer(
        self, *messages: Any, headers: dict[str, str] | None = None, answer_id: str | None = "a1", **more: Any
    ) -> str | None:
        turns = [{"role": m[0], "content": m[1]} if isinstance(m, tuple) else m for m in messages]
        drawn = self.capture.drawn({"messages": turns}, more.pop("client", ""))
        return None if drawn is None else self.capture.offer(drawn, headers or {}, answer_id, "v1", **more)

    def dropped(self) -> dict[str, int]:
        found = {each.value: self.metrics.capture_dropped.labels("w", each.value)._value.get() for each in Dropped}
        return {reason: int(count) for reason, count in found.items() if count}

    async def queries(self) -> list[Query]:
        """What was published, read back as the intake reads it."""
        stop = asyncio.Event()
        stop.set()
        await self.capture.run(stop)
        return [PARSER.query(StreamRecord("queries", 0, 0, r.key, r.value, {}, 0.0)) for r in self.producer.published]


async def test_a_single_turn_with_the_configured_instruction_is_a_question() -> None:
    world = World()
    assert world.offer(("system", INSTRUCTION), ("user", "what is this?")) == "a1"
    assert world.offer(("user", "and this?"), answer_id="a2") == "a2"
    first, second = await world.queries()
    assert (first.id, first.question, first.messages) == ("a1", "what is this?", None)
    assert (second.question, second.messages) == ("and this?", None)
    assert first.metadata == {"source": "gateway", "adapter": "v1"}


async def test_a_conversation_and_a_foreign_instruction_are_kept_as_messages() -> None:
    world = World()
    assert world.offer(("system", "Be rude."), ("user", "x")) == "a1"
    turns = (("user", "x"), ("assistant", "red"), ("user", "y"))
    assert world.offer(*turns, answer_id="a2") == "a2"
    first, second = await world.queries()
    assert first.messages == (Message("system", "Be rude."), Message("user", "x"))
    assert second.messages == (Message("user", "x"), Message("assistant", "red"), Message("user", "y"))


async def test_text_parts_are_joined_as_servers_join_them() -> None:
    world = World()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    world.offer({"role": "user", "content": parts})
    assert (await world.queries())[0].question == "one\ntwo"


async def test_a_given_id_names_the_query() -> None:
    world = World()
    assert world.offer(("user", "x"), headers={"x-semievol-id": "mail 17"}) == "mail 17"
    assert [query.id for query in await world.queries()] == ["mail 17"]


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:..."}}]}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    ("messages", "headers", "reason"),
    [
        ([("user", "x")], {"x-semievol-no-capture": "1"}, "opted_out"),
        ([("user", "x" * 51)], {}, "too_long"),
        ([IMAGE], {}, "not_text"),
        ([("user", "x"), CALL, ("user", "y")], {}, "not_text"),
        ([("user", "x"), ("tool", "4"), ("user", "y")], {}, "not_text"),
        (["x"], {}, "not_text"),
        ([("user", "x"), ("assistant", "red")], {}, "invalid"),
        ([("user", "  ")], {}, "invalid"),
        ([], {}, "invalid"),
        ([("user", "a\0b")], {}, "invalid"),
        ([("user", "x")], {"x-semievol-id": "ü"}, "invalid"),
        ([("user", "x")], {"x-semievol-id": "x" * 513}, "invalid"),
        ([("user", "x")], {"x-semievol-id": " "}, "invalid"),
    ],
)
async def test_what_is_not_captured_is_counted_with_its_reason(messages: Any, headers: Any, reason: str) -> None:
    world = World(max_chars=50)
    assert world.offer(*messages, headers=headers) is None
    assert await world.queries() == []
    assert world.dropped() == {reason: 1}


def drawn(world: World, *, times: int = 1, client: str = "one") -> list[int]:
    """Which of 1000 questions are captured, each asked `times` with other ids, in other spelling."""
    found = []
    for number in range(1000):
        spellings = (f"is {number} red?", f"  IS {number}  Red?")
        taken = [
            world.offer(("user", spellings[time % 2]), headers={"x-semievol-id": f"id-{number}-{time}"}, client=client)
            for time in range(times)
        ]
        assert len({each is None for each in taken}) == 1
        if taken[0] is not None:
            found.append(number)
    return found


async def test_a_share_is_drawn_by_a_key_from_who_asks_what_and_not_from_an_id() -> None:
    taken = drawn(World(share=0.25, queue_size=10_000), times=4)
    assert 200 < len(taken) < 300
    again = World(share=0.25)
    assert drawn(again) == taken  # after a restart, too
    assert again.dropped() == {}
    assert drawn(World(share=0.25, secret="another key")) != taken
    assert drawn(World(share=0.25), client="two") != taken
    assert len(drawn(World(share=1.0))) == 1000


GIVEN = {"x-semievol-id": "order-1"}


async def test_an_id_of_another_query_is_not_captured_again() -> None:
    world = World()
    told: list[Dropped] = []
    assert world.offer(("user", "what is this?"), headers=GIVEN, client="one", dropped=told.append) == "order-1"
    assert world.offer(("user", "and that?"), headers=GIVEN, client="two", dropped=told.append) is None
    assert world.offer(("user", "and that?"), answer_id="order-1", dropped=told.append) is None
    assert told == [Dropped.ID_TAKEN] * 2
    assert world.offer(("user", "what is this?"), headers=GIVEN, client="two") == "order-1"
    assert world.capture.reused("two", "order-1")
    assert not world.capture.reused("one", "order-1")
    assert world.dropped() == {"id_taken": 2}
    assert {query.question for query in await world.queries()} == {"what is this?"}


async def test_the_state_knows_ids_that_were_captured_elsewhere() -> None:
    world = World(State({"order-1": query_hash(Query("order-1", "what is this?"))}))
    asked = {"messages": [{"role": "user", "content": "and that?"}]}
    drawn = world.capture.drawn(asked, "")
    assert drawn is not None
    found = await world.capture.claimed(drawn, GIVEN)
    assert world.offer(("user", "and that?"), headers=GIVEN, claimed=found) is None
    assert world.offer(("user", "what is this?"), headers=GIVEN, claimed=found) == "order-1"
    assert await world.capture.claimed(drawn, {}) is None
    assert await world.capture.claimed(drawn, {"x-semievol-id": "order-2"}) == query_hash(Query("order-2", "and that?"))

    world = World(State(None))
    assert world.offer(("user", "x"), headers=GIVEN, claimed=await world.capture.claimed(drawn, GIVEN)) is None
    assert world.dropped() == {"id_taken": 1}


async def test_the_state_is_told_what_was_captured_and_answered_also_when_it_was_away() -> None:
    state = State(None)
    world = World(state)
    assert world.offer(("user", "x"), headers=GIVEN, answer_id="chatcmpl-1", client="one") == "order-1"
    world.capture.answered("order-1", "Answer: RED")
    world.capture.answered("nobody's", "red")
    assert [query.id for query in await world.queries()] == ["order-1"]
    assert state.noted == []
    state.ids = {}
    world.capture.answered("order-1", "I cannot say")  # no answer of the task: what was said before stays
    await world.queries()
    (noted,) = state.noted
    assert (noted.query_id, noted.answer_id, noted.client, noted.served) == ("order-1", "chatcmpl-1", "one", "red")
    assert world.capture.recall("chatcmpl-1") == world.capture.recall("order-1") == noted


async def test_what_the_state_was_told_is_not_told_again_when_the_rest_fails() -> None:
    state = State({})
    world = World(state)
    for number in range(500):
        world.offer(("user", "x"), answer_id=f"a{number}")
    state.parts = 1
    await world.queries()
    assert 0 < len(state.noted) < 500
    state.parts = 100
    await world.queries()
    assert sorted(each.query_id for each in state.noted) == sorted(f"a{number}" for number in range(500))


@pytest.mark.parametrize("how", ["not drawn", "too long", "opted out", "not text", "taken"])
async def test_an_id_is_marked_whatever_kept_another_question_under_it_from_being_captured(how: str) -> None:
    state = State({})
    world = World(state, max_chars=50)
    if how == "not drawn":
        world.capture.not_drawn("one", GIVEN, "a1")
    else:
        more = {"x-semievol-no-capture": "1"} if how == "opted out" else {}
        content: Any = {"too long": "y" * 51, "not text": [{"type": "image_url", "image_url": {"url": "x"}}]}.get(
            how, "y"
        )
        claimed = "another" if how == "taken" else None
        turn = {"role": "user", "content": content}
        assert world.offer(turn, headers={**GIVEN, **more}, client="one", claimed=claimed) is None
    assert world.offer(("user", "x"), headers=GIVEN, answer_id="a2", client="one") == "order-1"
    assert world.capture.reused("one", "order-1")
    assert not world.capture.reused("two", "order-1")
    await world.queries()
    assert state.marked == [("one", "order-1")]


async def test_a_claim_is_given_back_where_the_call_ends_without_a_capture() -> None:
    state = State({})
    world = World(state)
    drawn = world.capture.drawn({"messages": [{"role": "user", "content": "x"}]}, "one")
    assert drawn is not None
    claimed = await world.capture.claimed(drawn, GIVEN)
    world.capture.ended(drawn, GIVEN, claimed)
    world.capture.ended(drawn, GIVEN, "another's")
    await world.queries()
    assert state.released == [("order-1", query_hash(Query("order-1", "x")))]
    world.capture.offer(drawn, GIVEN, "a1", "v1", claimed=claimed)
    world.capture.ended(drawn, GIVEN, claimed)
    await world.queries()
    assert len(state.released) == 1


@pytest.mark.parametrize("text", [None, "", " \n", "x" * 51, "re\0d"])
async def test_an_answer_that_is_no_text_of_the_task_is_not_noted(text: str | None) -> None:
    world = World(max_chars=50)
    world.offer(("user", "x"))
    world.capture.answered("a1", text)
    found = world.capture.recall("a1")
    assert found is not None
    assert found.served is None


async def test_why_a_query_was_not_captured_is_known_to_its_client_alone() -> None:
    world = World(max_chars=50)
    world.capture.not_drawn("one", {}, "a7")
    world.offer(("user", "x" * 51), headers=GIVEN, answer_id="a8", client="one")
    assert "gateway.capture.share" in str(world.capture.left_out("one", "a7"))
    assert [world.capture.left_out("one", each) for each in ("a8", "order-1")] == ["too_long", "too_long"]
    assert world.capture.left_out("two", "a8") is None


async def test_a_full_queue_drops_new_queries_and_keeps_no_client_waiting() -> None:
    world = World(queue_size=2)
    assert [world.offer(("user", "x"), answer_id=str(number)) for number in range(4)] == ["0", "1", None, None]
    assert world.dropped() == {"queue_full": 2}
    assert [query.id for query in await world.queries()] == ["0", "1"]


async def test_a_stream_that_is_away_gets_the_queries_when_it_is_back() -> None:
    world = World()
    world.producer.away = True
    stop = asyncio.Event()
    running = asyncio.create_task(world.capture.run(stop))
    world.offer(("user", "x"))
    async with asyncio.timeout(10):
        while world.producer.attempts < 2:  # noqa: ASYNC110 - it is not ours to signal
            await asyncio.sleep(0.005)
        assert world.capture.health.degraded
        world.producer.away = False
        while not world.producer.published:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    stop.set()
    await running
    assert world.metrics.captured.labels("w")._value.get() == 1


async def test_a_stop_publishes_what_is_queued_and_does_not_wait_for_a_stream_that_is_away() -> None:
    world = World()
    world.offer(("user", "x"))
    assert len(await world.queries()) == 1
    world.producer.away = True
    world.offer(("user", "y"), answer_id="a2")
    async with asyncio.timeout(5):
        await world.queries()
    assert world.dropped() == {"not_published": 1}


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "text", "type"]), inner)
    ),
    max_leaves=10,
)
ROLES = st.sampled_from(["user", "system", "assistant", "tool"])
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES | JSON, "content": JSON}) | JSON, max_size=4)


@given(st.fixed_dictionaries({"messages": TURNS | JSON}), st.text(st.characters(codec="latin-1"), max_size=20))
def test_whatever_clients_send_is_a_valid_record_or_dropped(body: Any, identity: str) -> None:
    world = World()
    drawn = world.capture.drawn(json.loads(json.dumps(body)), "")
    taken = drawn and world.capture.offer(drawn, {"x-semievol-id": identity}, "a1", None)
    assert taken is None or [query.id for query in asyncio.run(world.queries())] == [taken]
