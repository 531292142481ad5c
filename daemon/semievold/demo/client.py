"""The demo's hands: starts the daemon as a process, feeds it, asks its gateway like any client would.

Owns the child process, the HTTP session and the measuring of memory; not the story (scenario).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from semievol.errors import SemiEvolError, TransientError
from semievol.types import Example, Query
from semievold.demo.settings import ALIAS, INSTRUCTION, THREADS_THAT_YIELD

START_S = 600.0
ASKED_AT_ONCE = 32
SAMPLE_S = 5.0


class DemoError(SemiEvolError):
    """The demo cannot go on; the text says where to look."""


class ConflictError(DemoError):
    """What was asked of the daemon is not so any more, or was asked before."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the gateway."""

    text: str
    adapter: str


@dataclass(slots=True)
class Memory:
    """Resident memory of the demo's processes together, bytes; the peak over all samples.

    Pages that several processes share (torch's libraries) count once, as they take memory once: the kernel's
    proportional set size where there is one, else the resident set size.
    """

    now: int = 0
    peak: int = 0
    _next: float = 0.0

    def sample(self) -> None:
        """Add up this process and all its descendants; every few seconds at most: the kernel walks all their pages."""
        import psutil

        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SAMPLE_S
        total = 0
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            try:
                full = process.memory_full_info()
                total += getattr(full, "pss", full.rss)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        self.now, self.peak = total, max(self.peak, total)


@dataclass
class DaemonClient:
    """One daemon process and the way to talk to it; an async context manager."""

    config: Path
    data: Path
    memory: Memory = field(default_factory=Memory)
    _process: asyncio.subprocess.Process | None = None
    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> DaemonClient:
        self.data.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "semievold.commands.cli", "run", "--config", str(self.config)),
                stdout=log,
                stderr=log,
                env={**os.environ, **THREADS_THAT_YIELD},
            )
        try:
            await self._wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def log(self) -> Path:
        return self.data / "daemon.log"

    @property
    def endpoints(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.data / "endpoints.json").read_text())
        return found

    async def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def wait_for_exit(self) -> None:
        if self._process is not None:
            await self._process.wait()

    def check_alive(self) -> None:
        """Raise when the daemon has ended.

        Raises:
            DemoError: with the last line of its log.
        """
        if self._process is not None and self._process.returncode is not None:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise DemoError(f"the daemon ended with code {self._process.returncode}: {''.join(last)} (log: {self.log})")

    async def get(self, path: str) -> Any:
        return await self._call("GET", "api", path, None)

    async def post(self, path: str, body: Any) -> Any:
        return await self._call("POST", "api", path, body)

    async def publish_queries(self, queries: Sequence[Query]) -> None:
        await self.post("/v1/queries", {"records": [{"id": q.id, "question": q.question} for q in queries]})

    async def publish_labels(self, examples: Sequence[Example]) -> None:
        records = [
            {
                "id": e.id,
                "question": e.query.question,
                "answer": e.answer,
                "source": e.source,
                **({} if e.query.category is None else {"category": e.query.category}),
            }
            for e in examples
        ]
        await self.post("/v1/labels", {"records": records})

    async def ask(self, question: str, user: str | None = None) -> Reply:
        """Ask the alias as a client would: closed book, greedy; in the name of `user`, where one is given.

        Raises:
            TransientError: the gateway refused or did not answer.
        """
        turns = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": question},
        ]
        body: dict[str, Any] = {"model": ALIAS, "messages": turns, "temperature": 0, "max_tokens": 8}
        if user is not None:
            body["user"] = user
        session, url, headers = self._front("gateway")
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
            if response.status != 200:
                raise TransientError(f"the gateway answered {response.status}: {(await response.text())[:200]}")
            text = (await response.json())["choices"][0]["message"]["content"]
            return Reply(text, response.headers["x-semievol-adapter"])

    async def ask_all(self, questions: Sequence[str]) -> list[Reply]:
        """Ask many at once, a bounded number at a time."""
        room = asyncio.Semaphore(ASKED_AT_ONCE)

        async def one(question: str) -> Reply:
            async with room:
                return await self.ask(question)

        return await asyncio.gather(*(one(question) for question in questions))

    async def _wait_ready(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600))
        (self.data / "endpoints.json").unlink(missing_ok=True)
        try:
            async with asyncio.timeout(START_S):
                while True:
                    self.check_alive()
                    try:
                        if (await self.get("/readyz"))["ready"] and "gateway" in self.endpoints:
                            return
                    except (aiohttp.ClientError, FileNotFoundError, KeyError):
                        pass
                    self.memory.sample()
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise DemoError(f"the daemon was not ready within {START_S:.0f} s (log: {self.log})") from None

    def _front(self, front: str) -> tuple[aiohttp.ClientSession, str, dict[str, str]]:
        assert self._session is not None
        token = (self.data / f"{front}.token").read_text().strip()
        return self._session, self.endpoints[front], {"Authorization": f"Bearer {token}"}

    async def _call(self, method: str, front: str, path: str, body: Any) -> Any:
        session, url, headers = self._front(front)
        async with session.request(method, url + path, json=body, headers=headers) as response:
            if response.status >= 500:
                raise aiohttp.ClientError(f"{path}: {response.status}")
            value = await response.json()
            if response.status >= 400:
                problem = ConflictError if response.status == 409 else DemoError
                raise problem(f"{method} {path}: {value['error']['message'] if 'error' in value else value}")
            return value
