"""What teaches is ordered by the learned chance that its answer is right, where a round has learned it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from semievol.errors import TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.split import HoldoutRule
from semievol.labelling.hearing import heard
from semievol.protocols import Embedder, Vectors
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query
from semievold.api import operations
from semievold.config.daemon import DaemonConfig
from semievold.review.chances import Chances
from semievold.review.drawing import Drawing
from semievold.review.usefulness import SecretOrder
from semievold.round_states import RoundState as S
from semievold.rounds import snapshot
from semievold.rounds.fresh import FreshLabels
from semievold.rounds.learning import Nearness
from semievold.service import place_of
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.stores import Stores, open_stores
from tests.scripted import ListIndex

VIEWS = [{"name": name, "temperature": 0, "neighbours": 0} for name in ("taught", "base")]


def answered(query_id: str, question: str, *, right: bool) -> PseudoLabel:
    """Two views agree where the answer is right, hesitating; where it is wrong one of them is sure of itself alone."""
    entropy = 0.9 if right else 0.05
    candidates = (
        CandidateAnswer("taught", "even", "even", entropy),
        CandidateAnswer("base", "", "even" if right else "odd", 0.3),
    )
    # Agreement is the same, so that by entropy the wrong ones are the surest.
    return PseudoLabel(Query(query_id, question), "even", entropy, 1.0, 0.5, False, None, (), candidates)


@dataclass
class World:
    stores: Stores
    config: DaemonConfig

    def drawing(self, embedder: Embedder | None = None, times: Any = None, **changes: Any) -> Drawing:
        """`times`: those of `Chances`."""
        config = self.config.model_copy(update=changes)
        chances = Chances(self.stores, Task(config.task), config, embedder or HashingEmbedder(), **(times or {}))
        fresh = FreshLabels(self.stores, place_of(config))
        return Drawing(self.stores, fresh, SecretOrder("secret"), 1000, chances=chances)

    def ask(self, name: str, count: int) -> None:
        """Every fourth is answered wrongly."""
        labels = [answered(f"{name}{n}", f"{name} question {n}", right=n % 4 != 0) for n in range(count)]
        self.stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in labels])

    def round(self) -> int:
        """A round learns from 40 calibration examples who is right, and ends."""
        asked = [answered(f"c{n}", f"held {n}", right=n % 4 != 0) for n in range(40)]
        known = [Example(each.query, "even" if n % 4 != 0 else "odd") for n, each in enumerate(asked)]
        self.stores.examples.keep(known, HoldoutRule(0.0, "holdout", calibration=1.0))
        task, round_ = Task(self.config.task), self.stores.rounds.plan("evolve", "test", 0, None, {})
        embedder = HashingEmbedder()
        chosen = snapshot.choose(self.stores, ListIndex(), embedder, task, self.config, round_, None, None, asked)
        self.stores.rounds.transition(round_.number, S.PLANNED, S.SNAPSHOTTED, snapshot=chosen.summary)
        self.stores.rounds.leave(round_.number, S.SNAPSHOTTED, S.CANCELLED, "test")
        return round_.number


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    settings = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["even", "odd"]},
        "labelling": {"configurations": VIEWS, "justify": False},
        "selection": {"by": "learned", "min_agreement": 0},
        "artifacts": {"directory": str(tmp_path / "data")},
    }
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    stores.examples.upsert([(Example(Query(f"e{n}", f"example {n}"), ("even", "odd")[n % 2]), False) for n in range(6)])
    yield World(stores, DaemonConfig.model_validate(settings))
    stores.database.close()


def wrong(drafts: list[Any]) -> list[bool]:
    return [int(draft.query.id.lstrip("qn")) % 4 == 0 for draft in drafts]


def test_before_a_round_has_learned_it_entropy_orders_what_teaches(world: World) -> None:
    world.ask("q", 40)
    drafts = world.drawing().to_teach(None, 10)
    assert not any(wrong(drafts))
    assert all("right" not in (draft.why or {}) for draft in drafts)


def test_after_a_round_those_come_first_that_are_most_likely_wrong_also_of_queries_that_came_later(
    world: World,
) -> None:
    world.ask("q", 40)
    world.round()
    world.ask("n", 40)
    drafts = world.drawing().to_teach(None, 40)
    assert wrong(drafts) == [True] * 20 + [False] * 20
    assert {draft.query.id[0] for draft in drafts[:20]} == {"q", "n"}
    chances = [draft.why["right"] for draft in drafts]
    assert max(chances[:20]) < 0.5 < min(chances[20:])


def test_of_copies_the_least_sure_counts(world: World) -> None:
    world.round()
    world.ask("q", 8)
    sure = answered("copy", "q question 1!", right=False)
    world.stores.pseudo_labels.add([NewLabel(sure, query_hash(sure.query))])
    found = {draft.query.id: draft for draft in world.drawing().to_teach(None, 8)}
    assert found["q1"].usefulness > found["q0"].usefulness > found["q2"].usefulness


def test_what_was_learned_of_other_views_orders_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.ask("q", 40)
    world.round()
    labelling = world.config.labelling
    other = labelling.model_copy(update={"configurations": labelling.configurations[:1]})
    drawing = world.drawing(labelling=other)
    for _ in range(2):
        assert not any(wrong(drawing.to_teach(None, 10)))
    assert [record.levelname for record in caplog.records if "ordered by entropy" in record.getMessage()] == ["WARNING"]


def test_the_model_itself_is_no_matter_of_those_who_look_at_a_round(world: World) -> None:
    world.ask("q", 40)
    number = world.round()
    shown = operations.round_detail(world.stores, number)["snapshot"]
    assert shown["learned"]["labels"] == 40
    assert "confidence" not in shown


class Endpoint(HashingEmbedder):
    """An embedder that may be away, and counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.calls = 0
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.calls += 1
        if self.away:
            raise TransientError("nobody answers")
        self.texts += texts
        return super().embed(texts)


