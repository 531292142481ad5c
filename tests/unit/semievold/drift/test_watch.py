"""The leader's look for drift: each query once, one event a shift, what follows it, and when it begins anew."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from semievol.tasks.equality import AnswerEquality
from semievol.tasks.task import Task
from semievol.types import Example, Query
from semievold.api import drift as view
from semievold.api import operations
from semievold.config.drift import DriftSettings
from semievold.drift.detectors import LONGEST_CATEGORY, shortened
from semievold.drift.figures import read_figures
from semievold.drift.watch import DriftWatch
from semievold.errors import StateConflict
from semievold.round_states import RoundState as S
from semievold.rounds.observing import RoundObserver
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.tables import drift_events, pseudo_labels
from tests.control_world import WORKLOAD, ControlWorld, OpenWorld, example
from tests.scripted import pseudo_label

SETTLED_S = 2.0
MOST_BETWEEN_CLOCKS_S = DriftSettings().settled_s
SETTINGS: dict[str, Any] = {
    "false_alarm_every": 1000,
    "reference": 100,
    "reference_labels": 30,
    "categories": False,
    "settled_s": SETTLED_S,
}
WORDS = ("order", "parcel", "invoice", "refund")


def watch(world: ControlWorld) -> DriftWatch:
    here = world.here
    equality = AnswerEquality(Task(world.config.task))
    return DriftWatch(world.config.drift, here.stores, here.lease, equality, 2, 1, world.now)


async def looked(world: ControlWorld, by: DriftWatch | None = None) -> None:
    """All that came until now is weighed."""
    await world.passes(SETTLED_S + 1)
    term = world.here.lease.term
    assert term is not None
    world.here.lease.begin(term)
    found = by or watch(world)
    while found.look():
        pass


def traffic(
    world: ControlWorld,
    numbers: Iterable[int],
    *,
    similarity: float = 0.8,
    entropy: float = 0.1,
    answers: tuple[str, ...] = ("even", "odd"),
    about: str = "order",
    category: str | None = None,
    offsets: Sequence[int] | None = None,
) -> None:
    """Queries that the serving adapter answered, with the nearest example and the entropy around these.

    `offsets`: their places in the topic; None: they did not come from one.
    """
    serving, labels = world.stores.alias.get().adapter, []
    for place, number in enumerate(numbers):
        rng = random.Random(number)
        said = replace(
            pseudo_label(
                f"t{number}", f"my {about} number {number}", rng.choice(answers), entropy * rng.uniform(0.5, 1.5)
            ),
            adapter=serving,
            confidence=rng.uniform(0.7, 0.9),
            neighbours=((f"e{number % 8}", similarity + rng.uniform(-0.1, 0.1)),),
        )
        said = replace(said, query=replace(said.query, category=category))
        at = () if offsets is None else ("queries", 0, offsets[place])
        labels.append(NewLabel(said, query_hash(said.query), *at))
    world.stores.pseudo_labels.add(labels)


async def opened(open_world: OpenWorld, **settings: Any) -> ControlWorld:
    """A world that leads, has examples, and a reference of quiet queries."""
    world = open_world(drift={**SETTINGS, **settings})
    world.teach()
    await world.here.lead()
    world.stores.drift.position()
    traffic(world, range(300))
    await looked(world)
    return world


async def test_quiet_traffic_is_watched_and_raises_nothing(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    traffic(world, range(300, 900))
    await looked(world)
    assert world.stores.drift.events() == []
    kinds = read_figures(world.stores).kinds
    assert {kind: (each.phase, each.seen) for kind, each in kinds.items()} == dict.fromkeys(
        ("input", "topics", "confidence", "answers"), ("watching", 900)
    )
    assert all(each.statistic < each.alarm_line for each in kinds.values())  # type: ignore[operator]


async def test_strange_queries_are_one_event_that_names_them(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    traffic(world, range(300, 500), similarity=0.3, entropy=0.3, about="visa application")
    await looked(world)
    (event,) = world.stores.drift.events()
    assert event.kind == "input"
    assert event.actions == ["tell"]
    assert "less like the examples" in event.evidence["said"]
    assert {"visa", "application"} <= set(event.evidence["words"])
    assert "order" not in event.evidence["words"]
    strange = [each["question"] for each in event.evidence["moved_most"] if each["similarity"] < 0.5]
    assert len(strange) >= 3
    assert all("visa" in each for each in strange)
    assert event.evidence["statistic"] >= event.evidence["alarm_line"] == 1000
    assert event.evidence["nearest_examples"][0]["id"].startswith("e")
    assert {each["kind"] for each in event.also} == {"confidence"}
    assert read_figures(world.stores).kinds["input"].phase == "alarmed"


async def backlog(world: ControlWorld, batches: int, *, look_after: int) -> None:
    """As an intake stores what it reads 128 at a time: the easy ones first, the hard ones beside the next batch's.

    The hard ones are farther from the examples, and of one topic. Looked at after so many batches, and at the end.
    """
    rng = random.Random(3)
    late: list[int] = []
    for batch in range(batches):
        offsets = rng.sample(range(128 * batch, 128 * (batch + 1)), 128)
        traffic(world, [8 * each + rng.randrange(8) for each in offsets[:77]], offsets=offsets[:77], similarity=0.85)
        await world.passes(0.2)
        if batch:
            traffic(world, [8 * each for each in late], offsets=late, similarity=0.6)
        await world.passes(0.2)
        late = offsets[77:]
        if batch % look_after == look_after - 1:
            world.here.lease.begin(world.here.lease.term or 0)
            while watch(world).look():
                pass
    traffic(world, [8 * each for each in late], offsets=late, similarity=0.6)


@pytest.mark.parametrize(("batches", "look_after"), [(12, 1), (12, 5), (16, 100)])
async def test_a_backlog_whose_easy_queries_are_answered_first_is_no_drift(
    open_world: OpenWorld, batches: int, look_after: int
) -> None:
    world = open_world(drift={**SETTINGS, "reference": 500, "false_alarm_every": 100_000})
    world.teach()
    await world.here.lead()
    world.stores.drift.position()
    await backlog(world, batches, look_after=look_after)
    await looked(world)
    kinds = read_figures(world.stores).kinds
    assert {each.seen for each in kinds.values()} == {128 * batches}
    assert world.stores.drift.events() == []


async def test_what_was_asked_before_later_answers_waits_for_them_even_if_the_leader_dies(
    open_world: OpenWorld,
) -> None:
    world = await opened(open_world)
    traffic(world, range(1000, 1010), offsets=[*range(5), *range(20, 25)])
    await world.passes(SETTLED_S + 1)
    traffic(world, range(1010, 1015), offsets=range(10, 15))
    world.here.lease.begin(world.here.lease.term or 0)
    assert not watch(world).look()
    assert read_figures(world.stores).kinds["input"].seen == 305
    assert not watch(world).look()  # nothing has come that it could go on with
    await looked(world)  # by another watch, which knows what is in the state
    assert read_figures(world.stores).kinds["input"].seen == 315


async def test_three_shifts_are_three_events(open_world: OpenWorld) -> None:
    """After each a person sets a new reference, which the shifted traffic makes."""
    world = await opened(open_world)
    similarity = 0.8
    for number in range(1, 4):
        similarity -= 0.2
        traffic(world, range(1000 * number, 1000 * number + 300), similarity=similarity)
        await looked(world)
        assert len(world.stores.drift.events()) == number
        assert view.rearm(world.stores, "it stays") == {"rearmed": True, "closed": number}
        traffic(world, range(1000 * number + 300, 1000 * number + 600), similarity=similarity)
        await looked(world)
    assert [(each.number, each.closed_by) for each in world.stores.drift.events()] == [
        (3, "it stays"),
        (2, "it stays"),
        (1, "it stays"),
    ]


async def test_each_query_is_weighed_once_whoever_looks(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    for part in range(3):
        traffic(world, range(300 + 10 * part, 310 + 10 * part))
        await looked(world, watch(world))
        assert not watch(world).look()
    assert read_figures(world.stores).kinds["input"].seen == 330


async def test_a_look_that_dies_before_its_transaction_is_done_again_alike(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await opened(open_world)
    traffic(world, range(300, 400), similarity=0.5)
    before = world.stores.drift.detectors()

    class Killed(BaseException):
        pass

    def dies(*_: object) -> bool:
        raise Killed

    await world.passes(SETTLED_S + 1)
    with monkeypatch.context() as patched:
        patched.setattr(type(world.here.stores.drift), "advance", dies)
        with pytest.raises(Killed):
            watch(world).look()
    assert world.stores.drift.detectors() == before
    assert world.stores.drift.events() == []
    await looked(world)
    assert len(world.stores.drift.events()) == 1
    assert read_figures(world.stores).kinds["input"].seen == 400


async def test_what_was_weighed_against_a_replaced_reference_is_thrown_away(
    open_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await opened(open_world)
    traffic(world, range(300, 400), similarity=0.3)
    await world.passes(SETTLED_S + 1)
    store = world.here.stores.drift
    advance = store.advance

    def too_late(*args: Any) -> bool:
        world.stores.drift.rearm("just now")
        monkeypatch.setattr(type(store), "advance", lambda _self, *again: advance(*again))
        return advance(*args)

    monkeypatch.setattr(type(store), "advance", lambda _self, *args: too_late(*args))
    await looked(world)
    assert world.stores.drift.events() == []
    assert world.stores.drift.detectors() == {}


async def test_a_round_that_settles_after_the_event_sets_a_new_reference(open_world: OpenWorld) -> None:
    world = await opened(open_world, action={"input": "trigger"})
    traffic(world, range(300, 400), similarity=0.3)
    await looked(world)
    assert world.stores.drift.asks_for_round() == "drift event 1 (input)"
    planned = await world.plan()
    assert world.stores.drift.asks_for_round() is None
    await world.advance(planned, S.PROMOTED)
    await looked(world)
    assert world.stores.drift.open_event() is not None
    await world.here.engine.advance(world.round(0))
    assert world.round(0).state is S.SETTLED
    await looked(world)
    (event,) = world.stores.drift.events()
    assert event.closed_by == "round 0"
    assert read_figures(world.stores).kinds == {}


async def test_an_event_starts_the_round_that_it_asks_for_once(open_world: OpenWorld) -> None:
    world = open_world(drift={**SETTINGS, "action": {"input": "trigger"}}, trigger={"new_pseudo_labels": None})
    world.teach()
    world.here.start()
    await world.ended(0)
    world.stores.drift.position()
    traffic(world, range(300))
    await looked(world)
    traffic(world, range(300, 400), similarity=0.3)
    await looked(world)
    assert (await world.ended(1)).trigger == "drift event 1 (input)"
    await world.passes(30)
    assert len(world.stores.rounds.all()) == 2


async def test_an_event_that_holds_lets_nothing_be_promoted_without_a_person(open_world: OpenWorld) -> None:
    world = await opened(open_world, action={"input": "hold"})
    traffic(world, range(300, 400), similarity=0.3)
    await looked(world)
    assert world.stores.drift.holds() == "drift event 1 (input) holds promotions (drift.action)"
    attested = await world.advance(await world.plan(), S.ATTESTED)
    assert (await world.here.engine.advance(attested)).state is S.PROVING
    world.here.start()
    await world.passes(10)
    assert world.round(0).state is S.PROVING
    await world.answered(world.request("approve_round", round=0))
    await world.reaches(0, S.PROMOTED)


async def test_an_event_does_nothing_once_drift_is_no_longer_watched(open_world: OpenWorld) -> None:
    world = open_world(drift={"enabled": False})
    world.teach()
    with world.database.write() as connection:
        connection.execute(
            sa.insert(drift_events).values(
                workload=WORKLOAD,
                number=1,
                kind="input",
                actions=["hold", "trigger"],
                evidence={},
                also=[],
                at=world.now(),
            )
        )
    assert world.stores.drift.holds() is not None
    assert world.stores.drift.asks_for_round() is not None
    assert RoundObserver(world.config, world.stores).observe().drift is None
    world.here.start()
    await world.reaches(0, S.PROMOTED)


async def test_accuracy_by_labels_and_without(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    labels(world, range(100), right=0.9)
    await looked(world)
    seen = operations.status(world.config, world.stores, world.place)["drift"]
    assert seen["watched"]["accuracy"] == "watching"
    accuracy = seen["accuracy"]
    assert accuracy["by_labels"]["low"] < 0.9 < accuracy["by_labels"]["high"]
    assert accuracy["without_labels"] == pytest.approx(0.9, abs=0.06)
    assert accuracy["without_labels_is"] == "valid while inputs are quiet"
    labels(world, range(100, 300), right=0.4)
    await looked(world)
    (event,) = world.stores.drift.events()
    assert event.kind == "accuracy"
    assert event.evidence["moved_most"]
    seen = operations.status(world.config, world.stores, world.place)["drift"]
    assert seen["accuracy"]["without_labels_is"].startswith("not valid")


def labels(world: ControlWorld, numbers: Iterable[int], right: float) -> None:
    """The truth about earlier queries arrives; so many of the answers were right."""
    given = []
    for number in numbers:
        stored = world.stores.pseudo_labels.get(f"t{number}")
        assert stored is not None
        answer = stored.label.answer
        assert answer is not None
        other = {"even": "odd", "odd": "even"}[answer]
        truth = answer if random.Random(-number).random() < right else other
        given.append((Example(Query(f"t{number}", stored.label.query.question), truth), True))
    world.stores.examples.upsert(given)


async def test_a_label_counts_once(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    labels(world, range(40), right=0.9)
    await looked(world)
    labels(world, range(40), right=0.0)  # changed, not new
    await looked(world)
    assert read_figures(world.stores).kinds["accuracy"].seen == 40


async def test_examples_that_are_no_labels_of_earlier_answers_are_passed_once(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    world.stores.examples.upsert([(example(number), False) for number in range(100, 150)])
    await looked(world)
    last = world.stores.examples.last_change()
    assert last is not None
    passed = world.stores.drift.position()
    assert passed.label_at > last
    summary = world.stores.drift.summary()
    assert summary
    await looked(world)
    assert world.stores.drift.position() == passed  # nothing came: nothing is written
    labels(world, range(40), right=0.9)
    await looked(world)
    assert read_figures(world.stores).kinds["accuracy"].seen == 40


async def test_passing_labels_goes_no_way_back(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    labels(world, range(40), right=0.9)
    await looked(world)
    world.stores.drift.rearm("by hand")
    begun = world.stores.drift.position()
    assert not watch(world).look()  # what is settled by now came before
    assert world.stores.drift.position() == begun


async def test_what_an_intake_stores_whose_clock_is_behind_is_weighed(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    equality = AnswerEquality(Task(world.config.task))
    settings = world.config.drift.model_copy(update={"settled_s": MOST_BETWEEN_CLOCKS_S})
    patient = DriftWatch(settings, world.here.stores, world.here.lease, equality, 2, 1, world.now)
    traffic(world, range(300, 310))
    at = world.now()
    await world.passes(50)
    world.here.lease.begin(world.here.lease.term or 0)
    patient.look()
    traffic(world, range(310, 320))
    late = pseudo_labels.c.query_id.in_([f"t{number}" for number in range(310, 320)])
    with world.database.write() as connection:
        connection.execute(sa.update(pseudo_labels).where(late).values(created_at=at - 2))
    await world.passes(MOST_BETWEEN_CLOCKS_S)
    world.here.lease.begin(world.here.lease.term or 0)
    patient.look()
    assert read_figures(world.stores).kinds["input"].seen == 320


async def test_a_category_longer_than_its_column_is_cut_once(open_world: OpenWorld) -> None:
    world = open_world(drift={**SETTINGS, "categories": True})
    world.teach()
    await world.here.lead()
    world.stores.drift.position()
    long = "c" * 900
    for number in range(0, 600, 2):
        traffic(world, [number], category=long + "a")
        traffic(world, [number + 1], category=long + "b")
    await looked(world)
    traffic(world, range(600, 900), category=long + "b", similarity=0.3)
    await looked(world)
    names = [name.split("|", 2)[2] for name in world.stores.drift.detectors()]
    assert {shortened(long + "a"), shortened(long + "b"), ""} == set(names)
    assert max(map(len, names)) == LONGEST_CATEGORY
    (event,) = world.stores.drift.events()
    named = {each["category"] for each in [{"category": event.category}, *event.also]}
    assert shortened(long + "b") in named
    assert named <= {None, shortened(long + "b")}
    assert list(event.evidence["categories"]) == [shortened(long + "b")]


async def test_a_category_drifts_alone(open_world: OpenWorld) -> None:
    world = open_world(drift={**SETTINGS, "categories": True})
    world.teach()
    await world.here.lead()
    world.stores.drift.position()
    for number in range(0, 1200, 20):
        traffic(world, range(number, number + 19), category="most")
        traffic(world, [number + 19], category="rare")
    for number in range(2000, 2100):
        traffic(world, [number], category="rare")
    await looked(world)
    assert world.stores.drift.events() == []
    for number in range(3000, 4000, 20):
        traffic(world, range(number, number + 19), category="most")
        traffic(world, [number + 19], category="rare", similarity=0.3)
    await looked(world)
    (event,) = world.stores.drift.events()
    assert (event.kind, event.category) == ("input", "rare")
    assert "in category 'rare'" in event.evidence["said"]


async def test_another_adapters_answers_have_a_reference_of_their_own(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    await world.advance(await world.plan(), S.PROMOTED)
    traffic(world, range(300, 350), entropy=0.6)
    await looked(world)
    kinds = read_figures(world.stores).kinds
    assert (kinds["confidence"].phase, kinds["confidence"].seen) == ("reference", 50)
    assert (kinds["input"].phase, kinds["input"].seen) == ("watching", 350)


async def test_an_unknown_event_is_named(open_world: OpenWorld) -> None:
    world = await opened(open_world)
    with pytest.raises(StateConflict, match="no drift event 7; `semievol drift list`"):
        view.detail(world.stores, 7)
    assert view.overview(world.config, world.stores)["events"] == []
    assert example(1).answer == "odd"
