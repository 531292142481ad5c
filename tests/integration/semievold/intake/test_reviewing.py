"""What people, clients and the model say against each other comes to the review topic, once."""

from __future__ import annotations

from typing import Any

import pydantic_core
import pytest

from semievol.types import Example, Query
from semievold.intake.labels import LabelsIntake
from semievold.intake.messages import CLIENT_HEADER, denial_record, label_record
from semievold.round_states import RoundState
from semievold.store.pseudo_labels import NewLabel, query_hash
from semievold.store.rounds import Membership
from tests.stream_world import ListIndex, World, pseudo_label, run_until

ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)


def said(query_id: str, answer: str, client: str | None, *, wrong: bool = False, question: str = "is it even?") -> Any:
    example = Example(Query(query_id, question), answer, None if client is None else "feedback")
    headers = {} if client is None else {CLIENT_HEADER: client}
    return (denial_record if wrong else label_record)(example, headers)


async def heard(world: World, *records: Any) -> LabelsIntake:
    """The labels role, after it has read these one by one."""
    for record in records:
        await world.producer.publish(world.topics.labels, [record])
    role = world.labels_intake(ListIndex(), holdout_share=0.0001, batch_size=1)
    end = sum(each.end for each in world.stream.offsets(world.topics.labels, "reader"))
    await run_until(role, lambda: world.committed("labels", world.topics.labels) == end)
    return role


async def items(world: World) -> list[Any]:
    return [pydantic_core.from_json(each.value) for each in await world.read(world.topics.review)]


def words(item: Any) -> dict[str, tuple[list[str], list[str]]]:
    """{answer: (who says that it is right, who says that it is wrong)}."""
    name = {ONE: "one", TWO: "two", THREE: "three"}
    told = lambda each: name.get(each.get("client"), each["by"])  # noqa: E731
    return {each["answer"]: ([*map(told, each["right"])], [*map(told, each["wrong"])]) for each in item["candidates"]}


async def test_a_contradiction_of_an_operators_label_is_told_once(new_world: Any) -> None:
    world: World = new_world()
    role = await heard(
        world,
        said("a", "even", None),
        said("b", "odd", ONE, question="IS it even?"),
        said("b", "odd", ONE, question="IS it even?"),  # delivered again
        said("c", "odd", TWO),  # nothing that was not said
    )
    (item,) = await items(world)
    assert (item["schema_version"], item["id"], item["question"]) == (1, "b", "IS it even?")
    assert item["purpose"] == "contradiction"
    assert words(item) == {"even": (["label"], []), "odd": (["one"], [])}
    assert role.counters.reviewed == 1
    assert world.stores.contradictions.open() == 1
    await heard(world, said("a", "odd", None))
    assert world.stores.contradictions.open() == 0
    assert len(await items(world)) == 1


@pytest.mark.parametrize("thumb", [False, True], ids=["another answer", "thumb down"])
async def test_clients_that_differ_are_told_with_who_said_what(new_world: Any, thumb: bool) -> None:
    world: World = new_world()
    second = said("b", "even" if thumb else "odd", TWO, wrong=thumb)
    await heard(world, said("a", "even", ONE), second, said("c", "even", THREE))
    found = await items(world)
    after = {"even": (["one"], ["two"])} if thumb else {"even": (["one"], []), "odd": (["two"], [])}
    assert [words(each) for each in found] == [after]


@pytest.mark.parametrize("learned", [False, True])
async def test_a_pseudo_label_that_a_model_has_learned_is_reviewed_when_a_client_denies_it(
    new_world: Any, learned: bool
) -> None:
    world: World = new_world()
    query = Query("a", "is it even?")
    world.labels.add([NewLabel(pseudo_label(query), query_hash(query))])
    if learned:
        rounds = world.stores.rounds
        number = rounds.plan("evolve", "by hand", 0, None, {}).number
        member = Membership("a", True, None, "even", None)
        rounds.transition(number, RoundState.PLANNED, RoundState.SNAPSHOTTED, "", members=[member])
    await heard(world, said("a", "odd", ONE), said("a", "even", TWO, wrong=True))
    found = [words(each) for each in await items(world)]
    assert found == (
        [{"even": (["pseudo_label"], []), "odd": (["one"], [])}, {"even": (["pseudo_label"], ["two"])}] * learned
    )


async def test_what_a_process_had_decided_before_it_died_is_published_at_the_next_start(new_world: Any) -> None:
    world: World = new_world()
    (store, example) = world.stores.contradictions, Example(Query("a", "is it even?"), "odd", "feedback")
    store.note("0" * 32, example.query, [])
    role = await heard(world)
    assert [each["id"] for each in await items(world)] == ["a"]
    assert role.counters.reviewed == 1
    assert store.due(10) == []


async def test_an_item_names_so_much_and_no_more(new_world: Any) -> None:
    world: World = new_world()
    clients = [f"{number:032x}" for number in range(30)]
    records = [said(f"q{number}", "even" if number else "odd", each) for number, each in enumerate(clients)]
    await heard(world, *records, said("o", "odd", None), said("q30", "even", "f" * 32))
    *_, last = await items(world)
    even = next(each for each in last["candidates"] if each["answer"] == "even")
    assert (len(even["right"]), even["more"]) == (20, 10)
