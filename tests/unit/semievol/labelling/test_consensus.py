"""Pseudo-labels that listen to those near them."""

import math

import numpy as np
import pytest

from semievol.config.method import (
    Configuration,
    ConsensusConfig,
    LabellingConfig,
    MethodConfig,
    ModelConfig,
    SelectionConfig,
    TaskConfig,
)
from semievol.labelling.consensus import agree
from semievol.labelling.selection import scored, select
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query
from semievold.config.daemon import DaemonConfig

SPREADING = ConsensusConfig(method="spreading")
CONFIG = ConsensusConfig(method="spreading", weight=0.5, neighbours=2, power=1.0, steps=1)


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
    (first, second) = agree(labels, vectors((1, 0), (1, 0)), [], vectors((1, 0))[:0], CONFIG)
    # q1: own a 0.5, its one neighbour says b 1: half of each. q2: own b 1, neighbour a 0.5.
    assert (first.answer, first.consensus) == ("b", pytest.approx(0.5 / 0.75))
    assert (second.answer, second.consensus) == ("b", pytest.approx(0.5 / 0.75))


def test_an_answer_taken_over_has_the_entropy_of_all_candidates_and_no_agreement() -> None:
    labels = [label("q1", ("a", 2.0), (None, 4.0)), label("q2", ("b", 0.0)), label("q3", ("b", 0.0))]
    first = agree(labels, vectors((1, 0), (1, 0), (1, 0)), [], vectors((1, 0))[:0], CONFIG)[0]
    assert (first.answer, first.entropy, first.agreement, first.justified) == ("b", 3.0, 0.0, False)


def test_examples_keep_their_answers_and_outweigh_an_unsure_query() -> None:
    examples = [Example(Query("e1", "e1"), "b"), Example(Query("e2", "e2"), "b")]
    unsure = label("q1", ("a", 3.0))
    far = ConsensusConfig(method="spreading", weight=0.5, neighbours=2, power=1.0, steps=50)
    (found,) = agree([unsure], vectors((1, 0)), examples, vectors((1, 0.1), (1, -0.1)), far)
    assert found.answer == "b"
    # The limit: own 0.5 * exp(-3) for a, the clamped examples' 0.5 for b.
    assert found.consensus == pytest.approx(0.5 / (0.5 + 0.5 * math.exp(-3)), abs=1e-6)


def test_near_neighbours_count_more_with_a_higher_power() -> None:
    examples = [Example(Query("e1", "e1"), "near"), Example(Query("e2", "e2"), "far")]
    silent = label("q1", ("near", 9.0))
    shares = []
    for power in (1.0, 8.0):
        config = ConsensusConfig(method="spreading", weight=0.5, neighbours=2, power=power, steps=1)
        (found,) = agree([silent], vectors((1, 0)), examples, vectors((1, 0.2), (1, 1)), config)
        assert found.answer == "near"
        assert found.consensus is not None
        shares.append(found.consensus)
    assert shares[1] > shares[0]


def test_nobody_near_has_said_anything() -> None:
    (found,) = agree([label("q1", (None, math.inf))], vectors((1, 0)), [], vectors((1, 0))[:0], CONFIG)
    assert (found.answer, found.consensus) == (None, None)  # there is no answer at all to spread
    labels = [label("q1", (None, math.inf)), label("q2", ("a", 0.0))]
    lonely = agree(labels, vectors((1, 0), (-1, 0)), [], vectors((1, 0))[:0], CONFIG)[0]
    assert (lonely.answer, lonely.consensus) == (None, 0.0)


def test_what_did_not_parse_stays_without_an_answer() -> None:
    examples = [Example(Query("e1", "e1"), "a")]
    (found,) = agree([label("q1", (None, 0.1))], vectors((1, 0)), examples, vectors((1, 0)), CONFIG)
    assert (found.answer, found.consensus) == (None, 0.0)


def test_blocks_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, 5)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = [label(f"q{i}", ("ab"[i % 2], float(random.random()))) for i in range(40)]
    whole = agree(labels, rows, [], rows[:0], SPREADING)
    monkeypatch.setattr("semievol.labelling.consensus._BLOCK_ROWS", 7)
    assert agree(labels, rows, [], rows[:0], SPREADING) == whole


def test_every_query_helps_to_place_the_centres() -> None:
    """An example at the edge of each cluster; the queries show where the clusters are."""
    random = np.random.default_rng(0)
    places = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    rows = np.concatenate([place + 0.25 * random.normal(size=(60, 3)) for place in places])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    truth = ["a"] * 60 + ["b"] * 60
    examples = [Example(Query("e1", "e1"), "a"), Example(Query("e2", "e2"), "b")]
    edges = vectors((1, 0.75), (-0.35, 1)) @ np.eye(2, 3)
    silent = [label(f"q{i}", ("a", 9.0)) for i in range(120)]  # the model says nothing that is sure
    found = agree(silent, rows, examples, edges, ConsensusConfig(votes=0.0))
    nearest = ["ab"[int(row @ edges[1] > row @ edges[0])] for row in rows]
    right = sum(each.answer == answer for each, answer in zip(found, truth, strict=True))
    assert right >= 118 > 112 > sum(answer == true for answer, true in zip(nearest, truth, strict=True))
    assert all(0.5 <= (each.consensus or 0) <= 1 for each in found)


