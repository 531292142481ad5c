"""Who the replicas are: a list of addresses, or a DNS name that is resolved again and again.

Owns the set of them, a task for each that has it looked at again and again, and waiting for what such a look shows. Not
what a look does: its owner says that. Invariant: the replicas known so far stay while their name cannot be resolved.
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
        for name in self._replicas.keys() - {address.name for address in found}:
            log.info("replica %s is gone from the name's addresses", name)
            self._tasks.pop(name).cancel()
            del self._replicas[name]
        for address in found:
            if address.name not in self._replicas:
                replica = self._replicas[address.name] = Replica(address)
                task = asyncio.create_task(self._care_for(replica), name=f"replica-{address.name}")
                self._tasks[address.name] = task

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
