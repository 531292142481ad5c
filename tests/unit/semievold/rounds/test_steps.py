"""What each step of a round does and leaves behind, one call at a time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from semievol import adapter_directory
from semievol.errors import AdapterError, TransientError
from semievold.errors import StateConflict
from semievold.round_states import RoundState as S
from tests.control_world import HELD_OUT, Brake, ControlWorld, OpenWorld, Weights, example, failing

BASE = None


async def leading(world: ControlWorld) -> ControlWorld:
    """The world with its examples, whose process `here` leads."""
    world.teach()
    await world.here.lead()
    return world


async def serving(world: ControlWorld, *, right: int = 7) -> ControlWorld:
    """The same after a warm round whose weights know `right` of ten answers."""
    await leading(world)
    world.trainer.right = right
    await world.advance(await world.plan(), S.SETTLED)
    world.trainer.right = 10
    return world


def adapters(world: ControlWorld) -> dict[str, str]:
    return {version.name: version.state for version in world.stores.adapters.all()}


async def test_each_step_leaves_what_the_name_of_the_next_state_promises(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    here, place = world.here, world.place
    planned = await world.plan()
    taken = await here.engine.advance(planned)
    assert (taken.state, taken.attempts) == (S.SNAPSHOTTED, 0)
    snapshot = place.training(planned).snapshot
    assert {file.name for file in snapshot.iterdir()} == {"job.json", "rows.jsonl", "manifest.json"}
    assert taken.snapshot is not None
    assert (taken.snapshot["rows"], taken.snapshot["kind"]) == (10, "warm")
    assert (await here.engine.advance(taken)).state is S.TRAINING
    assert world.trainer.begun == 0

    trained = await here.engine.advance(world.round(0))
    assert trained.state is S.TRAINED
    assert trained.training is not None
    assert trained.training["rows"] == 10
    version = world.stores.adapters.get(trained.adapter or "")
    assert version is not None
    assert (version.state, version.parent) == ("candidate", None)
    assert adapter_directory.verify(version.path).content_hash == version.content_hash
    assert await here.generator.loaded_adapters() == frozenset()

    assert (await here.engine.advance(trained)).state is S.LOADED
    assert await here.generator.loaded_adapters() == {version.name}
    evaluated = await here.engine.advance(world.round(0))
    assert evaluated.state is S.EVALUATED
    assert evaluated.evaluation is not None
    assert (evaluated.evaluation["incumbent_accuracy"], evaluated.evaluation["candidate_accuracy"]) == (0.4, 1.0)
    attested = await here.engine.advance(evaluated)
    assert attested.state is S.ATTESTED
    assert attested.attestation is not None
    assert attested.attestation["passed"]
    assert here.alias.adapter is BASE

    assert (await here.engine.advance(attested)).state is S.PROMOTED
    assert (here.alias.adapter, world.stores.alias.get().adapter) == (version.name, version.name)
    assert adapters(world) == {version.name: "serving"}
    assert (await here.engine.advance(world.round(0))).state is S.SETTLED


async def test_a_candidate_that_is_worse_is_rejected_with_the_evidence_and_unloaded(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    world.trainer.right = 0
    loaded = await world.advance(await world.plan(), S.LOADED)
    rejected = await world.here.engine.advance(loaded)
    assert rejected.state is S.REJECTED
    assert rejected.reason is not None
    assert rejected.reason.startswith("significantly worse: 0 wins, 12 losses")
    assert rejected.evaluation is not None
    assert (rejected.evaluation["decision"], rejected.evaluation["losses"]) == ("reject", 12)
    assert adapters(world) == {rejected.adapter: "rejected"}
    outcomes = world.stores.rounds.outcomes_as_candidate(rejected.adapter or "")
    assert {found.outcome.correct for found in outcomes.values()} == {False}
    assert outcomes.keys() == {f"e{number}" for number in HELD_OUT}
    assert await world.here.generator.loaded_adapters() == frozenset()
    assert world.stores.alias.get().generation == 0


async def test_a_candidate_that_is_no_better_is_inconclusive_with_the_evidence(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    world.trainer.right = world.weights[BASE].right
    ended = await world.here.engine.advance(await world.advance(await world.plan(), S.LOADED))
    assert ended.state is S.INCONCLUSIVE
    assert ended.reason == (
        "no significant difference: 0 wins, 0 losses, evidence 1 of 20; "
        "no pair differs among 30 labels; 7 wins are needed"
    )
    assert ended.evaluation is not None
    assert ended.evaluation["decision"] == "inconclusive"
    assert len(world.stores.rounds.outcomes_as_candidate(ended.adapter or "")) == len(HELD_OUT)
    assert adapters(world) == {ended.adapter: "rejected"}


async def test_what_the_incumbent_answered_as_a_candidate_is_not_asked_again_unless_the_example_changed(
    open_world: OpenWorld,
) -> None:
    world = await serving(open_world())
    incumbent = world.here.alias.adapter
    changed = example(HELD_OUT[0])
    world.stores.examples.upsert([(type(changed)(changed.query, "odd"), True)])
    world.ask(range(40, 60))
    loaded = await world.advance(await world.plan("evolve"), S.LOADED)
    world.here.generator.calls.clear()
    evaluated = await world.here.engine.advance(loaded)
    asked = [request for call in world.here.generator.calls for request in call]
    again = [request.messages[-1].content for request in asked if request.adapter == incumbent]
    assert again == [changed.query.question]
    assert sum(request.adapter == loaded.adapter for request in asked) == len(HELD_OUT)
    assert evaluated.evaluation is not None
    # 21 of 30 by the warm round; of the changed example, which it knew, it gives the former answer.
    assert evaluated.evaluation["incumbent_accuracy"] == 20 / 30


async def test_weights_that_are_not_served_as_trained_fail_the_round_before_they_serve(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    evaluated = await world.advance(await world.plan(), S.EVALUATED)
    world.weights[evaluated.adapter] = Weights(10, world.weights[BASE].entropy)  # the adapter is not applied
    failed = await world.here.engine.advance(evaluated)
    assert failed.state is S.FAILED
    assert failed.reason == "attestation: answers are the base model's: the adapter is not applied"
    assert failed.attestation is not None
    assert not failed.attestation["passed"]
    assert adapters(world) == {failed.adapter: "rejected"}
    assert world.stores.alias.get().generation == 0


async def test_a_training_that_fails_ends_the_round_with_its_last_words(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    world.trainer.before = failing(AdapterError("out of memory"))
    failed = await world.here.engine.advance(await world.advance(await world.plan(), S.TRAINING))
    assert (failed.state, failed.reason) == (S.FAILED, "out of memory")


async def test_an_evolve_round_that_selects_nothing_fails(open_world: OpenWorld) -> None:
    world = await serving(open_world())
    world.ask(range(40, 60), agreement=0.0)
    failed = await world.here.engine.advance(await world.plan("evolve"))
    assert failed.state is S.FAILED
    assert failed.reason == "no pseudo-label was selected; nothing to learn from beyond the examples"


async def test_a_state_that_was_begun_too_often_fails_the_round_and_is_not_begun_again(open_world: OpenWorld) -> None:
    world = await leading(open_world(rounds={"max_attempts": 2}))
    training = await world.advance(await world.plan(), S.TRAINING)
    for _ in range(2):  # each time the process died
        world.here.stores.rounds.begin_attempt(0)
    failed = await world.here.engine.advance(training)
    assert failed.state is S.FAILED
    assert failed.reason == "state training was begun 2 times and never ended"
    assert world.trainer.begun == 0


async def test_the_last_allowed_attempt_is_made(open_world: OpenWorld) -> None:
    world = await leading(open_world(rounds={"max_attempts": 2}))
    training = await world.advance(await world.plan(), S.TRAINING)
    world.here.stores.rounds.begin_attempt(0)
    assert (await world.here.engine.advance(training)).state is S.TRAINED


async def test_a_step_that_waits_for_a_component_uses_up_no_attempt(open_world: OpenWorld) -> None:
    world = await leading(open_world(rounds={"max_attempts": 1}))
    training = await world.advance(await world.plan(), S.TRAINING)
    world.trainer.before = failing(TransientError("no place to train"), TransientError("no place to train"))
    for _ in range(2):
        with pytest.raises(TransientError, match="no place"):
            await world.here.engine.advance(training)
        assert world.round(0).attempts == 0
    assert (await world.here.engine.advance(training)).state is S.TRAINED


async def test_a_promoted_round_is_watched_however_often_its_watch_was_begun(open_world: OpenWorld) -> None:
    world = await leading(open_world(rounds={"max_attempts": 1}))
    promoted = await world.advance(await world.plan(), S.PROMOTED)
    for _ in range(3):
        world.here.stores.rounds.begin_attempt(0)
    assert (await world.here.engine.advance(promoted)).state is S.SETTLED


async def test_a_candidate_is_not_promoted_over_another_version_than_it_was_proved_against(
    open_world: OpenWorld,
) -> None:
    world = await leading(open_world())
    other = await world.version()
    attested = await world.advance(await world.plan(), S.ATTESTED)
    world.here.stores.alias.move(other)
    failed = await world.here.engine.advance(attested)
    assert failed.state is S.FAILED
    assert failed.reason == f"proved against None, but {other} serves now; start another round"
    assert world.stores.alias.get().adapter == other


async def test_a_candidate_that_broke_since_it_was_attested_is_not_promoted(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    attested = await world.advance(await world.plan(), S.ATTESTED)
    (world.place.adapters / (attested.adapter or "") / "adapter_model.safetensors").write_bytes(b"")
    failed = await world.here.engine.advance(attested)
    assert failed.state is S.FAILED
    assert "is truncated" in (failed.reason or "")
    assert world.stores.alias.get().generation == 0


@pytest.mark.parametrize("state", [S.LOADED, S.EVALUATED, S.ATTESTED])
async def test_a_process_that_takes_a_round_over_loads_the_candidate_again(open_world: OpenWorld, state: S) -> None:
    world = await leading(open_world())
    there = await world.advance(await world.plan(), state)
    world.here = world.process()  # its engine is empty
    await world.here.lead()
    moved = await world.here.engine.advance(there)
    assert not moved.ended
    assert world.here.generator.loads == [there.adapter]


async def test_a_promoted_round_cannot_be_cancelled(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    promoted = await world.advance(await world.plan(), S.PROMOTED)
    with pytest.raises(StateConflict, match="promoted -> cancelled is not a move"):
        await world.here.engine.cancel(promoted, "too late")
    assert world.round(0).state is S.PROMOTED


@pytest.mark.parametrize(("start_from", "expected"), [("base", None), ("incumbent", "the serving one")])
async def test_an_evolve_round_is_trained_from_where_it_is_told(
    open_world: OpenWorld, start_from: str, expected: str | None
) -> None:
    world = await serving(open_world(training={"start_from": start_from}))
    parent = None if expected is None else world.here.alias.adapter
    world.ask(range(40, 60))
    trained = await world.advance(await world.plan("evolve"), S.TRAINED)
    job = json.loads((world.place.training(trained).snapshot / "job.json").read_text())
    assert job["parent"] == (None if parent is None else str(world.place.adapters / parent))
    version = world.stores.adapters.get(trained.adapter or "")
    assert version is not None
    assert version.parent == parent


@pytest.mark.parametrize(("refresh", "labelled_by"), [(True, {"incumbent"}), (False, {"base", "incumbent"})])
async def test_labels_of_an_older_adapter_are_made_again_by_the_incumbent_where_that_is_wanted(
    open_world: OpenWorld, refresh: bool, labelled_by: set[str]
) -> None:
    world = open_world(rounds={"refresh": refresh})
    world.ask(range(40, 50))
    await serving(world)
    world.ask(range(50, 60))
    await world.advance(await world.plan("evolve"), S.SNAPSHOTTED)
    names = {BASE: "base", world.here.alias.adapter: "incumbent"}
    assert {names[row.adapter] for row in world.stores.pseudo_labels.pool()} == labelled_by


async def test_the_watch_waits_until_its_time_is_over(open_world: OpenWorld) -> None:
    world = await leading(open_world(rollout={"watch_s": 30.0}))
    promoted = await world.advance(await world.plan(), S.PROMOTED)
    begun = world.loop.time()
    assert (await world.here.engine.advance(promoted)).state is S.SETTLED
    assert world.loop.time() - begun == pytest.approx(30.0, abs=0.01)


async def test_an_alias_that_is_moved_by_hand_during_the_watch_stays_where_it_was_put(open_world: OpenWorld) -> None:
    world = await leading(open_world(rollout={"watch_s": 30.0}))
    other = await world.version()
    promoted = await world.advance(await world.plan(), S.PROMOTED)
    world.here.stores.alias.move(other)
    ended = await world.here.engine.advance(promoted)
    assert ended.state is S.ROLLED_BACK
    assert ended.reason == f"the alias was moved to {other} by hand during the watch"
    assert world.stores.alias.get().adapter == other
    assert world.loop.time() < 30


async def test_a_promotion_whose_end_the_former_leader_did_not_see_is_no_move_by_hand(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    attested = await world.advance(await world.plan(), S.ATTESTED)
    died, world.here = world.here, world.process()
    died.stores.rounds.promote(0, "w", attested.adapter or "", 0)
    assert world.here.alias.adapter is BASE
    await world.here.take_lease()
    assert (await world.here.engine.advance(world.round(0))).state is S.SETTLED
    assert world.here.alias.adapter == attested.adapter


async def test_a_round_that_settles_unloads_and_deletes_what_nobody_keeps(open_world: OpenWorld) -> None:
    world = await leading(open_world(artifacts={"keep_adapters": 2}))
    old = [await world.version() for _ in range(3)]
    for name in old:
        await world.here.fleet.load(name)
    settled = await world.advance(await world.plan(), S.SETTLED)
    assert await world.here.generator.loaded_adapters() == {settled.adapter}
    assert adapters(world) == {
        old[0]: "deleted",
        old[1]: "rejected",
        old[2]: "rejected",
        settled.adapter: "serving",
    }
    assert {path.name for path in world.place.adapters.iterdir()} == {old[1], old[2], settled.adapter}


async def test_rounds_that_are_all_rejected_leave_no_more_versions_than_are_kept(open_world: OpenWorld) -> None:
    world = await leading(open_world(artifacts={"keep_adapters": 2}))
    world.trainer.right = 0
    rejected = [(await world.advance(await world.plan(), S.REJECTED)).adapter or "" for _ in range(4)]
    assert list(adapters(world).values()) == ["deleted", "deleted", "rejected", "rejected"]
    assert {path.name for path in world.place.adapters.iterdir()} == set(rejected[2:])


async def test_old_versions_stay_when_they_cannot_be_deleted_and_go_with_the_next_round(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = await leading(open_world(artifacts={"keep_adapters": 2}))
    world.trainer.right = 0

    async def away(_keep: int) -> None:
        raise TransientError("the engine is away")

    with monkeypatch.context() as patched:
        patched.setattr(world.here.fleet, "delete_old", away)
        for _ in range(3):
            await world.advance(await world.plan(), S.REJECTED)
    assert list(adapters(world).values()) == ["rejected"] * 3
    assert "old adapters stay for now: the engine is away" in caplog.text
    await world.advance(await world.plan(), S.REJECTED)
    assert list(adapters(world).values()) == ["deleted", "deleted", "rejected", "rejected"]


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_a_killed_publication_left_is_removed_unless_a_round_may_finish_it(
    open_world: OpenWorld, is_open: bool
) -> None:
    world = await leading(open_world())
    unfinished = world.place.adapters / "w-r0007-0123abcd"
    unfinished.mkdir(parents=True)
    if is_open:
        await world.plan()
    await world.here.engine.remove_unfinished()
    assert unfinished.exists() == is_open


async def test_a_registered_version_that_lost_its_marker_is_kept_and_the_rest_of_a_deleted_one_is_not(
    open_world: OpenWorld,
) -> None:
    world = await leading(open_world())
    damaged, deleted = await world.version(), await world.version()
    world.here.stores.adapters.mark(deleted, "deleted")
    for name in (damaged, deleted):
        (world.place.adapters / name / "STABLE").unlink()
    await world.here.engine.remove_unfinished()
    assert [path.name for path in world.place.adapters.iterdir()] == [damaged]


async def test_progress_says_in_which_state_the_step_is(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    training = await world.advance(await world.plan(), S.TRAINING)
    world.trainer.before = Brake()
    step = world.loop.create_task(world.here.engine.advance(training))
    await world.trainer.before.reached.wait()
    assert world.here.engine.progress == {"state": "training"}
    world.trainer.before.released.set()
    assert (await step).state is S.TRAINED


async def test_a_round_without_a_candidate_says_so(open_world: OpenWorld) -> None:
    world = await leading(open_world())
    trained = await world.advance(await world.plan(), S.TRAINED)
    failed = await world.here.engine.advance(replace(trained, adapter=None))
    assert (failed.state, failed.reason) == (S.FAILED, "round 0 is trained but names no adapter")
