"""Logins: which cookie opens, for how long, and which word is one of its forms."""

from __future__ import annotations

import pytest

from semievold.console.sessions import LASTS_S, Sessions

NOW = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> float:
        return self.at


def test_a_login_opens_until_its_time_is_over() -> None:
    clock = Clock()
    sessions = Sessions("a-token-of-the-tests", clock)
    cookie = sessions.begin()
    assert sessions.valid(cookie)
    clock.at += LASTS_S - 1
    assert sessions.valid(cookie)
    clock.at += 2
    assert not sessions.valid(cookie)


def test_another_process_with_the_same_token_knows_the_login_and_one_with_another_token_does_not() -> None:
    cookie = Sessions("a-token-of-the-tests", Clock()).begin()
    assert Sessions("a-token-of-the-tests", Clock()).valid(cookie)
    other = Sessions("another-token-of-them", Clock())
    assert not other.valid(cookie)
    assert other.cookie != Sessions("a-token-of-the-tests", Clock()).cookie  # one machine, two daemons


def test_a_cookie_that_was_changed_opens_nothing() -> None:
    sessions = Sessions("a-token-of-the-tests", Clock())
    cookie = sessions.begin()
    expires, nonce, mac = cookie.split(".")
    later = f"{int(expires) + 1}.{nonce}.{mac}"
    for wrong in (
        None,
        "",
        ".",
        "..",
        later,
        f"{expires}.{nonce}.",
        f"{expires}.{nonce}x.{mac}",
        cookie + "0",
        "é.ü.\x00",
    ):
        assert not sessions.valid(wrong)


def test_the_word_of_a_form_is_of_one_login() -> None:
    sessions = Sessions("a-token-of-the-tests", Clock())
    mine, theirs = sessions.begin(), sessions.begin()
    assert sessions.said(mine, sessions.word(mine))
    assert not sessions.said(mine, sessions.word(theirs))
    assert not sessions.said(mine, "")


@pytest.mark.parametrize(
    "given", ["", "a-token-of-the-test", "A-TOKEN-OF-THE-TESTS", "a-token-of-the-tests ", "\udcff"]
)
def test_only_the_very_token_opens(given: str) -> None:
    sessions = Sessions("a-token-of-the-tests", Clock())
    assert sessions.opens("a-token-of-the-tests")
    assert not sessions.opens(given)
    assert "a-token-of-the-tests" not in sessions.begin() + sessions.cookie
