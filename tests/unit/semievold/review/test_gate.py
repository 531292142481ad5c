"""Labels that a gate asked for count at that gate, in the order in which they were drawn; no others do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from semievold.errors import StateConflict
from semievold.round_states import RoundState as S
from tests.control_world import ANSWERS, ControlWorld, OpenWorld
from tests.reviewers import ReviewDesk
from tests.unit.semievold.review.test_queue import proving

FRESH = range(4000, 4040)
MANY = {"review": {"max_teach": 0, "max_gate": 40}}


def number(item: dict[str, Any]) -> int:
    return int(item["id"].removeprefix("q"))


async def tell(desk: ReviewDesk, items: Sequence[dict[str, Any]]) -> None:
    """A person gives the right answers."""
    for item in items:
        await desk.reviewers.give(item["review"], ANSWERS[number(item) % 2], "terminal")
    await desk.settled()


def seen(world: ControlWorld) -> tuple[int, int, int]:
    found = world.round(0).evaluation
    assert found is not None
    return found["count"], found["wins"], found["losses"]


def expected(items: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """The evidence of a round with 5 wins among 25 labels, and these labels; only the candidate knows a last digit
    from 4 on.
    """
    return 25 + len(items), 5 + sum(number(item) % 10 >= 4 for item in items), 0


async def test_labels_in_the_order_of_the_draw_prove_the_candidate(open_world: OpenWorld) -> None:
    world, desk = await proving(open_world, **MANY)
    world.ask(FRESH)
    items = await desk.look()
    wins = [item for item in items if number(item) % 10 >= 4]
    needed = items[: items.index(wins[1]) + 1]
    await tell(desk, needed[:-1])
    await world.until(lambda: seen(world) == expected(needed[:-1]))
    assert world.here.alias.adapter is None
    await tell(desk, needed[-1:])
    promoted = await world.reaches(0, S.PROMOTED)
    assert seen(world) == expected(needed)
    assert world.here.alias.adapter == promoted.adapter


async def test_who_answers_what_they_like_is_counted_when_all_before_it_is_answered_or_skipped(
    open_world: OpenWorld,
) -> None:
    world, desk = await proving(open_world, **MANY)
    world.ask([each for each in FRESH if each % 10 < 4])  # both models know them
    first, second, third, *_ = await desk.look()
    await tell(desk, [third])
    await world.passes(5.0)
    assert seen(world) == expected([])
    await desk.reviewers.skip(first["review"])
    await world.passes(5.0)
    assert seen(world) == expected([])
    await tell(desk, [second])
    await world.until(lambda: seen(world) == expected([second, third]))
    await desk.reviewers.undo(second["review"])
    await desk.settled()
    await world.until(lambda: seen(world) == expected([]))


@pytest.mark.parametrize("late", ["held_out", "all"])
async def test_a_reviewer_who_confirms_whatever_is_shown_moves_no_gate(open_world: OpenWorld, late: str) -> None:
    gate = {"patience_s": 10_000.0, "late_labels": late}
    world, desk = await proving(open_world, gate=gate, labels={"holdout_share": 0.9})
    before = {each.id for each in world.stores.examples.holdout()}
    round_ = world.round(0)
    world.ask(FRESH)
    # What was first asked since the snapshot is for the gate alone; as if it had been asked before:
    drawn = [draft for draft in desk.queue._drawing.to_teach(None, 40) if draft.candidates]
    assert world.stores.reviews.add(drawn) == len(FRESH)
    for item in desk.waiting("teach"):
        await desk.reviewers.give(item["review"], item["candidates"][0]["answer"], "terminal")
    await desk.settled()
    await world.passes(5.0)
    assert seen(world) == (25, 5, 0)
    assert {each.id for each in world.stores.examples.holdout()} == before
    assert world.round(0).state is round_.state is S.PROVING
    assert desk.waiting() == []
    gates = [item for item in await desk.look() if item["purpose"] == "gate"]
    assert [item["candidates"] for item in gates] == [[]] * len(gates)


async def test_a_label_that_a_round_has_learned_from_is_not_undone_at_the_terminal(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    await world.here.lead()
    world.ask([500])
    desk = ReviewDesk(world)
    (item,) = await desk.look()
    await desk.reviewers.give(item["review"], "odd", "terminal")
    await desk.settled()
    await world.advance(await world.plan(), S.SNAPSHOTTED)
    with pytest.raises(StateConflict, match="labels retract q500"):
        await desk.reviewers.undo(item["review"])
