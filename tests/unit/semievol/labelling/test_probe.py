"""A logistic regression on vectors: alone, out of fold, and as a view."""

import math
from dataclasses import replace

import numpy as np
import pytest

from semievol.config.method import Configuration, ConsensusConfig, LabellingConfig, ProbeConfig
from semievol.errors import ConfigError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.labelling.hearing import heard
from semievol.labelling.probe import PENALTIES, fitted, folds_of, with_probe
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query

WORDS = {"refund": "money back please", "delivery": "where is the parcel", "password": "cannot log in"}


def examples(each: int = 6) -> list[Example]:
    return [
        Example(Query(f"{answer}{n}", f"{words} number {n}"), answer)
        for answer, words in WORDS.items()
        for n in range(each)
    ]


def vectors(known: list[Example]) -> np.ndarray:
    return HashingEmbedder(64).embed([example.query.question for example in known])


def label(name: str, question: str, *answers: tuple[str | None, float]) -> PseudoLabel:
    candidates = tuple(CandidateAnswer(f"c{n}", str(answer), answer, nats) for n, (answer, nats) in enumerate(answers))
    first, nats = answers[0]
    return PseudoLabel(Query(name, question), first, nats, 1.0, 0.5, False, None, (), candidates)


def test_the_probe_tells_answers_apart_and_says_how_well_out_of_fold() -> None:
    known = examples()
    found = fitted(vectors(known), known)
    chances = found.whole.probabilities(HashingEmbedder(64).embed(["where is the parcel now", "money back"]))
    assert [found.whole.answers[place] for place in chances.argmax(axis=1)] == ["delivery", "refund"]
    assert chances.sum(axis=1) == pytest.approx(np.ones(2))
    assert found.accuracy == 1.0
    assert found.penalty in PENALTIES
    assert found.log_loss < math.log(3)


def test_labels_that_vectors_say_nothing_of_are_held_back_most() -> None:
    known = [replace(example, answer="ab"[place % 2]) for place, example in enumerate(examples(10))]
    found = fitted(np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32), known)
    assert found.penalty == max(PENALTIES)
    assert found.accuracy < 0.8


def test_a_folds_probe_never_saw_its_answers() -> None:
    known = examples()
    of = folds_of(known)
    before = fitted(vectors(known), known, of)
    lied = [
        replace(example, answer="refund") if fold == 2 else example for example, fold in zip(known, of, strict=True)
    ]
    after = fitted(vectors(known), lied, of)
    asked = vectors(known)[of == 2]
    if before.penalty == after.penalty:
        assert np.allclose(before.by_fold[2].probabilities(asked), after.by_fold[2].probabilities(asked), atol=1e-6)
    assert not np.allclose(before.whole.probabilities(asked), after.whole.probabilities(asked), atol=1e-3)


def test_folds_share_every_answer_and_keep_equal_questions_together() -> None:
    known = examples(5)
    of = folds_of(known)
    assert all(sorted(of[n : n + 5]) == [0, 1, 2, 3, 4] for n in (0, 5, 10))
    twice = [*known, Example(Query("again", known[3].query.question.upper()), known[3].answer)]
    assert folds_of(twice)[-1] == folds_of(twice)[3]
    turned = folds_of(known[::-1])
    assert list(turned[::-1]) == list(of)


def test_the_probe_is_one_more_candidate_and_the_likelier_answer_wins() -> None:
    known = examples()
    probe = fitted(vectors(known), known).whole
    asked = [
        label("sure", "where is the parcel number 3", ("refund", 0.001)),
        label("unsure", "where is the parcel number 3", ("refund", 4.0)),
        label("silent", "where is the parcel number 3", (None, 0.1)),
    ]
    embedded = HashingEmbedder(64).embed([each.query.question for each in asked])
    sure, unsure, silent = with_probe(asked, embedded, probe, ProbeConfig())
    assert (sure.answer, sure.agreement) == ("refund", 0.5)
    assert (unsure.answer, unsure.agreement) == ("delivery", 0.5)
    own = sure.candidates[-1]
    assert (own.configuration, own.answer) == ("probe", "delivery")
    assert unsure.entropy == own.entropy == pytest.approx(-math.log(probe.probabilities(embedded).max()))
    assert (silent.answer, len(silent.candidates)) == (None, 2)
    (heavy,) = with_probe(asked[:1], embedded[:1], probe, ProbeConfig(weight=5.0))
    assert heavy.answer == "delivery"


def test_consensus_hears_the_probe_as_a_view() -> None:
    known = examples(2)
    views = (Configuration(name="c0", temperature=0.0),)
    asked = [label(f"q{n}", f"where is the parcel number {n}", ("refund", 1.0)) for n in range(8)]
    alone = LabellingConfig(configurations=views, consensus=ConsensusConfig(sharpness=1.0))
    both = LabellingConfig(
        configurations=views, consensus=ConsensusConfig(sharpness=1.0), probe=ProbeConfig(weight=4.0)
    )
    embedder = HashingEmbedder(64)
    assert {each.answer for each in heard(asked, known, alone, embedder)} == {"refund"}
    assert {each.answer for each in heard(asked, known, both, embedder)} == {"delivery"}


def test_without_a_probe_or_a_consensus_nothing_is_embedded() -> None:
    asked = [label("q", "x", ("a", 0.1))]
    assert heard(asked, [], LabellingConfig(), None) == asked
    with pytest.raises(ConfigError, match=r"labelling\.probe: needs an embedder"):
        heard(asked, [], LabellingConfig(probe=ProbeConfig()), None)


def test_a_configuration_may_not_take_the_probes_name() -> None:
    with pytest.raises(ValueError, match=r"the name probe is that of labelling\.probe"):
        LabellingConfig(configurations=(Configuration(name="probe"),), probe=ProbeConfig())
