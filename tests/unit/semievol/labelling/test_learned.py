"""The probability that a pseudo-label is right: what it is learned from, and what it promises."""

import math
from dataclasses import replace

import numpy as np
import pytest

from semievol.config.method import Configuration, ConsensusConfig, LabellingConfig, SelectionConfig
from semievol.errors import DataError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.records import pseudo_label_from_json, pseudo_label_to_json
from semievol.labelling.evidence import evidence, surroundings
from semievol.labelling.learned import LEAST, Learned, Lesson, calibration_error, learned, said_of
from semievol.labelling.probe import fitted
from semievol.labelling.selection import scored, select
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query

VIEWS = LabellingConfig(
    configurations=(Configuration(name="one", temperature=0.0), Configuration(name="two", temperature=0.0)),
    consensus=ConsensusConfig(),
)


def label(
    answer: str | None, *said: tuple[str | None, float], question: str = "?", consensus: float = 0.5, name: str = "q"
) -> PseudoLabel:
    candidates = tuple(
        CandidateAnswer(view, str(each), each, nats) for view, (each, nats) in zip(("one", "two"), said, strict=True)
    )
    return PseudoLabel(
        Query(name, question), answer, said[0][1], 0.5, 0.5, False, None, (("e", 0.7),), candidates, consensus=consensus
    )


def lesson(rows: int = 1000, seed: int = 0) -> tuple[Lesson, np.ndarray]:
    """Two kinds that speak for being right, and one that says nothing; with the true probabilities."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(rows, 3))
    chances = 1 / (1 + np.exp(-(1.0 + 1.5 * found[:, 0] + 0.7 * found[:, 1])))
    return Lesson(("a", "b", "c"), found, random.random(rows) < chances, np.arange(rows) % 5), chances


def test_each_kind_of_evidence_is_higher_where_more_speaks_for_the_answer() -> None:
    labels = [
        label("a", ("b", 0.01), ("b", 0.01), consensus=0.1),
        label("a", ("a", 2.0), ("b", 0.5), consensus=0.4),
        label("a", ("a", 0.01), (None, 0.5), consensus=0.6),
        label("a", ("a", 0.001), ("a", 0.001), consensus=0.99),
    ]
    names, rows = evidence(labels, VIEWS, None)
    assert rows.shape == (4, len(names))
    for name in ("one: share", "one: certainty", "margin", "votes", "consensus"):
        of = rows[:, names.index(name)]
        assert list(of) == sorted(of), name
        assert of[0] < of[-1]
    assert np.isfinite(evidence([label(None, (None, math.inf), (None, math.inf))], VIEWS, None)[1]).all()


def test_near_examples_and_the_probe_speak_for_their_answers_alone() -> None:
    known = [
        Example(Query(f"{answer}{n}", f"{words} {n}"), answer)
        for answer, words in (("refund", "money back please"), ("delivery", "where is the parcel"))
        for n in range(5)
    ]
    embedder = HashingEmbedder(64)
    vectors = embedder.embed([example.query.question for example in known])
    asked = [
        label(answer, ("x", 1.0), ("x", 1.0), question="where is the parcel 9")
        for answer in ("delivery", "refund", "x")
    ]
    at = embedder.embed([each.query.question for each in asked])
    near = surroundings(at, known, vectors, fitted(vectors, known).whole)
    names, rows = evidence(asked, VIEWS, near)
    for name in ("near share", "near distance", "probe", "probe margin"):
        right, wrong, unheard = rows[:, names.index(name)]
        assert right > wrong >= unheard or name == "near share", name
        assert right > unheard, name


def test_what_is_learned_is_calibrated_and_finds_what_counts() -> None:
    known, _ = lesson()
    found = learned(known)
    fresh, chances = lesson(4000, seed=1)
    said = found.probabilities(fresh.names, fresh.evidence)
    assert calibration_error(said, fresh.right) < 0.03
    assert np.abs(said - chances).mean() < 0.05
    assert found.model.weights[0] > found.model.weights[1] > found.model.weights[2]
    assert abs(found.calibration_error) < 0.06
    assert found.right == known.right.mean()


def test_the_calibration_error_is_the_gap_in_equal_parts() -> None:
    right = np.array([True, False] * 50)
    assert calibration_error(np.full(100, 0.5), right) == pytest.approx(0.0)
    assert calibration_error(np.full(100, 0.8), right) == pytest.approx(0.3)


def test_from_too_few_nothing_is_learned() -> None:
    known, _ = lesson(LEAST - 1)
    with pytest.raises(
        DataError, match=rf"learned has {LEAST - 1} labelled questions to learn from, and needs {LEAST}"
    ):
        learned(known)


def test_it_is_the_same_again_and_survives_its_file() -> None:
    known, _ = lesson(200)
    found = learned(known)
    again = Learned.from_json(found.to_json())
    assert again.to_json() == learned(known).to_json() == found.to_json()
    assert np.array_equal(
        again.probabilities(known.names, known.evidence), found.probabilities(known.names, known.evidence)
    )
    with pytest.raises(DataError, match="is of other views"):
        found.probabilities(("a", "b"), known.evidence[:, :2])


def test_selection_ranks_by_it_and_takes_nothing_without_an_answer() -> None:
    known, _ = lesson(200)
    labels = [label("a", ("a", 0.1), ("b", 0.1), name=f"q{n}") for n in range(4)]
    labels[2] = replace(labels[2], answer=None)
    rows = np.array([[2.0, 2.0, 0.0], [-2.0, -2.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    found = learned(known).said_of(labels, known.names, rows)
    assert found[2].right == 0.0
    settings = SelectionConfig(by="learned", theta=0.6, min_agreement=0.0)
    assert select([scored(each, settings) for each in found], settings).kept == ("q0", "q3")
    with pytest.raises(DataError, match="has no learned to rank by"):
        select([scored(each, settings) for each in labels], settings)
    assert pseudo_label_from_json(pseudo_label_to_json(found[0])) == found[0]
    said = said_of(learned(known), found, {"q0"})
    assert said["estimated_selected_accuracy"] == found[0].right
    assert said["estimated_accuracy"] == pytest.approx(sum(each.right or 0 for each in found) / 4)


def test_settings_of_what_is_off_are_refused() -> None:
    with pytest.raises(ValueError, match="learned: is for by: learned"):
        SelectionConfig.model_validate({"learned": {"folds": 3}})
