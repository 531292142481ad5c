"""Only a step that dies counts against a round: not one that is stopped, nor one whose process stops leading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semievol.errors import TransientError
from semievold.config.daemon import DaemonConfig
from semievold.errors import LeaseLost
from semievold.round_states import RoundState
from semievold.rounds.launch import Trained, TrainingPlace
from semievold.rounds.places import RoundPlace
from semievold.rounds.steps import RoundEngine
from semievold.rounds.tools import RoundTools
from semievold.store.rounds import Round
from semievold.store.stores import Stores, open_stores

S = RoundState


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    stores = open_stores(store_url, "w", "w")
    yield stores
    stores.database.close()


class Launcher:
    """Begins to train; what happens then is said by `ending`."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ending: Callable[[], BaseException | None] | None = None

    async def train(self, place: TrainingPlace) -> Trained:
        self.began.set()
        if self.ending is None:
            await asyncio.Event().wait()
        elif (failure := self.ending()) is not None:
            raise failure
        return Trained("w-r0000-00000000", Path("/adapters/w-r0000-00000000"), "ff", {})

    async def retire(self, open_round: int | None) -> None:
        pass


class Fleet:
    def __init__(self) -> None:
        self.proposed: list[str | None] = []

    def propose(self, name: str | None) -> None:
        self.proposed.append(name)

    async def release(self, drain_s: float) -> None:
        pass

    async def delete_old(self, keep: int) -> None:
        pass


def engine_of(stores: Stores, launcher: Launcher, tmp_path: Path) -> RoundEngine:
    config = DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}})
    nothing: Any = None
    tools = RoundTools(
        stores,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        launcher,
        Fleet(),
        nothing,
        nothing,  # type: ignore[arg-type]
    )
    return RoundEngine(config, tools, RoundPlace(tmp_path / "rounds", tmp_path / "adapters"))


def in_training(stores: Stores) -> Round:
    number = stores.rounds.plan("warm", "test", 1, None, {}).number
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    return stores.rounds.transition(number, S.SNAPSHOTTED, S.TRAINING)


async def test_clean_stops_during_a_training_never_fail_the_round(stores: Stores, tmp_path: Path) -> None:
    launcher = Launcher()
    engine, round_ = engine_of(stores, launcher, tmp_path), in_training(stores)
    for _ in range(engine._config.rounds.max_attempts + 2):
        launcher.began.clear()
        step = asyncio.create_task(engine.advance(round_))
        await launcher.began.wait()
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
    launcher.ending = lambda: None
    assert (await engine.advance(round_)).state is S.TRAINED


@pytest.mark.parametrize("failure", [LeaseLost("another process leads"), TransientError("not now")])
async def test_neither_does_a_lease_that_moves_nor_a_component_that_is_away(
    stores: Stores, tmp_path: Path, failure: Exception
) -> None:
    launcher = Launcher()
    engine, round_ = engine_of(stores, launcher, tmp_path), in_training(stores)
    launcher.ending = lambda: failure
    for _ in range(engine._config.rounds.max_attempts + 2):
        with pytest.raises(type(failure)):
            await engine.advance(round_)
    launcher.ending = lambda: None
    assert (await engine.advance(round_)).state is S.TRAINED


async def test_a_step_that_dies_again_and_again_fails_the_round(stores: Stores, tmp_path: Path) -> None:
    launcher = Launcher()
    engine, round_ = engine_of(stores, launcher, tmp_path), in_training(stores)
    for _ in range(engine._config.rounds.max_attempts):
        stores.rounds.begin_attempt(round_.number)  # and nobody lives to take it back
    failed = await engine.advance(round_)
    assert (failed.state, failed.reason) == (S.FAILED, "state training was begun 5 times and never ended")


async def test_an_attempt_is_taken_back_by_a_process_that_has_lost_the_lease(stores: Stores) -> None:
    """It says of itself that it did not die; what the new leader counts meanwhile in another state stays."""

    def refuse(_: object) -> None:
        raise LeaseLost("another process leads")

    from semievold.store.stores import stores_over

    former = stores_over(stores.database.checked(refuse), "w", "w")
    round_ = in_training(stores)
    stores.rounds.begin_attempt(round_.number)
    former.rounds.forget_attempt(round_.number, S.TRAINING)
    assert stores.rounds.begin_attempt(round_.number) == 1
    former.rounds.forget_attempt(round_.number, S.PLANNED)
    assert stores.rounds.begin_attempt(round_.number) == 2
