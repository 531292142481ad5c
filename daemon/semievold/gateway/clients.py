"""Who a client is, in words that say nothing to those who read the stream, the state or a metric."""

from __future__ import annotations

import hashlib

from aiohttp import web

from semievold.web.connections import address_of
from semievold.web.tokens import DEFAULT, HOLDER


def client_of(request: web.Request, secret: bytes) -> str:
    """32 hex digits, by a hash with the key `secret` (at most 64 bytes): the holder of a named token, whatever
    addresses it has; of the token that many may have, an address.
    """
    holder = request.get(HOLDER, DEFAULT)
    if holder == DEFAULT:
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        holder = f"{DEFAULT} {address_of(peer)}"
    return hashlib.blake2b(holder.encode(), key=secret, digest_size=16).hexdigest()
