"""The limit of an answer's tokens on its way to a server: what counts as a client's own, and where it is set."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from semievold.gateway.call import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Call, presentable

NAMES = {CHAT: {"max_completion_tokens", "max_tokens"}, COMPLETIONS: {"max_tokens"}, RESPONSES: {"max_output_tokens"}}
ALL = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def within(path: str, body: dict[str, Any], most: int = 100) -> Call:
    return Call(cast(Any, None), path, body, None, None, 0.0, lambda _: None).within(most)


@pytest.mark.parametrize("path", NAMES)
@pytest.mark.parametrize("name", ALL)
def test_only_a_name_that_the_server_takes_at_the_address_is_a_limit(path: str, name: str) -> None:
    # null at /v1/completions: left out, the limit there is the server's own
    body = {"max_tokens": None, name: 1} if path == COMPLETIONS else {name: 1}
    call = within(path, body)
    if name in NAMES[path]:
        assert (call.body, call.limited) == (body, False)
    else:
        assert call.limited
        assert [call.body[each] for each in sorted(NAMES[path]) if each in call.body] == [100]
        assert call.body[name] == 1


@pytest.mark.parametrize("path", NAMES)
def test_null_is_no_limit(path: str) -> None:
    call = within(path, dict.fromkeys(ALL))
    assert call.limited
    assert [call.body[each] for each in NAMES[path] if call.body[each] is not None] == [100]


def test_what_is_generated_where_nothing_is_said_is_limited_too() -> None:
    assert within(COMPLETIONS, {}).body == {}
    assert within(COMPLETIONS, {}, most=8).body == {"max_tokens": 8}
    assert within(COMPLETIONS, {"max_output_tokens": 1}, most=8).body["max_tokens"] == 8
    assert within(EMBEDDINGS, {}).body == {}


@pytest.mark.parametrize("piece", ["a.", "a-", "-a", "a+", "[:", "a.b-", "1.1.1.", "/+"])
def test_an_error_that_echoes_all_that_a_client_sent_is_told_at_once(piece: str) -> None:
    begun = time.perf_counter()
    told = presentable(piece * (120_000 // len(piece)))
    assert time.perf_counter() - begun < 1.0
    assert 0 < len(told) <= 2_000


def test_no_half_of_an_address_is_told_where_a_long_error_is_cut() -> None:
    long = "http://" + "x" * 100 + ".internal "
    told = presentable(long * 100 + "secret", ["secret"])
    assert set(told.split()) == {"[address]"}
    assert presentable("at http://10.0.0.7:8000/v1, replica-0.pod.internal:8000 and /srv/models/x") == (
        "at [address] [address] and [path]"
    )
