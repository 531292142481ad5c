"""Who is logged in: a cookie that the API's token made, and the word that every form has to bring along.

Pure: nothing is kept, so that a login outlives a restart and holds at every process that has the same token, and a new
token ends all logins. Invariants: a cookie opens the console alone, until its time is over; the word of a form is of
one login; neither says anything of the token, and comparing takes the same time whatever is wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

LASTS_S = 12 * 3600.0
"""A working day; then the token is asked for again."""


class Sessions:
    """The logins of one token.

    Args:
        token: what opens the API.
        now: UTC seconds.
    """

    def __init__(self, token: str, now: Callable[[], float]) -> None:
        self._token = token.encode()
        self._key = hmac.digest(self._token, b"semievol console", "sha256")
        self._now = now
        # Cookies are not told apart by port: daemons of one machine, each with its token, would log each other out.
        self.cookie = f"semievol-{self._mac('cookie')[:12]}"

    def opens(self, given: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(given.encode(errors="replace"), self._token)

    def begin(self) -> str:
        """The cookie's value of a new login."""
        content = f"{int(self._now() + LASTS_S)}.{secrets.token_urlsafe(16)}"
        return f"{content}.{self._mac('login', content)}"

    def valid(self, cookie: str | None) -> bool:
        """Whether this is a login of this token whose time is not over."""
        content, _, mac = (cookie or "").rpartition(".")
        if not _same(mac, self._mac("login", content)):
            return False
        return self._now() < int(content.partition(".")[0])

    def word(self, cookie: str) -> str:
        """What a form of this login brings along; a page of another site cannot know it."""
        return self._mac("form", cookie)

    def said(self, cookie: str, word: str) -> bool:
        """Whether the form is one of this login."""
        return _same(word, self.word(cookie))

    def _mac(self, *parts: str) -> str:
        return hmac.new(self._key, "\n".join(parts).encode(errors="replace"), hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())
