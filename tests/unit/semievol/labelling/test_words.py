"""What the words of a question say about its answer."""

import math
import unicodedata
from itertools import pairwise

import numpy as np
import pytest

from semievol.config.method import ConsensusConfig
from semievol.labelling import words as module
from semievol.labelling.consensus import agree
from semievol.labelling.words import Words, _terms
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query

PRIOR = 100.0


def test_the_evidence_is_the_log_ratio_of_smoothed_frequencies() -> None:
    words = Words(["red", "red", "blue", "blue", "odd"])
    shares = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    # red and blue are each half of what is said; one of each is known, and 100 as usual.
    said, unsaid = (1 + PRIOR / 2) / (1 + PRIOR), (PRIOR / 2) / (1 + PRIOR)
    more, less = math.log(said / 0.5), math.log(unsaid / 0.5)
    expected = [[more, less], [more, less], [less, more], [less, more], [0.0, 0.0]]
    assert words.evidence(shares) == pytest.approx(np.array(expected))
    # What one text alone has says nothing.


def test_pairs_of_adjacent_words_count_and_letters_case_does_not() -> None:
    words = Words(["not Good", "NOT good", "good not", "x"])
    shares = np.zeros((4, 2))
    shares[0, 0] = shares[2, 1] = 1.0
    evidence = words.evidence(shares)
    assert evidence[1, 0] > evidence[1, 1]  # by the pair alone: both have the same words
    assert evidence[1] == pytest.approx(evidence[0])


@pytest.mark.parametrize(
    ("asked", "known"), [("ログインできない", "ログイン方法"), ("เปลี่ยนรหัสผ่าน", "รหัสผ่าน"), ("忘记密码", "密码")]
)
def test_scripts_without_spaces_are_read_by_their_characters(asked: str, known: str) -> None:
    words = Words([asked, known, "order", "order"])
    shares = np.zeros((4, 2))
    shares[1, 0] = shares[2, 1] = 1.0
    evidence = words.evidence(shares)[0]
    assert evidence[0] > evidence[1]


@pytest.mark.parametrize(("words", "counted"), [(10, 19), (60, 32), (200, 32)])
def test_a_text_counts_as_32_words_and_pairs_at_most(words: int, counted: int) -> None:
    text, other = (" ".join(f"{letter}{n}" for n in range(words)) for letter in "ab")
    evidence = Words([text, text, other, other]).evidence(np.array([[1.0, 0.0], [0, 0], [0, 1.0], [0, 0]]))
    terms = 2 * min(words, 64) - 1
    usual = 1 / (2 * terms)  # all are as frequent
    ratio = math.log((1 + PRIOR * usual) / (terms + PRIOR) / usual)
    assert evidence[1, 0] == pytest.approx(counted * ratio)


def test_parts_give_what_one_part_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 30, size=6)) for _ in range(50)]
    shares = random.random((50, 3))
    whole = Words(texts).evidence(shares)
    monkeypatch.setattr(module, "_TERMS_AT_ONCE", 5)
    assert Words(texts).evidence(shares) == pytest.approx(whole)
    order = random.permutation(50)
    assert Words([texts[n] for n in order]).evidence(shares[order]) == pytest.approx(whole[order])


@pytest.mark.parametrize("words", ["हिन्दी में बताओ", "مَرْحَبًا بِكَ", "Passwort für später"])
def test_marks_belong_to_their_words_however_they_are_written(words: str) -> None:
    parts = words.lower().split()
    said = {*parts, *(" ".join(pair) for pair in pairwise(parts))}
    for form in ("NFC", "NFD"):
        assert _terms(unicodedata.normalize(form, words)) == {unicodedata.normalize("NFC", term) for term in said}


def test_no_word_is_known_to_no_text() -> None:
    assert Words([]).evidence(np.zeros((0, 2))).shape == (0, 2)
    assert Words(["a", "b"]).evidence(np.eye(2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_words_part_what_the_vectors_do_not() -> None:
    """All queries have one vector; the examples' words lead on to those that only queries have."""
    texts = ["block my card", "card block please", "please freeze card block", "freeze card now", "freeze it now"]
    others = ["raise my limit", "limit raise please", "more limit raise", "more limit today", "more today"]
    examples = [Example(Query("e1", texts[0]), "block"), Example(Query("e2", others[0]), "limit")]
    labels = [_silent(f"q{n}", text) for n, text in enumerate(texts[1:] + others[1:])]
    same = np.ones((len(labels), 1), dtype=np.float32)
    found = agree(labels, same, examples, same[:2], ConsensusConfig(words=1.0, steps=30))
    assert [each.answer for each in found] == ["block"] * 4 + ["limit"] * 4
    deaf = agree(labels, same, examples, same[:2], ConsensusConfig(words=0.0, steps=30))
    assert {each.consensus for each in deaf} == {0.5}


def _silent(name: str, question: str) -> PseudoLabel:
    """The model says something of which it is not sure at all."""
    candidate = CandidateAnswer("c", "block", "block", 99.0)
    return PseudoLabel(Query(name, question), "block", 99.0, 1.0, 0.5, False, None, (), (candidate,))
