"""The story's part while a gate is open: labels come one handful after the other, until it is closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semievol.config.method import TaskConfig
from semievol.tasks.task import Task
from semievol.types import Example
from semievold.demo import scenario
from semievold.demo.client import DaemonClient
from semievold.demo.scenario import GATE_BATCH, Scenario, Story
from semievold.demo.settings import Scale
from semievold.demo.support_desk import generate, labels

ADAPTER = "support-desk-r0002-1a2b3c4d"


class Client(DaemonClient):
    """A daemon that weighs what it is told and promotes once it has heard three handfuls."""

    def __init__(self) -> None:
        self.heard: list[Example] = []
        self.looks = 0

    async def publish_labels(self, examples: Sequence[Example]) -> None:
        self.heard += examples

    async def get(self, path: str) -> Any:
        assert path == "/v1/rounds"
        self.looks += 1
        gate = {"count": 88 + (len(self.heard) if self.looks % 2 == 0 else 0), "reason": "no significant difference"}
        state = "settled" if len(self.heard) >= 3 * GATE_BATCH else "proving"
        return [{"number": 2, "kind": "evolve", "state": state, "adapter": ADAPTER, "reason": None, "gate": gate}]


async def test_a_gate_that_is_open_is_given_labels_until_it_closes(monkeypatch: Any) -> None:
    monkeypatch.setattr(scenario, "POLL_S", 0.0)
    client, said = Client(), list[str]()
    dataset = generate(0, 10, 192, 96, late=96)

    def watch(_status: dict[str, Any], _rounds: list[dict[str, Any]], _story: Story) -> None:
        raise AssertionError

    story = Scenario(client, Task(TaskConfig(labels=labels())), dataset, Scale(), watch, said.append)
    await story._round_ended(2)
    assert client.heard == list(dataset.late[: 3 * GATE_BATCH])
    assert said == [
        "round 2 is not proved yet: no significant difference",
        "a person labels new queries in no order, as long as its gate is open",
        f"round 2 (evolve): promoted, {ADAPTER} serves now",
    ]


def test_late_labels_change_nothing_of_the_rest_and_ask_what_nothing_else_asks() -> None:
    dataset, plain = generate(0, 10, 192, 96, late=96), generate(0, 10, 192, 96)
    assert (dataset.examples, dataset.queries, dataset.test) == (plain.examples, plain.queries, plain.test)
    others = {each.question.casefold() for each in dataset.queries}
    others |= {each.query.question.casefold() for each in (*dataset.examples, *dataset.test)}
    assert len(dataset.late) == 96
    assert others.isdisjoint(each.query.question.casefold() for each in dataset.late)
