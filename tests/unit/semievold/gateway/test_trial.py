"""Who a client is to a version on trial, and how well the shares are kept."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from semievold.gateway.call import CHAT, COMPLETIONS
from semievold.gateway.trial import CLIENT_HEADER, trial_name
from semievold.store.aliases import Canary
from semievold.web.tokens import HOLDER

SALTS = [hashlib.md5(str(number).encode()).hexdigest() for number in range(20)]


def name(holder: str | None = None, header: str | None = None, path: str = CHAT, **body: Any) -> str:
    headers = {} if header is None else {CLIENT_HEADER: header}
    request: web.Request = make_mocked_request("POST", path, headers=headers)
    if holder is not None:
        request[HOLDER] = holder
    return trial_name(request, path, body)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_shares_are_kept_over_two_thousand_clients(share: float) -> None:
    clients = [name("shop", user=f"customer-{number}") for number in range(2000)]
    found = [sum(Canary("v2", share, 0, salt).takes(each) for each in clients) / 2000 for salt in SALTS]
    # Chance alone: the standard deviation of a share of 2,000 clients is 0.5 to 1.1 points.
    assert abs(sum(found) / len(found) - share) <= 0.01
    assert sum(abs(each - share) <= 0.02 for each in found) >= 16
    assert abs(found[0] - share) <= 0.02


def test_a_share_of_one_takes_everybody() -> None:
    assert all(Canary("v2", 1, 2, salt).takes(f"client {number}") for salt in SALTS for number in range(100))


@given(st.text(), st.floats(0.01, 1), st.floats(0.01, 1))
def test_whom_a_small_share_takes_a_larger_one_takes_too(client: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert Canary("v2", large, 1, SALTS[0]).takes(client) or not Canary("v2", small, 0, SALTS[0]).takes(client)


def test_a_client_has_one_name_whatever_it_asks() -> None:
    assert name("shop", user="u1", messages=turns("a")) == name("shop", user="u1", messages=turns("b"))
    assert name("shop", "c1", user="u1") == name("shop", "c1", user="u2")
    assert name("shop", messages=turns("a")) == name("shop", messages=turns("b"))
    assert name("shop", safety_identifier="u1") == name("shop", safety_identifier="u1", messages=turns("a"))


def test_the_clients_of_two_tokens_are_not_the_same() -> None:
    names = [
        name("shop", user="u1"),
        name("desk", user="u1"),
        name(user="u1"),
        name("shop"),
        name("desk"),
        name("shop", "u1"),
    ]
    assert len(set(names)) == len(names)


def test_of_a_token_that_many_have_each_conversation_keeps_its_version() -> None:
    first = turns("where is it", "on its way", "since when")
    assert name(messages=first[:1]) == name(messages=first) != name(messages=turns("another"))
    assert name(path=COMPLETIONS, prompt="a") != name(path=COMPLETIONS, prompt="b")
    assert name(path=COMPLETIONS, prompt=[1, 5, 7]) != name(path=COMPLETIONS, prompt=[1, 5, 8])
    assert name(path=COMPLETIONS, prompt=[[1, 5]]) != name(path=COMPLETIONS, prompt=[[1, 5], [1, 7]])


@pytest.mark.parametrize("user", [7, None, "", ["u1"]])
def test_what_is_no_name_names_nobody(user: Any) -> None:
    assert name("shop", user=user) == name("shop")


def test_any_text_can_name_a_client() -> None:
    assert Canary("v2", 1, 0, SALTS[0]).takes(name("shop", user="\ud800 ☃"))
