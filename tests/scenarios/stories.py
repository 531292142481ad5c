"""The eight things that go wrong in a loop that is left alone, each told to a whole daemon.

Owns what happens in each; not what is expected of it (`tests.scenarios.test_stories`). Every story begins alike:
labels arrive, the warm adapter is proved, mail comes and a first round is decided. What serves then is where the story
begins.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from semievol.seeds import derive
from semievol.types import Example, Query
from semievold.round_states import RoundState
from tests.scenarios import clock
from tests.scenarios.loop import Loop, running
from tests.scenarios.mail import INTENTS

FEW, MANY = 320, 960
"""Labels: with so few there is much to be gained, with so many much to be lost."""
TEST = 1600
ROUNDS = 3
SPAMMER = "token-of-somebody-who-spams"
GOOD = (RoundState.PROMOTED, RoundState.SETTLED)


@dataclass(frozen=True, slots=True)
class Refused:
    """A round that did not come to serve for good, or its freeze: why, in the daemon's words."""

    round: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Told:
    """What became of it. began, ended: the share of the test that the serving adapter answers rightly."""

    story: str
    seed: int
    began: float
    ended: float
    promoted: int
    refused: tuple[Refused, ...]
    notes: Mapping[str, Any] = field(default_factory=dict)


Story = Callable[[Loop, random.Random], Awaitable[Mapping[str, Any] | None]]
STORIES: dict[str, tuple[Story, int, Mapping[str, Any]]] = {}


def story(labels: int = FEW, /, **settings: Any) -> Callable[[Story], Story]:
    """One of the stories. `labels`: how many there are when it begins; `settings`: sections of the configuration that
    it needs otherwise.
    """

    def added(told: Story) -> Story:
        STORIES[told.__name__] = told, labels, settings
        return told

    return added


def tell(name: str, seed: int, directory: Path) -> Told:
    """Run a story to its end, in a process whose clock was installed."""
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with asyncio.Runner(loop_factory=clock.new_loop) as runner:
            return runner.run(_told(name, seed, directory))
    finally:
        gc.unfreeze()  # the daemon set aside what it had built, for as long as its process lives


async def _told(name: str, seed: int, directory: Path) -> Told:
    told, labels, settings = STORIES[name]
    async with running(directory, seed, settings) as loop:
        test = loop.mail.written(TEST, "t")
        asked, truth = [each.query.question for each in test], [each.answer for each in test]
        await loop.label(loop.mail.written(labels, "e"))
        await loop.until(lambda: loop.rounds and loop.rounds[0].ended)
        await loop.round()
        before = {each.number for each in loop.rounds if each.ended}
        began = loop.serving.right(asked, truth)
        notes = await told(loop, random.Random(derive(seed, name))) or {}
        later = [each for each in loop.rounds if each.number not in before and (each.ended or each.state in GOOD)]
        refused = [
            Refused(each.number, each.state.value, each.reason or "") for each in later if each.state not in GOOD
        ]
        frozen, still_open = loop.stores.freezes.get(), loop.stores.rounds.open()
        if frozen is not None and still_open is not None:
            refused.append(Refused(still_open.number, "frozen", frozen.reason))
        ended = loop.serving.right(asked, truth)
        promoted = sum(each.state in GOOD for each in later)
        return Told(name, seed, began, ended, promoted, tuple(refused), notes)


def questions(examples: Sequence[Example]) -> list[Query]:
    return [each.query for each in examples]


