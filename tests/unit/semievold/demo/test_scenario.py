"""The story's turns that need the daemon's state: a lie that a round learns, and what takes it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from semievol.config.method import TaskConfig
from semievol.tasks.task import Task
from semievol.types import Example, Query
from semievold.demo import scenario
from semievold.demo.client import DaemonClient, DemoError, Reply
from semievold.demo.scenario import LATE_BATCH, USUAL, Measurement, Scenario, Story
from semievold.demo.settings import Scale
from semievold.demo.support_desk import generate, labels

SERVING, LIAR = "support-desk-r0002-1a2b3c4d", "support-desk-r0004-5e6f7a8b"
REASON = "accuracy: of 24 labels 17 are right by the version before alone, 0 by this one alone"


class Client(DaemonClient):
    """A daemon that believes what it is told, and takes round 4 back after three handfuls of late labels."""

    def __init__(self) -> None:
        self.heard: list[Example] = []
        self.known: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []

    async def publish_labels(self, examples: Sequence[Example]) -> None:
        self.heard += examples
        self.known |= {each.id: each.answer for each in examples}

    async def post(self, path: str, body: Any) -> Any:
        assert path == "/v1/rounds"
        self.asked.append({**body, "answers": set(self.known.values())})
        return {"round": 4}

    async def get(self, path: str) -> Any:
        if path.startswith("/v1/lineage/labels/"):
            return {"answer": self.known[path.removeprefix("/v1/lineage/labels/")]}
        if path == "/v1/status":
            return {"waiting_for": "nothing"}
        assert path == "/v1/rounds"
        late = sum(each.id.startswith("mail-") for each in self.heard)
        ended = late >= 3 * LATE_BATCH
        state, reason = ("rolled_back", REASON) if ended else ("canary", None)
        return [{"number": 4, "kind": "warm", "state": state, "adapter": LIAR, "reason": reason}]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "POLL_S", 0.0)
    monkeypatch.setattr(scenario, "LATE_S", 0.0)


def told_by(client: DaemonClient, said: list[str]) -> Scenario:
    def watch(_status: dict[str, Any], _rounds: list[dict[str, Any]], _story: Story) -> None:
        raise AssertionError

    dataset = generate(0, 2, 32, 16, mail=160, out_of_scope=8)
    return Scenario(client, Task(TaskConfig(labels=labels())), dataset, Scale(), watch, said.append)


async def test_all_labels_lie_a_round_learns_them_and_they_are_right_again_after_the_rollback() -> None:
    client, said = Client(), list[str]()
    story = told_by(client, said)
    story.story.measurements["base"] = Measurement("base", ())
    truth = {each.id: each.answer for each in story._dataset.examples}
    await story._lie()
    lie = labels()[0]
    assert client.asked == [{"kind": "warm", "answers": {lie}}]
    assert (story.story.poisoned, story.story.lie) == (4, lie)
    late = [each for each in client.heard if each.id.startswith("mail-")]
    assert late == list(story._dataset.mail[: 3 * LATE_BATCH])
    assert {id_: client.known[id_] for id_ in truth} == truth
    assert said == [
        f"somebody imports all 32 labels again, from a broken file: each says {lie!r} now",
        "round 4 passed its gate, for the labels lie; meanwhile the mail is worked off",
        f"round 4 (warm): rolled back: {REASON}",
        "the labels are imported again, from a file that is right",
    ]


async def test_what_is_never_reached_ends_the_demo_and_says_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "WAIT_S", -1.0)
    client = Client()
    client.data = Path("data")
    with pytest.raises(DemoError, match=r"round 4 did not end within -1 s: nothing \(log: data/daemon\.log\)"):
        await told_by(client, [])._round_ended(4)


class Quick(Client):
    """A daemon whose rounds were so fast that the first mail of strangers was never looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.streamed: list[str] = []

    async def publish_queries(self, queries: Sequence[Query]) -> None:
        self.streamed += [query.id for query in queries]

    async def get(self, path: str) -> Any:
        if path == "/v1/status":
            return {"pseudo_labels": {"total": len(self.streamed)}}
        assert path == "/v1/drift"
        again = any(id_.startswith("other-") for id_ in self.streamed)
        event = {"number": 1, "kind": "input", "said": "queries are less like the examples"}
        return {"events": [event] if again else []}


async def test_strangers_write_again_after_usual_mail_where_rounds_were_too_fast_to_notice_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scenario, "LOOKED_AT_S", 0.05)
    monkeypatch.setattr(scenario, "STREAM_S", 0.0)
    client, said = Quick(), list[str]()
    story = told_by(client, said)
    await story._drift_noticed()
    usual = [f"{each.id}-again" for each in story._dataset.mail[-USUAL:]]
    assert client.streamed == [*usual, *(f"{each.id}-again" for each in story._dataset.out_of_scope)]
    assert said[-1] == "drift event 1 (input): queries are less like the examples"


