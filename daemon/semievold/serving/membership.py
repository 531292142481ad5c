"""Who the replicas are: a list of addresses, or a DNS name that is resolved again and again.

Owns the set of them, a task for each that has it looked at again and again, and waiting for what such a look shows. Not
what a look does: its owner says that. Invariants: the replicas known so far stay while their name cannot be resolved;
one that its name stands for no more stays for a while if it answers, for those that nobody else can answer. A name
loses all its addresses, one by one, when the agent of their node is restarted, and has them again within a minute.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from semievol.http.server_address import ServerAddress
from semievold.config.generation import GenerationConfig
from semievold.serving.replica import Replica

log = logging.getLogger(__name__)

LEAVING_S = 60.0
"""So long one that answers stays, after its name has ceased to stand for it."""


class Membership:
    """The replicas there are now."""

    def __init__(self, config: GenerationConfig, look: Callable[[Replica], Awaitable[None]]) -> None:
        """Ask nobody yet; `start` does.

        Args:
            config: addresses, key and intervals.
            look: asks one replica how it is.
        """
        self._config = config
        self._look = look
        self._replicas: dict[str, Replica] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """All that are configured, or that the name stands for."""
        return tuple(replica for replica in self._replicas.values() if replica.left_at is None)

    @property
    def with_leaving(self) -> tuple[Replica, ...]:
        """These, and those that leave."""
        return tuple(self._replicas.values())

    def get(self, name: str) -> Replica | None:
        return self._replicas.get(name)

    async def start(self) -> None:
        """Begin to look at the replicas."""
        await self._follow_addresses()
        self._watch = asyncio.create_task(self._keep_watching(), name="replicas")

    async def run(self, stop: asyncio.Event) -> None:
        """Until stopped; an unexpected end of the watch is raised here."""
        assert self._watch is not None
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, self._watch}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._watch.done() and not stop.is_set():
            self._watch.result()

    async def close(self) -> None:
        tasks = [*self._tasks.values(), *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake_all(self) -> None:
        """Have every replica looked at at once."""
        for replica in self._replicas.values():
            replica.wake.set()

    async def looked(self) -> None:
        """Wait until a look at some replica has ended."""
        async with self._changed:
            await self._changed.wait()

    async def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Until `condition` holds or the time is up; it is asked after every look at a replica."""
        deadline = time.monotonic() + timeout_s
        async with self._changed:
            while not condition():
                try:
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        await self._changed.wait()
                except TimeoutError:
                    return condition()
        return True

    async def _keep_watching(self) -> None:
        """Follow the addresses; a replica's own loop that ends is a defect of ours and ends this one."""
        while True:
            if self._tasks:
                done, _ = await asyncio.wait(
                    self._tasks.values(), timeout=self._config.dns_interval_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
            else:  # the name stands for nobody yet
                await asyncio.sleep(self._config.dns_interval_s)
            await self._follow_addresses()

    async def _follow_addresses(self) -> None:
        try:
            found = await addresses(self._config)
        except OSError as error:
            log.warning(
                "generation.dns: %s cannot be resolved (%s); the replicas known so far stay", self._config.dns, error
            )
            return
        self._let_leave({address.name for address in found})
        for address in found:
            if address.name not in self._replicas:
                replica = self._replicas[address.name] = Replica(address)
                task = asyncio.create_task(self._care_for(replica), name=f"replica-{address.name}")
                self._tasks[address.name] = task

    def _let_leave(self, listed: set[str]) -> None:
        """Part with who is not listed: at once if it does not answer, or rests, else after a while."""
        now = time.monotonic()
        for name, replica in list(self._replicas.items()):
            if name in listed:
                if replica.left_at is not None:
                    log.info("replica %s is among the name's addresses again", name)
                replica.left_at = None
                continue
            of_use = replica.answers and replica.resting is None
            if replica.left_at is None and of_use:
                log.info("replica %s is gone from the name's addresses; it is asked what no other can answer", name)
                replica.left_at = now
            if not of_use or replica.left_at is None or now > replica.left_at + LEAVING_S:
                log.info("replica %s is gone", name)
                self._tasks.pop(name).cancel()
                del self._replicas[name]

    async def _care_for(self, replica: Replica) -> None:
        """Look at it again and again; at once when it is woken."""
        while True:
            replica.wake.clear()
            await self._look(replica)
            replica.looks += 1
            async with self._changed:
                self._changed.notify_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.watch_interval_s):
                    await replica.wake.wait()


async def addresses(config: GenerationConfig) -> list[ServerAddress]:
    """The replicas that are configured; a name stands for all that it resolves to.

    Raises:
        OSError: `generation.dns` cannot be resolved.
    """
    urls: Sequence[str] = config.replicas
    if config.dns is not None:
        parts = urlsplit(config.dns)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        hosts = sorted({str(address[0]) for *_, address in found})
        urls = [f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host in hosts]
    return [ServerAddress.at(url, config.api_key, config.base_name) for url in urls]
