"""A label that is taken back: what descends from it is marked, and no round learns from that again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import sqlalchemy as sa

from semievol.errors import TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.tasks.task import Task
from semievold.api import operations
from semievold.commands.importing import retract_labels
from semievold.round_states import RoundKind
from semievold.round_states import RoundState as S
from semievold.rounds import pool
from semievold.store.lineage.walk import Role
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.retention import RetentionStore
from semievold.store.rounds import Membership
from tests.control_world import Brake, ControlWorld, OpenWorld, Weights, example
from tests.scripted import pseudo_label

LATE = 50
"""The label that arrives after the warm round, and is taken back."""


async def taught_wrongly(world: ControlWorld) -> tuple[str, str]:
    """A warm version, and one that learned from a label which arrived later and serves now."""
    world.teach()
    await world.here.lead()
    world.trainer.right = 7
    warm = (await world.advance(await world.plan(), S.SETTLED)).adapter
    world.stores.examples.upsert([(example(LATE), False)])
    world.ask(range(2000, 2020))
    world.trainer.right = 10
    evolved = (await world.advance(await world.plan("evolve"), S.SETTLED)).adapter
    return str(warm), str(evolved)


async def test_what_descends_is_marked_and_the_last_clean_version_is_the_one_before_it(open_world: OpenWorld) -> None:
    world = open_world()
    warm, evolved = await taught_wrongly(world)
    seen = replace(pseudo_label("q-near", "is 50 odd?", "even", 0.2), adapter=warm, neighbours=((f"e{LATE}", 0.9),))
    world.stores.pseudo_labels.add([NewLabel(seen, query_hash(seen.query))])
    found = world.stores.retractions.retract(f"e{LATE}")
    assert (found.rounds, found.adapters) == ((1,), (evolved,))
    assert ("q-near", 1) in found.pseudo_labels
    assert world.stores.examples.get(f"e{LATE}") is None
    assert [world.round(number).unclean for number in (0, 1)] == [None, f"e{LATE}"]
    retractions = world.stores.retractions
    assert (retractions.unclean(evolved), retractions.unclean(warm), retractions.last_clean()) == (
        f"e{LATE}",
        None,
        warm,
    )
    assert retractions.unclean_labels(["q-near", "q2000"]) == {"q-near"}
    status = operations.status(world.config, world.stores, world.place)
    assert status["serving_descends_from"] == f"e{LATE}"
    assert world.stores.retractions.retract(f"e{LATE}") == found  # again: nothing else becomes of it


async def test_the_next_round_is_labelled_by_the_last_clean_version_and_trained_without_the_label(
    open_world: OpenWorld,
) -> None:
    world = open_world(training={"start_from": "incumbent"})
    warm, evolved = await taught_wrongly(world)
    assert (world.stores.adapters.get(evolved) or 0).parent == warm  # type: ignore[union-attr]
    world.ask(range(2100, 2110))
    world.stores.retractions.retract(f"e{LATE}")
    taken = await world.advance(await world.plan("evolve"), S.TRAINED)
    assert taken.incumbent == evolved
    labels = world.stores.pseudo_labels.load([f"q{number}" for number in (*range(2000, 2020), *range(2100, 2110))])
    assert {label.adapter for label in labels} == {warm}
    rows = (world.place.training(taken).snapshot / "rows.jsonl").read_text()
    assert f"is {LATE} even?" not in rows
    made = world.stores.adapters.get(str(taken.adapter))
    assert made is not None
    assert (made.parent, made.unclean) == (None, None)


async def test_a_candidate_whose_label_was_taken_back_meanwhile_is_not_promoted(open_world: OpenWorld) -> None:
    world = open_world()
    await taught_wrongly(world)
    world.ask(range(2100, 2110))
    trained = await world.advance(await world.plan("evolve"), S.TRAINING)
    world.stores.retractions.retract(f"e{LATE}")
    made = await world.here.engine.advance(trained)
    assert world.stores.retractions.unclean(made.adapter) == f"e{LATE}"
    ended = made
    while not ended.ended:
        ended = await world.here.engine.advance(ended)
    assert ended.state is not S.SETTLED
    assert world.stores.alias.get().adapter != ended.adapter


async def test_a_label_that_was_in_flight_when_its_neighbour_was_taken_back_is_left_out_and_made_again(
    open_world: OpenWorld,
) -> None:
    world = open_world(rounds={"refresh": False})
    warm, _ = await taught_wrongly(world)
    world.stores.retractions.retract(f"e{LATE}")
    late = replace(pseudo_label("q-late", "is 50 odd?", "even", 0.2), adapter=warm, neighbours=((f"e{LATE}", 0.9),))
    other = replace(pseudo_label("q-other", "is 52 odd?", "even", 0.2), adapter=warm, neighbours=(("e1", 0.9),))
    world.stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in (late, other)])
    judged = pool.judge(world.stores, HashingEmbedder(), Task(world.config.task), world.config)
    reasons = {member.query_id: member.reason for member in judged.members}
    assert (reasons["q-late"], reasons["q-other"]) == (pool.TAKEN_BACK, None)
    assert "q-late" not in {label.query.id for label in judged.kept}
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)  # the incumbent is unclean: all is labelled again
    again = world.stores.pseudo_labels.get("q-late")
    assert again is not None
    assert (again.revision, f"e{LATE}" in dict(again.label.neighbours)) == (2, False)


@pytest.mark.parametrize("lost", ["example", "pseudo-label", "parent"])
async def test_a_round_that_was_choosing_when_the_label_was_taken_back_chooses_again(
    open_world: OpenWorld, lost: str
) -> None:
    world = open_world()
    warm, evolved = await taught_wrongly(world)
    seen = replace(pseudo_label("q-near", "is 50 odd?", "even", 0.2), adapter=warm, neighbours=((f"e{LATE}", 0.9),))
    world.stores.pseudo_labels.add([NewLabel(seen, query_hash(seen.query))])
    planned = await world.plan("evolve")
    world.stores.retractions.retract(f"e{LATE}")
    taken = {"e1": "training"} | ({f"e{LATE}": "training"} if lost == "example" else {})
    members = [Membership("q-near", lost == "pseudo-label", None)]
    parent = evolved if lost == "parent" else warm
    move = (planned.number, S.PLANNED, S.SNAPSHOTTED)
    with pytest.raises(TransientError, match="chooses again"):
        world.here.stores.rounds.transition(*move, members=members, taken=taken, snapshot={"parent": parent})  # type: ignore[arg-type]
    assert world.round(planned.number).state is S.PLANNED
    assert world.stores.lineage.examples_of(planned.number) == {}
    members = [Membership("q-near", False, pool.TAKEN_BACK)]
    clean: dict[str, Role] = {"e1": "training"}
    world.here.stores.rounds.transition(*move, members=members, taken=clean, snapshot={"parent": warm})
    assert world.round(planned.number).state is S.SNAPSHOTTED


async def test_serving_goes_back_to_the_last_clean_version_on_request_and_not_to_an_unclean_one(
    open_world: OpenWorld,
) -> None:
    world = open_world(trigger={"new_pseudo_labels": None})
    warm, evolved = await taught_wrongly(world)
    world.here.start()
    refused = await world.answered(world.request("leave_unclean"))
    assert (refused.state, "descends from no label" in str(refused.result)) == ("refused", True)
    world.stores.retractions.retract(f"e{LATE}")
    moved = await world.answered(world.request("leave_unclean"))
    assert (moved.state, moved.result) == ("done", {"from": evolved, "to": warm})
    assert world.stores.alias.get().adapter == warm
    for kind, payload in (("rollback", {}), ("promote", {"adapter": evolved})):
        back = await world.answered(world.request(kind, **payload))  # type: ignore[arg-type]
        assert (back.state, "taken back" in str(back.result)) == ("refused", True)


async def test_no_version_that_was_left_as_no_good_counts_as_the_last_clean_one(open_world: OpenWorld) -> None:
    world = open_world()
    warm, evolved = await taught_wrongly(world)
    cancelled = await world.version()
    world.here.stores.adapters.mark(cancelled, "previous")  # it served, and the watch or a person took it back
    last_clean = world.stores.retractions.last_clean
    assert last_clean() == evolved
    alias = world.here.stores.alias
    alias.move(warm, world.request("rollback"), away=True)
    assert RetentionStore(world.database, world.config.workload.name).forget_requests(world.now() + 1.0) == 0
    assert last_clean() == warm
    alias.move(evolved)
    assert last_clean() == evolved  # a person has promoted it again
    alias.move(cancelled)
    assert last_clean() == cancelled


async def test_the_last_clean_version_is_attested_before_it_serves(open_world: OpenWorld) -> None:
    world = open_world(trigger={"new_pseudo_labels": None})
    warm, evolved = await taught_wrongly(world)
    world.here.start()
    world.weights[warm] = world.weights[evolved]
    world.stores.retractions.retract(f"e{LATE}")
    moved = await world.answered(world.request("leave_unclean"))  # no older one is there: to the base model
    assert (moved.state, moved.result) == ("done", {"from": evolved, "to": None})


async def test_a_clean_version_that_is_not_served_as_trained_is_passed_over_for_the_one_before(
    open_world: OpenWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = open_world(trigger={"new_pseudo_labels": None})
    world.weights[None] = Weights(0, 0.5)
    world.teach()
    await world.here.lead()
    world.ask(range(2000, 2020))
    names = []
    for number, right in enumerate((4, 7, 10)):
        if number == 2:
            world.stores.examples.upsert([(example(LATE), False)])
        world.trainer.right = right
        kind: RoundKind = "evolve" if number else "warm"
        names.append(str((await world.advance(await world.plan(kind), S.SETTLED)).adapter))
    world.weights[names[1]] = world.weights[names[2]]
    world.stores.retractions.retract(f"e{LATE}")
    assert world.stores.retractions.clean_versions() == [names[1], names[0]]
    assert world.stores.rounds.evolved() == 1  # the others' theta is that of their number among clean rounds
    world.here.start()
    moved = await world.answered(world.request("leave_unclean"))
    assert (moved.state, moved.result) == ("done", {"from": names[2], "to": names[0]})
    assert [message for message in caplog.messages if "is passed over for the one before" in message]


async def test_a_clean_version_whose_files_are_gone_does_not_keep_the_round_from_being_labelled(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    warm, _ = await taught_wrongly(world)
    world.stores.retractions.retract(f"e{LATE}")
    shutil.rmtree(world.place.adapters / warm)
    other = world.process()  # which has nothing loaded
    await other.lead()
    planned = other.stores.rounds.plan("evolve", "test", 1, other.alias.adapter, {})
    taken = await other.engine.advance(planned)
    assert taken.state is S.SNAPSHOTTED
    assert {row.adapter for row in world.stores.pseudo_labels.pool()} == {None}


async def test_a_clean_round_that_was_refused_while_frozen_starts_by_itself_after_the_thaw(
    open_world: OpenWorld,
) -> None:
    world = open_world(trigger={"new_pseudo_labels": None})
    _, evolved = await taught_wrongly(world)
    world.stores.freezes.freeze("test")
    world.here.start()
    world.stores.retractions.retract(f"e{LATE}")
    refused = await world.answered(world.request("start_round", kind="evolve", reason="test"))
    assert refused.state == "refused"
    await world.passes(5.0)
    assert world.stores.rounds.open() is None
    world.stores.freezes.thaw()
    await world.until(lambda: world.stores.rounds.get(2) is not None)
    begun = world.round(2)
    assert (begun.kind, begun.incumbent, f"'e{LATE}'" in begun.trigger) == ("evolve", evolved, True)


async def test_a_round_that_was_to_replace_the_version_that_is_left_is_cancelled(open_world: OpenWorld) -> None:
    world = open_world(trigger={"new_pseudo_labels": None})
    await taught_wrongly(world)
    world.trainer.before = Brake()
    world.stores.retractions.retract(f"e{LATE}")
    world.here.start()
    await world.reaches(2, S.TRAINING)
    assert (await world.answered(world.request("leave_unclean"))).state == "done"
    assert (await world.ended(2)).state is S.CANCELLED
    started = await world.answered(world.request("start_round", kind="evolve", reason="test"))
    assert (started.state, started.result) == ("done", {"round": 3})


async def test_nobody_waits_for_the_search_through_the_pseudo_labels(open_world: OpenWorld) -> None:
    world = open_world()
    _, evolved = await taught_wrongly(world)
    searched: list[bool] = []

    def seen(connection: sa.Connection, _cursor: object, statement: str, *_more: object) -> None:
        if "instr(" in statement or "adapter IN" in statement:
            searched.append(bool(connection.get_execution_options().get("semievol_write")))

    sa.event.listen(sa.Engine, "before_cursor_execute", seen)
    try:
        found = world.stores.retractions.retract(f"e{LATE}", "e7000")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", seen)
    assert found.adapters == (evolved,)
    assert world.stores.retractions.unclean(evolved) == f"e{LATE}"
    assert len(searched) >= 4  # two tables for neighbours, and for what the adapter answered
    assert not any(searched)


async def test_the_command_lists_what_descends_and_asks_for_a_clean_round(open_world: OpenWorld) -> None:
    world = open_world()
    _, evolved = await taught_wrongly(world)
    report = await retract_labels(world.config, world.stores, ["e7000"], now=True, wait_s=0.0)
    assert (report["serving_is_clean"], "clean_round" in report, report["unknown"]) == (True, False, ["e7000"])
    report = await retract_labels(world.config, world.stores, [f"e{LATE}"], now=True, wait_s=0.0)
    assert (report["descendants"]["adapters"], "unknown" in report) == ([evolved], False)
    assert [request.kind for request in world.stores.requests.pending()] == ["leave_unclean", "start_round"]
    assert (report["serving"], report["serving_is_clean"]) == (evolved, False)  # nobody has carried it out yet
