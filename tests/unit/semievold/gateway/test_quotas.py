"""What a token's holder may ask for: so many at once, so many a minute, and nothing of another's."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from pydantic import ValidationError

from semievold.config.fronts import GatewayConfig, TokenSettings
from semievold.gateway.quotas import Quotas, requests_in

SECRET = "secret-of-the-tests-{}"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def quotas(**limits: int) -> tuple[Quotas, Clock]:
    clock = Clock()
    tokens = {"app": TokenSettings(secret=SECRET, **limits), "other": TokenSettings(secret=SECRET + "2")}
    return Quotas(tokens, clock), clock


def test_one_holder_runs_as_many_as_its_limit_and_takes_none_of_anothers() -> None:
    counts, _ = quotas(requests_at_once=2)
    with ExitStack() as stack:
        for _ in range(2):
            assert counts.excess("app") is None
            stack.enter_context(counts.counted("app"))
        assert counts.excess("app") is not None
        assert counts.excess("other", 1_000) is None
        assert counts.excess("default", 1_000) is None
    assert counts.excess("app", 2) is None
    assert counts.excess("app", 3) is not None


def test_a_minute_comes_back_evenly_and_says_when() -> None:
    counts, clock = quotas(requests_per_minute=6)
    assert [counts.excess("app") is None for _ in range(8)] == [True] * 6 + [False] * 2
    excess = counts.excess("app")
    assert excess is not None
    assert excess.retry_after_s == 10
    clock.now += 10
    assert counts.excess("app") is None
    assert counts.excess("app") is not None
    clock.now += 3_600
    assert counts.excess("app", 7) is not None
    assert counts.excess("app", 6) is None


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
