"""Places of the cache come back, and who has no room says so: what a batch holds when rows of it have ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from semievol.config.method import ModelConfig
from semievol.engines.local import LocalGenerator, Serving
from semievol.engines.request_queue import Answer, QueuedRequest
from semievol.errors import TransientError
from semievol.types import GenerationRequest, Message
from tests.tiny_model import make_tiny_model

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> LocalGenerator:
    path = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", positions=1024)
    config = ModelConfig(name=str(path), dtype="float32", device="cpu")
    generator = LocalGenerator(config, threads=1, serving=Serving(prefill_tokens=256))
    generator._ensure_batching()  # in this thread: nothing else works on what the tests hand it
    return generator


class Engine:
    """The steps of an engine, one at a time."""

    def __init__(self, generator: LocalGenerator, tokens: int = 4_096, *, unit: int = 4_096, rows: int = 16) -> None:
        from semievol.engines.stepwise.batching import Batching
        from semievol.engines.stepwise.cache_budget import CacheBudget
        from semievol.engines.stepwise.turns import Turns

        self._generator = generator
        model = generator._ensure_batching()._engine
        self.tokens = tokens
        self.batching = Batching(model, Turns(0.5), CacheBudget(tokens, unit, rows, tokens), 256)
        self.held = self.batching._held

    def _jobs(self, requests: Sequence[GenerationRequest]) -> list[QueuedRequest]:
        jobs = [QueuedRequest(request, Answer(), place) for place, request in enumerate(requests)]
        return self._generator._tokenized(jobs)

    def asked(self, request: GenerationRequest) -> QueuedRequest:
        (job,) = self._jobs([request])
        self.batching.add(job)
        return job

    def labelling(self, *requests: GenerationRequest) -> list[QueuedRequest]:
        jobs = self._jobs(requests)
        self.batching.add_labelling(jobs)
        return jobs

    def finish(self, units: int = 2_000) -> None:
        for _ in range(units):
            if not self.batching.busy:
                return
            self.batching.work()
        raise AssertionError(f"not done after {units} units")


def ask(text: str, turn: str | None = "client", **settings: Any) -> GenerationRequest:
    interactive = {"interactive": True, "turn": turn} if turn is not None else {}
    settings = {"max_tokens": 12, "temperature": 1.0, "seed": 1, **interactive, **settings}
    return GenerationRequest((Message("user", text),), **settings)


def beside_ended_rows(engine: Engine, samples: int = 12) -> list[QueuedRequest]:
    """One client's rows run, and behind them in the same batch those of another client, which have ended."""
    jobs = [
        engine.asked(ask("a", "long", samples=samples, max_tokens=40)),
        engine.asked(ask("a", "short", max_tokens=1)),
    ]
    engine.batching.work()
    engine.batching.work()
    (batch,) = engine.held.batches
    assert batch.rows[-1].ended
    assert batch.rows[-1].job is jobs[1]
    assert len(batch.rows) == samples + 1
    return jobs


async def test_a_batch_that_is_parted_leaves_no_places_with_rows_that_ended(generator: LocalGenerator) -> None:
    engine = Engine(generator)
    jobs = beside_ended_rows(engine)
    engine.batching._budget = replace(engine.batching._budget, rows=12)  # the 13th is a part by itself
    jobs += engine.labelling(ask("b", None, samples=4, max_tokens=40))
    while engine.batching.busy:
        engine.batching.work()
        assert all(batch.alive for batch in engine.held.batches)
    assert engine.held.free() == engine.tokens
    assert not engine.held.batches
    for job in jobs:
        assert await job.answer.future


async def test_room_is_made_beside_rows_that_ended(generator: LocalGenerator) -> None:
    engine = Engine(generator, 1_024)
    jobs = beside_ended_rows(engine)
    jobs.append(engine.asked(ask("b", "other")))
    assert not engine.held.room(engine.tokens, "other")
    engine.finish()
    for job in jobs:
        assert await job.answer.future


