"""The generator in this process: what it answers, what it refuses, and whom it disturbs."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from semievol import adapter_directory
from semievol.adapter_directory import CONFIG_FILE, WEIGHTS_FILE
from semievol.config.method import ModelConfig
from semievol.engines.language_model import load_prompts
from semievol.engines.local import LocalGenerator
from semievol.errors import AdapterError, ConfigError, DataError, TransientError
from semievol.types import Completion, GenerationRequest, Message
from tests.tiny_adapter import make_tiny_adapter
from tests.tiny_model import make_tiny_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return make_tiny_model(folder / "model")


@pytest.fixture(scope="module")
def adapters(folder: Path, model: Path) -> list[Path]:
    return [make_tiny_adapter(model, folder / "adapters", seed) for seed in (1, 2)]


@pytest.fixture
def config(model: Path) -> ModelConfig:
    return ModelConfig(name=str(model), dtype="float32", device="cpu")


@pytest.fixture
async def generator(config: ModelConfig) -> AsyncIterator[LocalGenerator]:
    generator = LocalGenerator(config, threads=1, max_batch=4)
    yield generator
    await generator.close()


@pytest.fixture
def reference(model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def request(text: str, **settings: Any) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), **{"max_tokens": 6, **settings})


def prompt_tokens(generator: LocalGenerator, text: str) -> list[int]:
    return generator._ensure_prompts().prompt_tokens((Message("user", text),))


def close(left: Completion, right: Completion) -> bool:
    same_tokens = left.token_ids == right.token_ids and left.text == right.text
    return same_tokens and left.logprobs == pytest.approx(right.logprobs, abs=1e-4)


TEXTS = ["hello", "a much longer question than the others", "x", "hello there", "what?", "another one", "hello"]


async def test_greedy_answers_are_those_of_transformers_whatever_else_is_in_the_batch(
    generator: LocalGenerator, reference: Any
) -> None:
    answers = await generator.generate([request(text) for text in TEXTS])
    for text, (answer,) in zip(TEXTS, answers, strict=True):
        tokens = prompt_tokens(generator, text)
        expected = reference.generate(
            torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), max_new_tokens=6, do_sample=False
        )[0, len(tokens) :].tolist()
        assert list(answer.token_ids) == expected
        assert answer.prompt_tokens == len(tokens)
        assert answer.adapter is None


async def test_log_probabilities_are_those_of_teacher_forcing_at_temperature_one(generator: LocalGenerator) -> None:
    answers = await generator.generate(
        [request(text, samples=3, temperature=1.7, seed=i) for i, text in enumerate(TEXTS)]
    )
    for text, completions in zip(TEXTS, answers, strict=True):
        for answer in completions:
            scored = await generator.score((Message("user", text),), answer.token_ids, None)
            assert answer.logprobs == pytest.approx(scored, abs=1e-4)


async def test_a_sample_depends_on_seed_and_place_alone(generator: LocalGenerator) -> None:
    alone = await generator.generate([request("hello", samples=4, temperature=1.0, seed=5)])
    crowded = await generator.generate(
        [request(text, samples=4, temperature=1.0, seed=seed) for text in TEXTS[1:4] for seed in (5, 6)]
        + [request("hello", samples=4, temperature=1.0, seed=5), request("hello", samples=2, temperature=0.3, seed=8)]
    )
    assert all(close(a, b) for a, b in zip(alone[0], crowded[-2], strict=True))
    fewer = await generator.generate([request("hello", samples=2, temperature=1.0, seed=5)])
    assert all(close(a, b) for a, b in zip(fewer[0], alone[0][:2], strict=True))
    assert len({answer.token_ids for answer in alone[0]}) > 1


async def test_samples_follow_the_distribution_of_the_model(generator: LocalGenerator) -> None:
    first = await generator.generate([request("hello", samples=400, temperature=1.0, seed=3, max_tokens=1)])
    counts: dict[int, int] = {}
    probabilities: dict[int, float] = {}
    for answer in first[0]:
        counts[answer.token_ids[0]] = counts.get(answer.token_ids[0], 0) + 1
        probabilities[answer.token_ids[0]] = math.exp(answer.logprobs[0])
    likeliest = max(counts, key=lambda token: counts[token])
    expected = 400 * probabilities[likeliest]
    assert abs(counts[likeliest] - expected) < 4 * math.sqrt(expected)


async def test_generation_stops_at_the_end_token_and_leaves_it_out_of_the_text(generator: LocalGenerator) -> None:
    answers = await generator.generate([request("hello", samples=64, temperature=3.0, seed=1, max_tokens=40)])
    stopped = [answer for answer in answers[0] if answer.finish_reason == "stop"]
    cut = [answer for answer in answers[0] if answer.finish_reason == "length"]
    assert stopped
    assert cut
    assert all(answer.token_ids[-1] == 2 and 2 not in answer.token_ids[:-1] for answer in stopped)
    assert all(len(answer.token_ids) == 40 and 2 not in answer.token_ids for answer in cut)
    assert all("<|" not in answer.text for answer in answers[0])
    assert all(len(answer.logprobs) == len(answer.token_ids) for answer in answers[0])


async def test_requests_may_ask_for_different_lengths_in_one_batch(generator: LocalGenerator) -> None:
    answers = await generator.generate([request("hello", max_tokens=n) for n in (1, 5, 3)])
    assert [len(a.token_ids) for (a,) in answers] == [1, 5, 3]
    assert answers[0][0].token_ids == answers[1][0].token_ids[:1]


async def test_a_prompt_that_is_too_long_is_refused_and_disturbs_nobody(generator: LocalGenerator) -> None:
    good, bad = await asyncio.gather(
        generator.generate([request("hello")]), generator.generate([request("y" * 260)]), return_exceptions=True
    )
    assert not isinstance(good, BaseException)
    assert isinstance(bad, DataError)
    assert "263 tokens, the limit is 250" in str(bad)


async def test_what_cannot_be_told_ends_the_call(generator: LocalGenerator) -> None:
    """As an answer that a full disk has no room for: it must not be lost, nor waited for."""

    def full(place: int, reply: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "answers.jsonl")

    with pytest.raises(OSError, match="No space left"):
        async with asyncio.timeout(60.0):
            await generator.answer([request(f"red {number}") for number in range(8)], full)
    assert len(await generator.generate([request("red 9")])) == 1


def test_the_template_is_part_of_a_prompt(config: ModelConfig) -> None:
    assert len(load_prompts(config).prompt_tokens((Message("user", "hello"),))) == len("hello") + 3


async def test_no_requests_give_no_answers(generator: LocalGenerator) -> None:
    assert await generator.generate([]) == []


async def test_adapters_answer_side_by_side_each_as_itself(generator: LocalGenerator, adapters: list[Path]) -> None:
    base = await generator.generate([request(text) for text in TEXTS])
    names = [path.name for path in adapters]
    for path in adapters:
        await generator.load_adapter(path.name, path)
    assert await generator.loaded_adapters() == frozenset(names)
    mixed = await generator.generate([request(text, adapter=name) for text in TEXTS for name in [None, *names]])
    assert [answer.adapter for (answer,) in mixed[:3]] == [None, *names]
    assert all(close(a[0], b[0]) for a, b in zip(base, mixed[::3], strict=True))
    assert [a[0].token_ids for a in mixed[::3]] != [a[0].token_ids for a in mixed[1::3]]
    assert [a[0].token_ids for a in mixed[1::3]] != [a[0].token_ids for a in mixed[2::3]]


async def test_an_adapter_computes_what_peft_computes(
    generator: LocalGenerator, adapters: list[Path], reference: Any
) -> None:
    from peft import PeftModel

    await generator.load_adapter("one", adapters[0])
    ((answer,),) = await generator.generate([request("hello", adapter="one")])
    tokens = prompt_tokens(generator, "hello")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a deprecated name
        adapted = PeftModel.from_pretrained(reference, str(adapters[0])).eval()
    expected = adapted.generate(
        input_ids=torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens)), max_new_tokens=6, do_sample=False
    )
    assert list(answer.token_ids) == expected[0, len(tokens) :].tolist()


async def test_loading_and_unloading_are_idempotent(generator: LocalGenerator, adapters: list[Path]) -> None:
    before = await generator.generate([request("hello")])
    await generator.load_adapter("one", adapters[0])
    await generator.load_adapter("one", adapters[0])
    with pytest.raises(AdapterError, match="loaded with other content"):
        await generator.load_adapter("one", adapters[1])
    await generator.unload_adapter("one")
    await generator.unload_adapter("one")
    await generator.unload_adapter("never loaded")
    assert await generator.loaded_adapters() == frozenset()
    assert close((await generator.generate([request("hello")]))[0][0], before[0][0])
    with pytest.raises(AdapterError, match="adapter one is not loaded"):
        await generator.generate([request("hello", adapter="one")])


def republish(source: Path, target: Path, **files: bytes) -> Path:
    """A published, verifiable adapter with other files: defects that only the engine can see."""
    work = target.parent / f"work-{target.name}"
    work.mkdir(parents=True)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (work / name).write_bytes(files.get(name, (source / name).read_bytes()))
    return adapter_directory.publish(
        work, target, "broken", base_model="x", parent=None, round_number=1, seed=0, training={}
    )


def weights_without(source: Path, part: str) -> bytes:
    from safetensors.torch import load_file, save

    return save({k: v for k, v in load_file(source / WEIGHTS_FILE).items() if part not in k})


def not_finite(source: Path) -> bytes:
    from safetensors.torch import load_file, save

    weights = load_file(source / WEIGHTS_FILE)
    next(iter(weights.values()))[0, 0] = math.nan
    return save(weights)


@pytest.mark.parametrize("others", [0, 1], ids=["as the first adapter", "beside another"])
@pytest.mark.parametrize("defect", ["not safetensors", "wrong rank", "tensor missing", "not finite", "not lora"])
async def test_an_unusable_adapter_leaves_the_engine_as_it_was(
    generator: LocalGenerator, adapters: list[Path], tmp_path: Path, defect: str, others: int
) -> None:
    good, source = adapters
    if others:
        await generator.load_adapter("good", good)
    names = [None, "good"][: others + 1]
    before = await generator.generate([request(text, adapter=name) for text in TEXTS for name in names])
    config = json.loads((source / CONFIG_FILE).read_text())
    files = {
        "not safetensors": {WEIGHTS_FILE: b"\x00" * 64},
        "wrong rank": {CONFIG_FILE: json.dumps(config | {"r": 8}).encode()},
        "tensor missing": {WEIGHTS_FILE: weights_without(source, "layers.1.mlp.up_proj.lora_B")},
        "not finite": {WEIGHTS_FILE: not_finite(source)},
        "not lora": {CONFIG_FILE: b'{"peft_type": "NO_SUCH_THING"}'},
    }[defect]
    broken = republish(source, tmp_path / "adapters", **files)
    with pytest.raises(AdapterError, match=str(broken)):
        await generator.load_adapter("broken", broken)
    assert await generator.loaded_adapters() == frozenset(["good"] if others else [])
    after = await generator.generate([request(text, adapter=name) for text in TEXTS for name in names])
    assert all(close(a[0], b[0]) for a, b in zip(before, after, strict=True))
    await generator.load_adapter("broken", source)
    assert await generator.generate([request("hello", adapter="broken")])


async def test_an_unfinished_directory_is_refused(
    generator: LocalGenerator, adapters: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in adapters[0].iterdir():
        if path.name != "STABLE":
            (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(AdapterError, match="no STABLE marker"):
        await generator.load_adapter("copy", copy)


async def test_a_model_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    generator = LocalGenerator(ModelConfig(name=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"model\.name"):
        await generator.start()
    await generator.close()


def test_a_chat_template_of_ones_own_replaces_the_models(config: ModelConfig, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}!")
    own = load_prompts(config.model_copy(update={"chat_template": template}))
    assert len(own.prompt_tokens((Message("user", "hello"),))) == len("hello!")
    with pytest.raises(ConfigError, match=r"model\.chat_template"):
        load_prompts(config.model_copy(update={"chat_template": tmp_path / "none.jinja"}))


async def test_interactive_requests_overtake_queued_ones(generator: LocalGenerator) -> None:
    await generator.start()
    finished: list[str] = []

    async def ask(name: str, requests: list[GenerationRequest]) -> None:
        await generator.generate(requests)
        finished.append(name)

    queued = [request(f"question {i}", max_tokens=8) for i in range(64)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask("queued", queued))
        await asyncio.sleep(0)
        tasks.create_task(ask("interactive", [request("hello", interactive=True)]))
    assert finished == ["interactive", "queued"]


async def test_no_adapter_waits_for_ever_behind_a_busier_one(generator: LocalGenerator, adapters: list[Path]) -> None:
    await generator.load_adapter("one", adapters[0])
    finished: list[str] = []

    async def ask(name: str, requests: list[GenerationRequest]) -> None:
        await generator.generate(requests)
        finished.append(name)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask("base, first", [request(f"{i}") for i in range(8)]))
        await asyncio.sleep(0)
        tasks.create_task(ask("adapter", [request("hello", adapter="one")]))
        await asyncio.sleep(0)
        tasks.create_task(ask("base, later", [request(f"later {i}") for i in range(8)]))
    assert finished.index("adapter") < finished.index("base, later")


async def test_an_abandoned_request_is_not_computed_and_disturbs_nobody(generator: LocalGenerator) -> None:
    await generator.start()
    task = asyncio.create_task(generator.generate([request(f"question {i}") for i in range(64)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await generator.generate([request("hello")])


async def test_closing_fails_what_is_queued_and_what_comes_later(config: ModelConfig) -> None:
    generator = LocalGenerator(config, threads=1, max_batch=1)
    await generator.start()
    task = asyncio.create_task(generator.generate([request(f"question {i}") for i in range(64)]))
    await asyncio.sleep(0)
    await generator.close()
    with pytest.raises(TransientError, match="closed"):
        await task
    with pytest.raises(TransientError, match="closed"):
        await generator.generate([request("hello")])
    await generator.close()


async def test_closing_does_not_wait_for_a_long_answer(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from semievol.engines import decoding

    running, loop, advance = asyncio.Event(), asyncio.get_running_loop(), decoding.Running.advance

    def tell(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(running.set)
        return advance(*arguments)

    monkeypatch.setattr(decoding.Running, "advance", tell)
    generator = LocalGenerator(config, threads=1)
    task = asyncio.create_task(generator.generate([request("hello", max_tokens=240, samples=64, temperature=0.1)]))
    await running.wait()
    await generator.close()
    with pytest.raises(TransientError, match="closed"):
        await task


async def test_a_generator_that_was_never_used_closes(config: ModelConfig) -> None:
    await LocalGenerator(config).close()


def test_a_template_without_a_system_turn_gets_it_at_the_beginning_of_the_users(
    config: ModelConfig, tmp_path: Path
) -> None:
    file = tmp_path / "strict.jinja"
    file.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    )
    prompts = load_prompts(config.model_copy(update={"chat_template": file}))
    folded = (Message("user", "be brief\n\nwhat?"), Message("assistant", "x"))
    asked = (Message("system", "be brief"), Message("user", "what?"), Message("assistant", "x"))
    assert prompts.prompt_text(asked) == prompts.prompt_text(folded)
    assert prompts.prompt_tokens(asked) == prompts.prompt_tokens(folded)
    with pytest.raises(DataError, match="System role not supported"):
        prompts.prompt_text((Message("system", "be brief"),))
