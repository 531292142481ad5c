"""Who a client is to a version on trial: what stays the same from one request of theirs to the next.

Owns the name alone, which no log and no state gets; whom a share takes is the alias's (`semievold.store.aliases`).
Invariant: one client has one name, on whichever gateway, and who shares a token with others is told from them by what
the requests say, or else is one client a conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from semievold.config.fronts import DEFAULT
from semievold.gateway.call import prompt_field
from semievold.web.tokens import HOLDER

CLIENT_HEADER = "x-semievol-client"
USER_FIELDS = ("user", "safety_identifier")
"""By which clients of OpenAI's API say on whose behalf they ask."""


def trial_name(request: web.Request, path: str, body: Mapping[str, Any]) -> str:
    """By the header, the field `user`, the named token; else by what the conversation begins with."""
    holder = request.get(HOLDER, DEFAULT)
    if given := request.headers.get(CLIENT_HEADER):
        return f"{holder} header {given}"
    for field in USER_FIELDS:
        if isinstance(given := body.get(field), str) and given:
            return f"{holder} user {given}"
    if holder != DEFAULT:
        return f"{holder} token"
    begin = json.dumps(_begin(body.get(prompt_field(path))), sort_keys=True)
    return f"{holder} conversation {begin}"


def _begin(asked: Any) -> Any:
    """Up to the first turn of the user: it is in every later request of the conversation too.

    Of a prompt all, also where it is a list of texts or of token ids: most begin with the same token.
    """
    if not isinstance(asked, list) or not any(isinstance(turn, dict) for turn in asked):
        return asked
    for place, turn in enumerate(asked):
        if isinstance(turn, dict) and turn.get("role") == "user":
            return asked[: place + 1]
    return asked[:1]
