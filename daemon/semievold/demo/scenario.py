"""The story of the demo: labels, traffic, rounds with their gates and canaries, strangers' mail, and labels that lie;
and what was measured on the way.

Owns the order of events and the measurements; not who asks and labels meanwhile (customers, people), nor what is shown
(screen) and summed up (summary, telling). Invariant: every figure comes from the run: test accuracy from the gateway's
own answers, the rest from the daemon's state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from semievol.report.data import Score
from semievol.tasks.task import Task
from semievol.types import Example, Outcome, Query
from semievold.demo.client import DaemonClient, DemoError
from semievold.demo.customers import CustomerRecord, Customers
from semievold.demo.people import People
from semievold.demo.settings import SETTLED_S, Scale
from semievold.demo.support_desk import Dataset

POLL_S = 0.5
QUERIES_A_TIME, STREAM_S = 40, 1.0
TAUGHT_AT = 0.7
"""Of the traffic before the held-back handful so much is answered when people look for what would teach most."""
WAIT_S = 1_200.0
ASKED_S = 10.0
"""So long at most the review queue takes to ask for them."""
LATE_BATCH, LATE_S = 12, 6.0
"""Labels of mail that was worked off come so many at a time, and so often: each is asked of both versions."""
LOOKED_AT_S = SETTLED_S + 15.0
"""After so long what was answered has been looked at for drift."""
USUAL = 120
ENDED = frozenset({"settled", "rejected", "inconclusive", "failed", "rolled_back", "cancelled"})


@dataclass(frozen=True, slots=True)
class Measurement:
    """Closed-book answers of one adapter to the whole test set."""

    adapter: str
    outcomes: tuple[Outcome, ...]

    @property
    def score(self) -> Score:
        return Score(sum(outcome.correct for outcome in self.outcomes), len(self.outcomes))


@dataclass(slots=True)
class Story:
    """Everything measured; times in seconds since the start. `poisoned`: the number of the round that learned `lie`,
    which all labels said.
    """

    started_at: float = field(default_factory=time.time)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    customers: CustomerRecord = field(default_factory=CustomerRecord)
    progress: list[tuple[float, int]] = field(default_factory=list)
    losses: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    swaps: list[tuple[float, str, str]] = field(default_factory=list)
    poisoned: int | None = None
    lie: str | None = None
    seconds: float = 0.0

    def elapsed(self) -> float:
        return time.time() - self.started_at


Watch = Callable[[dict[str, Any], list[dict[str, Any]], Story], None]
Say = Callable[[str], None]
Meanwhile = Callable[[dict[str, Any]], Awaitable[None]]


class Scenario:
    """Runs the story against one daemon."""

    def __init__(
        self, client: DaemonClient, task: Task, dataset: Dataset, scale: Scale, watch: Watch, say: Say
    ) -> None:
        self._client = client
        self._task = task
        self._dataset = dataset
        self._scale = scale
        self._watch = watch
        self._say = say
        self.serving = "base"
        self._late, asked = dataset.mail[: scale.late], dataset.mail[scale.late :]
        self._given: tuple[float, int] = (0.0, 0)
        self._sent = 0
        self._customers = Customers(client, asked)
        truth = {query.question: dataset.answers[query.id] for query in dataset.queries}
        self._people = People(client, truth | {each.query.question: each.answer for each in dataset.mail})
        self.story = Story(customers=self._customers.record)

    async def run(self) -> Story:
        """The whole story."""
        background = [
            asyncio.create_task(self._observe(), name="observe"),
            asyncio.create_task(self._customers.run(), name="customers"),
            asyncio.create_task(self._people.run(), name="people"),
        ]
        try:
            await self._guarded(self._tell(), background)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        self.story.seconds = self.story.elapsed()
        return self.story

    async def _guarded(self, story: Any, background: list[asyncio.Task[None]]) -> None:
        """Run the story; a background task that fails ends it."""
        main = asyncio.ensure_future(story)
        done, _ = await asyncio.wait([main, *background], return_when=asyncio.FIRST_COMPLETED)
        if main not in done:
            main.cancel()
            await asyncio.gather(main, return_exceptions=True)
        for task in done:
            task.result()

    async def _tell(self) -> None:
        """What serves is measured while the round after it trains: the daemon has little else to do then."""
        data = self._dataset
        self._say(f"{len(data.examples)} labelled examples arrive; a share is held out for the gate")
        await self._client.publish_labels(data.examples)
        await self._measure()
        await self._round_ended(0)
        self._say(f"{len(data.queries)} queries arrive, without labels")
        await self._stream(data.queries[: -self._scale.handful])
        await self._teach()
        await self._stream(data.queries[-self._scale.handful :])
        await self._self_taught_round(1)
        await self._lie()
        await self._drift_noticed()
        await self._measure()  # only if a version came through that should not

    async def _teach(self) -> None:
        """People label what would teach most, before the last handful of queries lets the self-taught round begin."""
        given = 0

        async def enough() -> bool:
            return await self._labelled() >= TAUGHT_AT * self._sent

        async def answered() -> bool:
            nonlocal given
            given = await self._people.answer("teach", self._scale.labels_by_person)
            return given > 0

        await self._until("the traffic was not answered", enough)
        if await self._within(ASKED_S, answered):
            self._say(f"people label {given} {'query' if given == 1 else 'queries'} that would teach most")

    async def _self_taught_round(self, number: int) -> None:
        """The one that starts by itself; while it trains, strangers write."""
        await self._round_begun(number)
        others = self._dataset.out_of_scope
        self._say(f"{len(others)} mails arrive that have nothing to do with the shop")
        await self._stream(others)
        await self._measure()
        await self._round_ended(number)

    async def _lie(self) -> None:
        """A broken import gives every label one answer, and a round learns it. The gate asks the same labels, so it has
        no chance; what the customers' mail was really about, which is known later, takes the version back.
        """
        self.story.lie = lie = self._task.config.labels[0] if self._task.config.labels else ""
        known = {example.id: example for example in self._dataset.examples} | self._people.said
        self._say(f"somebody imports all {len(known)} labels again, from a broken file: each says {lie!r} now")
        await self._relabel([replace(example, answer=lie) for example in known.values()])
        answer = await self._client.post("/v1/rounds", {"kind": "warm"})
        self.story.poisoned = int(answer["round"])
        await self._measure()
        await self._round_ended(self.story.poisoned, self._say_what_was_right)
        self._say("the labels are imported again, from a file that is right")
        await self._relabel(list(known.values()))

    async def _relabel(self, labels: Sequence[Example]) -> None:
        """Publish labels under ids that are known, and wait until the last of them is what the state says."""
        await self._client.publish_labels(labels)
        left = list(labels)

        async def known() -> bool:
            while left:
                label = await self._client.get(f"/v1/lineage/labels/{left[-1].id}")
                if label["answer"] != left[-1].answer:
                    return False
                left.pop()
            return True

        await self._until("not all labels of an import were read", known)

    async def _say_what_was_right(self, round_: dict[str, Any]) -> None:
        """While a version is on trial: mail that people work off later, in no order, gets its label."""
        last, given = self._given
        if round_["state"] != "canary" or not self._late or time.monotonic() < last + LATE_S:
            return
        if not given:
            self._say(f"round {round_['number']} passed its gate, for the labels lie; meanwhile the mail is worked off")
        some, self._late = self._late[:LATE_BATCH], self._late[LATE_BATCH:]
        await self._client.publish_labels(some)
        self._given = time.monotonic(), given + len(some)

    async def _drift_noticed(self) -> None:
        """The strangers' mail is looked at some time after it was answered, if what answered it serves still. Where
        rounds are faster than that, it comes again, after mail that shows what is usual.
        """
        if not await self._drift_within(LOOKED_AT_S):
            again = [*(each.query for each in self._dataset.mail[-USUAL:]), *self._dataset.out_of_scope]
            self._say("no drift was noticed, for rounds were too fast; the strangers write again")
            await self._stream(tuple(replace(query, id=f"{query.id}-again") for query in again))
            if not await self._drift_within(LOOKED_AT_S):
                self._say("mail out of scope raised no drift event")
        for event in (await self._client.get("/v1/drift"))["events"]:
            self._say(f"drift event {event['number']} ({event['kind']}): {event['said']}")

    async def _drift_within(self, seconds: float) -> bool:
        """Whether there is an event so soon after all that was sent is labelled."""

        async def labelled() -> bool:
            return await self._labelled() >= self._sent

        async def raised() -> bool:
            return bool((await self._client.get("/v1/drift"))["events"])

        if await raised():
            return True
        await self._until("not all mail was answered", labelled)
        return await self._within(seconds, raised)

    async def _labelled(self) -> int:
        """So many queries have a pseudo-label."""
        return int((await self._client.get("/v1/status"))["pseudo_labels"]["total"])

    async def _stream(self, queries: tuple[Query, ...]) -> None:
        """Traffic: the queries come one handful after the other."""
        for start in range(0, len(queries), QUERIES_A_TIME):
            await self._client.publish_queries(some := queries[start : start + QUERIES_A_TIME])
            self._sent += len(some)
            await asyncio.sleep(STREAM_S)

    async def _round_begun(self, number: int) -> None:
        """Its snapshot is taken."""
        await self._awaited_round(number, "begin", lambda state: state != "planned")

    async def _round_ended(self, number: int, meanwhile: Meanwhile | None = None) -> None:
        """Wait for the end of a round and say what it was."""
        round_ = await self._awaited_round(number, "end", ENDED.__contains__, meanwhile)
        if round_["state"] == "failed":
            raise DemoError(f"round {number} failed: {round_['reason']} (log: {self._client.log})")
        if round_["state"] == "settled":
            self.serving = round_["adapter"]
            self._say(f"round {number} ({round_['kind']}): promoted, {self.serving} serves now")
        else:
            self._say(f"round {number} ({round_['kind']}): {round_['state'].replace('_', ' ')}: {round_['reason']}")

    async def _awaited_round(
        self, number: int, event: str, reached: Callable[[str], bool], meanwhile: Meanwhile | None = None
    ) -> dict[str, Any]:
        """The round, as soon as it exists in a state that was waited for; `meanwhile` is told of it as it is.

        Raises:
            DemoError: it took longer than WAIT_S.
        """
        found: dict[str, Any] = {}

        async def is_there() -> bool:
            for round_ in await self._client.get("/v1/rounds"):
                if round_["number"] != number:
                    continue
                if reached(round_["state"]):
                    found.update(round_)
                    return True
                if meanwhile is not None:
                    await meanwhile(round_)
            return False

        await self._until(f"round {number} did not {event}", is_there)
        return found

    async def _until(self, problem: str, reached: Callable[[], Awaitable[bool]]) -> None:
        """Poll.

        Raises:
            DemoError: it took longer than WAIT_S.
        """
        if not await self._within(WAIT_S, reached):
            waiting = (await self._client.get("/v1/status"))["waiting_for"]
            raise DemoError(f"{problem} within {WAIT_S:.0f} s: {waiting} (log: {self._client.log})")

    async def _within(self, seconds: float, reached: Callable[[], Awaitable[bool]]) -> bool:
        deadline = time.monotonic() + seconds
        while not await reached():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def _measure(self) -> None:
        """Ask the gateway the whole test set, closed book, unless what serves has answered it before.

        The round that trains meanwhile may be promoted first, on a machine that trains fast and answers slowly: then
        this adapter stays without a figure.
        """
        adapter, test = self.serving, self._dataset.test
        if adapter in self.story.measurements:
            return
        replies = await self._client.ask_all([example.query.question for example in test])
        strangers = {reply.adapter for reply in replies} - {adapter}
        if strangers:
            self._say(
                f"test accuracy of {adapter}: not measured, {', '.join(sorted(strangers))} was promoted meanwhile"
            )
            return
        outcomes = tuple(self._outcome(e, reply.text) for e, reply in zip(test, replies, strict=True))
        measured = self.story.measurements[adapter] = Measurement(adapter, outcomes)
        self._say(f"test accuracy of {adapter}, closed book: {measured.score.accuracy:.1%}")

    def _outcome(self, example: Example, text: str) -> Outcome:
        answer = self._task.parse(text, example.query)
        return Outcome(example.id, example.answer, answer, answer == example.answer, 0.0, example.query.category)

    async def _observe(self) -> None:
        """Look at the daemon twice a second, for the screen and the report."""
        serving, trial = "base", None
        while True:
            self._client.check_alive()
            self._client.memory.sample()
            status, rounds = await self._client.get("/v1/status"), await self._client.get("/v1/rounds")
            self.story.progress.append((self.story.elapsed(), status["pseudo_labels"]["total"]))
            training = (status["round"] or {}).get("training")
            if training and training.get("loss") is not None:
                points = self.story.losses.setdefault(status["round"]["number"], [])
                if not points or points[-1][0] < training["step"]:
                    points.append((training["step"], training["loss"]))
            if (now := status["serving"] or "base") != serving:
                self.story.swaps.append((self.story.elapsed(), serving, now))
                serving = now
            trial = self._say_the_state(status, trial)
            self._watch(status, rounds, self.story)
            await asyncio.sleep(POLL_S)

    def _say_the_state(self, status: dict[str, Any], said: tuple[int, str] | None) -> tuple[int, str] | None:
        """Say once that a gate opened, and that a stage of a canary began."""
        open_round, canary = status["round"] or {}, status.get("canary")
        number, state = int(open_round.get("number", -1)), open_round.get("state")
        if state == "proving" and said != (number, "gate"):
            self._say(f"round {number} is not proved yet: {open_round['gate']['reason']}")
            self._say("customers' mail is answered by both versions; people label where the answers differ")
            return number, "gate"
        if canary is not None and said != (number, canary["stage"]):
            self._say(f"round {number}: stage {canary['stage']} of its canary, {canary['share']:.0%} of the customers")
            return number, str(canary["stage"])
        return said
