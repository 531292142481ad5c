"""What becomes of clients' answers where labels are stored, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from semievol.errors import DataError
from semievol.examples.split import HoldoutRule, asked_key, is_holdout
from semievol.types import Example, Query
from semievold.gateway.words import record_of
from semievold.intake.messages import CLIENT_HEADER, label_record
from semievold.store.captured import Captured
from semievold.store.examples import ExampleStore
from semievold.store.feedback import Outcome, Said, Word
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.streams.protocol import OutgoingRecord
from tests.stream_world import ListIndex, World, pseudo_label, run_until

RULE = HoldoutRule(0.2, "holdout")
ONE = "1" * 32


def word(query_id: str, answer: str, source: str | None = "feedback", question: str | None = None) -> Example:
    return Example(Query(query_id, question or f"is {query_id} even?"), answer, source)


def outcomes(world: World, *given: tuple[Example, str], secret: str | None = None) -> list[str]:
    return [each.outcome.value for each in world.feedback.keep([Said(*each) for each in given], RULE, secret)]


async def test_two_clients_that_differ_are_both_set_aside_until_an_operator_decides(new_world: Any) -> None:
    world: World = new_world()
    assert outcomes(world, (word("a", "even"), "one")) == ["used"]
    assert outcomes(world, (word("a", "even"), "one"), (word("a", "odd"), "one")) == ["used", "second"]
    assert outcomes(world, (word("b", "odd", question="Is A even?"), "two")) == ["contradicted"]
    assert world.examples.training() == []
    assert [each["outcome"] for each in world.feedback.of("a")] == ["contradicted"]
    assert outcomes(world, (word("a", "even"), "three")) == ["contradicted"]
    world.examples.keep([word("a", "odd", None)], RULE)
    assert world.feedback.settle([word("a", "odd", None)]) == []
    assert outcomes(world, (word("a", "odd"), "four"), (word("a", "even"), "five")) == ["confirmed", "contradicted"]
    found = world.examples.get("a")
    assert found is not None
    assert (found.example.answer, found.example.source) == ("odd", None)


async def test_what_an_operator_took_back_does_not_come_back_by_feedback(new_world: Any) -> None:
    world: World = new_world()
    world.examples.keep([word("a", "even", None)], RULE)
    world.examples.retract(["a"])
    assert outcomes(world, (word("a", "even"), "one"), (word("a", "odd"), "two")) == ["withheld", "contradicted"]
    assert world.examples.get("a") is None


async def test_what_a_client_says_of_a_question_to_calibrate_on_is_kept_apart(new_world: Any) -> None:
    world: World = new_world()
    rule = HoldoutRule(0.0, "holdout", calibration=1.0)
    world.examples.keep([word("a", "even", None)], rule)
    said = [Said(word("b", "even", question="is a even?"), "one"), Said(word("c", "odd"), "two")]
    for secret in (None, "secret"):
        assert [each.outcome.value for each in world.feedback.keep(said, rule, secret)] == ["confirmed", "withheld"]
    assert [each.id for each in world.examples.calibration()] == ["a"]
    assert world.examples.holdout() == world.examples.training() == []


async def test_feedback_under_an_operators_id_or_about_what_is_held_out_is_kept_apart(new_world: Any) -> None:
    world: World = new_world()
    world.examples.upsert([(word("a", "even", None), False), (word("h", "even", None), True)])
    assert outcomes(
        world,
        (word("a", "odd", question="something else?"), "one"),
        (word("x", "odd", question="is h even?"), "one"),
        (word("y", "even", question="is h even?"), "two"),
    ) == ["withheld", "contradicted", "confirmed"]
    world.examples.retract(["h"])
    assert outcomes(world, (word("z", "even", question="IS H even?"), "two")) == [
        "confirmed" if False else "contradicted"
    ]
    assert [each.id for each in world.examples.training()] == ["a"]
    assert world.examples.holdout() == []


async def test_the_side_of_trusted_feedback_is_drawn_by_a_key(new_world: Any) -> None:
    world: World = new_world()
    some = [word(f"q{n}", "even") for n in range(100)]
    assert set(outcomes(world, *((each, "one") for each in some[:50]))) == {"used", "withheld"}
    assert world.examples.holdout() == []
    outcomes(world, *((each, "one") for each in some[50:]), secret="key of the service")
    assert world.examples.holdout() == []
    assert world.examples.counts().holdout == 0
    trusting = ExampleStore(world.database, "w", feedback_trusted=True)
    held = {each.id for each in trusting.holdout()}
    assert 2 <= len(held) == trusting.counts().holdout <= 25
    other: World = new_world(workload="other")
    outcomes(other, *((each, "one") for each in some[50:]), secret="another key")
    assert {each.id for each in ExampleStore(other.database, "other", feedback_trusted=True).holdout()} != held


async def test_feedback_before_the_operators_labels_decides_none_of_their_sides(new_world: Any) -> None:
    quiet: World = new_world()
    loud: World = new_world(workload="loud")
    ids = [f"q{n}" for n in range(60)]
    said = outcomes(loud, *((word(each, "even"), "one") for each in ids))
    drawn = [is_holdout(each, RULE.share, RULE.salt) for each in ids]
    assert said == ["withheld" if held else "used" for held in drawn]
    rule = HoldoutRule(RULE.share, RULE.salt, least=20, training_first=20)
    labels = [word(each, "even", None) for each in ids]
    sides = {}
    for world in (quiet, loud):
        kept = world.examples.keep(labels, rule)
        sides[world.examples.workload] = [each.holdout for each in kept]
        assert world.examples.counts().holdout_questions == 20
    assert sides["w"] == sides["loud"]


@pytest.mark.parametrize("same_id", [True, False])
async def test_feedback_gives_way_to_a_label_that_must_be_held_out(new_world: Any, same_id: bool) -> None:
    world: World = new_world()
    index = ListIndex()
    await world.producer.publish("semievol.labels", [label_record(word("a", "even"), {CLIENT_HEADER: "one"})])
    await run_until(world.labels_intake(index, holdout_share=0.001), lambda: index.ids() == {"a"})
    label = word("a" if same_id else "z", "even", None, "is a even?")
    await world.producer.publish("semievol.labels", [label_record(label)])
    role = world.labels_intake(index, holdout_share=0.999)
    await run_until(role, lambda: world.committed("labels", "semievol.labels") == 2)
    assert index.ids() == frozenset()
    assert world.examples.training() == []
    assert [(each.id, each.source) for each in world.examples.holdout()] == [(label.id, None)]
    assert [each["outcome"] for each in world.feedback.of("a")] == ["withheld"]
    assert outcomes(world, (word("b", "even", question="IS A even?"), "two")) == ["confirmed"]
    assert index.ids() == frozenset()


async def test_clients_do_not_decide_how_many_of_the_operators_are_held_out(new_world: Any) -> None:
    rule = HoldoutRule(0.2, "holdout", least=10, training_first=20)
    quiet: World = new_world()
    loud: World = new_world(workload="loud")
    outcomes(loud, *((word(f"f{n}", "even"), "one") for n in range(200)))
    sides = []
    for world in (quiet, loud):
        kept = world.examples.keep([word(f"o{n}", "even", None) for n in range(25)], rule)
        sides.append([each.holdout for each in kept])
    assert sides[0] == sides[1]


class Refusing(ListIndex):
    def upsert(self, examples: Any) -> None:
        if any(each.source == "feedback" for each in examples):
            raise DataError("this one cannot be indexed")
        super().upsert(examples)


@pytest.mark.parametrize("refuses", [False, True])
async def test_of_one_batch_the_operators_word_counts_whatever_comes_last(new_world: Any, refuses: bool) -> None:
    world: World = new_world()
    client = {CLIENT_HEADER: ONE}
    records = [
        label_record(word("a", "even", None)),
        label_record(word("a", "odd"), client),
        label_record(word("b", "odd"), client),
        label_record(word("b", "even", None)),
        label_record(word("c", "odd"), client),
        OutgoingRecord("c", None),
        label_record(word("d", "odd"), client),
    ]
    await world.producer.publish("semievol.labels", records)
    index = Refusing() if refuses else ListIndex()
    role = world.labels_intake(index, holdout_share=0.001)
    await run_until(role, lambda: world.committed("labels", "semievol.labels") == len(records))
    kept = {each.id: (each.answer, each.source) for each in world.examples.training()}
    operators = {"a": ("even", None), "b": ("even", None)}
    assert kept == operators | ({} if refuses else {"d": ("odd", "feedback")})
    assert index.ids() == set(kept)
    assert role.counters.feedback[Outcome.CONTRADICTED] >= 2


def newest_of_each_key(records: list[OutgoingRecord]) -> list[OutgoingRecord]:
    """What compaction leaves."""
    return list({record.key: record for record in records}.values())


async def test_compaction_leaves_an_operators_label_and_each_clients_word(new_world: Any) -> None:
    world: World = new_world()
    two = "2" * 32
    asked = {each: Query(each, f"is {each} even?") for each in "ab"}
    said = [
        record_of(world.parser, asked["a"], Word("odd", False), ONE),
        record_of(world.parser, asked["b"], Word("odd", False), ONE),
        record_of(world.parser, asked["b"], Word("odd", True), two),
    ]
    erased = [OutgoingRecord(said[0].key, None)]
    records = newest_of_each_key([label_record(word("a", "even", None)), *said])
    await world.producer.publish("semievol.labels", records + erased)
    index = ListIndex()
    role = world.labels_intake(index, holdout_share=0.001)
    await run_until(role, lambda: world.committed("labels", "semievol.labels") == 5)
    assert {each.id: (each.answer, each.source) for each in world.examples.training()} == {"a": ("even", None)}
    assert index.ids() == {"a"}
    assert [(each["client"], each["outcome"]) for each in world.feedback.of("b")] == [
        (ONE, "contradicted"),
        (two, "contradicted"),
    ]


async def test_an_operators_label_removes_what_clients_say_otherwise_from_the_index(new_world: Any) -> None:
    world: World = new_world()
    index = ListIndex()
    await world.producer.publish("semievol.labels", [label_record(word("a", "odd"), {CLIENT_HEADER: ONE})])
    await run_until(world.labels_intake(index), lambda: index.ids() == {"a"})
    await world.producer.publish("semievol.labels", [label_record(word("z", "even", None, "is a even?"))])
    await run_until(world.labels_intake(index), lambda: world.committed("labels", "semievol.labels") == 2)
    assert index.ids() == {"z"}
    assert [each["outcome"] for each in world.feedback.of("a")] == ["contradicted"]


async def test_a_header_that_no_gateway_wrote_names_nobody(new_world: Any) -> None:
    world: World = new_world()
    index = ListIndex()
    headers = ["\0" * 8, ONE[:-1] + "\0", "x" * 100]
    records = [label_record(word(f"q{n}", "odd"), {CLIENT_HEADER: each}) for n, each in enumerate(headers)]
    await world.producer.publish("semievol.labels", records)
    role = world.labels_intake(index, holdout_share=0.001)
    await run_until(role, lambda: world.committed("labels", "semievol.labels") == len(records))
    assert [world.feedback.of(f"q{n}")[0]["client"] for n in range(len(headers))] == [""] * len(headers)
    assert role.counters.dead_letters.total() == 0


def against(query_id: str, answer: str, question: str | None = None) -> Said:
    return Said(word(query_id, answer, question=question), "", True)


def kept(world: World, *given: Said) -> list[str]:
    return [each.outcome.value for each in world.feedback.keep(given, RULE, None)]


async def test_what_a_client_says_is_wrong_is_no_label_and_weighs_no_more_than_a_label(new_world: Any) -> None:
    world: World = new_world()
    world.examples.upsert([(word("o", "even", None), False)])
    assert kept(world, against("a", "even")._replace(client="one")) == ["denied"]
    assert world.examples.counts().training == 1
    assert kept(world, against("a", "even")._replace(client="one")) == ["denied"]  # delivered again
    # An operator's word stands, whoever denies it, under whatever id; who denies another answer says the same.
    denials = [against("o", "even"), against("x", "even", "IS O even?"), against("y", "odd", "is o even?")]
    assert kept(world, *(each._replace(client=f"c{n}") for n, each in enumerate(denials))) == [
        "contradicted",
        "contradicted",
        "confirmed",
    ]
    assert world.examples.get("o") is not None
    assert set(world.feedback.open_words()) == {asked_key(word("a", "even").query)}


async def test_a_client_that_denies_anothers_answer_sets_both_aside(new_world: Any) -> None:
    world: World = new_world()
    assert outcomes(world, (word("a", "even"), "one")) == ["used"]
    (denied,) = world.feedback.keep([against("b", "even", "is A even?")._replace(client="two")], RULE, None)
    assert (denied.outcome, denied.removed) == (Outcome.CONTRADICTED, ("a",))
    assert world.examples.training() == []
    assert [each["outcome"] for each in world.feedback.of("a")] == ["contradicted"]
    assert outcomes(world, (word("a", "even"), "three")) == ["contradicted"]
    # An operator's label decides: who denied another answer has said nothing wrong.
    world.feedback.keep([against("c", "odd", "is A even?")._replace(client="four")], RULE, None)
    label = word("z", "even", None, "is a even?")
    world.examples.keep([label], RULE)
    world.feedback.settle([label])
    assert [each["outcome"] for each in world.feedback.of("b")] == ["contradicted"]
    assert [each["outcome"] for each in world.feedback.of("c")] == ["confirmed"]


async def test_a_client_may_say_what_is_right_after_what_is_wrong_and_not_the_opposite(new_world: Any) -> None:
    world: World = new_world()
    one = against("a", "even")._replace(client="one")
    assert kept(world, one, one._replace(against=False)) == ["denied", "second"]
    assert outcomes(world, (word("a", "odd"), "one")) == ["used"]
    assert kept(world, one) == ["confirmed"]  # it follows from what it says
    assert [(each["answer"], each["against"]) for each in world.feedback.of("a")] == [("odd", False)]
    assert kept(world, against("b", "odd", "is A even?")._replace(client="one")) == ["second"]


@pytest.mark.parametrize("elsewhere", ["captured", "labelled"])
async def test_of_two_gateways_that_capture_one_id_at_once_one_wins(new_world: Any, elsewhere: str) -> None:
    world: World = new_world()
    state = world.stores.captured
    queries = [Captured("order-1", f"{number:032x}", f"{number:032x}", f"c{number}") for number in range(6)]
    if elsewhere == "labelled":
        query = Query("order-1", "is it even?")
        world.labels.add([NewLabel(pseudo_label(query), query_hash(query))])
    with ThreadPoolExecutor(6) as pool:
        first = set(pool.map(state.claim, queries))
    assert len(first) == 1
    if elsewhere == "labelled":
        assert first == {query_hash(query)}
        assert state.get("order-1") is None
        return
    (winner,) = (each for each in queries if each.content in first)
    state.note([each._replace(served="even") for each in queries if each != winner])
    assert state.get("order-1") is None  # a claim is no capture, and its id nobody else's
    state.note([winner._replace(served="odd", answer_id="chatcmpl-1")])
    assert state.get("chatcmpl-1") == winner._replace(served="odd", answer_id="chatcmpl-1")
    state.forget(world.database.now() + 1)
    assert state.get("order-1") is None
