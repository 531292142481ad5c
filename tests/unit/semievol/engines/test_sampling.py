"""How tokens are drawn: what a client may ask for changes its own row, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semievol.config.method import ModelConfig
from semievol.engines.local import LocalGenerator
from semievol.engines.sampling.stops import GrowingText, StopFinder
from semievol.errors import DataError
from semievol.seeds import derive
from semievol.types import Completion, GenerationRequest, Message, Sampling
from tests.tiny_model import make_tiny_model

torch = pytest.importorskip("torch")
sampler = pytest.importorskip("semievol.engines.sampling.sampler")

VOCABULARY = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("sampling") / "model")


@pytest.fixture
async def generator(model: Path) -> AsyncIterator[LocalGenerator]:
    generator = LocalGenerator(ModelConfig(name=str(model), dtype="float32", device="cpu"), threads=1, max_batch=8)
    yield generator
    await generator.close()


def request(text: str, **settings: Any) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), **{"max_tokens": 24, **settings})


async def answered(generator: LocalGenerator, *requests: GenerationRequest) -> list[list[Completion]]:
    return list(await generator.generate(requests))


def logits(seed: int) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32) * 3)


def next_of(each: Any, row: Any) -> Any:
    """The next token of this row alone."""
    return sampler.draw(row[None], [each])[0]


def drawn(options: Sampling, *, temperature: float = 1.0, times: int = 400, seed: int = 0) -> list[int]:
    each = sampler.Sampler(temperature, seed, 0, options)
    return [next_of(each, logits(0)).token_id for _ in range(times)]


def probabilities(temperature: float = 1.0) -> Any:
    return (logits(0) / temperature).softmax(-1)


@pytest.mark.parametrize("seed", [0, 7, -1, -(2**62), 2**70])
def test_a_plain_row_is_drawn_by_inverse_cdf_from_the_stream_of_its_seed_and_sample(seed: int) -> None:
    """The reference is numpy alone: what labelling drew before there were options, it draws still."""
    rows, steps = [logits(row) for row in range(3)], 5
    samplers = [sampler.Sampler(0.8, seed, sample) for sample in range(3)]
    got = [sampler.draw(torch.stack(rows), samplers) for _ in range(steps)]
    for sample, row in enumerate(rows):
        numbers = np.random.default_rng(derive(seed, "sample", sample)).random(steps)
        cumulative = (row / torch.tensor(0.8)).softmax(-1).double().cumsum(-1).numpy()
        expected = [int(np.searchsorted(cumulative, number * cumulative[-1], side="right")) for number in numbers]
        assert [step[sample].token_id for step in got] == expected
        at_one = row.log_softmax(-1)
        assert [step[sample].logprob for step in got] == pytest.approx([float(at_one[token]) for token in expected])


def test_nothing_outside_the_nucleus_is_drawn_and_what_is_inside_keeps_its_proportions() -> None:
    likely, order = probabilities().sort(descending=True)
    inside = order[: int((likely.cumsum(-1) < 0.6).sum()) + 1].tolist()
    tokens = drawn(Sampling(top_p=0.6), times=4_000)
    assert set(tokens) == set(inside)
    share = probabilities()[inside] / probabilities()[inside].sum()
    assert tokens.count(inside[0]) / len(tokens) == pytest.approx(float(share[0]), abs=0.03)


@pytest.mark.parametrize("options", [Sampling(top_p=0.0), Sampling(top_k=1), Sampling(min_p=1.0), Sampling(top_p=1e-9)])
def test_the_narrowest_choice_is_the_likeliest_token(options: Sampling) -> None:
    assert set(drawn(options, times=20)) == {int(logits(0).argmax())}


def test_top_k_and_min_p_leave_out_the_unlikely() -> None:
    order = probabilities().argsort(descending=True)
    assert set(drawn(Sampling(top_k=3), times=2_000)) == set(order[:3].tolist())
    kept = {token for token in range(VOCABULARY) if probabilities()[token] >= 0.2 * probabilities().max()}
    assert set(drawn(Sampling(min_p=0.2), times=4_000)) == kept


def test_a_bias_forbids_and_forces_a_token() -> None:
    best = int(logits(0).argmax())
    assert best not in drawn(Sampling(logit_bias=((best, -100.0),)))
    assert set(drawn(Sampling(logit_bias=((9, 100.0),)))) == {9}
    assert drawn(Sampling(logit_bias=((9, 100.0),)), temperature=0, times=1) == [9]


def test_penalties_count_what_the_row_has_generated() -> None:
    row = torch.zeros(VOCABULARY)
    row[3], row[5] = 2.0, 1.2
    each = sampler.Sampler(0, 0, 0, Sampling(presence_penalty=1.0))
    tokens = []
    for _ in range(4):
        tokens.append(next_of(each, row).token_id)
        each.took(tokens[-1])
    assert tokens == [3, 5, 3, 3]  # 2.0; 1.2 beats 1.0; then 1.0 beats 0.2, and once more: presence counts once
    each = sampler.Sampler(0, 0, 0, Sampling(frequency_penalty=0.5))
    tokens = []
    for _ in range(4):
        tokens.append(next_of(each, row).token_id)
        each.took(tokens[-1])
    assert tokens == [3, 3, 5, 3]  # 2.0, 1.5, then 1.2 beats 1.0, then 1.0 beats 0.7


def test_log_probabilities_are_those_of_the_model_whatever_is_asked() -> None:
    options = Sampling(top_p=0.5, presence_penalty=2.0, logit_bias=((4, 30.0),), top_logprobs=5)
    one = next_of(sampler.Sampler(0.5, 1, 0, options), logits(0))
    at_one = logits(0).log_softmax(-1)
    assert one.logprob == pytest.approx(float(at_one[one.token_id]))
    assert [token for token, _ in one.likeliest] == at_one.argsort(descending=True)[:5].tolist()
    assert [value for _, value in one.likeliest] == pytest.approx(sorted(at_one.tolist(), reverse=True)[:5])


def test_options_of_a_row_leave_the_other_rows_as_they_are() -> None:
    rows = torch.stack([logits(0)] * 3)
    alone = [next_of(sampler.Sampler(1.0, 3, sample), logits(0)) for sample in range(3)]
    among = sampler.draw(
        rows,
        [
            sampler.Sampler(1.0, 3, 0),
            sampler.Sampler(1.0, 3, 1, Sampling(logit_bias=((9, 100.0),), top_logprobs=2)),
            sampler.Sampler(1.0, 3, 2),
        ],
    )
    assert [among[0], among[2]] == [alone[0], alone[2]]
    assert among[1].token_id == 9
    assert torch.equal(rows, torch.stack([logits(0)] * 3)), "the model's logits were changed"


@given(
    pieces=st.lists(st.text(alphabet="abA\n", max_size=4), max_size=12),
    stops=st.lists(st.text(alphabet="abA\n", min_size=1, max_size=4), max_size=4),
)
@example(pieces=["b", "a", "\n"], stops=["a", "ba\n"])
def test_a_text_is_shown_up_to_its_first_stop_and_nothing_too_early(pieces: list[str], stops: list[str]) -> None:
    # What is generated ends with the piece that completes a stop: one that begins earlier, and would be complete later,
    # never is.
    came = ["".join(pieces[:count]) for count in range(len(pieces) + 1)]
    cuts = [min(places) for text in came if (places := [at for stop in stops if (at := text.find(stop)) >= 0])]
    whole = next((text for text in came if any(stop in text for stop in stops)), came[-1])
    places, expected = cuts[:1], whole[: cuts[0]] if cuts else whole
    finder, shown = StopFinder(stops), ""
    for piece in pieces:
        shown += finder.add(piece)
        assert expected.startswith(shown)
    assert finder.stopped == bool(places)
    assert shown + finder.rest() == expected


@given(st.text(alphabet="aé漢😀 \u0301", max_size=12))
def test_a_growing_text_shows_whole_characters_and_adds_up(text: str) -> None:
    growing, shown = GrowingText(lambda ids: bytes(ids).decode(errors="replace")), ""
    for byte in text.encode():
        shown += growing.add(byte)
        assert text.startswith(shown)
    assert shown + growing.rest() == text


async def test_a_stop_string_over_the_borders_of_tokens_ends_the_answer_before_it(generator: LocalGenerator) -> None:
    ((free,),) = await answered(generator, request("tell me", temperature=1.0, seed=5))
    stop = free.text[6:9]  # a token is a byte: this is three
    cut = free.text.find(stop)
    ((held,), (other,)) = await answered(
        generator,
        request("tell me", temperature=1.0, seed=5, sampling=Sampling(stop=("not there", stop), top_logprobs=2)),
        request("tell me", temperature=1.0, seed=5),
    )
    assert (held.text, held.finish_reason) == (free.text[:cut], "stop")
    assert len(held.token_ids) < len(free.token_ids)
    assert b"".join(token.bytes for token, _ in held.details).decode(errors="replace") == held.text
    assert other.token_ids == free.token_ids


async def test_samples_of_one_request_stop_each_at_its_own_place(generator: LocalGenerator) -> None:
    asked = request("several", temperature=1.0, seed=1, samples=4)
    (free,) = await answered(generator, asked)
    (held,) = await answered(
        generator, request("several", temperature=1.0, seed=1, samples=4, sampling=Sampling(stop=(free[2].text[3:5],)))
    )
    assert [each.text for each in held] == [each.text.split(free[2].text[3:5])[0] for each in free]


async def test_tokens_are_told_as_text_and_bytes_with_their_alternatives(generator: LocalGenerator) -> None:
    ((answer,),) = await answered(generator, request("name them", sampling=Sampling(top_logprobs=3)))
    assert len(answer.details) == len(answer.token_ids) == 24
    assert b"".join(token.bytes for token, _ in answer.details).decode(errors="replace") == answer.text
    for (token, others), logprob in zip(answer.details, answer.logprobs, strict=True):
        assert token.logprob == logprob
        assert others[0] == token, "greedy: the likeliest is the one that was taken"
        assert [each.logprob for each in others] == sorted((each.logprob for each in others), reverse=True)
    ((plain,),) = await answered(generator, request("name them"))
    assert (plain.token_ids, plain.details) == (answer.token_ids, ())


async def test_a_bias_on_a_token_that_there_is_not_refuses_that_request_alone(generator: LocalGenerator) -> None:
    wrong = asyncio.create_task(answered(generator, request("no", sampling=Sampling(logit_bias=((10**6, 1.0),)))))
    right = asyncio.create_task(answered(generator, request("yes")))
    with pytest.raises(DataError, match="logit_bias: 1000000 is no token"):
        await wrong
    assert len((await right)[0][0].token_ids) == 24
