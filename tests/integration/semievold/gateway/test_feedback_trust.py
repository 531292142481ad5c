"""What a client with the gateway's token can do to the truth: nothing to what an operator said, and little besides."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from semievol.types import Query
from semievold.config.fronts import DEFAULT, CaptureConfig, GatewayConfig
from semievold.gateway.admission import Admission
from semievold.gateway.capture import Capture
from semievold.gateway.feedback import Feedback
from semievold.gateway.front import FEEDBACK_PATH, OPEN_PATHS
from semievold.gateway.words import WaitingWords
from semievold.monitoring.metrics import Metrics
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.tables import examples
from semievold.web.access import guarded
from semievold.web.body_limits import limited_app
from semievold.web.tokens import Tokens
from tests.openai_double import Double
from tests.openai_double import front as gateway
from tests.stream_world import ListIndex, World, pseudo_label, run_until

TOKEN = {"Authorization": "Bearer token-of-the-gateway"}
OPERATORS = 40

Ask = Callable[..., Any]


@asynccontextmanager
async def front(world: World, capture: Capture | None = None, **settings: Any) -> AsyncIterator[Ask]:
    """Posts to the route, guarded as the gateway guards it; (status, answer)."""
    config = GatewayConfig.model_validate({"capture": {"share": 1.0}, "feedback": settings})
    feedback = route(world, config, capture)
    admission = Admission(config)

    async def asked(request: web.Request) -> web.StreamResponse:
        return feedback.refused(request) or await feedback(await admission.read_object(request), request)

    own = {FEEDBACK_PATH: Tokens({DEFAULT: settings["token"]})} if "token" in settings else {}
    tokens = Tokens({DEFAULT: "token-of-the-gateway", "app": "token-of-an-app"})
    app = limited_app(config, [guarded(tokens, OPEN_PATHS, own=own)])
    app.router.add_post(FEEDBACK_PATH, asked)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(TestClient(TestServer(app)))

        async def ask(headers: dict[str, str] = TOKEN, **body: Any) -> tuple[int, Any]:
            answer = await client.post(FEEDBACK_PATH, json=body, headers=headers)
            return answer.status, await answer.json()

        yield ask


def route(world: World, config: GatewayConfig, capture: Capture | None = None) -> Feedback:
    topic, stores = "semievol.labels", world.stores
    words = WaitingWords(config.feedback, topic, stores, world.parser, world.producer, Metrics("w"))
    return Feedback(config, topic, words, stores, world.parser, world.producer, "secret", capture)


def answered(world: World, *ids: str, question: str | None = None, source: str = "gateway") -> None:
    """Queries that the gateway captured and the intake answered."""
    queries = [Query(each, question or f"is {each} even?", metadata={"source": source}) for each in ids]
    world.labels.add([NewLabel(pseudo_label(query), query_hash(query)) for query in queries])


def stored(world: World, ids: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    columns = examples.c["id", "query", "answer", "source", "holdout", "retracted"]
    with world.database.read() as connection:
        rows = {row.id: tuple(row) for row in connection.execute(sa.select(*columns))}
    return {each: rows[each] for each in ids}


async def read(world: World, index: ListIndex, **options: Any) -> Any:
    """Have the labels role read all there is."""
    role = world.labels_intake(index, **options)
    end = sum(each.end for each in world.stream.offsets("semievol.labels", "reader"))
    await run_until(role, lambda: world.committed("labels", "semievol.labels") == end and role.counters.received)
    return role.counters


async def test_a_thousand_requests_move_no_label_of_the_operators_and_no_holdout(new_world: Any) -> None:
    world: World = new_world()
    operators = [f"e{n}" for n in range(OPERATORS)]
    index = ListIndex()
    await world.send(world.topics.labels, [{"id": i, "question": f"is {i} even?", "answer": "even"} for i in operators])
    await read(world, index)
    before, held = stored(world, operators), {each.id for each in world.examples.holdout()}
    assert len(held) > 3
    answered(world, *operators)  # with ids that the client chose
    answered(world, *(f"new{number}" for number in range(OPERATORS)))
    for number, operator in enumerate(operators):
        answered(world, f"copy{number}", question=f"  IS {operator} even?")  # what is held out, under another id
    shown = dict(index.examples)
    ids = [*operators, *(f"copy{n}" for n in range(OPERATORS)), *(f"new{n}" for n in range(OPERATORS))]
    statuses: Counter[int] = Counter()
    async with front(world, max_per_minute=100_000) as ask:
        for number in range(1_000):
            body = {"id": ids[number % len(ids)], "answer": "odd"}
            if number % 5 == 4:
                body["source"] = "operator"
            statuses[(await ask(**body))[0]] += 1
    assert statuses[400] == 200
    assert statuses[202] == 800
    counters = await read(world, index)
    assert stored(world, operators) == before
    assert {each.id for each in world.examples.holdout()} == held
    assert {key: index.examples[key] for key in shown} == shown
    made = {each.id for each in world.examples.training()} - set(operators)
    assert made <= {f"new{n}" for n in range(OPERATORS)}
    assert {each.source for each in world.examples.training() if each.id in made} == {"feedback"}
    assert counters.feedback["contradicted"] > 0
    assert (counters.joined_right, counters.joined_wrong) == (0, 0)  # the accuracy by operators is not the clients'
    assert counters.feedback_wrong > 0
    (word,) = world.feedback.of(operators[0])
    assert (word["answer"], word["outcome"]) == ("odd", "contradicted")


async def test_only_what_this_gateway_answered_gets_feedback(new_world: Any) -> None:
    world: World = new_world()
    answered(world, "mine")
    answered(world, "operators-query", source="batch")
    async with front(world) as ask:
        assert (await ask(id="mine", answer="even"))[0] == 202
        for body in ({"id": "never"}, {"id": "never", "question": "is never even?"}, {"id": "operators-query"}):
            status, said = await ask(**body, answer="even")
            assert (status, said["error"]["code"]) == (404, "query_not_found")
        assert (await ask(id="mine", answer="even", question="is another even?"))[0] == 409
        assert (await ask(id="mine", answer="even", question="is mine even?"))[0] == 202
    async with front(world, trusted=True) as ask:
        assert (await ask(id="operators-query", answer="even"))[0] == 202


async def test_a_client_has_one_answer_to_a_question_whatever_its_id(new_world: Any) -> None:
    world: World = new_world()
    answered(world, "a")
    answered(world, "b", question="Is A  even?")
    async with front(world) as ask:
        assert (await ask(id="a", answer="even"))[0] == 202
        for each in ("a", "b"):  # still on the way
            assert (await ask(id=each, answer="odd"))[0] == 409
    counters = await read(world, ListIndex())
    assert counters.feedback == {"used": 1}
    async with front(world) as ask:  # another process: the state knows
        status, said = await ask(id="b", answer="odd")
        assert (status, said["error"]["code"]) == (409, "already_answered")
        assert (await ask(id="b", answer="even"))[0] == 202
    counters = await read(world, ListIndex())
    assert counters.feedback == {"confirmed": 1}
    assert [each.id for each in world.examples.training()] == ["a"]


async def test_feedback_is_switched_bounded_and_opened_by_its_own_token(new_world: Any) -> None:
    world: World = new_world()
    answered(world, "a")
    async with front(world, enabled=False) as ask:
        status, said = await ask(id="a", answer="even")
        assert status == 403
        assert "gateway.feedback.enabled" in said["error"]["message"]
    async with front(world, max_per_minute=3) as ask:
        assert [(await ask(id="x", answer="even"))[0] for _ in range(5)] == [404, 404, 404, 429, 429]
    async with front(world, token="token-of-feedback") as ask:
        assert (await ask(id="a", answer="even"))[0] == 401
        assert (await ask({"Authorization": "Bearer token-of-feedback"}, id="a", answer="even"))[0] == 202


async def test_the_holders_of_two_tokens_are_two_clients(new_world: Any) -> None:
    world: World = new_world()
    answered(world, "a")
    async with front(world, max_per_minute=2) as ask:
        assert (await ask(id="a", answer="even"))[0] == 202
        assert (await ask({"Authorization": "Bearer token-of-an-app"}, id="a", answer="odd"))[0] == 202
        assert (await ask(id="a", answer="odd"))[0] == 409
        assert (await ask(id="a", answer="odd"))[0] == 429
    counters = await read(world, ListIndex())
    assert counters.feedback == {"used": 1, "contradicted": 1}
    assert [each["outcome"] for each in world.feedback.of("a")] == ["contradicted", "contradicted"]
    assert world.examples.training() == []


async def test_a_reused_id_says_nothing_about_the_earlier_question(new_world: Any) -> None:
    world: World = new_world()
    answered(world, "order-1")
    metrics = Metrics("w")
    settings, state = CaptureConfig(share=1.0), world.stores.captured
    capture = Capture(settings, "queries", None, world.parser, world.producer, metrics, state=state, secret="secret")
    async with gateway([Double("one")], capture=capture) as gate:
        gate.session.headers["x-semievol-id"] = "order-1"
        answer = await gate.ask(messages=[{"role": "user", "content": "is another even?"}])
        assert answer.status == 200
        assert answer.headers["x-semievol-not-captured"] == "id_taken"
        assert "x-semievol-query-id" not in answer.headers
        answer = await gate.ask(messages=[{"role": "user", "content": "is order-1 even?"}])
        assert answer.headers["x-semievol-query-id"] == "order-1"
    assert metrics.capture_dropped.labels("w", "id_taken")._value.get() == 1
    async with front(world, capture) as ask:
        status, said = await ask(id="order-1", answer="odd")
        assert (status, said["error"]["code"]) == (409, "duplicate_id")
        assert (await ask(id="order-1", answer="odd", question="is another even?"))[0] == 409
        assert (await ask(id="order-1", answer="even", question="is order-1 even?"))[0] == 202


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_an_unknown_id_says_whether_anything_is_captured(new_world: Any, share: float) -> None:
    world: World = new_world()
    config = GatewayConfig.model_validate({"capture": {"share": share}})
    request = make_mocked_request("POST", FEEDBACK_PATH)
    answer = await route(world, config)({"id": "x", "answer": "even"}, request)
    assert (b"gateway.capture.share is 0" in bytes(answer.body)) == (share == 0)  # type: ignore[arg-type]
