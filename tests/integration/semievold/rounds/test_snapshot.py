"""What a round trains on, chosen from real stores."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.split import HoldoutRule
from semievol.labelling import confidence
from semievol.protocols import Vectors
from semievol.tasks.task import Task
from semievol.training.job import TrainingJob, read_snapshot
from semievol.types import CandidateAnswer, Example, PseudoLabel, Query, TrainingRow
from semievold.api import operations
from semievold.config.daemon import DaemonConfig
from semievold.errors import FatalError, LeaseLost
from semievold.round_states import RoundState as S
from semievold.rounds import pool, snapshot
from semievold.store.feedback import Said
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.stores import Stores, open_stores
from tests.scripted import ListIndex, pseudo_label

POOL: dict[str, list[tuple[str | None, float]]] = {
    "surest first": [("odd", 0.1), ("even", 0.1), ("even", 0.2), (None, 0.3)],
    "unanimous": [("odd", 2.0), ("odd", 2.0), ("odd", 2.0), ("odd", 2.0)],
    "most": [("odd", 0.2), ("odd", 0.2), ("odd", 0.2), ("even", 0.9)],
}


def label(query_id: str) -> PseudoLabel:
    given = POOL[query_id]
    answers, nats = [answer for answer, _ in given], [value for answer, value in given if answer == "odd"]
    return PseudoLabel(
        query=Query(query_id, f"is {query_id} even?"),
        answer="odd",
        entropy=confidence.mean_entropy(nats),
        agreement=confidence.agreement(answers, "odd"),
        confidence=0.5,
        justified=False,
        adapter=None,
        neighbours=(),
        candidates=tuple(CandidateAnswer("c", "text", answer, value) for answer, value in given),
    )


def chosen_of_pool(tmp_path: Path, settings: dict[str, Any]) -> snapshot.Snapshot:
    """What a round under these settings chooses, of POOL and one example."""
    config = DaemonConfig.model_validate(settings)
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        stores.examples.upsert([(Example(Query("e", "is 2 even?"), "even"), False)])
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in map(label, POOL)])
        round_ = stores.rounds.plan("evolve", "by hand", 0, None, {})
        return snapshot.choose(stores, ListIndex(), HashingEmbedder(), Task(config.task), config, round_, None)
    finally:
        stores.database.close()


@pytest.mark.parametrize(
    ("by", "selected"),
    [
        ("entropy", ["surest first"]),
        ("agreement", ["unanimous"]),
        ("margin", ["unanimous"]),
        ("semantic_entropy", ["unanimous"]),
        ("votes", ["most"]),
    ],
)
def test_a_round_selects_by_the_measure_that_is_configured(tmp_path: Path, by: str, selected: list[str]) -> None:
    settings: dict[str, Any] = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["even", "odd"]},
        "selection": {"by": by, "theta": 0.3, "min_agreement": 0},
    }
    chosen = chosen_of_pool(tmp_path, settings)
    assert chosen.manifest["selected_ids"] == selected
    assert {member.query_id for member in chosen.members} == POOL.keys()


def learning(tmp_path: Path, calibrated: int, **selection: Any) -> snapshot.Snapshot:
    """A round of 40 queries: one view is right where it is sure, and as often wrong as right where it is not."""
    settings: dict[str, Any] = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["even", "odd"]},
        "labelling": {"configurations": [{"name": "c", "temperature": 0, "neighbours": 0}]},
        "selection": {"by": "learned", "theta": 0.5, "min_agreement": 0, **selection},
    }
    if "risk" in selection:
        del settings["selection"]["theta"]

    def said(name: str, number: int) -> PseudoLabel:
        words = f"{'pool' if name == 'query' else 'held'} {number % 4}"  # of every fourth the answer is wrong
        sure = number % 4 < 2
        answer = "even" if number % 2 == 0 or not sure else "odd"
        return pseudo_label(f"{name}{number}", f"{words} {number}", answer, 0.01 if sure else 0.9)

    config = DaemonConfig.model_validate(settings)
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        taught = [Example(Query(f"e{n}", f"is {n} even?"), "even" if n % 2 == 0 else "odd") for n in range(6)]
        stores.examples.upsert([(example, False) for example in taught])
        asked = [said("calibration", n) for n in range(calibrated)]
        put_aside = [Example(each.query, "even" if n % 2 == 0 else "odd") for n, each in enumerate(asked)]
        stores.examples.keep(put_aside, HoldoutRule(0.0, "holdout", calibration=1.0))
        labels = [said("query", n) for n in range(40)]
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in labels])
        round_ = stores.rounds.plan("evolve", "by hand", 0, None, {})
        embedder, task = HashingEmbedder(), Task(config.task)
        return snapshot.choose(stores, ListIndex(), embedder, task, config, round_, None, None, asked)
    finally:
        stores.database.close()


def test_a_round_ranks_by_what_calibration_examples_taught_about_being_right(tmp_path: Path) -> None:
    chosen = learning(tmp_path, 40)
    kept = chosen.manifest["selected_ids"]
    assert len(kept) >= 20
    assert not [key for key in kept if int(key.removeprefix("query")) % 4 == 3]
    said = chosen.manifest["learned"]
    assert said["labels"] == 40
    assert said["right"] == 0.75
    assert said["estimated_accuracy"] == pytest.approx(0.75, abs=0.08)
    assert said["estimated_selected_accuracy"] > 0.9
    assert {role for key, role in chosen.taken.items() if key.startswith("calibration")} == {"calibration"}
    assert not [row.id for row in chosen.rows if row.id.startswith("calibration")]


def test_with_too_few_calibration_examples_nothing_is_learned_and_nothing_selected(tmp_path: Path) -> None:
    chosen = learning(tmp_path, 10)
    assert chosen.manifest["selected_ids"] == []
    assert "learned has 10 labelled questions to learn from, and needs 20" in chosen.manifest["learned"]["nothing"]
    assert {member.reason for member in chosen.members} == {"too few calibration examples to learn from who is right"}


def test_what_teaches_the_confidence_does_not_certify_what_it_chose(tmp_path: Path) -> None:
    chosen = learning(tmp_path, 400, risk={"budget": 0.2})
    taught, certificate = chosen.manifest["learned"]["labels"], chosen.manifest["certificate"]
    assert taught + certificate["labels"] == 400
    assert abs(taught - 200) < 50
    assert certificate["threshold"] is not None
    kept = chosen.manifest["selected_ids"]
    assert len([key for key in kept if int(key.removeprefix("query")) % 4 == 3]) <= 0.2 * len(kept)
    assert kept


def test_each_promoted_round_takes_the_next_theta(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["even", "odd"]},
        "selection": {"theta_by_round": [0.3, 1.0], "min_agreement": 0},
    }
    config = DaemonConfig.model_validate(settings)
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    adapter = {"name": "a1", "path": "/a1", "content_hash": "c0ffee", "parent": None}
    try:
        stores.examples.upsert([(Example(Query("e", "is 2 even?"), "even"), False)])
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in map(label, POOL)])
        selected = []
        for promoted in (False, True, True):
            round_ = stores.rounds.plan("evolve", "by hand", 0, None, {})
            chosen = snapshot.choose(stores, ListIndex(), HashingEmbedder(), Task(config.task), config, round_, None)
            selected.append(len(chosen.manifest["selected_ids"]))
            walk(stores, round_.number, {**adapter, "name": f"a{round_.number}"}, promoted=promoted)
    finally:
        stores.database.close()
    # The first round was not promoted: the second one keeps as few.
    assert selected == [1, 1, 3]


def test_what_is_left_to_the_rule_is_found_once_and_stands_in_the_manifest(tmp_path: Path) -> None:
    settings = {"workload": "w", "model": {"name": "x-135M"}, "task": {"labels": ["even", "odd"]}, "training": "auto"}
    chosen = chosen_of_pool(tmp_path, settings)
    numbers = {"epochs": 12.0, "learning_rate": 8.5e-4, "batch_size": 8, "rank": 16, "alpha": 32}
    assert (chosen.manifest["theta"], chosen.manifest["training"]) == (0.5, numbers)
    assert chosen.manifest["config"]["training"]["epochs"] == "auto"
    snapshot.write(chosen, tmp_path / "snapshot")
    assert read_snapshot(tmp_path / "snapshot")[0].numbers() == numbers


def test_a_former_leader_that_stood_still_while_it_wrote_replaces_nothing_of_its_successors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"workload": "w", "model": {"name": "none"}, "task": {"labels": ["even", "odd"]}}
    config = DaemonConfig.model_validate(settings)
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        stores.examples.upsert([(Example(Query("e", "is 2 even?"), "even"), False)])
        round_ = stores.rounds.plan("warm", "by hand", 0, None, {})
        chosen = snapshot.choose(stores, ListIndex(), HashingEmbedder(), Task(config.task), config, round_, None)
    finally:
        stores.database.close()
    directory = tmp_path / "rounds" / "r0000" / "snapshot"
    successors = replace(chosen, rows=(*chosen.rows, *chosen.rows))
    really = snapshot.write_snapshot

    def standing_still(place: Path, job: TrainingJob, rows: Sequence[TrainingRow]) -> None:
        monkeypatch.setattr(snapshot, "write_snapshot", really)
        snapshot.write(successors, directory)  # meanwhile
        really(place, job, rows)

    @contextmanager
    def deposed() -> Iterator[None]:
        raise LeaseLost("another process leads")
        yield

    monkeypatch.setattr(snapshot, "write_snapshot", standing_still)
    with pytest.raises(LeaseLost):
        snapshot.write(chosen, directory, deposed)
    assert len(read_snapshot(directory)[1]) == 2 * len(chosen.rows)
    assert [path.name for path in directory.parent.iterdir()] == ["snapshot"]


def test_a_round_trains_on_what_the_consensus_of_its_pool_says(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["card", "password", "weather"]},
        "labelling": {"consensus": {}},
        "selection": {"by": "consensus", "theta": 0.8, "min_agreement": 0},
    }
    config = DaemonConfig.model_validate(settings)
    pool = [
        pseudo_label("lost", "I lost my card", "weather", 3.0),
        pseudo_label("right", "how do I reset my password", "password", 0.1),
        pseudo_label("wrong", "how can I reset a password", "weather", 1.5),
        pseudo_label("between", "reset the weather", "weather", 1.0),
        pseudo_label("silent", "reset my password now", None, float("inf")),
        pseudo_label("sun", "what weather will it be today", "weather", 0.1),
    ]
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        known = [Example(Query("e1", "I want to reset my password"), "password")]
        known += [Example(Query("e2", "what is the weather today"), "weather")]
        known += [Example(Query("e3", "my card is lost"), "card")]  # which no pseudo-label says
        stores.examples.upsert([(example, False) for example in known])
        held_out = Example(Query("h", "how may I reset a password"), "weather")
        stores.examples.upsert([(held_out, True)])
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in pool])
        round_ = stores.rounds.plan("evolve", "by hand", 0, None, {})
        chosen = snapshot.choose(stores, ListIndex(), HashingEmbedder(), Task(config.task), config, round_, None)
        stores.rounds.transition(round_.number, S.PLANNED, S.SNAPSHOTTED, members=chosen.members)
        views = {each.query.id: operations.explain(stores, each.query.id) for each in pool}
    finally:
        stores.database.close()
    completions = {row.id: row.completion for row in chosen.rows if row.kind == "pseudo-label"}
    assert completions == {"lost": "card", "right": "password", "wrong": "password", "sun": "weather"}
    assert chosen.manifest["answers_changed"] == 2
    # The prediction that clients saw stays; what the round made of it is told beside it.
    assert views["wrong"]["answer"] == "weather"
    (use,) = views["wrong"]["rounds"]
    assert (use["answer"], use["selected"]) == ("password", True)
    assert 0.5 < use["consensus"] <= 1
    (use,) = views["silent"]["rounds"]
    assert (use["answer"], use["selected"], use["reason"], use["consensus"]) == (None, False, "unparseable", 0.0)
    (use,) = views["between"]["rounds"]
    assert (use["selected"], use["reason"]) == (False, "uncertainty above threshold")


def test_what_a_held_out_example_asks_or_the_task_knows_no_more_is_left_out_by_name(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["even", "odd"]},
        "selection": {"theta": 1.0, "min_agreement": 0},
    }
    config = DaemonConfig.model_validate(settings)
    pool = [
        pseudo_label("good", "is 3 even?", "odd", 0.1),
        pseudo_label("gone", "is 5 even?", "neither", 0.1),
        pseudo_label("leak", "IS 9 even?", "odd", 0.1),
        pseudo_label("stale", "is 7 even?", "odd", 0.1),
    ]
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        kept, old = Example(Query("e", "is 2 even?"), "even"), Example(Query("old", "is 0 even?"), "neither")
        stores.examples.upsert([(kept, False), (old, False), (Example(Query("h", "is 9 even?"), "odd"), True)])
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in pool])
        round_ = stores.rounds.plan("evolve", "by hand", 0, None, {})
        chosen = snapshot.choose(
            stores, ListIndex(), HashingEmbedder(), Task(config.task), config, round_, None, {"stale": "too long"}
        )
    finally:
        stores.database.close()
    assert sorted(row.id for row in chosen.rows) == ["e", "good"]
    assert {each.query_id: each.reason for each in chosen.members} == {
        "good": None,
        "gone": "the task has no such answer any more",
        "leak": "a held-out example asks the same",
        "stale": "an older adapter made it, and the serving one cannot be asked",
    }
    assert (chosen.summary["examples"], chosen.summary["examples_left_out"]) == (1, 1)
    assert chosen.manifest["left_out_ids"] == ["old"]


@pytest.mark.parametrize("labelling", [{}, {"consensus": {}}])
def test_what_is_asked_many_times_counts_once_in_a_round(tmp_path: Path, labelling: dict[str, Any]) -> None:
    settings: dict[str, Any] = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["even", "odd"]},
        "labelling": labelling,
        "selection": {"theta": 0.5, "min_agreement": 0},
    }
    config = DaemonConfig.model_validate(settings)
    own = [pseudo_label(f"own{n}", f"is {n} even?", "odd", 0.2 + n / 100) for n in range(4)]
    many = [pseudo_label(f"copy{n:02}", f"is 9{' ' * n} EVEN?", "even", 0.1) for n in range(30)]
    silent = replace(many[0], query=Query("a-silent", "is 9 even?"), answer=None)
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        stores.examples.upsert([(Example(Query("e", "is 2 even?"), "even"), False)])
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in [silent, *many, *own]])
        round_ = stores.rounds.plan("evolve", "by hand", 0, None, {})
        chosen = snapshot.choose(
            stores, ListIndex(), HashingEmbedder(), Task(config.task), config, round_, None, {"copy00": "too long"}
        )
    finally:
        stores.database.close()
    assert chosen.manifest["selected_ids"] == ["copy01", "own0", "own1"]
    assert len(chosen.members) == len(many) + len(own) + 1
    again = {each.query_id for each in chosen.members if each.reason == "another query of the pool asks the same"}
    assert again == {each.query.id for each in (silent, *many)} - {"copy01"}


@pytest.mark.parametrize("by", ["thumb down", "another answer", "an operator's word besides"])
def test_a_pseudo_label_that_a_client_contradicts_is_not_trained_on(tmp_path: Path, by: str) -> None:
    config = DaemonConfig.model_validate(
        {
            "workload": "w",
            "model": {"name": "none"},
            "task": {"labels": ["even", "odd"]},
            "selection": {"theta": 1.0, "min_agreement": 0},
        }
    )
    labels = [pseudo_label(f"q{n}", f"is {n} even?", "odd", 0.1) for n in range(3)]
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        stores.examples.upsert([(Example(Query("e", "is 2000 even?"), "even"), False)])
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in labels])
        against = by != "another answer"
        word = Example(Query("x", "IS 1  even?"), "odd" if against else "even", "feedback")
        stores.feedback.keep([Said(word, "one", against)], HoldoutRule(0.0001, ""))
        if by == "an operator's word besides":
            stores.examples.upsert([(Example(Query("o", "is 1 even?"), "odd"), False)])
        judged = pool.judge(stores, HashingEmbedder(), Task(config.task), config)
    finally:
        stores.database.close()
    left_out = {} if by == "an operator's word besides" else {"q1": "a client says that the answer is wrong"}
    assert {each.query_id: each.reason for each in judged.members if not each.selected} == left_out


@pytest.mark.parametrize(("trusted", "kept"), [(False, 16), (True, 300)])
def test_of_one_clients_feedback_a_round_learns_from_no_more_than_its_share(
    tmp_path: Path, trusted: bool, kept: int
) -> None:
    """Whatever it says: it may lie. Who says little is not cut."""
    settings: dict[str, Any] = {"workload": "w", "model": {"name": "none"}, "task": {"labels": ["even", "odd"]}}
    config = DaemonConfig.model_validate(settings | {"gateway": {"feedback": {"trusted": trusted}}})
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        stores.examples.upsert([(Example(Query(f"o{n}", f"is {n} even?"), "even"), False) for n in range(0, 60, 2)])
        lies = [Example(Query(f"x{n}", f"is 1{n:03} even?"), "odd", "feedback") for n in range(300)]
        few = Example(Query("y", "is 5000 even?"), "even", "feedback")
        stores.feedback.keep([*(Said(each, "one") for each in lies), Said(few, "two")], HoldoutRule(0.0001, ""))
        found = [each.id for each in pool.training_examples(stores, config)]
    finally:
        stores.database.close()
    assert len(found) == 30 + kept + 1
    assert "y" in found
    assert {f"x{n}" for n in range(16)} <= set(found)  # the first that it said


FLOOD = [f"please tell whether {n} is{' really' * (n % 7)} even" for n in range(1_000)]


@pytest.mark.parametrize("texts", ["copies", "near copies", "different texts"])
@pytest.mark.parametrize("labelling", [{}, {"consensus": {}}], ids=["alone", "consensus"])
def test_a_client_that_floods_has_its_bounded_share_of_a_round(
    tmp_path: Path, labelling: dict[str, Any], texts: str
) -> None:
    config = DaemonConfig.model_validate(
        {
            "workload": "w",
            "model": {"name": "none"},
            "task": {"labels": ["even", "odd"]},
            "labelling": labelling,
            "selection": {"theta": 1.0, "min_agreement": 0},
            "trigger": {"min_new": 10},
        }
    )
    spelled = {
        "copies": lambda n: FLOOD[0].upper() + "!" * n,
        "near copies": lambda n: FLOOD[0] + f" \u200b{'' if n % 2 else '?'}  ",
        "different texts": lambda n: FLOOD[n],
    }[texts]
    own = [pseudo_label(f"own{n}", f"is {n} even?", "odd", 0.2) for n in range(80)]
    flood = [pseudo_label(f"f{n:03}", spelled(n), "even", 0.1) for n in range(300)]
    sent = [replace(each, query=replace(each.query, metadata={"semievol-client": "1" * 32})) for each in flood]
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        stores.examples.upsert([(Example(Query("e", "is 2000 even?"), "even"), False)])
        stores.pseudo_labels.add([NewLabel(each, query_hash(each.query)) for each in [*own, *sent]])
        judged = pool.judge(stores, HashingEmbedder(), Task(config.task), config)
    finally:
        stores.database.close()
    selected = [each.query_id for each in judged.members if each.selected]
    theirs = [each for each in selected if each.startswith("f")]
    assert sum(each.startswith("own") for each in selected) == 80
    assert len(theirs) == (20 if texts == "different texts" else 1)
    reasons = {each.reason for each in judged.members if not each.selected}
    assert reasons == {
        "its source has its share of the round"
        if texts == "different texts"
        else "another query of the pool asks the same"
    }


def test_with_the_consensus_near_questions_of_one_answer_count_once(tmp_path: Path) -> None:
    config = DaemonConfig.model_validate(
        {
            "workload": "w",
            "model": {"name": "none"},
            "task": {"labels": ["even", "odd"]},
            "labelling": {"consensus": {}},
            "rounds": {"near_similarity": 0.9},
            "selection": {"theta": 1.0, "min_agreement": 0},
        }
    )
    long = "please tell me now whether the following number of apples in this basket is even or not"
    asked = {"a": f"{long} 12", "b": f"{long} 12 thanks", "c": f"{long} 13", "d": f"{long} 12 hello"}
    labels = [pseudo_label(key, text, "odd" if key == "d" else "even", 0.1) for key, text in asked.items()]
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        stores.examples.upsert([(Example(Query("e", "is 2000 even?"), "even"), False)])
        for each in labels:
            stores.pseudo_labels.add([NewLabel(each, query_hash(each.query))])
        judged = pool.judge(stores, HashingEmbedder(), Task(config.task), config)
    finally:
        stores.database.close()
    reasons = {each.query_id: each.reason for each in judged.members if not each.selected}
    assert reasons == {"b": "another query of the pool asks nearly the same"}


class Interrupting:
    """An embedder during whose first call something happens in the state."""

    name, dimensions = "interrupting", 256

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens: Callable[[], object] | None = happens
        self._inner = HashingEmbedder()

    def embed(self, texts: Sequence[str]) -> Vectors:
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()
        return self._inner.embed(texts)


def test_what_arrives_while_the_pool_is_judged_is_new_and_a_truth_takes_the_place_of_its_pseudo_label(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {
        "workload": "w",
        "model": {"name": "none"},
        "task": {"labels": ["password", "weather"]},
        "labelling": {"consensus": {}},
        "selection": {"by": "consensus", "theta": 1.0, "min_agreement": 0},
    }
    config = DaemonConfig.model_validate(settings)
    first = pseudo_label("first", "how do I reset my password", "password", 0.1)
    late = pseudo_label("late", "is it raining", "weather", 0.1)
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")

    def arrive() -> None:
        stores.pseudo_labels.add([NewLabel(late, query_hash(late.query), "queries", 0, 7)])
        stores.examples.upsert([(Example(first.query, "weather"), False)])

    try:
        stores.examples.upsert([(Example(Query("e", "what is the weather today"), "weather"), False)])
        stores.pseudo_labels.add([NewLabel(first, query_hash(first.query), "queries", 0, 3)])
        round_ = stores.rounds.plan("evolve", "by hand", 0, None, {})
        embedder = Interrupting(arrive)
        chosen = snapshot.choose(stores, ListIndex(), embedder, Task(config.task), config, round_, None)
    finally:
        stores.database.close()
    assert chosen.manifest["labelled_total"] == 1
    assert chosen.manifest["offsets"] == {"queries": {"0": 3}}
    assert {(row.id, row.completion, row.kind) for row in chosen.rows} == {
        ("e", "weather", "example"),
        ("first", "weather", "example"),
    }


def test_a_round_without_an_example_says_what_to_do(tmp_path: Path) -> None:
    config = DaemonConfig.model_validate({"workload": "w", "model": {"name": "none"}, "task": {"labels": ["a", "b"]}})
    stores = open_stores(f"sqlite:///{tmp_path / 'state.db'}", "w", "w")
    try:
        round_ = stores.rounds.plan("warm", "by hand", 0, None, {})
        with pytest.raises(FatalError, match="no labelled example is left to train on; add labels"):
            snapshot.choose(stores, ListIndex(), HashingEmbedder(), Task(config.task), config, round_, None)
    finally:
        stores.database.close()


def walk(stores: Stores, number: int, adapter: dict[str, Any], *, promoted: bool) -> None:
    states = [S.PLANNED, S.SNAPSHOTTED, S.TRAINING]
    for current, following in pairwise(states):
        stores.rounds.transition(number, current, following)
    stores.rounds.trained(number, {"steps": 1}, adapter)
    stores.rounds.transition(number, S.TRAINED, S.LOADED)
    if not promoted:
        stores.rounds.leave(number, S.LOADED, S.INCONCLUSIVE, "test")
        return
    for current, following in pairwise([S.LOADED, S.EVALUATED, S.ATTESTED]):
        stores.rounds.transition(number, current, following)
    stores.rounds.promote(number, "w", adapter["name"], stores.alias.get().generation)
    stores.rounds.transition(number, S.PROMOTED, S.SETTLED)
