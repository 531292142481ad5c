"""A daemon with 256 file descriptors answers /healthz at once while strangers do what they can without a token."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.daemon_process import DaemonProcess, tiny_config

pytestmark = pytest.mark.timeout(240)

SCRIPT = Path(__file__).parent / "few_descriptors.py"
CONNECTIONS = 300
BOMBS = 20
LOOKED_S = 12.0
WITHIN_S = 0.5
BOMB = gzip.compress(bytes(100_000_000))
FRONTS = ("api", "gateway")

SLOW = {
    "half a head": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", b"a"),
    "a slow body": (b"POST /v1/queries HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n", b" "),
    "no reader": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 500, b""),
    "odd chunks": (b"POST /v1/labels HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    directory = tmp_path_factory.mktemp("strangers")
    process = DaemonProcess(tiny_config(directory, trigger={"min_examples": 999}), script=SCRIPT)
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=2)


class Crowd:
    """Slow clients, which come again when they are cut, and bombs, until the end of the block."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self._stop = threading.Event()
        self._threads = [
            *(threading.Thread(target=self._be_slow, args=(part,)) for part in range(4)),
            threading.Thread(target=self._throw),
        ]
        self.cut = 0
        self.thrown = 0

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _be_slow(self, part: int) -> None:
        first, more = list(SLOW.values())[part]
        urls = itertools.cycle(self._urls)
        clients: list[socket.socket] = []
        while not self._stop.wait(0.5):
            while len(clients) < CONNECTIONS // len(SLOW):
                with contextlib.suppress(OSError):
                    client = connected(next(urls))
                    client.setblocking(False)
                    clients.append(client)
                    client.send(first)
            for client in list(clients):
                try:
                    client.send(more)
                except BlockingIOError:
                    continue
                except OSError:
                    self.cut += 1
                    clients.remove(client)
                    client.close()
        for client in clients:
            client.close()

    def _throw(self) -> None:
        head = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        paths = {"api": "/v1/queries", "gateway": "/v1/chat/completions"}
        while not self._stop.is_set():
            clients = []
            for number in range(BOMBS):
                with contextlib.suppress(OSError):
                    place = number % len(self._urls)
                    client = connected(self._urls[place])
                    clients.append(client)
                    sent = head.format(list(paths.values())[place]) + f"Content-Length: {len(BOMB)}\r\n\r\n"
                    client.sendall(sent.encode() + BOMB)
                    self.thrown += 1
            for client in clients:
                client.close()
            self._stop.wait(0.2)


def memory_kb(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0])


def test_health_is_answered_at_once_whatever_strangers_do(daemon: DaemonProcess) -> None:
    urls = [daemon.url(name) for name in FRONTS]
    before_kb = memory_kb(daemon.pid)
    slowest, busy, most_descriptors, asked = 0.0, 0.0, 0, 0
    with Crowd(urls) as crowd:
        end = time.monotonic() + LOOKED_S
        while time.monotonic() < end:
            for url in urls:
                started = time.monotonic()
                with connected(url) as client:
                    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert client.recv(1_000).startswith(b"HTTP/1.1 200 ")
                slowest = max(slowest, time.monotonic() - started)
                asked += 1
            most_descriptors = max(most_descriptors, len(os.listdir(f"/proc/{daemon.pid}/fd")))
            started = time.monotonic()
            time.sleep(0.02)
            busy = max(busy, time.monotonic() - started - 0.02)
    grown_mb = (memory_kb(daemon.pid) - before_kb) / 1024
    print(f"{asked} asked, slowest {slowest:.3f} s; {crowd.cut} cut, {crowd.thrown} bombs; {grown_mb:.0f} MB more")
    print(f"{most_descriptors} descriptors at most; this machine itself was late by {busy:.3f} s")
    assert slowest < WITHIN_S + 2 * busy
    assert crowd.cut > 100
    assert crowd.thrown >= BOMBS
    assert most_descriptors < 250
    assert grown_mb < 64
    assert "Too many open files" not in daemon.log(10_000)
    assert daemon.get("/v1/status").status_code == 200
    assert daemon.chat("red 1").status_code == 200


def test_what_is_no_http_costs_a_line_a_second(daemon: DaemonProcess) -> None:
    before = len(daemon.log(1_000_000).splitlines())
    started = time.monotonic()
    for number in range(300):
        for sent in (b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", b"GET \x1b]0;x\x07 HTTP/1.1\r\n\r\n", b"{}\r\n\r\n"):
            with contextlib.suppress(OSError), connected(daemon.url(FRONTS[number % 2])) as client:
                client.sendall(sent)
                client.recv(1_000)
    written = daemon.log(1_000_000).splitlines()[before:]
    assert 1 <= len(written) <= 2 * (time.monotonic() - started) + 4
    assert all(line.isprintable() for line in written)
