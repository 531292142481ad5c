"""Who leads: keeps the controller's lease for this process, or waits for it as a hot standby.

Owns the renewal and what this process believes about its lease. What is believed may be out of date (a process can
stand still for minutes); what is written is safe nevertheless: every write of the controller goes through `check`.
Invariant: a write is bound to the term in which the work that makes it was begun.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from sqlalchemy import Connection

from semievol.errors import SemiEvolError, TransientError
from semievold.errors import LeaseLost
from semievold.retry import set_within
from semievold.store.leases import LeaseStore

log = logging.getLogger(__name__)

RETRY_S = 1.0
# Set where the work of a term begins; tasks and threads that are started from there inherit it.
_term: ContextVar[int | None] = ContextVar("term", default=None)


def holder_name() -> str:
    """A name that no other process has, and that tells an operator which one it is."""
    return f"{socket.gethostname()[:100]}/{os.getpid()}/{secrets.token_hex(3)}"


class ControlLease:
    """The lease of one process.

    Args:
        ttl_s: how long the lease outlives its last renewal.
        exclusive: a kernel lock keeps every other controller away already: the lease is taken at once, whoever seems to
            hold it (it died), and needs no renewal.
        monotonic: seconds by a clock that nobody sets.
    """

    def __init__(
        self,
        store: LeaseStore,
        ttl_s: float,
        *,
        exclusive: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl_s = math.inf if exclusive else ttl_s
        self._exclusive = exclusive
        self._monotonic = monotonic
        self._epoch: int | None = None
        self._valid_until = 0.0
        self.holder = holder_name()
        self.problem: str | None = None
        """Why the lease could not be asked for; None: it was."""

    @property
    def term(self) -> int | None:
        """The epoch in which this process leads now; None: it stands by."""
        return self._epoch if self._monotonic() < self._valid_until else None

    def begin(self, term: int) -> None:
        """What the calling task does from now on, and the tasks and threads that it starts, is work of this term."""
        _term.set(term)

    def check(self, connection: Connection) -> None:
        """Refuse a write of a term that has ended (see semievold.store.database.Database.checked).

        Raises:
            LeaseLost: this process does not lead, or did not when the work was begun.
        """
        term = _term.get()
        if term is None:
            raise LeaseLost("this process does not lead: only the leader may write this")
        self._store.check(connection, self.holder, term)

    async def run(self, stop: asyncio.Event) -> None:
        """Renew or ask for the lease until stopped, then give it up, so that a standby takes over at once."""
        try:
            while not stop.is_set():
                await self._ask()
                wait_s = min(self._ttl_s / 3, RETRY_S) if self.problem else self._ttl_s / 3
                if math.isinf(wait_s):
                    await stop.wait()
                else:
                    await set_within(stop, wait_s)
        finally:
            await self._give_up()

    async def while_leading(
        self,
        look: Callable[[], Awaitable[None]],
        every_s: float,
        stop: asyncio.Event,
        log: logging.Logger,
        what: str,
        stands_by: Callable[[], None] = lambda: None,
    ) -> None:
        """Have `look` done every so often, in the term of then, until stopped; `stands_by` where another leads.

        What one look meets is told to `log`, and the next one tries again; a defect of ours ends it.
        """
        while not await set_within(stop, every_s):
            if self.term is None:
                stands_by()
                continue
            self.begin(self.term)
            try:
                await look()
            except LeaseLost as lost:
                log.info("%s: %s", what, lost)
            except SemiEvolError as error:
                log.warning("%s: %s; the next look tries again", what, error)

    async def _ask(self) -> None:
        # Counted from before the call, so that the end is seen here no later than in the database.
        valid_until = self._monotonic() + self._ttl_s
        try:
            if self._epoch is None:
                self._epoch = await asyncio.to_thread(
                    lambda: self._store.acquire(self.holder, self._ttl_s, seize=self._exclusive)
                )
            elif not await asyncio.to_thread(self._store.renew, self.holder, self._epoch, self._ttl_s):
                log.warning("the lease was taken over; standing by")
                self._epoch = None
        except TransientError as error:
            if self.problem is None:
                log.warning("the lease cannot be asked for: %s", error)
            self.problem = str(error)
            return
        self.problem = None
        if self._epoch is not None:
            self._valid_until = valid_until

    async def _give_up(self) -> None:
        epoch, self._epoch, self._valid_until = self._epoch, None, 0.0
        if epoch is None:
            return
        try:
            await asyncio.to_thread(self._store.release, self.holder, epoch)
        except TransientError as error:
            log.warning("the lease could not be given up; it runs out by itself: %s", error)
