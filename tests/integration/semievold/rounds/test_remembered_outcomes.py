"""The gate compares what both models answer today; what the incumbent answered once counts where nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from semievol.protocols import Tell
from semievol.tasks.task import Task
from semievol.types import Completion, Example, GenerationRequest, Query
from semievold.config.daemon import DaemonConfig
from semievold.round_states import RoundState
from semievold.rounds.launch import SubprocessLauncher
from semievold.rounds.places import RoundPlace
from semievold.rounds.steps import RoundEngine
from semievold.rounds.tools import RoundTools
from semievold.store.rounds import Round
from semievold.store.stores import Stores, open_stores

S = RoundState


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    stores = open_stores(store_url, "w", "w")
    stores.examples.upsert([(Example(Query(f"h{n}", f"question {n}"), "yes"), True) for n in range(12)])
    yield stores
    stores.database.close()


class Answering:
    """Every adapter says yes, if it may say that much; counts what it is asked, by adapter."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str]] = []
        self.before: Callable[[], None] = lambda: None

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        self.before()
        for place, request in enumerate(requests):
            self.asked.append((request.adapter, request.messages[-1].content))
            text = "yes" if request.max_tokens >= 3 else "ye"
            tell(place, [Completion(text, (1,), (-0.1,), "stop", request.adapter, 1)])


class Fleet:
    def propose(self, name: str | None) -> None:
        pass

    async def load(self, name: str) -> None:
        pass

    async def release(self, drain_s: float) -> None:
        pass

    async def delete_old(self, keep: int) -> None:
        pass


def engine_of(stores: Stores, generator: Answering, tmp_path: Path, max_answer_tokens: int = 8) -> RoundEngine:
    task = {"labels": ["yes", "no"], "max_answer_tokens": max_answer_tokens}
    gate = {"min_holdout": 5, "patience_s": 0.0}
    config = DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, "task": task, "gate": gate})
    nothing: Any = None
    made = Task(config.task)
    tools = RoundTools(
        stores,
        made,
        generator,  # type: ignore[arg-type]
        nothing,
        nothing,
        nothing,
        SubprocessLauncher(),
        Fleet(),  # type: ignore[arg-type]
        nothing,
        nothing,
    )
    return RoundEngine(config, tools, RoundPlace(tmp_path / "rounds", tmp_path / "adapters"))


def loaded(stores: Stores, incumbent: str | None) -> Round:
    number = stores.rounds.plan("evolve", "test", 1, incumbent, {}).number
    stores.rounds.transition(number, S.PLANNED, S.SNAPSHOTTED)
    stores.rounds.transition(number, S.SNAPSHOTTED, S.TRAINING)
    adapter = {"name": f"w-r{number:04d}", "path": "/a", "content_hash": "ff", "parent": None}
    stores.rounds.trained(number, {}, adapter)
    return stores.rounds.transition(number, S.TRAINED, S.LOADED)


def incumbents_questions(generator: Answering, adapter: str) -> list[str]:
    return [question for asked, question in generator.asked if asked == adapter]


async def test_an_incumbent_is_not_asked_again_while_nothing_has_changed(stores: Stores, tmp_path: Path) -> None:
    generator = Answering()
    engine = engine_of(stores, generator, tmp_path)
    first = await engine.advance(loaded(stores, None))
    generator.asked.clear()
    second = await engine.advance(loaded(stores, first.adapter))
    assert incumbents_questions(generator, "w-r0000") == []
    assert second.evaluation is not None
    assert (second.evaluation["count"], second.evaluation["remembered"]) == (12, 12)


async def test_under_other_settings_equal_adapters_are_equal(stores: Stores, tmp_path: Path) -> None:
    """With two tokens nothing parsed; with eight everything does, for the incumbent too."""
    generator = Answering()
    first = await engine_of(stores, generator, tmp_path, max_answer_tokens=2).advance(loaded(stores, None))
    generator.asked.clear()
    second = await engine_of(stores, generator, tmp_path).advance(loaded(stores, first.adapter))
    assert (second.state, len(incumbents_questions(generator, "w-r0000"))) == (S.INCONCLUSIVE, 12)
    assert second.evaluation is not None
    assert second.evaluation["incumbent_accuracy"] == second.evaluation["candidate_accuracy"] == 1.0


async def test_an_answer_corrected_while_a_round_evaluates_is_compared_by_its_new_truth_ever_after(
    stores: Stores, tmp_path: Path
) -> None:
    generator = Answering()
    engine = engine_of(stores, generator, tmp_path)
    corrected = Example(Query("h3", "question 3"), "no")
    generator.before = lambda: stores.examples.upsert([(corrected, True)]) and None  # type: ignore[assignment, func-returns-value]
    first = await engine.advance(loaded(stores, None))
    generator.before = lambda: None
    with stores.database.write() as connection:  # and the clock of who labels is behind
        connection.exec_driver_sql("update examples set updated_at = 0")
    generator.asked.clear()
    for number in (1, 2):
        later = await engine.advance(loaded(stores, first.adapter))
        assert later.evaluation is not None
        assert (later.evaluation["count"], later.evaluation["reason"]) == (
            12,
            "no significant difference: 0 wins, 0 losses, evidence 1 of 20; "
            "no pair differs among 12 labels; 7 wins are needed",
        ), number
    assert set(incumbents_questions(generator, "w-r0000")) == {"question 3"}


async def test_a_held_out_example_whose_label_is_gone_is_named_and_left_out(stores: Stores, tmp_path: Path) -> None:
    stores.examples.upsert([(Example(Query("old", "an old question"), "maybe"), True)])
    moved = await engine_of(stores, Answering(), tmp_path).advance(loaded(stores, None))
    assert moved.evaluation is not None
    assert (moved.evaluation["holdout"], list(moved.evaluation["left_out"])) == (12, ["old"])


async def test_copies_of_one_question_prove_what_one_proves(stores: Stores, tmp_path: Path) -> None:
    copies = [(Example(Query(f"copy{n}", "QUESTION 1"), "yes"), True) for n in range(50)]
    stores.examples.upsert(copies)
    moved = await engine_of(stores, Answering(), tmp_path).advance(loaded(stores, None))
    assert moved.evaluation is not None
    assert moved.evaluation["holdout"] == 12
