"""Which connections a front keeps: how many from one address and in all, and which one goes when another comes.

Owns the counting and the choice, no socket. A connection is held by a client from the moment when a request with the
right token came until its answer has gone, and waits for the rest of the time: with half a head, without a token, or
with nothing to say. Invariant: one that is held is never cut for another's sake, and a newcomer always gets in.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from semievold.config.fronts import ServerConfig

GRACE_S = 0.25
"""So long a newcomer is let speak before it can be cut for another: what it sent may not have been read yet."""
SPARE = 8
"""Beyond `max_connections`, for those who have not shown a token: /healthz answers however many clients are served."""
SWEEP_S = 1.0
_OURS = 128
"""File descriptors that the rest of the process needs: state, stream, index, model."""


class Waiting(Protocol):
    """A connection, as far as the choice goes."""

    address: str
    since: float
    """Of the event loop's clock: when it began to wait."""

    def cut(self) -> None:
        """Close it at once."""
        ...

    def close_unless_asked(self) -> None:
        """Close it if nothing has come that is to be answered."""
        ...

    def overdue(self, now: float) -> bool:
        """Whether its client had its time."""
        ...


class Connections:
    """The connections of one front."""

    def __init__(self, config: ServerConfig, clock: Callable[[], float], descriptors: int | None = None) -> None:
        room = max(_OURS, (descriptors or open_file_limit()) - _OURS)
        # A request of the gateway may need a second descriptor, to a replica; the other front needs some too.
        self.most = min(config.max_connections, room // 4)
        self.most_of_one = min(config.max_connections_per_address, max(1, self.most // 2))
        self._clock = clock
        self._all: set[Waiting] = set()
        self._waiting: dict[str, dict[Waiting, None]] = {}
        """By address, those that wait longest first."""
        self._held = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self.parting = False
        """Each is closed with its next answer."""

    def waiting(self) -> list[Waiting]:
        """Those that wait, of all addresses."""
        return [connection for crowd in self._waiting.values() for connection in crowd]

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, connection: Waiting) -> None:
        """A connection was made; one that waits may be cut for it."""
        self._all.add(connection)
        self.wait(connection)
        own = self._waiting[connection.address]
        if len(own) > self.most_of_one:
            self._cut_oldest(own, at_once=len(own) > 2 * self.most_of_one)
        if len(self._all) > self.most:
            self._cut_oldest(self._crowd(), at_once=len(self._all) > 2 * self.most)

    def leave(self, connection: Waiting) -> None:
        """It is closed."""
        if connection in self._all:
            self._all.remove(connection)
            if not self._gone(connection):
                self._held -= 1

    def wait(self, connection: Waiting) -> None:
        """It has nothing that is ours to finish: it is the last that may be cut."""
        if connection in self._all:
            self._gone(connection)
            connection.since = self._clock()
            self._waiting.setdefault(connection.address, {})[connection] = None

    def hold(self, connection: Waiting) -> bool:
        """A request came with the right token. False: too many are held already, and it has to be sent away."""
        if connection not in self._all or not self._is_waiting(connection):
            return True
        if self._held >= self.most - min(SPARE, self.most // 2):
            return False
        self._gone(connection)
        self._held += 1
        return True

    def release(self, connection: Waiting) -> None:
        """The answer to its request has gone."""
        if connection in self._all:
            if not self._is_waiting(connection):
                self._held -= 1
            self.wait(connection)

    def look(self) -> None:
        """Cut those whose time is over, and those that a burst left beyond the bound."""
        now = self._clock()
        for connection in [each for each in self._all if each.overdue(now)]:
            connection.cut()
        while len(self._all) > self.most and self._waiting and self._cut_oldest(self._crowd()):
            pass

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look every second, until `stop`."""
        self.look()
        self._sweeping = loop.call_later(SWEEP_S, self.start, loop)

    def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _crowd(self) -> dict[Waiting, None]:
        """Those that wait of the address that has most of them."""
        return max(self._waiting.values(), key=len)

    def _cut_oldest(self, crowd: dict[Waiting, None], *, at_once: bool = False) -> bool:
        """Cut the one that waits longest, if it had its time to speak, or is not to get it."""
        oldest = next(iter(crowd))
        if not at_once and self._clock() - oldest.since <= GRACE_S:
            return False
        self._gone(oldest)
        self._all.discard(oldest)
        oldest.cut()
        return True

    def _is_waiting(self, connection: Waiting) -> bool:
        return connection in self._waiting.get(connection.address, ())

    def _gone(self, connection: Waiting) -> bool:
        """Take it from those that wait; whether it was among them."""
        crowd = self._waiting.get(connection.address)
        if crowd is None or connection not in crowd:
            return False
        del crowd[connection]
        if not crowd:
            del self._waiting[connection.address]
        return True


def address_of(peer: object) -> str:
    """Who a connection counts for: its address, or the /64 network of an IPv6 one, which is one customer's."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    if ":" not in host:
        return host
    with suppress(ValueError):
        parsed = ipaddress.IPv6Address(host.partition("%")[0])
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return host


def open_file_limit() -> int:
    """How many file descriptors this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 1 << 16
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (1 << 20) if soft == resource.RLIM_INFINITY else soft


def raise_open_file_limit() -> None:
    """Take what the system allows: many service managers start with 1,024 and allow far more to who asks."""
    if os.name != "posix":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
