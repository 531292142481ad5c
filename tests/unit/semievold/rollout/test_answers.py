"""What a process counts of its answers while a version is on trial, and how it tells the state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from semievol.config.method import TaskConfig
from semievol.tasks.task import Task
from semievold.rollout.answers import WINDOW, AnswerCounts
from semievold.rollout.stream import StreamTrial
from semievold.serving.alias import Alias
from semievold.store.aliases import AliasState, Canary
from semievold.store.rollout.canaries import Counted, Tally
from tests.control_world import ControlWorld, OpenWorld
from tests.scripted import pseudo_label

SALT = "00" * 16
V2 = Canary("v2", 0.5, 0, SALT)


def counts_of(world: ControlWorld, alias: Alias) -> AnswerCounts:
    return AnswerCounts(world.config.rollout, alias, Task(world.config.task), world.stores.canaries)


def answer(counts: AnswerCounts, adapter: str | None, times: int = 1, **went: Any) -> None:
    for _ in range(times):
        counts.answered(adapter, **{"failed": False, "seconds": 0.1, "text": "even", **went})


async def test_answers_of_both_versions_are_told_by_stage_and_counted_once(open_world: OpenWorld) -> None:
    world = open_world(rollout={"canary": [0.5, 1]})
    alias = Alias(AliasState("v1", None, 1))
    counts = counts_of(world, alias)
    answer(counts, "v1", 30)
    await counts.write()
    assert world.stores.canaries.counted("v2") == []  # nothing is on trial
    alias.follow(AliasState("v1", None, 2, V2))
    answer(counts, "v2", 5)
    answer(counts, "v2", failed=True)
    answer(counts, "v2", seconds=11.0)
    answer(counts, "v2", text="neither")
    answer(counts, "v2", text=None)
    for _ in range(2):
        await counts.write()
    alias.follow(AliasState("v1", None, 3, replace(V2, share=1, stage=1)))
    answer(counts, "v2", 2)
    await counts.write()
    assert world.stores.canaries.counted("v2") == [
        Counted("canary", 0, "gateway", Tally(9, 1, 8, 1, 7, 1)),
        Counted("canary", 1, "gateway", Tally(2, 0, 2, 0, 2, 0)),
        Counted("incumbent", 0, "gateway", Tally(30, 0, 30, 0, 30, 0)),
    ]


async def test_an_answer_that_is_read_by_options_is_counted_without_being_read(open_world: OpenWorld) -> None:
    world = open_world(rollout={"canary": [0.5]})
    alias = Alias(AliasState("v1", None, 1, V2))
    counts = AnswerCounts(world.config.rollout, alias, Task(TaskConfig(form="multiple_choice")), world.stores.canaries)
    answer(counts, "v2", 3, text="A")  # a client's request has no options
    await counts.write()
    assert world.stores.canaries.counted("v2") == [Counted("canary", 0, "gateway", Tally(3, 0, 3, 0, 0, 0))]


async def test_of_what_serves_the_last_thousand_answers_count(open_world: OpenWorld) -> None:
    world = open_world(rollout={"canary": [0.5]})
    alias = Alias(AliasState("v1", None, 1))
    counts = counts_of(world, alias)
    answer(counts, "v1", 400, failed=True)
    answer(counts, "v1", WINDOW - 100)
    alias.follow(AliasState("v1", None, 2, V2))
    await counts.write()
    assert world.stores.canaries.counted("v2") == [Counted("incumbent", 0, "gateway", Tally(1000, 100, 900, 0, 900, 0))]


async def test_answers_of_a_version_that_has_been_left_count_for_nobody(open_world: OpenWorld) -> None:
    world = open_world(rollout={"canary": [0.5]})
    alias = Alias(AliasState("v1", "v0", 1, V2))
    counts = counts_of(world, alias)
    answer(counts, "v0", 3)
    answer(counts, "v2")
    alias.follow(AliasState("v1", "v0", 2, Canary("v3", 0.5, 0, SALT)))
    answer(counts, "v2", 3)
    answer(counts, "v3")
    await counts.write()
    assert world.stores.canaries.counted("v2") == []
    assert world.stores.canaries.counted("v3") == [Counted("canary", 0, "gateway", Tally(1, 0, 1, 0, 1, 0))]


async def test_queries_of_the_stream_count_apart_from_clients_requests(open_world: OpenWorld) -> None:
    world = open_world(rollout={"canary": [0.5]})
    alias = Alias(AliasState("v1", None, 1, V2))
    counts = counts_of(world, alias)
    label = pseudo_label("q1", "is 1 even?", "odd", 0.2, "now")
    counts.labelled([replace(label, adapter="v2"), replace(label, adapter="v2", answer=None), label])
    trial = StreamTrial(alias, counts)
    trial.failed("v2")
    answer(counts, "v2")
    await counts.write()
    assert world.stores.canaries.counted("v2") == [
        Counted("canary", 0, "gateway", Tally(1, 0, 1, 0, 1, 0)),
        Counted("canary", 0, "intake", Tally(3, 1, 0, 0, 2, 1)),
    ]


async def test_a_source_of_the_stream_keeps_its_version(open_world: OpenWorld) -> None:
    alias = Alias(AliasState("v1", None, 1, V2))
    trial = StreamTrial(alias, counts_of(open_world(), alias))
    by_source = {client: {trial.takes({"semievol-client": client}, f"q{n}") for n in range(5)} for client in "abcdefgh"}
    assert all(len(versions) == 1 for versions in by_source.values())
    assert {version for versions in by_source.values() for version in versions} == {True, False}
    assert {trial.takes({}, f"q{number}") for number in range(20)} == {True, False}
    async with trial.bind() as bound:
        assert bound == "v2"
    alias.follow(AliasState("v1", None, 2))
    assert not trial.takes({}, "q1")
    async with trial.bind() as bound:
        assert bound == "v1"
