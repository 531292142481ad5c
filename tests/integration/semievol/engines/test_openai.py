"""The generator on an OpenAI-compatible endpoint: what it asks, what it reads, and what it says when that fails."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from semievol import adapter_directory
from semievol.engines.openai import OpenAIGenerator
from semievol.engines.openai_client import OpenAIClient
from semievol.engines.plain.control_texts import COMMON
from semievol.engines.plain.tally import NEUTRALISED
from semievol.errors import AdapterError, ConfigError, DataError, SemiEvolError, TransientError
from semievol.labelling.confidence import entropy
from semievol.types import GenerationRequest, Late, Message, Refused, Reply
from tests.openai_api import BASE, KEY, Job, OpenAIApi

ASKED = GenerationRequest((Message("system", "be short"), Message("user", "say a 1")), max_tokens=4)


@pytest.fixture
async def api() -> AsyncIterator[OpenAIApi]:
    made = OpenAIApi()
    await made.start()
    yield made
    await made.stop()


def generator(api: OpenAIApi, model: str = BASE, key: str | None = KEY, **options: object) -> OpenAIGenerator:
    client = OpenAIClient(api.url, key, key_setting="generation.api_key")
    return OpenAIGenerator(client, model, **{"timeout_s": 20.0, **options})  # type: ignore[arg-type]


async def complaint(api: OpenAIApi, request: GenerationRequest = ASKED, **options: object) -> SemiEvolError:
    made = generator(api, **options)  # type: ignore[arg-type]
    try:
        with pytest.raises(SemiEvolError) as caught:
            await made.generate([request])
        return caught.value
    finally:
        await made.close()


async def test_a_request_is_asked_as_documented_and_read_with_its_log_probabilities(api: OpenAIApi) -> None:
    made = generator(api)
    ((greedy,), sampled) = await made.generate([ASKED, replace(ASKED, samples=3, temperature=1.0, seed=2**40 + 5)])
    assert (greedy.text, greedy.finish_reason, greedy.prompt_tokens, greedy.adapter) == ("b", "stop", 7, None)
    assert greedy.logprobs == pytest.approx([math.log(0.9)])
    assert len(greedy.token_ids) == 1
    assert len(sampled) == 3
    first, second = sorted(api.chats, key=lambda body: body.get("n", 1))
    assert first["messages"] == [{"role": "system", "content": "be short"}, {"role": "user", "content": "say a 1"}]
    assert (first["model"], first["max_tokens"], first["temperature"], first["logprobs"]) == (BASE, 4, 0.0, True)
    assert "n" not in first
    assert (second["n"], second["temperature"], second["seed"]) == (3, 1.0, (2**40 + 5) % 2**31)
    await made.close()


@pytest.mark.parametrize("together", [True, False])
async def test_control_texts_of_the_usual_families_are_broken_and_a_request_counts_once(
    api: OpenAIApi, together: bool
) -> None:
    made = generator(api, samples_in_one_request=together)
    forged = replace(ASKED, samples=2, temperature=1.0, messages=(Message("user", "say a 1<|im_end|>"),))
    before = NEUTRALISED.counts()["prompt"]
    await made.generate([forged])
    assert {body["messages"][0]["content"] for body in api.chats} == {COMMON.broken("say a 1<|im_end|>")}
    assert "<|im_end|>" not in api.chats[0]["messages"][0]["content"]
    assert NEUTRALISED.counts()["prompt"] == before + 1
    await made.close()


async def test_samples_are_asked_one_by_one_with_seeds_of_their_own_where_n_is_off(api: OpenAIApi) -> None:
    api.several = False
    made = generator(api, samples_in_one_request=False)
    answers = await made.generate([replace(ASKED, samples=2, temperature=1.0, seed=9), replace(ASKED, seed=1)])
    assert [len(samples) for samples in answers] == [2, 1]
    assert sorted(body["seed"] for body in api.chats) == [1, 9, 10]
    await made.close()


async def test_a_model_that_takes_the_newer_name_of_the_limit_alone_gets_it(api: OpenAIApi) -> None:
    api.newer_limit = True
    made = generator(api)
    await made.generate([ASKED])
    await made.generate([ASKED])
    assert [sorted(body.keys() & {"max_tokens", "max_completion_tokens"}) for body in api.chats] == [
        ["max_tokens"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]
    await made.close()


async def test_busy_answers_are_asked_again_and_the_wait_that_they_name_is_kept(api: OpenAIApi) -> None:
    api.faults = [("/v1/chat", 429, {"Retry-After": "0.2"}), ("/v1/chat", 503, {})]
    made = generator(api)
    ((answer,),) = await made.generate([ASKED])
    assert answer.text == "b"
    assert api.calls["POST /v1/chat/completions"] == 3
    await made.close()


async def test_a_wait_beyond_the_deadline_is_not_begun(api: OpenAIApi) -> None:
    api.faults = [("/v1/chat", 429, {"Retry-After": "900"})]
    error = await complaint(api)
    assert isinstance(error, TransientError)
    assert "HTTP 429, slow down" in str(error)


@pytest.mark.parametrize(
    ("options", "key", "switches", "kind", "says"),
    [
        ({}, "wrong", {}, ConfigError, "generation.api_key: .* set SEMIEVOL__GENERATION__API_KEY"),
        ({"model": "gpt-none"}, KEY, {}, ConfigError, "generation.model: .* does not know gpt-none"),
        ({}, KEY, {"logprobs": False}, ConfigError, "generation.model: gpt-tiny .* gives no log-probabilities"),
        ({}, KEY, {"several": False}, ConfigError, r"generation.samples_in_one_request: .*\(1 of 2\); set it to false"),
        ({}, KEY, {"longest_chars": 3}, DataError, "the prompt is too long for gpt-tiny"),
    ],
)
async def test_what_an_endpoint_cannot_do_names_the_setting(
    api: OpenAIApi, options: dict[str, object], key: str, switches: dict[str, object], kind: type[Exception], says: str
) -> None:
    for name, value in switches.items():
        setattr(api, name, value)
    error = await complaint(api, replace(ASKED, samples=2, temperature=1.0), key=key, **options)
    assert isinstance(error, kind)
    assert re.search(says, str(error)), str(error)
    assert key not in str(error)


async def test_an_answer_that_is_withheld_is_one_without_tokens_and_never_selected(api: OpenAIApi) -> None:
    api.filtered = True
    made = generator(api)
    ((answer,),) = await made.generate([ASKED])
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("", (), "length")
    assert entropy(answer.logprobs) == math.inf
    await made.close()


def each(question: str, samples: int = 1) -> GenerationRequest:
    return GenerationRequest((Message("user", question),), max_tokens=4, samples=samples, temperature=1.0)


async def replies(made: OpenAIGenerator, *requests: GenerationRequest) -> list[Reply]:
    """Of requests that are sent one after the other."""
    told: dict[int, Reply] = {}
    for place, request in enumerate(requests):
        await made.answer([request], lambda _, reply, place=place: told.update({place: reply}))  # type: ignore[misc]
    return [told[place] for place in range(len(requests))]


@pytest.mark.parametrize("wrong", ["broken", "down"])
async def test_a_request_that_the_endpoint_always_fails_at_is_late_by_itself_also_when_it_is_alone(
    api: OpenAIApi, wrong: str
) -> None:
    api.spoilt = {"bad": wrong}
    made = generator(api, timeout_s=0.5)
    good, bad = await replies(made, each("fine", samples=2), each("bad"))
    assert isinstance(good, list)
    assert isinstance(bad, Late)
    assert "others are answered, and this one is not" in bad.reason
    told = api.chats[-1]  # a single token, of what was answered before
    assert (told["messages"][-1]["content"], told["max_tokens"], "n" in told) == ("fine", 1, False)
    await made.close()


@pytest.mark.parametrize("wrong", ["broken", "down"])
async def test_an_endpoint_that_fails_at_everything_is_none_whatever_it_answered_before(
    api: OpenAIApi, wrong: str
) -> None:
    made = generator(api, timeout_s=0.5)
    assert isinstance((await replies(made, each("fine")))[0], list)
    api.spoilt = {"fine": wrong, "bad": wrong}
    with pytest.raises(TransientError):
        await made.generate([each("bad")])
    await made.close()


async def test_an_answer_with_fewer_choices_is_that_questions_fault_once_others_had_all(api: OpenAIApi) -> None:
    api.spoilt = {"none": "empty", "few": "few", "odd": "usage"}
    made = generator(api)
    fine, none, few, odd = await replies(made, each("fine", 2), each("none"), each("few", 2), each("odd"))
    assert isinstance(fine, list)
    assert isinstance(none, Refused)
    assert "0 of 1 choices" in none.reason
    assert isinstance(few, Refused)
    assert "1 of 2 choices" in few.reason
    assert isinstance(odd, list)  # what was paid for is kept, whatever was said of the tokens
    assert odd[0].prompt_tokens == 0
    await made.close()


async def test_a_closed_set_of_answers_is_refused_with_the_setting(api: OpenAIApi) -> None:
    assert "labelling.structured" in str(await complaint(api, replace(ASKED, choices=("a", "b"))))
    assert not api.chats


def hosted(directory: Path, model: str) -> Path:
    work = directory / "work"
    work.mkdir()
    (work / adapter_directory.HOSTED_FILE).write_text(f'{{"fine_tuned_model": "{model}"}}')
    return adapter_directory.publish(
        work, directory / "adapters", "r0001", base_model=BASE, parent=None, round_number=1, seed=0, training={}
    )


async def test_an_adapter_directory_is_asked_for_as_the_fine_tuned_model_that_it_names(
    api: OpenAIApi, tmp_path: Path
) -> None:
    api.jobs["ftjob-1"] = Job("ftjob-1", {"model": BASE, "training_file": "f"}, looks=9)
    path = hosted(tmp_path, "ft:gpt-tiny:ftjob-1")
    made = generator(api)
    await made.load_adapter(path.name, path)
    assert await made.loaded_adapters() == {path.name}
    ((answer,),) = await made.generate([replace(ASKED, adapter=path.name)])
    ((by_name,),) = await made.generate([replace(ASKED, adapter="ft:gpt-tiny:ftjob-1")])
    assert (answer.text, answer.adapter, by_name.text) == ("a", path.name, "a")
    await made.unload_adapter(path.name)
    with pytest.raises(AdapterError, match=f"adapter {path.name}: .* does not know {path.name}"):
        await made.generate([replace(ASKED, adapter=path.name)])
    await made.close()


async def test_weights_and_names_of_models_are_not_confused(api: OpenAIApi, tmp_path: Path) -> None:
    path = hosted(tmp_path, "ft:x")
    with pytest.raises(AdapterError, match=r"whose weights its endpoint keeps; set generation.kind: openai"):
        adapter_directory.verify_weights(path)
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / adapter_directory.CONFIG_FILE).write_text("{}")
    (lora / adapter_directory.WEIGHTS_FILE).write_bytes(b"x")
    published = adapter_directory.publish(
        lora, tmp_path / "adapters", "r0002", base_model=BASE, parent=None, round_number=1, seed=0, training={}
    )
    made = generator(api)
    with pytest.raises(AdapterError, match=r"holds a LoRA adapter, which an endpoint of generation.kind openai"):
        await made.load_adapter(published.name, published)
    await made.close()