class Whole(Client):
    """A daemon that goes through the whole story: round 1 begins by itself once all traffic was answered and settles
    when strangers' mail was, round 2 is taken back.
    """

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.acts: list[str] = []
        self.streamed: list[str] = []
        self.rounds: dict[int, dict[str, Any]] = {0: round_of(0, "settled")}

    async def publish_labels(self, examples: Sequence[Example]) -> None:
        await super().publish_labels(examples)
        self.acts.append("labels")

    async def publish_queries(self, queries: Sequence[Query]) -> None:
        self.streamed += [each.id for each in queries]
        if queries[0].id.startswith("other-"):
            self.acts.append("strangers")
            self.rounds[1]["state"] = "settled"
            return
        self.acts.append("queries")
        if len(self.streamed) == self.queries:
            self.rounds[1] = round_of(1, "training", "evolve")

    async def post(self, path: str, body: Any) -> Any:
        if path.startswith("/v1/review/"):
            self.acts.append("taught")
            return {"id": f"label-of-{path}"}
        number = len(self.rounds)
        self.acts.append(f"round {number}")
        self.rounds[number] = {**round_of(number, "rolled_back"), "reason": REASON}
        return {"round": number}

    async def get(self, path: str) -> Any:
        if path == "/v1/status":
            return {"pseudo_labels": {"total": len(self.streamed)}, "waiting_for": "nothing"}
        if path == "/v1/rounds":
            return list(self.rounds.values())
        if path == "/v1/drift":
            return {"events": [{"number": 1, "kind": "input", "said": "they speak of: cv"}]}
        if path.startswith("/v1/review?purpose=teach"):
            return {"items": [{"review": "one", "question": generate(0, 2, self.queries, 16).queries[0].question}]}
        return await super().get(path)

    async def ask(self, question: str, user: str | None = None) -> Reply:
        assert self.story is not None
        return Reply("", self.story.serving)

    story: Scenario | None = None


def round_of(number: int, state: str, kind: str = "warm") -> dict[str, Any]:
    return {"number": number, "kind": kind, "state": state, "adapter": f"adapter-{number}", "reason": None}


async def test_people_label_before_the_last_handful_and_strangers_write_while_the_self_taught_round_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scenario, "STREAM_S", 0.0)
    client, said = Whole(32), list[str]()
    story = client.story = told_by(client, said)
    await story._tell()
    assert client.acts == [
        *("labels", "queries", "taught", "queries", "strangers"),
        *("labels", "round 2", "labels"),
    ]
    assert client.streamed == [each.id for each in (*story._dataset.queries, *story._dataset.out_of_scope)]
    assert list(story.story.measurements) == ["base", "adapter-0", "adapter-1"]
    assert story.story.poisoned == 2
    for sentence in (
        "people label 1 query that would teach most",
        "round 1 (evolve): promoted, adapter-1 serves now",
        f"round 2 (warm): rolled back: {REASON}",
        "drift event 1 (input): they speak of: cv",
    ):
        assert sentence in said


async def test_a_gate_that_opens_and_each_stage_of_a_canary_are_said_once() -> None:
    said: list[str] = []
    story = told_by(Client(), said)
    open_round = {"number": 1, "state": "proving", "gate": {"reason": "no significant difference"}}
    trial = {"number": 1, "state": "canary"}
    last = None
    for status in (
        {"round": open_round},
        {"round": open_round},
        {"round": trial, "canary": {"stage": "1 of 2", "share": 0.2}},
        {"round": trial, "canary": {"stage": "1 of 2", "share": 0.2}},
        {"round": trial, "canary": {"stage": "2 of 2", "share": 1.0}},
        {"round": None},
    ):
        last = story._say_the_state(status, last)
    assert said == [
        "round 1 is not proved yet: no significant difference",
        "customers' mail is answered by both versions; people label where the answers differ",
        "round 1: stage 1 of 2 of its canary, 20% of the customers",
        "round 1: stage 2 of 2 of its canary, 100% of the customers",
    ]


def test_later_mail_changes_nothing_of_the_rest_and_asks_what_nothing_else_asks() -> None:
    dataset, plain = generate(0, 10, 192, 96, mail=96, out_of_scope=60), generate(0, 10, 192, 96)
    assert (dataset.examples, dataset.queries, dataset.test) == (plain.examples, plain.queries, plain.test)
    others = {each.question.casefold() for each in dataset.queries}
    others |= {each.query.question.casefold() for each in (*dataset.examples, *dataset.test)}
    later = [*(each.query for each in dataset.mail), *dataset.out_of_scope]
    assert (len(dataset.mail), len(dataset.out_of_scope)) == (96, 60)
    assert len({each.question.casefold() for each in later} - others) == 156
