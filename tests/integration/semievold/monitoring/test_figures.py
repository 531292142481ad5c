"""The figures of the state on both databases: what is written is what is read, also from inside JSON columns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from semievold.monitoring.figures import FigureStore
from semievold.round_states import RoundState as S
from semievold.store.pseudo_labels import NewLabel
from semievold.store.stores import Stores, open_stores
from tests.scripted import pseudo_label


@pytest.fixture
def stores(store_url: str) -> Iterator[Stores]:
    opened = open_stores(store_url, "w", "w")
    yield opened
    opened.database.close()


def test_an_empty_state_has_no_times_and_no_round(stores: Stores) -> None:
    read = FigureStore(stores.database, "w").read()
    assert (read.training, read.holdout, read.unparsed, read.unpublished, read.rounds) == (0, 0, 0, 0, {})
    nothing = (read.last_label_at, read.last_pseudo_label_at, read.open_round, read.last_outcome, read.pool)
    assert set(nothing) == {None}
    assert (read.gate, read.labels_missing, read.step_s) == ({}, None, {})


def test_rounds_and_labels_are_read_as_they_were_written(stores: Stores) -> None:
    labels = [pseudo_label("q1", "?", "even", 0.3), pseudo_label("q2", "?", None, 9.0)]
    stores.pseudo_labels.add([NewLabel(label, "h") for label in labels])
    stores.pseudo_labels.mark_published(["q1"])
    rounds = stores.rounds
    assert rounds.plan("evolve", "by hand", 1, None, {}).number == 0
    snapshot = {"pool": 7, "selected": 3, "certificate": {"missing": 12}}
    rounds.transition(0, S.PLANNED, S.SNAPSHOTTED, snapshot=snapshot)
    figures = FigureStore(stores.database, "w")
    read = figures.read()
    assert (read.labelled, read.unparsed, read.unpublished) == (2, 1, 1)
    assert (read.pool, read.selected, read.labels_missing) == (7, 3, 12)
    assert (read.open_round, read.open_state, read.gate_round) == (0, S.SNAPSHOTTED, None)
    assert read.step_s.keys() == {S.PLANNED}
    assert read.last_pseudo_label_at is not None
    evaluation = {"incumbent_accuracy": 0.5, "candidate_accuracy": 0.6, "better": 3.0}
    for before, after in ((S.SNAPSHOTTED, S.TRAINING), (S.TRAINING, S.TRAINED), (S.TRAINED, S.LOADED)):
        rounds.transition(0, before, after)
    rounds.leave(0, S.LOADED, S.INCONCLUSIVE, "too few", evaluation=evaluation)
    read = figures.read()
    assert (read.gate, read.gate_round) == (evaluation, 0)
    assert (read.open_round, read.last_outcome, read.rounds) == (None, S.INCONCLUSIVE, {"inconclusive": 1})
