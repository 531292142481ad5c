"""The review queue at the console: what is asked, which key says what, and what becomes of an answer."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from semievol.types import Query
from semievold.console.reviewing import KEYS, SKIP, UNDO, choices
from semievold.store.review.contradictions import Claim
from semievold.store.review.items import Draft, ItemState
from tests.console_browser import Browser
from tests.control_roles import Roles
from tests.control_world import ControlWorld, OpenWorld


def asked(world: ControlWorld, numbers: range, purpose: str = "teach") -> list[str]:
    """Questions that wait; their keys."""
    drafts = [
        Draft(
            Query(f"q{n}", f"is {n} <b>odd</b>?"),
            "gate" if purpose == "gate" else "teach",
            candidates=("even",),
            round=3 if purpose == "gate" else None,
            usefulness=-float(n),
        )
        for n in numbers
    ]
    world.stores.reviews.add(drafts)
    return [draft.key for draft in drafts]


def contradict(world: ControlWorld, numbers: range) -> None:
    """Questions to which two clients give different answers."""
    for n in numbers:
        said = [Claim(answer, False, "client", {"client": str(n)}, float(n)) for answer in ("odd", "even")]
        world.stores.contradictions.note(f"{n}", Query(f"c{n}", f"is {n} even?"), said)


async def test_questions_are_answered_one_after_the_other_and_an_answer_is_undone(open_world: OpenWorld) -> None:
    world = open_world()
    keys = asked(world, range(3))
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        first = await browser.opens("/review")
        assert "is 0 &lt;b&gt;odd&lt;/b&gt;?" in first
        assert '<span class="badge">3</span>' in first
        assert 'data-key="1"' in first
        second = await browser.follows("/review", review=keys[0], answer="odd", purpose="")
        assert "was answered: odd" in second
        assert "is 1 <b>odd</b>?" in second
        given = world.stores.reviews.get(keys[0])
        assert given is not None
        assert (given.state, given.answer, given.label_by) == (ItemState.GIVEN, "odd", "api")
        third = await browser.follows("/review", review=keys[1], does="skip", purpose="teach")
        assert "was skipped" in third
        assert "is 2 <b>odd</b>?" in third
        again = await browser.follows("/review", review=keys[1], does="undo", purpose="teach")
        assert "is open again" in again
        assert "is 1 <b>odd</b>?" in again


async def test_at_a_gate_no_answer_is_shown_as_given(open_world: OpenWorld) -> None:
    world = open_world()
    asked(world, range(1), "gate")
    asked(world, range(5, 6))
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        gate = await browser.reads("/review?purpose=gate")
        assert "For the gate of round 3" in gate
        assert "proposed" not in gate
        assert "even proposed" in await browser.reads("/review?purpose=teach")


async def test_of_many_contradictions_no_more_are_read_than_are_shown(open_world: OpenWorld) -> None:
    world = open_world()
    contradict(world, range(100))
    engine = world.database._engine
    asked: list[tuple[str, list[str]]] = []

    def remember(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "FROM contradictions" in statement:
            plan = engine.raw_connection().cursor()
            plan.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            asked.append((statement, [row[-1] for row in plan.fetchall()]))

    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        assert '<span class="badge">100</span>' in await browser.opens("/review")
        contradict(world, range(100, 300))
        sa.event.listen(engine, "before_cursor_execute", remember)
        try:
            page = await browser.opens("/review")
        finally:
            sa.event.remove(engine, "before_cursor_execute", remember)
    assert '<span class="badge">100+</span>' in page
    assert "contradiction 100+</a>" in page
    assert "is 0 even?" in page
    assert len(asked) == 3  # the question, how many of its kind there are, and the badge
    for statement, steps in asked:
        assert "LIMIT" in statement
        assert any("ix_contradictions_open (workload=? AND settled=?)" in step for step in steps), steps
        assert not any("TEMP B-TREE" in step for step in steps), steps


async def test_where_nothing_waits_the_page_says_why(open_world: OpenWorld) -> None:
    async with Roles(open_world()).api() as client:
        browser = await Browser.logged_in(client)
        page = await browser.reads("/review")
        assert "Nothing waits." in page
        assert "Gate: no gate waits for labels." in page


async def test_what_cannot_be_an_answer_is_said_and_the_question_stays(open_world: OpenWorld) -> None:
    world = open_world()
    keys = asked(world, range(1))
    async with Roles(world).api() as client:
        browser = await Browser.logged_in(client)
        for fields, told in (
            ({"review": keys[0], "answer": "<i>neither</i>"}, "&lt;i&gt;neither"),
            ({"review": "0" * 32, "answer": "odd"}, "there is no item"),
            ({"review": keys[0], "does": "undo"}, "there is nothing to be undone"),
        ):
            answer = await browser.sends("/review", **fields)
            page = await answer.text()
            assert (answer.status, told in page) == (200, True), page
            assert "<i>neither" not in page
        item = world.stores.reviews.get(keys[0])
        assert item is not None
        assert item.state is ItemState.OPEN


def test_an_answer_has_the_same_key_for_every_question_and_many_answers_are_typed() -> None:
    item = {"candidates": [{"answer": "b"}], "answers": ["a", "b"], "purpose": "teach"}
    assert [(each["key"], each["answer"], each["given"]) for each in choices(item)["buttons"]] == [
        ("1", "a", False),
        ("2", "b", True),
    ]
    many = {**item, "answers": [f"label {n}" for n in range(150)]}
    found = choices(many)
    assert [(each["key"], each["answer"]) for each in found["buttons"]] == [("1", "b")]
    assert found["typed"]
    assert len(found["others"]) == 150
    assert choices({**item, "answers": None})["typed"]
    letters = choices({**item, "answers": ["A", "B"], "options": ["red", "green"]})
    assert [each["option"] for each in letters["buttons"]] == ["red", "green"]
    assert not {SKIP, UNDO} & set(KEYS)