def test_candidates_count_by_the_weight_of_their_configuration_and_their_likelihood() -> None:
    examples = [Example(Query("e1", "e1"), "a"), Example(Query("e2", "e2"), "b")]
    between, ends = vectors((1, 1)), vectors((1, 0), (0, 1))
    torn = label("q1", ("a", 0.1), ("b", 0.1))
    config = ConsensusConfig(votes=2.0, words=0.0, steps=1)
    for weights, answer in (({"c0": 2.0}, "a"), ({"c1": 2.0}, "b"), ({"c0": 0.0}, "b")):
        assert agree([torn], between, examples, ends, config, weights)[0].answer == answer
    (alone,) = agree([torn], between, examples, ends, config.model_copy(update={"steps": 0}), {"c1": 0.0})
    # No centre is nearer: the odds are exp(votes * likelihood) to 1.
    odds = math.exp(2.0 * math.exp(-0.1))
    assert (alone.answer, alone.consensus) == ("a", pytest.approx(odds / (1 + odds)))


def test_an_answer_without_an_example_starts_where_the_model_gave_it() -> None:
    examples = [Example(Query("e1", "e1"), "a")]
    labels = [
        label("q1", ("new", 0.1)),
        label("q2", ("a", 3.0)),
        label("q3", ("a", 0.1)),
        label("q4", (None, math.inf)),
    ]
    places = vectors((0, 1), (0.1, 1), (1, 0.1), (1, 0))
    found = agree(labels, places, examples, vectors((1, 0)), ConsensusConfig(votes=0.0))
    assert [each.answer for each in found] == ["new", "new", "a", None]
    assert found[3].consensus == 0.0


@pytest.mark.parametrize(("doubt", "weights"), [(("z", 6.0), {}), (("z", math.inf), {}), (("z", 0.1), {"c1": 0.0})])
def test_an_answer_that_nobody_gave_surely_draws_no_query(doubt: tuple[str, float], weights: dict[str, float]) -> None:
    """Not the one that it was given to, and not those far from every centre."""
    examples = [Example(Query("e1", "e1"), "a"), Example(Query("e2", "e2"), "b")]
    places, ends = vectors((1, 0.8), (1, 0.1), (-1, -1)), vectors((1, 0), (0, 1))
    labels = [label("q1", ("a", 0.2), doubt), label("q2", ("a", 0.1)), label("q3", ("b", 0.5))]
    found = agree(labels, places, examples, ends, ConsensusConfig(), weights)
    assert [each.answer for each in found] == ["a", "a", "b"]


def test_without_any_sure_answer_the_centres_say_nothing() -> None:
    labels = [label("q1", ("b", math.inf)), label("q2", ("a", math.inf))]
    found = agree(labels, vectors((1, 0), (0, 1)), [], vectors((1, 0))[:0], ConsensusConfig())
    assert [(each.answer, each.consensus) for each in found] == [("b", 0.0), ("a", 0.0)]


def test_settings_of_the_other_method_are_refused() -> None:
    with pytest.raises(ValueError, match="neighbours: is for another method than centres"):
        ConsensusConfig(neighbours=3)
    with pytest.raises(ValueError, match="votes: is for another method than spreading"):
        ConsensusConfig(method="spreading", votes=1.0)


def test_selection_by_consensus_keeps_the_highest_shares() -> None:
    labels = [label("q1", ("a", math.log(2))), label("q2", ("a", 0.0)), label("q3", ("b", 0.1))]
    agreed = agree(labels, vectors((1, 0), (1, 0.1), (0, 1)), [], vectors((1, 0))[:0], CONFIG)
    settings = SelectionConfig(by="consensus", theta=0.5, min_agreement=0.0)
    kept = select([scored(each, settings) for each in agreed], settings).kept
    best = sorted(agreed, key=lambda each: -(each.consensus or 0))[:2]
    assert set(kept) == {each.query.id for each in best}


def test_consensus_is_refused_where_answers_of_near_queries_mean_nothing() -> None:
    consensus = LabellingConfig(consensus=ConsensusConfig())
    with pytest.raises(ValueError, match=r"labelling.consensus: needs task.labels"):
        MethodConfig(model=ModelConfig(name="m"), task=TaskConfig(form="numeric"), labelling=consensus)
    with pytest.raises(
        ValueError, match=r"labelling.consensus: needs task.labels"
    ):  # no examples are there to show them
        DaemonConfig.model_validate({"workload": "w", "model": {"name": "m"}, "labelling": {"consensus": {}}})
    with pytest.raises(ValueError, match=r"selection.by: consensus needs labelling.consensus"):
        MethodConfig(
            model=ModelConfig(name="m"),
            task=TaskConfig(labels=("a", "b")),
            selection=SelectionConfig(by="consensus"),
        )
    with pytest.raises(ValueError, match=r"labelling.configurations\[0\].weight: counts in labelling.consensus and"):
        MethodConfig(
            model=ModelConfig(name="m"),
            labelling=LabellingConfig(configurations=(Configuration(name="c", weight=2.0),)),
        )
    none = LabellingConfig(configurations=(Configuration(name="c", weight=0.0),), consensus=ConsensusConfig())
    with pytest.raises(ValueError, match="every weight is 0"):
        MethodConfig(model=ModelConfig(name="m"), task=TaskConfig(labels=("a", "b")), labelling=none)
