"""Who a client is: by name in this process, and in words that say nothing to who reads the stream or the state."""

from __future__ import annotations

import hashlib

from aiohttp import web

from semievold.config.fronts import DEFAULT
from semievold.web.connections import address_of
from semievold.web.tokens import HOLDER


def client_name(request: web.Request) -> str:
    """Who asks: the holder of a named token, whatever addresses it has; of the token that many may have, an address,
    or its network where that is one customer's.
    """
    holder: str = request.get(HOLDER, DEFAULT)
    if holder != DEFAULT:
        return holder
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return f"{DEFAULT} {address_of(peer)}"


def client_of(request: web.Request, secret: bytes) -> str:
    """32 hex digits, by a hash with the key `secret` (at most 64 bytes): the holder of a named token, whatever
    addresses it has; of the token that many may have, an address.
    """
    return hashlib.blake2b(client_name(request).encode(), key=secret, digest_size=16).hexdigest()
