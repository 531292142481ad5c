"""The story of the demo: labels, traffic, rounds, a person's labels, a ruined round; and what was measured on the way.

Owns the order of events and the measurements; not what is shown (screen) nor summed up (summary). Invariant: every
figure comes from the run: test accuracy from the gateway's own answers, the rest from the daemon's state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from semievol.errors import TransientError
from semievol.report.data import Score
from semievol.tasks.task import Task
from semievol.types import Example, Outcome, Query
from semievold.demo.client import DaemonClient, DemoError
from semievold.demo.settings import ALIAS, Scale
from semievold.demo.support_desk import Dataset
from semievold.store.stores import open_stores

POLL_S = 0.5
CLIENT_PAUSE_S = 1.0
QUERIES_A_SECOND = 40
ROUND_S = 1_200.0
GATE_BATCH = 8
"""Labels that a person gives at a time while a gate is open."""
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
class ClientRecord:
    """What the client that asks without pause has seen."""

    answered: int = 0
    failed: int = 0
    adapters: list[str] = field(default_factory=list)  # in the order in which they first answered


@dataclass(slots=True)
class Story:
    """Everything measured; times in seconds since the start."""

    started_at: float = field(default_factory=time.time)
    measurements: dict[str, Measurement] = field(default_factory=dict)
    client: ClientRecord = field(default_factory=ClientRecord)
    progress: list[tuple[float, int]] = field(default_factory=list)
    losses: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    swaps: list[tuple[float, str, str]] = field(default_factory=list)
    sabotaged: int | None = None
    seconds: float = 0.0

    def elapsed(self) -> float:
        return time.time() - self.started_at


Watch = Callable[[dict[str, Any], list[dict[str, Any]], Story], None]
Say = Callable[[str], None]


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
        self._serving = "base"
        self._late = dataset.late
        self._weighed: tuple[int, int] | None = None
        self.story = Story()

    async def run(self) -> Story:
        """The whole story."""
        background = [
            asyncio.create_task(self._observe(), name="observe"),
            asyncio.create_task(self._keep_asking(), name="client"),
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
        share = len(data.queries) // self._scale.rounds
        for number in range(1, self._scale.rounds + 1):
            end = number * share if number < self._scale.rounds else None
            await self._stream(data.queries[(number - 1) * share : end])
            await self._round_begun(number)
            await self._measure()
            await self._round_ended(number)
            if number == 1:
                await self._label_as_a_person()
        self._say("a round with shuffled labels is started on purpose: the gate should refuse it")
        answer = await self._client.post("/v1/rounds", {"kind": "warm", "shuffle_labels": True})
        self.story.sabotaged = int(answer["round"])
        await self._measure()
        await self._round_ended(self.story.sabotaged)
        await self._measure()  # only if the gate let it through

    async def _stream(self, queries: tuple[Query, ...]) -> None:
        """Traffic: the queries come one handful after the other."""
        for start in range(0, len(queries), QUERIES_A_SECOND):
            await self._client.publish_queries(queries[start : start + QUERIES_A_SECOND])
            await asyncio.sleep(1.0)

    async def _round_begun(self, number: int) -> None:
        await self._awaited_round(number, "begin", lambda state: True)

    async def _round_ended(self, number: int) -> None:
        """Wait for the end of a round and say what it was."""
        round_ = await self._awaited_round(number, "end", ENDED.__contains__, self._label_for_the_gate)
        if round_["state"] == "failed":
            raise DemoError(f"round {number} failed: {round_['reason']} (log: {self._client.log})")
        if round_["state"] == "settled":
            self._serving = round_["adapter"]
            self._say(f"round {number} ({round_['kind']}): promoted, {self._serving} serves now")
        else:
            self._say(f"round {number} ({round_['kind']}): {round_['state']}: {round_['reason']}")

    async def _label_for_the_gate(self, round_: dict[str, Any]) -> None:
        """A round that is not proved gets labels of new queries, in no order, a handful after the other was weighed."""
        if round_["state"] != "proving" or round_["gate"] is None or not self._late:
            return
        weighed = (int(round_["number"]), int(round_["gate"]["count"]))
        if weighed == self._weighed:
            return
        if self._weighed is None or self._weighed[0] != weighed[0]:
            self._say(f"round {weighed[0]} is not proved yet: {round_['gate']['reason']}")
            self._say("a person labels new queries in no order, as long as its gate is open")
        self._weighed = weighed
        some, self._late = self._late[:GATE_BATCH], self._late[GATE_BATCH:]
        await self._client.publish_labels(some)

    async def _awaited_round(
        self,
        number: int,
        event: str,
        reached: Callable[[str], bool],
        meanwhile: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """The round, as soon as it exists in a state that was waited for; `meanwhile` is told of it as it is.

        Raises:
            DemoError: it took longer than ROUND_S.
        """
        deadline = time.monotonic() + ROUND_S
        while time.monotonic() < deadline:
            for round_ in await self._client.get("/v1/rounds"):
                if round_["number"] != number:
                    continue
                if reached(round_["state"]):
                    return dict(round_)
                if meanwhile is not None:
                    await meanwhile(round_)
            await asyncio.sleep(POLL_S)
        waiting = (await self._client.get("/v1/status"))["waiting_for"]
        raise DemoError(f"round {number} did not {event} within {ROUND_S:.0f} s: {waiting} (log: {self._client.log})")

    async def _measure(self) -> None:
        """Ask the gateway the whole test set, closed book, unless what serves has answered it before.

        The round that trains meanwhile may be promoted first, on a machine that trains fast and answers slowly: then
        this adapter stays without a figure.
        """
        adapter, test = self._serving, self._dataset.test
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

    async def _label_as_a_person(self) -> None:
        """Give the true answers of the queries that the daemon is least sure of."""
        count = self._scale.labels_by_person
        ids = await asyncio.to_thread(self._least_sure, count)
        asked = {query.id: query for query in self._dataset.queries}
        labelled = [Example(asked[id_], self._dataset.answers[id_], source="person") for id_ in ids]
        await self._client.publish_labels(labelled)
        self._say(f"a person labelled the {len(labelled)} queries that the daemon was least sure of")

    def _least_sure(self, count: int) -> list[str]:
        stores = open_stores(f"sqlite:///{self._client.data.resolve() / 'state.db'}", ALIAS, ALIAS, migrate=False)
        try:
            pool = stores.pseudo_labels.pool()
        finally:
            stores.database.close()
        return [row.id for row in sorted(pool, key=lambda row: (-row.entropy, row.id))[:count]]

    async def _keep_asking(self) -> None:
        """A client that asks all the time, swap or no swap, and counts what it gets."""
        seen, number = self.story.client, 0
        questions = [query.question for query in self._dataset.queries]
        while True:
            number += 1
            try:
                reply = await self._client.ask(questions[number % len(questions)])
            except TransientError:
                seen.failed += 1
            else:
                seen.answered += 1
                if reply.adapter not in seen.adapters:
                    seen.adapters.append(reply.adapter)
                    if len(seen.adapters) > 1:
                        self.story.swaps.append((self.story.elapsed(), *seen.adapters[-2:]))  # type: ignore[arg-type]
            await asyncio.sleep(CLIENT_PAUSE_S)

    async def _observe(self) -> None:
        """Look at the daemon twice a second, for the screen and the report."""
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
            self._watch(status, rounds, self.story)
            await asyncio.sleep(POLL_S)
