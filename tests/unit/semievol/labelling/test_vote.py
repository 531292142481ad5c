"""The vote: what words are worth, and what it makes of a pseudo-label."""

import json
from dataclasses import replace

import numpy as np
import pytest

from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.labelling.probe import NAME, fitted
from semievol.labelling.vote import Vote, learned_vote, told, voted, words_of
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query
from tests.scripted import pseudo_label

ANSWERS = ("a", "b", "c")
GROUPS = {"taught": ("closed", "panel 1", "panel 2"), "shown": ("shown",)}


def label(*said: tuple[str, str | None, float], name: str = "q") -> PseudoLabel:
    """(configuration, answer, entropy) of each candidate; the first one's answer is the label's."""
    candidates = tuple(CandidateAnswer(who, str(answer), answer, entropy) for who, answer, entropy in said)
    return replace(pseudo_label(name, name, said[0][1], said[0][2]), candidates=candidates)


def lesson(reliable: float, other: float, rows: int = 400) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Answers of two groups that are right so often, each by itself."""
    random = np.random.default_rng(3)
    truth = random.integers(3, size=rows)
    labels = []
    for gold in truth:
        said = [gold if random.random() < share else (gold + 1) % 3 for share in (reliable, other)]
        labels.append(label(("closed", ANSWERS[said[0]], 0.2), ("shown", ANSWERS[said[1]], 0.2)))
    kinds, words = words_of(labels, GROUPS, ANSWERS)
    return kinds, words, truth


def test_a_group_speaks_by_the_share_of_its_candidates_and_their_certainty() -> None:
    asked = label(("closed", "a", 0.1), ("panel 1", "a", 0.1), ("panel 2", "b", 0.7), ("shown", None, 0.1))
    kinds, words = words_of([asked], GROUPS, ANSWERS)
    assert kinds == ("taught: share", "taught: certainty", "shown: share", "shown: certainty")
    assert words[0, :, 0] == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert words[0, 0, 1] > words[0, 1, 1] > words[0, 2, 1] == 0.0
    assert not words[0, :, 2:].any()


def test_words_count_by_how_often_they_were_right() -> None:
    kinds, words, truth = lesson(0.9, 0.6)
    vote = learned_vote(kinds, words, truth, np.arange(len(truth)) % 5)
    weights = dict(zip(vote.kinds, vote.weights, strict=True))
    taught, shown = (weights[f"{who}: share"] + weights[f"{who}: certainty"] for who in ("taught", "shown"))
    assert taught > shown > 0
    assert vote.alone == pytest.approx({"taught": 0.9, "shown": 0.6}, abs=0.05)
    assert vote.right == pytest.approx(vote.alone["taught"], abs=0.02)
    apart = label(("closed", "a", 0.2), ("shown", "b", 0.2))
    (answer,) = voted([apart], vote.chances(words_of([apart], GROUPS, ANSWERS)[1]), ANSWERS)
    assert answer.answer == "a"
    assert answer.right == pytest.approx(0.9 * 0.4 / (0.9 * 0.4 + 0.1 * 0.6), abs=0.1)


def test_an_example_that_is_asked_several_times_counts_once() -> None:
    kinds, words, truth = lesson(0.9, 0.6, 40)
    folds = np.arange(40) % 5
    once = learned_vote(kinds, words, truth, folds)
    twice = learned_vote(kinds, np.concatenate([words] * 2), np.tile(truth, 2), np.tile(folds, 2), 2)
    assert twice.weights == pytest.approx(once.weights, abs=1e-3)
    assert (twice.labels, twice.right) == (once.labels, once.right)
    assert twice.log_loss == pytest.approx(once.log_loss, abs=1e-4)


def test_no_weight_is_negative_and_a_word_that_misleads_is_not_heard() -> None:
    kinds, words, truth = lesson(0.9, 0.05)
    vote = learned_vote(kinds, words, truth, np.arange(len(truth)) % 5)
    assert (vote.weights >= 0).all()
    assert not vote.weights[2:].any()


def test_views_that_were_taught_alike_speak_as_one() -> None:
    """Three that agree in a group are no surer than one alone."""
    kinds, words, truth = lesson(0.8, 0.7)
    vote = learned_vote(kinds, words, truth, np.arange(len(truth)) % 5)
    one = label(("closed", "a", 0.2), ("shown", "b", 0.2))
    three = label(("closed", "a", 0.2), ("panel 1", "a", 0.2), ("panel 2", "a", 0.2), ("shown", "b", 0.2))
    of_one, of_three = vote.chances(words_of([one, three], GROUPS, ANSWERS)[1])
    assert of_one == pytest.approx(of_three)


def test_the_probe_decides_where_the_others_are_torn_and_joins_the_candidates() -> None:
    known = [
        Example(Query(f"{answer}{n}", f"{words} {n}"), answer)
        for answer, words in (("a", "money back please"), ("b", "where is the parcel"))
        for n in range(8)
    ]
    embedder = HashingEmbedder(64)
    vectors = embedder.embed([example.query.question for example in known])
    found = fitted(vectors, known)
    labels = [label(("closed", example.answer if n % 4 else "ab"[n % 2], 0.3)) for n, example in enumerate(known)]
    kinds, words = words_of(labels, GROUPS, ("a", "b"), found.whole, vectors)
    assert kinds[-1] == NAME
    vote = learned_vote(kinds, words, np.array(["ab".index(each.answer) for each in known]), np.arange(16) % 4)
    torn = label(("closed", "b", 0.3), ("panel 1", "a", 0.3))
    at = embedder.embed(["money back please 3"])
    chances = vote.chances(words_of([torn], GROUPS, ("a", "b"), found.whole, at)[1])
    (answer,) = voted([torn], chances, ("a", "b"), found.whole, at)
    assert answer.answer == "a"
    assert [each.configuration for each in answer.candidates] == ["closed", "panel 1", NAME]
    assert answer.agreement == pytest.approx(2 / 3)


def test_a_draw_is_that_of_who_labelled_and_no_answer_stays_none() -> None:
    chances = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    drawn, silent = label(("closed", "b", 0.2)), label(("closed", None, 0.2), name="r")
    one, other = voted([drawn, silent], chances, ANSWERS)
    assert (one.answer, one.right) == ("b", 0.5)
    assert (other.answer, other.right) == (None, 0.0)
    assert voted([], np.zeros((0, 3)), ANSWERS) == []


def test_it_is_the_same_again_and_survives_its_file() -> None:
    kinds, words, truth = lesson(0.9, 0.6)
    vote = learned_vote(kinds, words, truth, np.arange(len(truth)) % 5)
    again = learned_vote(kinds, words, truth, np.arange(len(truth)) % 5)
    assert Vote.from_json(json.loads(json.dumps(vote.to_json()))).to_json() == again.to_json()
    labels = voted([label(("closed", "a", 0.2))], np.array([[0.75, 0.25, 0.0]]), ANSWERS)
    said = told(vote, labels, {"q"})
    assert (said["estimated_accuracy"], said["estimated_selected_accuracy"]) == (0.75, 0.75)


def test_where_one_kind_alone_is_known_the_weights_stay_finite() -> None:
    words = np.zeros((30, 2, 1))
    words[:, 0, 0] = 1.0
    vote = learned_vote(("taught: share",), words, np.zeros(30, dtype=np.int64), np.zeros(30, dtype=np.int64))
    assert 2.0 < vote.weights[0] < 20.0
    assert vote.right == 1.0
