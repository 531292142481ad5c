"""Live queries that both versions answer: what they say of a candidate, and of a version that was promoted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from semievol.errors import TransientError
from semievol.proof.watch import ALARM
from semievol.types import Example, Query
from semievold.review.drawing import Drawing
from semievold.review.usefulness import SecretOrder
from semievold.round_states import RoundState as S
from semievold.rounds.fresh import FreshLabels
from semievold.rounds.pool import QUARANTINED
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.review.items import Draft
from semievold.store.rounds import Round
from semievold.store.shadow_pairs import PairFate
from tests.control_world import ANSWERS, Brake, ControlWorld, OpenWorld, Weights, example, failing
from tests.scripted import pseudo_label

ALL = {"share": 1.0, "per_second": 1000.0}
WATCHED_S = 30.0
FIVE_WINS = [2004, 2005, 2006, 2007, 2008]
TIES = [1000 + 10 * ten + digit for ten in range(5) for digit in range(4)]


@dataclass(frozen=True, slots=True)
class OneAnswer(Weights):
    """Give one answer to `share` of any ten questions, and know the others."""

    said: str = ANSWERS[0]
    share: int = 10

    def answer(self, question: str) -> str:
        if hash_of(question) % 10 < self.share:
            return self.said
        return super(OneAnswer, self).answer(question)


def hash_of(question: str) -> int:
    return sum(question.encode()) * 7919 >> 3


async def promoted(
    open_world: OpenWorld, weights: Weights | None = None, *, labelled_before: range = range(0), **settings: Any
) -> ControlWorld:
    """A world whose round 1 was promoted and is watched; its version answers by `weights`, once it serves. The one
    before labelled some queries besides, with one in a hundred answers that do not parse.
    """
    settings = {"shadow": ALL, "rollout": {"watch_s": WATCHED_S}, **settings}
    world = open_world(trigger={"new_pseudo_labels": None, "retry_failed_s": 1e6}, **settings)
    world.teach()
    world.trainer.right = 7
    world.here.start()
    assert (await world.ended(0)).state is S.SETTLED
    world.trainer.right = 10
    world.ask(range(40, 60))
    unparsed(world, labelled_before, world.stores.alias.get().adapter, every=100)
    world.request("start_round", kind="evolve", reason="test", shuffle_labels=False)
    round_ = await world.reaches(1, S.PROMOTED)
    if weights is not None:
        world.weights[round_.adapter] = weights
    return world


def watch(world: ControlWorld, number: int = 1) -> dict[str, Any]:
    found = world.round(number).watch
    assert found is not None
    return {**found, **{each["test"]: each for each in found["findings"]}}


def pairs(world: ControlWorld, number: int = 1) -> int:
    return world.stores.shadow_pairs.answered(number)


# --- the watch of what was promoted -----------------------------------------------------------------------------------


async def test_a_version_that_gives_one_answer_to_everything_is_rolled_back_within_50_pairs(
    open_world: OpenWorld,
) -> None:
    world = await promoted(open_world, OneAnswer(10, 0.2))
    warm, bad = world.round(0).adapter, world.round(1).adapter
    left = world.place.training(world.round(1)).work / "checkpoints"
    left.mkdir(parents=True, exist_ok=True)
    for asked in range(100, 200, 2):
        world.ask((asked, asked + 1))
        await world.passes(0.5)
        if world.round(1).ended:
            break
    ended = await world.ended(1)
    assert ended.state is S.ROLLED_BACK
    assert pairs(world) <= 50
    assert not left.exists(), "it is tidied as any round that ends"
    assert (ended.reason or "").startswith("concentration: 'even' is the answer to ")
    assert watch(world)["breach"] == ended.reason
    assert watch(world)["concentration"]["evidence"] >= ALARM
    alias = world.stores.alias.get()
    assert (alias.adapter, alias.previous) == (warm, bad)
    assert world.here.alias.adapter == warm
    assert world.stores.rounds.events(1)[-1]["detail"] == ended.reason


async def test_of_two_good_versions_none_is_rolled_back(open_world: OpenWorld) -> None:
    world = await promoted(open_world)
    for asked in range(100, 500, 20):
        world.ask(range(asked, asked + 20))
        await world.passes(1)
    ended = await world.ended(1)
    assert (ended.state, pairs(world)) == (S.SETTLED, 400)
    assert watch(world)["concentration"]["evidence"] < 20
    assert world.stores.alias.get().adapter == ended.adapter


async def test_an_answer_that_the_version_before_gave_too_rarely_may_become_more_frequent(
    open_world: OpenWorld,
) -> None:
    world = open_world(shadow=ALL, rollout={"watch_s": WATCHED_S}, trigger={"new_pseudo_labels": None})
    world.weights[None] = OneAnswer(10, 0.5, said="odd")
    world.teach(held_out=range(1000, 1100))
    world.here.start()
    await world.reaches(0, S.PROMOTED)
    for asked in range(100, 300, 20):
        world.ask(range(asked, asked + 20))
        await world.passes(1)
    assert (await world.ended(0)).state is S.SETTLED
    assert watch(world, 0)["basis"]["allowed"] == {"even": 0.5}
    assert pairs(world, 0) == 200


async def test_answers_of_the_intake_that_do_not_parse_roll_back(open_world: OpenWorld) -> None:
    world = await promoted(open_world, labelled_before=range(2000, 2400), shadow={"share": 0.0})
    unparsed(world, range(3000, 3060), world.round(1).adapter, every=4)
    ended = await world.ended(1)
    assert ended.state is S.ROLLED_BACK
    assert (ended.reason or "").startswith("parse failures: 15 of 60 answers do not parse (25.0%), by the version")
    assert watch(world)["basis"]["answers"] == 420
    assert watch(world)["basis"]["unparsed"] == 4


def unparsed(world: ControlWorld, numbers: range, adapter: str | None, *, every: int) -> None:
    """Labels of queries, of which every so many-th has no answer."""
    said = [
        replace(
            pseudo_label(
                f"q{number}", f"is {number} even?", None if place % every == 0 else ANSWERS[number % 2], 0.2, "now"
            ),
            adapter=adapter,
        )
        for place, number in enumerate(numbers)
    ]
    world.stores.pseudo_labels.add([NewLabel(label, query_hash(label.query)) for label in said])


async def test_answers_that_stop_parsing_on_shadow_pairs_roll_back(open_world: OpenWorld) -> None:
    world = await promoted(open_world, OneAnswer(10, 0.2, said="none of these", share=4))
    for asked in range(100, 300, 10):
        world.ask(range(asked, asked + 10), adapter=world.round(0).adapter)
        await world.passes(1)
        if world.round(1).ended:
            break
    ended = await world.ended(1)
    assert ended.state is S.ROLLED_BACK
    assert "parse only by the version before" in (ended.reason or "")


async def test_labels_after_the_promotion_that_show_a_loss_roll_back(open_world: OpenWorld) -> None:
    world = await promoted(open_world, Weights(0, 0.2), shadow={"share": 0.0})
    await world.passes(2)
    world.teach(training=(), held_out=range(5000, 5006))
    await world.passes(2)
    assert watch(world)["accuracy"]["seen"] == 6
    assert world.round(1).state is S.PROMOTED, "five of them are lost, too few to say"
    world.teach(training=(), held_out=range(5006, 5030))
    ended = await world.ended(1)
    assert ended.state is S.ROLLED_BACK
    assert (ended.reason or "").startswith("accuracy: of 30 labels ")


async def test_the_labels_that_promoted_a_version_say_nothing_about_it_afterwards(open_world: OpenWorld) -> None:
    world = await promoted(open_world)
    await world.ended(1)
    assert watch(world)["accuracy"]["seen"] == 0


async def test_whoever_takes_the_watch_over_goes_on_from_the_same_evidence(open_world: OpenWorld) -> None:
    world = await promoted(open_world, OneAnswer(10, 0.2), rollout={"watch_s": 120.0})
    world.ask(range(100, 116))
    await world.passes(3)
    before = watch(world)
    assert 1 < before["concentration"]["evidence"] < ALARM
    died = world.here
    await died.stop()
    world.here = world.process()
    world.here.start()
    await world.passes(3)
    assert watch(world) == before
    world.ask(range(116, 150))
    ended = await world.ended(1)
    assert ended.state is S.ROLLED_BACK
    again = (world.stores.shadow_pairs.pairs(1), watch(world)["concentration"]["evidence"])
    assert [pair.place for pair in again[0]] == list(range(1, len(again[0]) + 1))


# --- drawing and asking -----------------------------------------------------------------------------------------------


async def test_without_a_share_nothing_is_asked_beside(open_world: OpenWorld) -> None:
    world = await promoted(open_world, OneAnswer(10, 0.2), shadow={"share": 0.0})
    asked = len(world.here.generator.calls)
    world.ask(range(100, 200))
    assert (await world.ended(1)).state is S.SETTLED
    assert (pairs(world), len(world.here.generator.calls)) == (0, asked)


async def test_a_question_is_one_pair_however_often_it_is_asked(open_world: OpenWorld) -> None:
    world = await promoted(open_world)
    adapter = world.stores.alias.get().adapter
    for number in range(30):
        same = replace(
            pseudo_label(f"again{number}", f"Is  {100 + number % 2} even", "even", 0.2, "now"), adapter=adapter
        )
        world.stores.pseudo_labels.add([NewLabel(same, query_hash(same.query))])
    await world.passes(3)
    assert pairs(world) == 2


async def test_more_than_the_bound_is_left_out_and_counted(open_world: OpenWorld) -> None:
    world = await promoted(open_world, shadow={"share": 1.0, "per_second": 2.0})
    world.ask(range(100, 160))
    await world.passes(2)
    fates = world.here.engine.pairs.fates
    assert fates[PairFate.ANSWERED] == pairs(world)
    assert 2 <= pairs(world) <= 10
    assert fates[PairFate.TOO_MANY] == 60 - pairs(world)


async def test_an_engine_that_is_busy_costs_pairs_and_holds_up_nothing(open_world: OpenWorld) -> None:
    world = await promoted(open_world, shadow={**ALL, "max_wait_s": 5.0})
    brake = world.here.generator.before_answer = Brake()
    world.ask(range(100, 110))
    ended = await world.ended(1)
    assert ended.state is S.SETTLED
    assert brake.reached.is_set()
    assert pairs(world) == 0
    assert world.here.engine.pairs.fates[PairFate.BUSY] == 10
    assert world.stores.shadow_pairs.waiting(1, 10) == []


async def test_an_engine_that_is_away_for_a_moment_costs_time_alone(open_world: OpenWorld) -> None:
    world = await promoted(open_world)
    world.here.generator.before_answer = failing(TransientError("away"), TransientError("away"))
    world.ask(range(100, 110))
    await world.passes(5)
    assert pairs(world) == 10


async def test_a_defect_of_ours_is_told_at_once_and_ends_no_round(
    open_world: OpenWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = await promoted(open_world)
    world.here.generator.before_answer = failing(*[KeyError("ours")] * 3)
    world.ask(range(100, 110))
    await world.passes(2)
    assert world.round(1).state is S.PROMOTED
    assert [r.exc_info is not None for r in caplog.records if "a defect" in r.message] == [True]
    await world.passes(5)
    assert pairs(world) == 10
    assert (await world.ended(1)).state is S.SETTLED


# --- while a candidate waits for its proof ----------------------------------------------------------------------------


async def proving(open_world: OpenWorld, **settings: Any) -> ControlWorld:
    """A world with a round that has 5 wins and no loss, among 25 labels, and waits for more."""
    settings = {"gate": {"patience_s": 40.0}, "shadow": ALL, **settings}
    world = open_world(trigger={"retry_failed_s": 1000.0, "new_pseudo_labels": None}, **settings)
    world.teach(held_out=[*TIES, *FIVE_WINS])
    world.here.start()
    await world.reaches(0, S.PROVING)
    await world.until(lambda: "more labels" in world.here.control.waiting_for)
    return world


def evidence(round_: Round) -> tuple[int, int, int]:
    assert round_.evaluation is not None
    return round_.evaluation["count"], round_.evaluation["wins"], round_.evaluation["losses"]


def label(world: ControlWorld, numbers: Iterable[int], **changes: Any) -> None:
    """The truth of queries that were answered, on the training side."""
    said = [replace(example(number), query=Query(f"q{number}", f"is {number} even?")) for number in numbers]
    world.stores.examples.upsert([(replace(each, **changes), False) for each in said])


async def test_a_candidate_that_gives_one_answer_to_everything_is_rejected_before_it_serves(
    open_world: OpenWorld,
) -> None:
    world = await proving(open_world)
    world.weights[None] = Weights(10, 0.5)
    world.weights[world.round(0).adapter] = OneAnswer(10, 0.2)
    world.ask(range(100, 150))
    ended = await world.ended(0)
    assert ended.state is S.REJECTED
    assert (ended.reason or "").startswith("on live queries, concentration: 'even' is the answer to ")
    assert world.stores.alias.get().generation == 0


async def test_labels_of_shadow_pairs_join_the_gates_evidence(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.ask([104, 105, 106])
    await world.until(lambda: pairs(world, 0) == 3)
    label(world, [205, 215, 225])  # of queries that nobody drew
    await world.passes(3)
    assert evidence(world.round(0)) == (25, 5, 0)
    label(world, [104])
    await world.until(lambda: evidence(world.round(0)) == (26, 6, 0))
    label(world, [104, 105])
    assert (await world.reaches(0, S.PROMOTED)).state in (S.PROMOTED, S.SETTLED)
    assert evidence(world.round(0)) == (27, 7, 0)


async def test_what_clients_said_joins_where_it_is_trusted_alone(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.ask([104, 105])
    await world.until(lambda: pairs(world, 0) == 2)
    label(world, [104, 105], source="feedback")
    await world.passes(3)
    assert evidence(world.round(0)) == (25, 5, 0)


async def test_disagreements_without_a_label_are_listed(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.ask(range(100, 160))
    await world.until(lambda: pairs(world, 0) == 60)
    found = world.stores.shadow_pairs.disagreements(0)
    assert sorted(pair.query.id for pair in found) == sorted(f"q{n}" for n in range(100, 160) if n % 10 >= 4)
    assert [pair.key for pair in found] == sorted(pair.key for pair in found)
    assert {(pair.incumbent, pair.candidate) for pair in found} == {("even", "odd"), ("odd", "even")}
    world.stores.examples.upsert([(Example(found[0].query, "even"), True)])
    assert world.stores.shadow_pairs.disagreements(0) == found[1:]


async def test_the_review_of_a_gate_asks_first_where_the_answers_differ(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.ask(range(100, 140))
    await world.until(lambda: pairs(world, 0) == 40)
    drawing = Drawing(world.stores, FreshLabels(world.stores, world.place), SecretOrder("secret"), 1000, pairs=True)
    drafts = drawing.for_gate(world.round(0), 30)
    assert [draft.differing for draft in drafts] == [True] * 24 + [False] * 6
    # Both answers, in either order; of what is no pair none.
    assert {draft.candidates for draft in drafts} == {("even", "odd"), ("odd", "even"), ()}
    assert all(len(draft.candidates) == 2 * draft.differing for draft in drafts)
    assert {draft.query.id for draft in drafts[:24]} == {f"q{n}" for n in range(100, 140) if n % 10 >= 4}
    again = Drawing(world.stores, FreshLabels(world.stores, world.place), SecretOrder("another"), 1000, pairs=True)
    assert [draft.key for draft in again.for_gate(world.round(0), 24)] != [draft.key for draft in drafts[:24]]
    world.stores.reviews.add(drafts[:20])
    assert [draft.key for draft in drawing.for_gate(world.round(0), 4)] == [draft.key for draft in drafts[20:24]]


async def test_what_was_asked_for_to_teach_proves_nothing_though_it_is_a_pair(open_world: OpenWorld) -> None:
    world = await proving(open_world)
    world.ask([101, 102])
    await world.until(lambda: pairs(world, 0) == 2)
    world.stores.reviews.add([Draft(Query("q102", "is 102 even?"), "teach")])
    label(world, [101, 102])
    await world.until(lambda: evidence(world.round(0)) == (26, 5, 0))
    await world.passes(3)
    assert evidence(world.round(0)) == (26, 5, 0)


# --- what a rolled back round had learned -----------------------------------------------------------------------------


async def rolled_back(open_world: OpenWorld, **settings: Any) -> ControlWorld:
    world = await promoted(open_world, OneAnswer(10, 0.2), **settings)
    world.ask(range(100, 150))
    assert (await world.ended(1)).state is S.ROLLED_BACK
    return world


async def snapshot_of(world: ControlWorld, number: int) -> dict[str, dict[str, Any]]:
    world.request("start_round", kind="evolve", reason="test", shuffle_labels=False)
    await world.until(lambda: (found := world.stores.rounds.get(number)) is not None and found.state is not S.PLANNED)
    ids = world.stores.rounds.members(number)
    return {id_: next(use for use in world.stores.rounds.memberships(id_) if use["number"] == number) for id_ in ids}


async def test_what_a_rolled_back_round_had_learned_is_not_selected_again(open_world: OpenWorld) -> None:
    world = await rolled_back(open_world)
    learned = {id_ for id_, selected in world.stores.rounds.members(1).items() if selected}
    assert learned
    after = await snapshot_of(world, 2)
    assert {after[id_]["reason"] for id_ in learned} == {QUARANTINED}
    assert not any(after[id_]["selected"] for id_ in learned)
    assert any(each["selected"] for id_, each in after.items() if id_ not in learned)


async def test_an_answer_that_is_another_now_is_no_longer_in_quarantine(open_world: OpenWorld) -> None:
    world = await rolled_back(open_world)
    learned = sorted(id_ for id_, selected in world.stores.rounds.members(1).items() if selected)
    world.weights[world.round(0).adapter] = Weights(0, 0.3)  # labels them all again, otherwise
    for stored in world.stores.pseudo_labels.load(learned[:1]):
        world.stores.pseudo_labels.replace([replace(stored, adapter="another")])
    after = await snapshot_of(world, 2)
    assert after[learned[0]]["selected"]
    assert after[learned[1]]["reason"] == QUARANTINED


async def test_quarantine_can_be_switched_off(open_world: OpenWorld) -> None:
    world = await rolled_back(open_world, rollout={"watch_s": WATCHED_S, "quarantine": False})
    after = await snapshot_of(world, 2)
    assert all(each["reason"] != QUARANTINED for each in after.values())


@pytest.mark.parametrize("name", ["watch_min", "max_agreement_drop"])
async def test_settings_of_the_former_watch_are_refused_with_the_reason(open_world: OpenWorld, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: mean agreement is not watched any more"):
        open_world(rollout={name: 1})
    await asyncio.sleep(0)
