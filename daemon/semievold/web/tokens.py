"""The bearer tokens of a front, each with a name that may be said in its place.

Owns the comparison. Invariant: it takes as long for a token that is nearly right as for one that is not, whichever of
them it is; outside of here a token is its name.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from aiohttp import web

HOLDER = web.RequestKey("semievol.holder", str)
"""Set on a request that came with a token: its name."""


class Tokens:
    """Tokens by name."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = {name: secret.encode() for name, secret in secrets.items()}

    def holder(self, request: web.BaseRequest) -> str | None:
        """The name of the token that the request came with; None: of none of these."""
        # The name of the scheme is written in any case (RFC 9110).
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        given = rest.encode(errors="replace")
        found = None
        for name, secret in self._secrets.items():  # all of them: the time says nothing of which one it was
            if hmac.compare_digest(given, secret):
                found = name
        return found if scheme.lower() == "bearer" else None
