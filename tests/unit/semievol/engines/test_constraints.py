"""Answers that hold to a form: whatever the model would rather say, and only as long as it is understood in full."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from semievol.config.method import ModelConfig
from semievol.engines.language_model import Prompts
from semievol.engines.local import LocalGenerator
from semievol.errors import DataError
from semievol.types import Completion, Constraint, GenerationRequest, Message, Sampling
from tests.tiny_model import make_tiny_model

pytest.importorskip("torch")
pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("constraints") / "model", positions=512)


@pytest.fixture
async def generator(model: Path) -> AsyncIterator[LocalGenerator]:
    generator = LocalGenerator(ModelConfig(name=str(model), dtype="float32", device="cpu"), threads=1, max_batch=8)
    yield generator
    await generator.close()


def json_schema(schema: object) -> Constraint:
    return Constraint("json_schema", "response_format", json.dumps(schema))


def asking(constraint: Constraint | None, **settings: Any) -> GenerationRequest:
    options = Sampling(constraint=constraint, **settings.pop("sampling", {}))
    return GenerationRequest(
        (Message("user", "answer"),), **{"max_tokens": 128, "temperature": 1.0, **settings}, sampling=options
    )


async def answer(generator: LocalGenerator, *requests: GenerationRequest) -> list[list[Completion]]:
    return list(await generator.generate(requests))


async def test_samples_of_a_schema_are_all_documents_of_it(generator: LocalGenerator) -> None:
    (samples,) = await answer(generator, asking(json_schema(PERSON), samples=6, seed=3))
    documents = [json.loads(sample.text) for sample in samples]
    assert {sample.finish_reason for sample in samples} == {"stop"}
    for document in documents:
        assert set(document) == {"name", "age"}
        assert len(document["name"]) <= 5
        assert 0 <= document["age"] <= 99
    assert len({sample.text for sample in samples}) > 1


async def test_a_choice_is_one_of_its_texts_however_they_begin_or_are_written(generator: LocalGenerator) -> None:
    choices = ("yes", "yes, sir", 'say "no"', "back\\slash", "Überraschung\n", "漢字")
    (samples,) = await answer(generator, asking(Constraint("choice", "choice", choices=choices), samples=16, seed=1))
    assert {sample.text for sample in samples} <= set(choices)
    assert len({sample.text for sample in samples}) > 2


async def test_log_probabilities_are_those_among_the_tokens_that_may_follow(generator: LocalGenerator) -> None:
    ((only,),) = await answer(generator, asking(Constraint("choice", "choice", choices=("certain",))))
    assert only.text == "certain"
    assert only.logprobs[:7] == pytest.approx([0.0] * 7)


async def test_a_regular_expression_holds_for_the_whole_answer(generator: LocalGenerator) -> None:
    (samples,) = await answer(generator, asking(Constraint("regex", "regex", r"[A-C]{3}-\d{2}"), samples=5))
    assert all(re.fullmatch(r"[A-C]{3}-\d{2}", sample.text) for sample in samples)


async def test_others_in_the_batch_write_freely_and_as_they_do_alone(generator: LocalGenerator) -> None:
    ((free,),) = await answer(generator, asking(None, seed=9))
    ((held,), (beside,)) = await answer(generator, asking(json_schema(PERSON), seed=9), asking(None, seed=9))
    json.loads(held.text)
    assert beside.token_ids == free.token_ids


async def test_stops_and_biases_work_inside_a_constraint(generator: LocalGenerator) -> None:
    asked = asking(Constraint("choice", "choice", choices=("red;blue",)), sampling={"stop": (";",)})
    ((cut,),) = await answer(generator, asked)
    assert (cut.text, cut.finish_reason) == ("red", "stop")


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (json_schema({"type": "nonsense"}), "response_format: Invalid type: nonsense"),
        (json_schema({"type": "object", "not": {"required": ["a"]}}), "response_format: Unimplemented keys"),
        (json_schema({"$ref": "#"}), "response_format: no text fits it; does it refer to nothing but itself.$"),
        (json_schema({"$ref": "#/nowhere"}), "response_format: Pointer '/nowhere' does not exist"),
        (Constraint("json_schema", "response_format", "[1"), "response_format: "),
        (Constraint("regex", "structured_outputs.regex", "(a"), r"structured_outputs.regex: .*unclosed group"),
        (Constraint("regex", "regex", r"(?=a)b"), "regex: "),
    ],
)
async def test_what_is_not_understood_in_full_is_refused_and_alone(
    generator: LocalGenerator, constraint: Constraint, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        await answer(generator, asking(constraint))
    assert (await answer(generator, asking(None)))[0]


async def test_without_the_library_the_extra_is_named(
    generator: LocalGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievol.engines.sampling.constraints.available", lambda: False)
    with pytest.raises(DataError, match=r"response_format: .*pip install 'semievol\[local\]'"):
        await answer(generator, asking(json_schema(PERSON)))


async def test_a_request_that_cannot_be_read_fails_alone(
    generator: LocalGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any, **__: Any) -> Any:
        raise ValueError("only fast tokenizers are supported")

    await generator.start()
    read = Prompts.request_tokens

    def request_tokens(prompts: Prompts, request: GenerationRequest) -> list[int]:
        if request.messages[0].content == "unreadable":
            raise ZeroDivisionError("of the template")
        return read(prompts, request)

    monkeypatch.setattr("llguidance.hf.from_tokenizer", slow)
    monkeypatch.setattr(Prompts, "request_tokens", request_tokens)
    unreadable = GenerationRequest((Message("user", "unreadable"),))
    held, failed, free = await asyncio.gather(
        *(answer(generator, each) for each in (asking(json_schema(PERSON)), unreadable, asking(None))),
        return_exceptions=True,
    )
    assert isinstance(held, DataError)
    assert "response_format: constrained answers need a tokenizer" in str(held)
    assert isinstance(failed, ZeroDivisionError)
    assert isinstance(free, list)
