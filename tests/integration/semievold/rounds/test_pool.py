"""What a round does with its pool before it takes the snapshot: label again what is stale, embed it in slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from semievol.errors import TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.protocols import Vectors
from semievol.tasks.task import Task
from semievol.types import Example, PseudoLabel, Query, Unlabelled
from semievold.config.daemon import DaemonConfig
from semievold.round_states import RoundState
from semievold.rounds.places import RoundPlace
from semievold.rounds.pool import RoundPool
from semievold.rounds.steps import RoundEngine
from semievold.rounds.tools import RoundTools
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.stores import Stores, open_stores
from tests.scripted import ListIndex, pseudo_label

SETTINGS: dict[str, Any] = {
    "workload": "w",
    "model": {"name": "none"},
    "task": {"labels": ["even", "odd"]},
    "labelling": {"configurations": [{"name": "now"}], "consensus": {}},
    "selection": {"by": "consensus", "theta": 1.0, "min_agreement": 0},
}


class Limited:
    """An embedding endpoint that refuses one of its calls."""

    name, dimensions = "limited", 256

    def __init__(self, refused: int | None) -> None:
        self.refused = refused
        self.asked: list[str] = []
        self._calls = 0

    def embed(self, texts: Sequence[str]) -> Vectors:
        self._calls += 1
        if self._calls == self.refused:
            raise TransientError("HTTP 429")
        self.asked += texts
        return HashingEmbedder().embed(texts)


class Relabeller:
    """Labels by the present configuration, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, queries: Sequence[Query], adapter: str | None) -> list[PseudoLabel]:
        self.asked += [query.id for query in queries]
        return [labelled(query.id, "now") for query in queries]


def labelled(query_id: str, configuration: str) -> PseudoLabel:
    return pseudo_label(query_id, f"is number {query_id} even?", "even", 0.1, configuration)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    opened = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    opened.examples.upsert([(Example(Query("e", "is two even?"), "even"), False)])
    yield opened
    opened.database.close()


def engine(stores: Stores, directory: Path, embedder: Limited, label: Relabeller) -> RoundEngine:
    config = DaemonConfig.model_validate(SETTINGS)
    beyond_the_snapshot = cast(Any, None)  # the steps of this test end before they are needed
    tools = RoundTools(
        stores,
        Task(config.task),
        beyond_the_snapshot,
        ListIndex(),
        embedder,
        label,
        beyond_the_snapshot,
        beyond_the_snapshot,
        beyond_the_snapshot,
        beyond_the_snapshot,
    )
    return RoundEngine(config, tools, RoundPlace(directory / "rounds", directory / "adapters"))


def fill(stores: Stores, *labels: PseudoLabel) -> None:
    stores.pseudo_labels.add([NewLabel(label, query_hash(label.query)) for label in labels])


async def test_a_stale_query_that_cannot_be_asked_again_is_named_and_holds_up_nobody(stores: Stores) -> None:
    """Its neighbours have grown longer than the model's positions, say."""
    fill(stores, *(labelled(str(number), "old") for number in range(7)))

    async def label(queries: Sequence[Query], adapter: str | None) -> list[PseudoLabel | Unlabelled]:
        return [
            Unlabelled(query, "the prompt has 300 tokens")
            if query.id == "3"
            else replace(labelled(query.id, "now"), adapter=adapter)
            for query in queries
        ]

    pool = RoundPool(DaemonConfig.model_validate(SETTINGS), stores, HashingEmbedder(), label)
    await pool.refresh("now", lambda figures: None)
    assert pool.refused == {"3": "the prompt has 300 tokens"}
    assert {row.id: row.adapter for row in stores.pseudo_labels.pool()} == {
        str(number): None if number == 3 else "now" for number in range(7)
    }


async def test_what_an_endpoint_has_embedded_stays_for_the_next_attempt(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievold.rounds.pool.EMBEDDED_AT_ONCE", 2)
    fill(stores, *(labelled(str(number), "now") for number in range(7)))
    embedder = Limited(refused=3)
    rounds = engine(stores, tmp_path, embedder, Relabeller())
    planned = stores.rounds.plan("evolve", "by hand", 0, None, {})
    with pytest.raises(TransientError, match="429"):
        await rounds.advance(planned)
    assert rounds.progress == {"state": "planned", "embedded": 4, "to_embed": 7}
    moved = await rounds.advance(planned)
    assert moved.state is RoundState.SNAPSHOTTED
    assert moved.snapshot is not None
    assert moved.snapshot["selected"] == 7
    questions = [f"is number {number} even?" for number in range(7)]
    assert sorted(embedder.asked) == sorted([*questions, "is two even?"])  # each once, though it took two attempts


async def test_pseudo_labels_of_other_views_are_made_again_before_their_weights_count(
    stores: Stores, tmp_path: Path
) -> None:
    other = replace(labelled("other", "now"), adapter="old")
    fill(stores, labelled("same", "now"), labelled("renamed", "before"), other)
    label = Relabeller()
    moved = await engine(stores, tmp_path, Limited(None), label).advance(
        stores.rounds.plan("evolve", "by hand", 0, None, {})
    )
    assert moved.state is RoundState.SNAPSHOTTED
    assert sorted(label.asked) == ["other", "renamed"]
    (again,) = stores.pseudo_labels.load(["renamed"])
    assert [candidate.configuration for candidate in again.candidates] == ["now"]
