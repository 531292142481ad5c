"""The control loop over whole rounds: when one starts, how it goes on after trouble, when there is nothing to do."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest

from semievol.errors import AdapterError, TransientError
from semievol.training.progress import PROGRESS_FILE, WAITING
from semievold.config.daemon import ArtifactsConfig
from semievold.round_states import MAIN_PATH
from semievold.round_states import RoundState as S
from semievold.rounds.observing import waiting_for
from tests.control_world import Brake, OpenWorld, failing


async def test_labels_alone_bring_a_warm_round_from_its_start_to_a_serving_adapter(open_world: OpenWorld) -> None:
    world = open_world()
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    await world.passes(10)
    assert world.here.control.waiting_for == "0 of 4 examples for the warm round"
    assert world.here.control.idle
    world.teach()
    await world.reaches(0, S.PROMOTED)
    assert not world.here.control.idle
    settled = await world.ended(0)
    assert (settled.kind, settled.trigger, settled.incumbent) == ("warm", "10 examples", None)
    assert world.path(0) == [state.value for state in MAIN_PATH]
    assert world.stores.alias.get().adapter == settled.adapter
    await world.until(lambda: world.here.control.idle)
    assert world.here.control.waiting_for == "0 of 10 new pseudo-labels"


async def test_enough_new_pseudo_labels_bring_an_evolve_round(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.right = 7
    world.here.start()
    warm = await world.ended(0)
    world.ask(range(40, 49))
    await world.passes(10)
    assert world.here.control.waiting_for == "9 of 10 new pseudo-labels"
    world.trainer.right = 10
    world.ask([49])
    evolved = await world.ended(1)
    assert (evolved.kind, evolved.trigger, evolved.state) == ("evolve", "10 new pseudo-labels", S.SETTLED)
    assert evolved.incumbent == warm.adapter
    assert evolved.snapshot is not None
    assert (evolved.snapshot["selected"], evolved.snapshot["examples"]) == (10, 10)
    serving = world.stores.alias.get()
    assert (serving.adapter, serving.previous) == (evolved.adapter, warm.adapter)
    assert await world.here.generator.loaded_adapters() == {evolved.adapter, warm.adapter}


async def test_what_a_training_waits_for_is_what_the_controller_and_the_state_say(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    world.here.start()
    await brake.reached.wait()
    doing = "round 0 (warm), which is training"
    await world.passes(2)
    assert world.here.control.waiting_for == doing
    progress = world.place.work(0) / PROGRESS_FILE
    progress.parent.mkdir(parents=True, exist_ok=True)
    progress.write_text(json.dumps({"state": WAITING, "reason": "waiting for quota: Job w-r0000 is suspended"}))
    await world.passes(2)
    said = f"{doing}: waiting for quota: Job w-r0000 is suspended"
    assert world.here.control.waiting_for == said
    config = world.config.model_copy(update={"artifacts": ArtifactsConfig(directory=world.place.rounds.parent)})
    assert waiting_for(config, world.stores) == said
    progress.write_text(json.dumps({"state": "training", "reason": "of before"}))
    await world.passes(2)
    assert world.here.control.waiting_for == doing
    brake.released.set()


async def test_the_warm_round_waits_until_no_label_is_on_its_way(open_world: OpenWorld) -> None:
    world = open_world(trigger={"labels_quiet_s": 6.0})
    world.labels_lag = 1
    world.teach()
    world.here.start()
    await world.passes(10)
    assert world.here.control.waiting_for == "labels are still arriving (1 labels not read yet)"
    world.labels_lag = 0
    world.teach([10])
    begun = world.loop.time()
    await world.reaches(0, S.PLANNED)
    assert world.loop.time() - begun == pytest.approx(6, abs=1)


async def test_a_round_that_the_gate_refused_leaves_the_labels_it_saw_as_seen(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.here.start()
    await world.ended(0)
    world.trainer.right = 0
    world.ask(range(40, 50))
    assert (await world.ended(1)).state is S.REJECTED
    await world.passes(5)
    assert world.here.control.waiting_for == "0 of 10 new pseudo-labels"


async def test_a_failed_round_says_why_and_leaves_its_labels_new_for_the_one_after_the_pause(
    open_world: OpenWorld,
) -> None:
    world = open_world(trigger={"retry_failed_s": 9.0})
    world.teach()
    world.trainer.right = 7
    world.here.start()
    await world.ended(0)
    world.trainer.before, world.trainer.right = failing(AdapterError("out of memory")), 10
    world.ask(range(40, 50))
    assert (await world.ended(1)).state is S.FAILED
    failed_at = world.loop.time()
    await world.passes(2)
    assert world.here.control.waiting_for.startswith("the last round failed (out of memory); the next may start in 7 s")
    await world.reaches(2, S.PLANNED)
    assert world.loop.time() - failed_at == pytest.approx(9, abs=1)
    assert (await world.ended(2)).trigger == "10 new pseudo-labels"


async def test_an_adapter_that_an_operator_promoted_stands_for_the_warm_round(open_world: OpenWorld) -> None:
    world = open_world(trigger={"retry_failed_s": 0.0})
    world.teach(held_out=())
    await world.here.lead()
    world.here.stores.alias.move(await world.version())
    world.here.start()
    await world.passes(10)
    assert world.here.control.waiting_for == "0 of 10 new pseudo-labels"


async def test_every_round_draws_from_a_seed_of_its_own(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.right = 4
    world.here.start()
    await world.ended(0)
    world.ask(range(40, 50))
    assert (await world.ended(1)).seed != world.round(0).seed


# --- trouble --------------------------------------------------------------------------------------------------------


async def test_a_step_whose_component_is_away_is_tried_again_ever_later_and_the_error_is_shown(
    open_world: OpenWorld,
) -> None:
    world = open_world(rollout={"watch_s": 0.0})
    world.teach()
    tried: list[float] = []

    async def away() -> None:
        tried.append(world.loop.time())
        if len(tried) <= 7:
            raise TransientError(f"no place to train ({len(tried)})")

    world.trainer.before = away
    world.here.start()
    await world.until(lambda: len(tried) == 3)
    await world.until(lambda: world.here.control.last_error == "no place to train (3)")
    assert not world.here.control.idle
    assert (await world.ended(0)).state is S.SETTLED
    assert world.here.control.last_error is None
    waits = [later - earlier for earlier, later in pairwise(tried)]
    bounds = [1, 2, 4, 8, 15, 15, 15]
    for wait_s, bound_s in zip(waits, bounds, strict=True):
        assert 0.8 * bound_s <= wait_s <= 1.2 * bound_s + 0.5  # drawn around the bound; a look comes every half second


async def test_after_a_step_that_ended_the_next_trouble_waits_shortly_again(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    away = [TransientError("away")] * 3
    world.trainer.before = failing(*away)
    tried: list[float] = []

    async def busy() -> None:
        tried.append(world.loop.time())
        if len(tried) == 1:
            raise TransientError("busy")

    world.here.generator.before_answer = busy
    world.here.start()
    await world.until(lambda: len(tried) >= 2)
    assert tried[1] - tried[0] <= 1.2 + 0.5


async def test_an_error_of_a_round_that_has_ended_nevertheless_is_not_shown_for_ever(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.right = 0
    world.here.generator.before_unload = failing(TransientError("the engine is away"))
    world.here.start()
    assert (await world.ended(0)).state is S.REJECTED  # and then its candidate cannot be unloaded
    await world.passes(2)
    assert world.here.control.last_error is None
    assert world.here.control.idle


async def test_an_error_of_a_look_is_shown_until_a_look_succeeds(open_world: OpenWorld) -> None:
    world = open_world()
    world.labels_lag = TransientError("the stream is away")
    world.here.start()
    await world.until(lambda: world.here.control.last_error)
    assert world.here.control.last_error == "the stream is away"
    await world.passes(5)
    assert world.here.control.last_error == "the stream is away"
    world.labels_lag = 0
    await world.until(lambda: world.here.control.last_error is None)


async def test_a_step_overtaken_by_somebody_elses_move_is_dropped_and_the_loop_goes_on(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    world.here.start()
    await brake.reached.wait()
    world.stores.rounds.leave(0, S.TRAINING, S.CANCELLED, "by another hand")
    brake.released.set()
    assert (await world.ended(1)).state is S.SETTLED
    assert world.round(0).reason == "by another hand"
    assert world.here.control.last_error is None


async def test_a_serving_version_that_was_mended_is_loaded_by_the_next_look(open_world: OpenWorld) -> None:
    world = open_world()
    await world.here.lead()
    name = await world.version()
    weights = world.place.adapters / name / "adapter_model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(b"")
    world.here.stores.alias.move(name)
    world.here.start()
    await world.until(lambda: world.here.control.leads)
    await world.passes(2)
    assert world.here.fleet.defect is not None
    weights.write_bytes(sound)
    await world.passes(1)
    assert world.here.fleet.defect is None
    assert await world.here.generator.loaded_adapters() == {name}


async def test_an_error_that_nobody_expected_ends_the_role(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    world.trainer.before = failing(ZeroDivisionError("a bug"))
    world.here.start()
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await world.ended(0)
    with pytest.raises(ZeroDivisionError):
        await world.here.stop()


async def test_a_stop_stops_the_training_and_the_next_start_goes_on_where_the_round_stood(
    open_world: OpenWorld,
) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    world.here.start()
    await brake.reached.wait()
    await world.here.stop()
    assert world.trainer.stopped == 1
    assert world.round(0).state is S.TRAINING
    brake.released.set()
    world.here = world.process()
    world.here.start()
    assert (await world.ended(0)).state is S.SETTLED
    assert world.trainer.begun == 2
    assert world.path(0).count("training") == 1


async def test_one_step_runs_at_a_time(open_world: OpenWorld) -> None:
    world = open_world()
    world.teach()
    brake = world.trainer.before = Brake()
    world.here.start()
    await brake.reached.wait()
    await world.passes(20)
    assert world.trainer.begun == 1
    assert [task.get_name() for task in asyncio.all_tasks()].count("round-0") == 1
    brake.released.set()
    assert (await world.ended(0)).state is S.SETTLED
