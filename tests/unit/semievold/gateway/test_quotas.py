"""What a token's holder may ask for: so many at once, so many a minute, and nothing of another's."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from semievold.config.fronts import GatewayConfig, TokenSettings
from semievold.gateway.buckets import Bucket
from semievold.gateway.quotas import Excess, Quotas, Reservation, requests_in
from semievold.gateway.usage import StreamMeter, asking_for_usage, tokens_at_most, tokens_of, usage_in

SECRET = "secret-of-the-tests-{}"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def quotas(**limits: int) -> tuple[Quotas, Clock]:
    clock = Clock()
    tokens = {"app": TokenSettings(secret=SECRET, **limits), "other": TokenSettings(secret=SECRET + "2")}
    return Quotas(tokens, clock), clock


def allowed(found: Excess | Reservation) -> bool:
    return isinstance(found, Reservation)


def test_one_holder_runs_as_many_as_its_limit_and_takes_none_of_anothers() -> None:
    counts, _ = quotas(requests_at_once=2)
    with ExitStack() as stack:
        for _ in range(2):
            assert allowed(counts.excess("app"))
            counts.began("app")
            stack.callback(counts.ended, "app")
        assert not allowed(counts.excess("app"))
        assert allowed(counts.excess("other", 1_000))
        assert allowed(counts.excess("default", 1_000))
    assert allowed(counts.excess("app", 2))
    assert not allowed(counts.excess("app", 3))


def test_a_minute_comes_back_evenly_and_says_when() -> None:
    counts, clock = quotas(requests_per_minute=6)
    assert [allowed(counts.excess("app")) for _ in range(8)] == [True] * 6 + [False] * 2
    excess = counts.excess("app")
    assert isinstance(excess, Excess)
    assert excess.retry_after_s == 10
    clock.now += 10
    assert allowed(counts.excess("app"))
    assert not allowed(counts.excess("app"))
    clock.now += 3_600
    assert not allowed(counts.excess("app", 7))
    assert allowed(counts.excess("app", 6))


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("x", 1), (["x"], 1), (["x", "y", "z"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1), (None, 1), ({}, 1)],
)
def test_a_list_of_prompts_counts_as_as_many_requests(prompt: object, count: int) -> None:
    assert requests_in({"prompt": prompt}) == count


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ({"app": {}}, "secret: missing"),
        ({"app": {"secret": "short"}}, "at least 16"),
        ({"app": {"secret": SECRET}, "more": {"secret": SECRET}}, "the same secret"),
        ({"App": {"secret": SECRET}}, "is no name for a token"),
        ({"default": {"secret": SECRET}}, "is no name for a token"),
        ({"app": {"secret": SECRET + " and more"}}, "white space"),
        ({"app": {"secret": "token-of-gateway"}}, "the secret of gateway.token"),
        ({f"a{number}": {"secret": f"{SECRET}{number}"} for number in range(201)}, "more than 200"),
    ],
    ids=str,
)
def test_tokens_that_cannot_be_told_apart_are_refused_without_showing_them(tokens: object, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        GatewayConfig.model_validate({"token": "token-of-gateway", "tokens": tokens})


def test_a_revoked_token_opens_nothing() -> None:
    tokens = {"old": {"secret": SECRET, "revoked": True}, "gone": {"revoked": True}, "new": {"secret": SECRET + "2"}}
    config = GatewayConfig.model_validate({"tokens": tokens})
    assert config.secrets("made") == {"default": "made", "new": SECRET + "2"}
    assert SECRET not in repr(config)


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=1, max_size=40),
)
def test_a_bucket_gives_no_more_than_it_holds_and_says_when_there_is_enough(most: int, asked: Any) -> None:
    bucket, now, taken = Bucket(most, 0.0), 0.0, 0
    for pause_s, wanted in asked:
        now += pause_s
        count = min(wanted, most)
        wait_s = bucket.take(most, now, count)
        if wait_s:
            assert Bucket(bucket.left, bucket.at).take(most, now + wait_s + 1e-6, count) == 0
            assert Bucket(bucket.left, bucket.at).take(most, now + wait_s - 1.001, count) > 0
        else:
            taken += count
        assert taken <= most + now * most / 60 + 1e-6


def test_tokens_are_taken_before_and_given_back_after_and_headers_say_what_is_left() -> None:
    counts, clock = quotas(tokens_per_minute=600, requests_per_minute=10)
    first = counts.excess("app", 1, 400)
    assert isinstance(first, Reservation)
    late = counts.excess("app", 1, 300)
    assert isinstance(late, Excess)
    assert (late.reason, late.retry_after_s) == ("this token may use 600 tokens a minute", 10)
    first.spent(150)
    first.spent(0)  # told once
    assert counts.headers("app") == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "450",
        "x-ratelimit-reset-tokens": "15s",
    }
    assert counts.headers("other") == counts.headers("default") == {}
    assert not allowed(counts.excess("app", 1, 10_000))  # more than a minute's: by a full bucket alone
    clock.now += 15
    large = counts.excess("app", 1, 10_000)
    assert isinstance(large, Reservation)
    large.spent(1_200)  # it was a guess: what was used beyond it is owed
    assert not allowed(counts.excess("app"))
    clock.now += 61
    assert allowed(counts.excess("app"))


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/v1/chat/completions", {}, 110),
        ("/v1/chat/completions", {"max_tokens": 7, "n": 3}, 31),
        ("/v1/chat/completions", {"max_completion_tokens": 5, "max_tokens": 7}, 15),
        ("/v1/completions", {"prompt": ["x", "y"], "max_tokens": 7}, 24),
        ("/v1/responses", {"max_output_tokens": 2}, 12),
        ("/v1/embeddings", {"input": "x"}, 10),
    ],
)
def test_what_a_request_may_use_is_its_prompt_and_its_longest_answers(path: str, body: Any, tokens: int) -> None:
    assert tokens_at_most(path, body, 100, requests_in(body), 40) == tokens


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, 7),
        ({"input_tokens": 3, "output_tokens": 4}, 7),
        ({"prompt_tokens": 3}, 3),
        ({}, None),
        (None, None),
        ("7", None),
    ],
)
def test_the_tokens_of_an_answer_are_read_in_any_dialect(usage: object, tokens: int | None) -> None:
    assert tokens_of(usage) == tokens
    assert usage_in(json.dumps({"usage": usage}).encode()) == tokens
    assert usage_in(json.dumps({"response": {"usage": usage}}).encode()) == tokens


@pytest.mark.parametrize("asked", [False, True])
def test_the_usage_of_a_stream_is_counted_and_shown_to_who_asked(asked: bool) -> None:
    body = {"stream": True, **({"stream_options": {"include_usage": True}} if asked else {})}
    sent = asking_for_usage("/v1/chat/completions", body)
    assert sent["stream_options"] == {"include_usage": True}
    word, last = b'data: {"choices": [{}]}\n\n', b'data: {"choices": [], "usage": {"total_tokens": 9}}\n\n'
    done = b"data: [DONE]\n\n"
    meter = StreamMeter("/v1/chat/completions", body)
    passed = b"".join(meter.feed(each) for each in (word, word + last + done))
    assert passed == (word + word + last + done if asked else word + word + done)
    assert meter.tokens == 9