def otherwise(rng: random.Random, example: Example) -> Example:
    """The same mail with a wrong label, which whoever gave it believes."""
    wrong = rng.choice([each for each in INTENTS if each != example.answer])
    return replace(example, answer=wrong, query=replace(example.query, category=wrong))


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """What somebody does without end while a story goes on. If it ended all the same, the story fails as it did."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@story()
async def nothing_wrong(loop: Loop, _: random.Random) -> None:
    """Good labels and mail: what is refused elsewhere is not refused because nothing ever passes."""
    for _round in range(ROUNDS):
        await loop.label(loop.mail.written(160, "n"))
        await loop.round()


@story(MANY)
async def labels_flipped(loop: Loop, rng: random.Random) -> Mapping[str, Any]:
    """One in five new labels is wrong."""
    flipped = 0
    for _round in range(ROUNDS):
        right = loop.mail.written(160, "n")
        said = [otherwise(rng, each) if rng.random() < 0.2 else each for each in right]
        flipped += sum(one.answer != other.answer for one, other in zip(right, said, strict=True))
        await loop.label(said)
        await loop.round()
    known = {each.id: each.answer for each in [*loop.stores.examples.training(), *loop.stores.examples.holdout()]}
    return {"flipped": flipped, "labels that came": sum(key.startswith("n") for key in known)}


@story(
    gateway={"capture": {"share": 1.0}, "tokens": {"spammer": {"secret": SPAMMER}}},
)
async def one_source_spams(loop: Loop, rng: random.Random) -> Mapping[str, Any]:
    """A client sends as much as all others together, half of it gibberish, and says of everything that the right answer
    is one and the same.
    """
    taken: list[int] = []

    async def spam() -> None:
        while True:
            (example,) = loop.mail.written(1, "s")
            words = example.query.question.split()
            rng.shuffle(words)
            question = example.query.question if rng.random() < 0.5 else " ".join(words[:4] * 3)
            body = {"model": "desk", "messages": [{"role": "user", "content": question}]}
            status, answer = await loop.call("gateway", "POST", "/v1/chat/completions", body, SPAMMER)
            assert status == 200, answer
            word = {"id": answer["id"], "answer": "cancel order"}
            taken.append((await loop.call("gateway", "POST", "/v1/feedback", word, SPAMMER))[0])
            await asyncio.sleep(1.0)

    customers = [f"customer {number}" for number in range(10)]
    async with beside(spam()):
        for _round in range(ROUNDS):
            await loop.round(clients=customers)
    return {"feedback taken": taken.count(202), "feedback": len(taken)}


@story(rounds={"max_pool": 400})
async def one_query_floods(loop: Loop, rng: random.Random) -> Mapping[str, Any]:
    """One question comes again and again, spelled in many ways: first beside other mail, then alone."""
    (flood,) = loop.mail.written(1)
    copies = iter(range(100_000))

    def again(count: int) -> list[Query]:
        said = flood.query.question
        spelled = [said, said.upper(), said.lower(), f"{said}!!", f"  {said}", said.rstrip(".?!")]
        return [Query(f"flood{next(copies)}", rng.choice(spelled)) for _ in range(count)]

    def mixed(count: int) -> list[Query]:
        return [*again(count * 2 // 3), *loop.written(count - count * 2 // 3)]

    await loop.round(mixed)
    for _round in range(2 * ROUNDS):
        await loop.round(again)
    return {"flood": " ".join(flood.query.question.rstrip(".?!").split())}


@story(rounds={"max_pool": 300})
async def out_of_scope(loop: Loop, _: random.Random) -> Mapping[str, Any]:
    """The stream turns to mail that is about nothing of the task."""
    for _round in range(ROUNDS):
        await loop.round(loop.mail.out_of_scope)
    await asyncio.sleep(2 * loop.config.drift.settled_s)  # what came last is looked at as well
    _, drift = await loop.call("api", "GET", "/v1/drift")
    return {"drift": sorted({each["kind"] for each in drift["events"]})}


@story()
async def candidate_forgets(loop: Loop, rng: random.Random) -> None:
    """Each training loses one of the intents; the labels that come are good, and teach all others more."""
    for _round in range(ROUNDS):
        loop.trainer.forgets = rng.choice(INTENTS)
        await loop.label(loop.mail.written(160, "n"))
        await loop.round()


@story()
async def holdout_is_empty(loop: Loop, rng: random.Random) -> None:
    """All labels that were held out are taken back; mail goes on, and each training loses one of the intents."""
    await loop.retract([each.id for each in loop.stores.examples.holdout()])
    await loop.until(lambda: not loop.stores.examples.holdout())
    for _round in range(ROUNDS):
        loop.trainer.forgets = rng.choice(INTENTS)
        await loop.round()


@story(MANY)
async def late_labels_contradict(loop: Loop, rng: random.Random) -> Mapping[str, Any]:
    """Two people label what was answered an hour ago, and one of the two is wrong: under the query's id, where the last
    word counts, or under an id of their own.
    """
    answered: list[Example] = []
    contradicted = 0

    def mail(count: int) -> list[Query]:
        answered.extend(written := loop.mail.written(count))
        return questions(written)

    async def people() -> None:
        nonlocal contradicted
        while True:
            await asyncio.sleep(10.0)
            late, answered[:] = answered[:30], answered[60:]
            said = [[each, otherwise(rng, each)] for each in late]
            for pair in said:
                rng.shuffle(pair)
                if rng.random() < 0.5:
                    pair[1] = replace(pair[1], query=replace(pair[1].query, id=f"second-{pair[1].id}"))
            await loop.label(first for first, _ in said)
            await asyncio.sleep(5.0)
            await loop.label(second for _, second in said)
            contradicted += len(said)

    async with beside(people()):
        for _round in range(ROUNDS):
            await loop.round(mail)
    return {"contradicted": contradicted}


@story(labels={"holdout_share": 0.15}, gate={"patience_s": 120.0}, review={"max_teach": 15})
async def reviewer_confirms(loop: Loop, rng: random.Random) -> Mapping[str, Any]:
    """A reviewer takes the first answer that is shown, whatever it is. Each training loses one of the intents, and the
    holdout is too small to show it: what the reviewer says would decide.
    """
    said: Counter[str] = Counter()

    async def review() -> None:
        while True:
            _, waiting = await loop.call("api", "GET", "/v1/review?limit=500")
            for item in waiting["items"]:
                shown = item["candidates"]
                body = {"answer": shown[0]["answer"]} if shown else {"skip": True}
                status, _ = await loop.call("api", "POST", f"/v1/review/{item['review']}", body)
                if status == 200:
                    said[f"{item['purpose']} {'confirmed' if shown else 'skipped'}"] += 1
            await asyncio.sleep(20.0)

    async with beside(review()):
        for _round in range(ROUNDS):
            loop.trainer.forgets = rng.choice(INTENTS)
            await loop.round()
    return dict(said)
