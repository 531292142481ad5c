"""Pseudo-labels that listen to those near them."""

import math

import numpy as np
import pytest

from semievol.config import ConsensusConfig, LabellingConfig, MethodConfig, ModelConfig, SelectionConfig, TaskConfig
from semievol.consensus import spread
from semievol.selection import scored, select
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query

CONFIG = ConsensusConfig(weight=0.5, neighbours=2, power=1.0, steps=1)


def label(name: str, *answers: tuple[str | None, float]) -> PseudoLabel:
    candidates = tuple(CandidateAnswer(f"c{i}", str(answer), answer, nats) for i, (answer, nats) in enumerate(answers))
    return PseudoLabel(
        query=Query(name, name),
        answer=answers[0][0],
        entropy=answers[0][1],
        agreement=1.0,
        confidence=0.5,
        justified=False,
        adapter=None,
        neighbours=(),
        candidates=candidates,
    )


def vectors(*rows: tuple[float, float]) -> np.ndarray:
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_one_step_is_the_weighted_mean_of_own_and_neighbouring_votes() -> None:
    labels = [label("q1", ("a", math.log(2))), label("q2", ("b", 0.0))]
    (first, second) = spread(labels, vectors((1, 0), (1, 0)), [], vectors((1, 0))[:0], CONFIG)
    # q1: own a 0.5, its one neighbour says b 1: half of each. q2: own b 1, neighbour a 0.5.
    assert (first.answer, first.consensus) == ("b", pytest.approx(0.5 / 0.75))
    assert (second.answer, second.consensus) == ("b", pytest.approx(0.5 / 0.75))


def test_an_answer_taken_over_has_the_entropy_of_all_candidates_and_no_agreement() -> None:
    labels = [label("q1", ("a", 2.0), (None, 4.0)), label("q2", ("b", 0.0)), label("q3", ("b", 0.0))]
    first = spread(labels, vectors((1, 0), (1, 0), (1, 0)), [], vectors((1, 0))[:0], CONFIG)[0]
    assert (first.answer, first.entropy, first.agreement, first.justified) == ("b", 3.0, 0.0, False)


def test_examples_keep_their_answers_and_outweigh_an_unsure_query() -> None:
    examples = [Example(Query("e1", "e1"), "b"), Example(Query("e2", "e2"), "b")]
    unsure = label("q1", ("a", 3.0))
    far = ConsensusConfig(weight=0.5, neighbours=2, power=1.0, steps=50)
    (found,) = spread([unsure], vectors((1, 0)), examples, vectors((1, 0.1), (1, -0.1)), far)
    assert found.answer == "b"
    # The limit: own 0.5 * exp(-3) for a, the clamped examples' 0.5 for b.
    assert found.consensus == pytest.approx(0.5 / (0.5 + 0.5 * math.exp(-3)), abs=1e-6)


def test_near_neighbours_count_more_with_a_higher_power() -> None:
    examples = [Example(Query("e1", "e1"), "near"), Example(Query("e2", "e2"), "far")]
    silent = label("q1", ("near", 9.0))
    shares = []
    for power in (1.0, 8.0):
        config = ConsensusConfig(weight=0.5, neighbours=2, power=power, steps=1)
        (found,) = spread([silent], vectors((1, 0)), examples, vectors((1, 0.2), (1, 1)), config)
        assert found.answer == "near"
        assert found.consensus is not None
        shares.append(found.consensus)
    assert shares[1] > shares[0]


def test_nobody_near_has_said_anything() -> None:
    (found,) = spread([label("q1", (None, math.inf))], vectors((1, 0)), [], vectors((1, 0))[:0], CONFIG)
    assert (found.answer, found.consensus) == (None, None)  # there is no answer at all to spread
    labels = [label("q1", (None, math.inf)), label("q2", ("a", 0.0))]
    lonely = spread(labels, vectors((1, 0), (-1, 0)), [], vectors((1, 0))[:0], CONFIG)[0]
    assert (lonely.answer, lonely.consensus) == (None, 0.0)


def test_what_did_not_parse_stays_without_an_answer() -> None:
    examples = [Example(Query("e1", "e1"), "a")]
    (found,) = spread([label("q1", (None, 0.1))], vectors((1, 0)), examples, vectors((1, 0)), CONFIG)
    assert (found.answer, found.consensus) == (None, 0.0)


def test_blocks_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = [label(f"q{i}", ("ab"[i % 2], float(random.random()))) for i in range(40)]
    whole = spread(labels, rows, [], rows[:0], ConsensusConfig())
    monkeypatch.setattr("semievol.consensus._BLOCK_ROWS", 7)
    assert spread(labels, rows, [], rows[:0], ConsensusConfig()) == whole


def test_selection_by_consensus_keeps_the_highest_shares() -> None:
    labels = [label("q1", ("a", math.log(2))), label("q2", ("a", 0.0)), label("q3", ("b", 0.1))]
    agreed = spread(labels, vectors((1, 0), (1, 0.1), (0, 1)), [], vectors((1, 0))[:0], CONFIG)
    settings = SelectionConfig(by="consensus", theta=0.5, min_agreement=0.0)
    kept = select([scored(each, settings) for each in agreed], settings).kept
    best = sorted(agreed, key=lambda each: -(each.consensus or 0))[:2]
    assert set(kept) == {each.query.id for each in best}


def test_consensus_is_refused_where_answers_of_near_queries_mean_nothing() -> None:
    consensus = LabellingConfig(consensus=ConsensusConfig())
    with pytest.raises(ValueError, match=r"labelling.consensus: needs task.labels"):
        MethodConfig(model=ModelConfig(name="m"), labelling=consensus)
    with pytest.raises(ValueError, match=r"selection.by: consensus needs labelling.consensus"):
        MethodConfig(
            model=ModelConfig(name="m"),
            task=TaskConfig(labels=("a", "b")),
            selection=SelectionConfig(by="consensus"),
        )
