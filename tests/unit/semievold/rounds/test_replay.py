"""A round done again: equal where nothing has changed, what differs in words, and what another rule had chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from semievol.config import labelling
from semievol.config.labelling import ConsensusConfig
from semievol.errors import ConfigError
from semievol.examples.split import HoldoutRule
from semievol.training import fitting
from semievold.commands import replaying
from semievold.errors import StateConflict
from semievold.round_states import RoundState as S
from semievold.rounds.planning.replay import _config_of_then, again, trained_again
from semievold.rounds.pool import DOUBTED, QUARANTINED
from semievold.store.examples import FEEDBACK
from semievold.store.feedback import Outcome, Said
from semievold.store.rounds import Round
from semievold.store.tables import pseudo_labels
from tests.control_world import ControlWorld, OpenWorld, Weights, example

RULE = {"theta": 0.5, "min_agreement": 0.0}


async def evolved(world: ControlWorld) -> Round:
    """A warm round, and one that learned from half of its pool; the pool was labelled again for it."""
    world.teach()
    world.weights[None] = Weights(0, 0.5)
    world.weights["older"] = Weights(2, 0.2)
    await world.here.lead()
    world.trainer.right = 6
    await world.advance(await world.plan(), S.SETTLED)
    world.ask(range(40, 80), adapter="older")
    world.trainer.right = 10
    return await world.advance(await world.plan("evolve"), S.SETTLED)


def rows(world: ControlWorld) -> list[Any]:
    """All that the state holds of pseudo-labels and rounds."""
    return [world.stores.pseudo_labels.pool(), world.stores.rounds.all(), world.stores.rounds.events(1)]


async def test_a_round_is_chosen_and_trained_again_with_the_same_rows_and_weights(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    round_ = await evolved(world)
    before = rows(world)
    replayed = again(world.stores, world.config, world.place, 1)
    report = replayed.report()
    assert report["rows"]["equal"]
    assert report["rows"]["hash_now"] == (round_.snapshot or {})["rows_hash"]
    assert (report["selected"]["only_then"], report["selected"]["only_now"]) == ({}, {})
    assert (await trained_again(replayed, world.stores, world.trainer))["equal"]
    assert rows(world) == before


async def test_it_sees_the_labels_that_the_round_saw_also_when_later_rounds_made_them_anew(
    open_world: OpenWorld,
) -> None:
    world = open_world(selection=RULE)
    await evolved(world)
    world.ask(range(240, 260))
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)  # labels the pool again
    assert {row.revision for row in world.stores.pseudo_labels.rows(["q40", "q50"]).values()} == {3}
    assert again(world.stores, world.config, world.place, 1).report()["rows"]["equal"]


async def test_other_settings_of_today_do_not_count(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    await evolved(world)
    today = world.config.model_copy(update={"selection": world.config.selection.model_copy(update={"theta": 0.1})})
    assert again(world.stores, today, world.place, 1).report()["rows"]["equal"]


async def test_a_consensus_from_before_it_heard_words_hears_none(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    round_ = await evolved(world)
    snapshot = round_.snapshot or {}
    words_today = ConsensusConfig().words
    for kept, words in (
        ({"votes": 2.5}, 0.0),
        ({"votes": 2.5, "words": 0.3}, 0.3),
        ({"method": "spreading", "steps": 5}, words_today),  # and of no use
    ):
        section = {**snapshot["config"]["labelling"], "consensus": dict(kept)}
        older = replace(round_, snapshot={**snapshot, "config": {**snapshot["config"], "labelling": section}})
        consensus = _config_of_then(world.config, older).labelling.consensus
        assert consensus is not None
        assert consensus.words == words
        assert {name: getattr(consensus, name) for name in kept} == kept


async def test_numbers_that_a_rule_chose_are_those_of_then(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world(selection=RULE, training="auto")
    round_ = await evolved(world)
    numbers = (round_.snapshot or {})["training"]
    monkeypatch.setattr(fitting, "EPOCHS", 10 * fitting.EPOCHS)
    monkeypatch.setattr(fitting, "UNKNOWN_RATE", 1.0)
    replayed = again(world.stores, world.config, world.place, 1)
    assert replayed.chosen.job.numbers() == numbers
    assert replayed.same_rows


@pytest.mark.parametrize(
    "training", [{"warm_epochs": "auto", "warm_learning_rate": "auto"}, {"epochs": "auto", "warm_epochs": 3}]
)
async def test_so_are_those_of_a_warm_round_alone(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
) -> None:
    world = open_world(training=training)
    world.teach()
    await world.here.lead()
    round_ = await world.advance(await world.plan(), S.SNAPSHOTTED)
    monkeypatch.setattr(fitting, "EPOCHS", fitting.EPOCHS / 10)
    monkeypatch.setattr(fitting, "UNKNOWN_RATE", 1.0)
    replayed = again(world.stores, world.config, world.place, round_.number)
    assert replayed.chosen.job.numbers() == (round_.snapshot or {})["training"]


async def test_a_theta_that_a_rule_chose_is_that_of_then(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world(selection={"theta": "auto", "min_agreement": 0.0})
    await evolved(world)
    monkeypatch.setattr(labelling, "FIRST_THETA", 0.1)
    monkeypatch.setattr(labelling, "LATER_THETA", 0.1)
    replayed = again(world.stores, world.config, world.place, 1)
    assert replayed.config.selection.theta == 0.5
    assert replayed.same_rows
    given = ["selection.by=margin"]
    assert again(world.stores, world.config, world.place, 1, given).config.selection.theta == "auto"


async def test_a_label_that_is_gone_is_named_and_nothing_is_trained_for_it(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    await evolved(world)
    world.stores.examples.retract(["e3"])
    replayed = again(world.stores, world.config, world.place, 1)
    assert replayed.report()["examples"]["gone"] == ["e3"]
    assert not replayed.same_rows
    found = await trained_again(replayed, world.stores, world.trainer)
    assert found["note"] == "not trained: the rows are others"
    said = await replaying.replay(world.config, world.stores, world.place, 1, (), train=True)
    assert (said.equal, said.whole["said"]) == (False, "1 of its examples are gone")


async def test_a_label_that_came_later_changes_nothing(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    await evolved(world)
    world.stores.examples.upsert([(example(2001), False), (example(2002), True)])
    assert again(world.stores, world.config, world.place, 1).report()["rows"]["equal"]


async def test_a_round_that_was_rolled_back_is_chosen_again_as_if_nobody_knew_yet(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    world.teach()
    world.weights[None] = Weights(0, 0.5)
    world.trainer.right = 6
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    world.ask(range(40, 80))
    world.trainer.right = 10
    await world.advance(await world.plan("evolve"), S.PROMOTED)
    await world.passes(1)
    world.stores.rounds.leave(1, S.PROMOTED, S.ROLLED_BACK, "test")
    assert again(world.stores, world.config, world.place, 1).report()["selected"]["only_then"] == {}
    world.ask(range(240, 260))
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    learned = {id_ for id_, selected in world.stores.rounds.members(1).items() if selected}
    replayed = again(world.stores, world.config, world.place, 2)
    reasons = {id_: member.reason for id_, member in replayed.then.members.items()}
    assert QUARANTINED in {reasons[id_] for id_ in learned}
    assert replayed.same_rows, "what was in quarantine then is in quarantine"


async def test_doubts_count_that_were_there_then_and_no_others(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    world.teach()
    world.trainer.right = 10
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    world.ask(range(40, 80))

    def doubt(number: int) -> None:
        known = example(number)
        said = Said(replace(known, query=replace(known.query, id=f"q{number}"), source=FEEDBACK), "client", True)
        assert [each.outcome for each in world.stores.feedback.keep([said], HoldoutRule(0.0))] == [Outcome.DENIED]

    doubt(40)
    await world.passes(1)
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    await world.passes(1)
    doubt(41)
    world.stores.examples.upsert([(example(40), False)])  # an operator answers the doubt
    replayed = again(world.stores, world.config, world.place, 1)
    reasons = {id_: member.reason for id_, member in replayed.then.members.items()}
    assert (reasons["q40"], reasons["q41"]) == (DOUBTED, None)
    assert replayed.same_rows


async def test_another_rule_says_what_it_had_chosen_and_touches_nothing(open_world: OpenWorld) -> None:
    world = open_world(selection=RULE)
    world.teach()
    world.weights[None] = Weights(0, 0.5)
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    world.ask(range(40, 80))
    number = sa.cast(sa.func.substr(pseudo_labels.c.query_id, 2), sa.Integer)
    with world.database.write() as connection:
        connection.execute(sa.update(pseudo_labels).values(entropy=number / 100.0))
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    before, begun = rows(world), world.trainer.begun

    async def chosen(*given: str) -> dict[str, Any]:
        said = await replaying.replay(world.config, world.stores, world.place, 1, given, train=True)
        assert (said.equal, said.whole["set"]) == (None, list(given))
        return dict(said.whole)

    fewer = await chosen("selection.theta=0.1")
    assert fewer["selected"] == {
        "then": 20,
        "now": 4,
        "both": 4,
        "only_then": {f"q{number}": "entropy above threshold" for number in range(44, 60)},
        "only_now": {},
    }
    assert fewer["threshold"] == {"then": 0.59, "now": 0.43}
    more = await chosen("selection.theta=1.0")
    assert more["selected"]["only_now"] == {f"q{number}": "entropy above threshold" for number in range(60, 80)}
    none = await chosen("selection.theta=1.0", "selection.by=margin", "selection.min_agreement=1")
    assert none["selected"]["now"] == 40
    assert rows(world) == before
    assert world.trainer.begun == begun


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("selection.theta", "write it as selection.theta=0.3"),
        ("training.epochs=3", "is no setting of selection or labelling"),
        ("selection.theta=2", "selection.theta"),
        ("selection.tehta=0.2", "tehta"),
        ("selection.theta=[", "is no value in YAML"),
        ("labelling.justify=true", "would have other answers of the model, which this command does not ask"),
        ("selection.risk={budget: 0.05}", "rests on what models answer to the calibration examples"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(open_world: OpenWorld, given: str, why: str) -> None:
    world = open_world(selection={"min_agreement": 0.0})
    await evolved(world)
    with pytest.raises(ConfigError, match=why.replace("(", r"\(")):
        again(world.stores, world.config, world.place, 1, [given])


async def test_a_round_that_chose_nothing_cannot_be_done_again(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    await world.plan()
    for number, why in ((0, "it chose nothing"), (7, "there is no round 7")):
        with pytest.raises(StateConflict, match=why):
            again(world.stores, world.config, world.place, number)


async def test_a_certified_round_is_composed_of_what_it_selected(open_world: OpenWorld) -> None:
    world = open_world(selection={"theta": 0.5, "risk": {"budget": 0.05, "confidence": 0.95}})
    world.teach()
    world.stores.examples.keep([example(number) for number in range(3000, 3100)], HoldoutRule(0.0, calibration=1.0))
    await world.here.lead()
    await world.advance(await world.plan(), S.SETTLED)
    world.weights["older"] = Weights(4, 0.2)
    world.ask(range(2000, 2040), adapter="older")
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    assert again(world.stores, world.config, world.place, 1).report()["rows"]["equal"]