async def test_where_nothing_can_give_way_who_waits_is_told_and_the_next_is_answered(
    generator: LocalGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(generator)
    engine.asked(ask("a", "long", samples=8, max_tokens=40))
    engine.batching.work()
    (batch,) = engine.held.batches
    for row in batch.rows:
        row.decoded.stopped = True  # as if its places had been lost
    engine.held._tokens = room = batch.running.places + 10
    waiting = engine.asked(ask("hello" * 20, "other"))
    with caplog.at_level(logging.ERROR):
        engine.finish(2)
    with pytest.raises(TransientError, match=r"no room.*ask again"):
        await waiting.answer.future
    assert len(caplog.records) == 1
    assert engine.held.free() == room
    after = engine.asked(ask("hello", "other"))
    engine.finish()
    assert await after.answer.future


async def test_a_fault_in_the_choice_of_work_fails_the_request_that_it_is_of(
    generator: LocalGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(generator)
    good = engine.asked(ask("a", "good"))
    engine.batching.work()
    bad = engine.asked(ask("b", "bad"))
    room = engine.held.room

    def broken(need: int, who: str | None) -> bool:
        if who == "bad":
            raise MemoryError("no memory to make room")
        return room(need, who)

    monkeypatch.setattr(engine.held, "room", broken)
    engine.finish()
    assert await good.answer.future
    with pytest.raises(MemoryError):
        await bad.answer.future


async def test_a_long_prompt_of_labelling_is_computed_once_for_all_its_samples(generator: LocalGenerator) -> None:
    engine = Engine(generator, 16_384)
    (job,) = engine.labelling(ask("q " * 200, None, samples=4, max_tokens=4))
    assert len(job.tokens) > 256
    units = -(-len(job.tokens) // 256)
    for _ in range(units):
        assert engine.held.labelling is not None
        assert not engine.held.labelling.batches
        engine.batching.work()
    assert engine.held.labelling is not None
    assert [len(batch.rows) for batch in engine.held.labelling.batches] == [4]
    assert not engine.held.labelling.waiting
    engine.finish()
    assert len(await job.answer.future) == 4


async def test_labelling_begins_with_as_many_rows_as_there_is_room_for(generator: LocalGenerator) -> None:
    engine = Engine(generator)
    jobs = engine.labelling(*(ask("q", None, samples=4, max_tokens=30, seed=n) for n in range(2)))
    each = len(jobs[0].tokens) + 30
    engine.held._tokens = 3 * each
    engine.batching.work()
    assert engine.held.labelling is not None
    assert [len(batch.rows) for batch in engine.held.labelling.batches] == [3]
    engine.finish()
    for job in jobs:
        assert len(await job.answer.future) == 4


async def test_a_large_request_is_begun_however_many_small_ones_come(generator: LocalGenerator) -> None:
    engine = Engine(generator)
    small = ask("x" * 60, "small", max_tokens=10)
    running = [engine.asked(replace(small, max_tokens=2 * place)) for place in range(1, 6)]
    engine.batching.work()
    most = len(running[0].tokens) + 10
    engine.held._tokens = 8 * most  # five small ones do not give way, and the large one needs the room of two
    long = 5 * most - 70
    large = engine.asked(ask("q" * (long - (len(running[0].tokens) - 60)), "large", max_tokens=60))
    for _ in range(300):
        if large.rows[0].decoded.token_ids:
            break
        running = [job for job in running if not all(row.ended for row in job.rows)]
        running += [engine.asked(small) for _ in range(5 - len(running))]
        engine.batching.work()
    assert large.rows[0].decoded.token_ids
    engine.finish()
    assert await large.answer.future


@pytest.mark.parametrize("prompt", [150, 500], ids=["computed at once", "computed in parts"])
async def test_a_large_request_ends_though_newcomers_take_its_places(generator: LocalGenerator, prompt: int) -> None:
    engine = Engine(generator, 900)
    large = engine.asked(ask("a" * prompt, "large", max_tokens=80))
    number, back = 0, 0
    for _ in range(1_000):
        if all(row.ended for row in large.rows):
            break
        newcomers = [turn for turn in engine.held.clients() if turn != "large"]
        for _ in range(len(newcomers), 4):
            engine.asked(ask("b" * 100, f"new {number}", max_tokens=30))
            number += 1
        waited = any(row.job is large for row in engine.held.waiting)
        engine.batching.work()
        back += not waited and any(row.job is large for row in engine.held.waiting)
    assert all(row.ended for row in large.rows), f"thrown back {back} times by {number} newcomers"
    assert back <= 8
