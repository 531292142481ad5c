"""Requests at work step by step: what they are answered is theirs alone, and nobody waits for somebody else's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from semievol.config.method import ModelConfig
from semievol.engines.language_model import load_model, load_prompts
from semievol.engines.local import LocalGenerator, Serving
from semievol.errors import BusyError, DataError, LateError
from semievol.types import Completion, GenerationRequest, Message, Sampling
from tests.tiny_adapter import make_tiny_adapter
from tests.tiny_model import make_tiny_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", positions=1024)


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    return make_tiny_adapter(model, model.parent / "adapters", 1)


@pytest.fixture
def config(model: Path) -> ModelConfig:
    return ModelConfig(name=str(model), dtype="float32", device="cpu")


@asynccontextmanager
async def serving(config: ModelConfig, cache_tokens: int | None = None, **settings: Any) -> AsyncIterator[Any]:
    generator = LocalGenerator(
        config, threads=1, cache_tokens=cache_tokens, serving=Serving(**{"prefill_tokens": 32, **settings})
    )
    try:
        yield generator
    finally:
        await generator.close()


def ask(text: str, turn: str | None = "client", **settings: Any) -> GenerationRequest:
    interactive = {"interactive": True, "turn": turn} if turn is not None else {}
    return GenerationRequest((Message("user", text),), **{"max_tokens": 12, **interactive, **settings})


MIXED = [
    ask("hello", seed=1, temperature=1.0, samples=3),
    ask("a question of more than one part " * 4, "second", seed=2, temperature=0.8, samples=2, max_tokens=40),
    ask("greedy", "third", max_tokens=30),
    ask("penalized", "third", sampling=Sampling(presence_penalty=1.5, frequency_penalty=0.5), max_tokens=30),
    ask("long and wide " * 12, "hog", seed=3, temperature=1.2, samples=8, max_tokens=60),
    *(ask(f"label {'this ' * n}", None, seed=n, temperature=0.7, samples=2) for n in range(8)),
]


def same(left: list[Completion], right: list[Completion]) -> bool:
    return all(
        a.token_ids == b.token_ids and a.logprobs == pytest.approx(b.logprobs, abs=1e-4) and a.text == b.text
        for a, b in zip(left, right, strict=True)
    )


async def alone(config: ModelConfig, requests: list[GenerationRequest]) -> list[list[Completion]]:
    generator = LocalGenerator(config, threads=1)
    answers = [(await generator.generate([request]))[0] for request in requests]
    await generator.close()
    return answers


def watched(generator: LocalGenerator, after: Callable[[Any], None]) -> None:
    """Have `after` look at the rows at work after every unit."""
    work = generator._unit

    def unit(batching: Any) -> None:
        work(batching)
        after(batching._held)

    generator._unit = unit  # type: ignore[method-assign]


@pytest.mark.parametrize("cache_tokens", [None, 2_240], ids=["room for all", "rows give way"])
async def test_answers_are_those_that_each_gets_alone(config: ModelConfig, cache_tokens: int | None) -> None:
    expected = await alone(config, MIXED)
    most = gave_way = units = 0
    async with serving(config, cache_tokens) as generator:

        def look(held: Any) -> None:
            nonlocal most, gave_way, units
            units += 1
            most = max(most, held._tokens - held.free())
            if cache_tokens is not None and units % 40 == 0:  # also where there is room still
                held.yield_one()
                if held.labelling is not None and held.labelling.batches:
                    held._take_from(None, 1)
            gave_way += any(row.decoded.token_ids for row in held.waiting)

        watched(generator, look)
        answers = await asyncio.gather(*(generator.generate([request]) for request in MIXED))
        room = generator._most_tokens
    assert all(same(got[0], wanted) for got, wanted in zip(answers, expected, strict=True))
    assert most <= room
    assert bool(gave_way) == (cache_tokens is not None)


async def test_labelling_that_nobody_disturbs_is_computed_as_one_batch_to_the_last_bit(config: ModelConfig) -> None:
    from semievol.engines import decoding
    from semievol.engines.sampling.sampler import Sampler

    requests = [ask(f"label {'this ' * (n % 3)}{n}", None, seed=n, temperature=0.7, samples=3) for n in range(8)]
    generator = LocalGenerator(config, threads=1)
    answers = await generator.generate(requests)
    await generator.close()
    prompts = load_prompts(config)
    by_length = sorted(requests, key=lambda each: (len(tokens := prompts.prompt_tokens(each.messages)), tokens))
    rows = [
        decoding.Row(place, Sampler(0.7, request.seed, sample), 12)
        for place, request in enumerate(by_length)
        for sample in range(3)
    ]
    decoded = decoding.decode(
        load_model(config),
        [prompts.prompt_tokens(request.messages) for request in by_length],
        rows,
        end_tokens=prompts.end_tokens,
        padding=prompts.padding,
    )
    expected = {id(request): decoded[3 * place : 3 * place + 3] for place, request in enumerate(by_length)}
    for request, answer in zip(requests, answers, strict=True):
        assert [list(each.logprobs) for each in answer] == [each.logprobs for each in expected[id(request)]]


async def test_adapters_take_turns_and_each_answers_as_itself(config: ModelConfig, adapter: Path) -> None:
    requests = [ask(f"hello {n}", f"client {n}", max_tokens=20) for n in range(4)]
    async with serving(config) as generator:
        await generator.load_adapter("one", adapter)
        named = [
            GenerationRequest(each.messages, "one", max_tokens=20, interactive=True, turn=each.turn)
            for each in requests
        ]
        one_by_one = [(await generator.generate([each]))[0] for each in (*requests, *named)]
        together = await asyncio.gather(*(generator.generate([each]) for each in (*requests, *named)))
    assert all(same(got[0], wanted) for got, wanted in zip(together, one_by_one, strict=True))
    assert [got[0][0].token_ids for got in together[:4]] != [got[0][0].token_ids for got in together[4:]]


async def test_a_short_request_passes_long_ones_and_labelling_goes_on(config: ModelConfig) -> None:
    ended: list[str] = []

    async def timed(generator: Any, name: str, *requests: GenerationRequest) -> None:
        await generator.generate(list(requests))
        ended.append(name)

    async with serving(config) as generator:
        await generator.start()
        long = ask("x " * 200, "hog", samples=16, temperature=1.0, max_tokens=400, seed=1)
        async with asyncio.TaskGroup() as tasks:
            hog = tasks.create_task(timed(generator, "long", long))
            await asyncio.sleep(0.2)
            tasks.create_task(timed(generator, "labelling", *(ask(f"label {n}", None) for n in range(8))))
            tasks.create_task(timed(generator, "long prompt", ask("y " * 400, "reader", max_tokens=1)))
            tasks.create_task(timed(generator, "short", ask("hello", "short", max_tokens=8)))
            while len(ended) < 3:  # noqa: ASYNC110 - the last of the four is only cancelled
                await asyncio.sleep(0.01)
            assert "long" not in ended
            hog.cancel()
    assert ended.index("short") < 2


async def test_a_request_that_can_never_fit_is_refused_at_once_and_one_row_that_fits_is_enough(
    config: ModelConfig,
) -> None:
    async with serving(config, 900) as generator:
        await generator.generate([ask("hello")])
        room = generator._most_tokens
        with pytest.raises(DataError, match=r"max_tokens: .*generation\.cache_tokens"):
            await generator.generate([ask("hello", max_tokens=room)])
        (answers,) = await generator.generate([ask("z" * 300, samples=8, temperature=1.0, max_tokens=4, seed=4)])
    assert len(answers) == 8


async def test_waiting_requests_are_bounded_and_one_client_has_half_of_the_places(config: ModelConfig) -> None:
    async with serving(config, waiting=4) as generator:
        long = [asyncio.create_task(generator.generate([ask("x", max_tokens=500, seed=n)])) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="of this client"):
            await generator.generate([ask("x")])
        others = [asyncio.create_task(generator.generate([ask("x", f"{n}")])) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="4 requests"):
            await generator.generate([ask("x", "yet another")])
        await asyncio.gather(*others)
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        assert await generator.generate([ask("x")])


async def test_who_leaves_frees_the_cache_at_once(config: ModelConfig) -> None:
    async with serving(config) as generator:
        task = asyncio.create_task(generator.generate([ask("x", samples=16, temperature=1.0, max_tokens=900)]))
        while generator._batching is None or not generator._batching._held.batches:  # noqa: ASYNC110 - a thread's state
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await generator.generate([ask("hello", "other", max_tokens=1)])
        assert not generator._batching.busy


async def test_time_counts_while_the_engine_works_on_a_request(config: ModelConfig) -> None:
    async with serving(config) as generator:
        await generator.start()
        with pytest.raises(LateError):
            await generator.generate([ask("x", samples=16, temperature=1.0, max_tokens=900, time_s=0.05)])
        assert await generator.generate([ask("hello", time_s=10.0)])


async def test_a_unit_that_fails_fails_its_requests_alone(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from semievol.engines import decoding

    extended = decoding.extended

    def broken(*arguments: Any) -> Any:
        raise MemoryError("no memory for a long prompt")

    async with serving(config) as generator:
        await generator.start()
        monkeypatch.setattr(decoding, "extended", broken)
        results = await asyncio.gather(
            generator.generate([ask("q" * 300, "reader")]), generator.generate([ask("hello")]), return_exceptions=True
        )
        assert isinstance(results[0], MemoryError)
        assert not isinstance(results[1], BaseException)
        monkeypatch.setattr(decoding, "extended", extended)
        assert await generator.generate([ask("q" * 300, "reader")])