def test_while_the_embedder_is_away_entropy_orders_which_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.ask("q", 40)
    world.round()
    endpoint = Endpoint()
    drawing = world.drawing(endpoint, {"away_s": 0.0})
    endpoint.away = True
    for _ in range(2):
        assert not any(wrong(drawing.to_teach(None, 10)))
    assert [record.getMessage() for record in caplog.records if "embedder" in record.getMessage()] == [
        "questions that teach are ordered by entropy until the embedder answers again: nobody answers"
    ]
    assert endpoint.calls == 2
    endpoint.away = False
    assert all(wrong(drawing.to_teach(None, 10)))


def test_an_embedder_that_was_away_is_left_alone_for_a_while(world: World) -> None:
    world.ask("q", 40)
    world.round()
    endpoint = Endpoint()
    endpoint.away = True
    drawing = world.drawing(endpoint)
    for _ in range(3):
        drawing.to_teach(None, 10)
    assert endpoint.calls == 1


def test_only_labels_that_are_new_or_were_replaced_are_looked_at_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask("q", 40)
    world.round()
    drawing, loaded = world.drawing(), []
    load = world.stores.pseudo_labels.load
    monkeypatch.setattr(world.stores.pseudo_labels, "load", lambda ids: loaded.append(set(ids)) or load(ids))
    before = {draft.query.id: draft.why["right"] for draft in drawing.to_teach(None, 40)}
    world.ask("n", 2)
    world.stores.pseudo_labels.replace([answered("q4", "q question 4", right=True)])
    loaded.clear()
    after = {draft.query.id: draft.why["right"] for draft in drawing.to_teach(None, 42)}
    assert loaded[0] == {"n0", "n1", "q4"}
    assert after["q4"] > 0.5 > before["q4"]
    assert {key: chance for key, chance in after.items() if key in before and key != "q4"} == {
        key: chance for key, chance in before.items() if key != "q4"
    }


def test_where_labels_listen_to_each_other_all_are_looked_at_when_one_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = world.config.model_dump(mode="json", exclude_unset=True)
    values["labelling"]["consensus"] = {}
    world.config = DaemonConfig.model_validate(values)
    world.ask("q", 40)
    world.round()
    drawing, asked = world.drawing(), []
    monkeypatch.setattr(
        "semievold.review.chances.heard", lambda labels, *rest: asked.append(len(labels)) or heard(labels, *rest)
    )
    drawing.to_teach(None, 10)
    drawing.to_teach(None, 10)
    world.ask("n", 2)
    drawing.to_teach(None, 10)
    assert asked == [40, 42]


@pytest.mark.parametrize(("refit_s", "fits"), [(60.0, 1), (0.0, 2)])
def test_what_examples_say_is_learned_anew_once_a_minute_at_most(
    world: World, monkeypatch: pytest.MonkeyPatch, refit_s: float, fits: int
) -> None:
    world.ask("q", 40)
    world.round()
    fitted: list[int] = []
    monkeypatch.setattr(
        "semievold.review.chances.Nearness", lambda known, *rest: fitted.append(len(known)) or Nearness(known, *rest)
    )
    endpoint = Endpoint()
    drawing = world.drawing(endpoint, {"refit_s": refit_s})
    drawing.to_teach(None, 10)
    endpoint.texts.clear()
    world.stores.examples.upsert([(Example(Query("late", "one that came late"), "odd"), False)])
    drawing.to_teach(None, 10)
    assert fitted == [6, 7][:fits]
    assert endpoint.texts == ["one that came late"][: fits - 1]  # the others' vectors are remembered
    world.round()  # has learned anew, from examples that stand there
    drawing.to_teach(None, 10)
    assert len(fitted) == fits + 1


def test_where_nothing_was_learned_the_rounds_are_looked_through_once_until_one_moves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask("q", 40)
    looks: list[int] = []
    confidence = world.stores.rounds.confidence
    monkeypatch.setattr(world.stores.rounds, "confidence", lambda: looks.append(1) or confidence())
    drawing = world.drawing()
    for _ in range(3):
        assert not any(wrong(drawing.to_teach(None, 10)))
    assert len(looks) == 1
    world.round()
    assert all(wrong(drawing.to_teach(None, 10)))
    assert len(looks) == 2
