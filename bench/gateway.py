"""What the gateway costs: the same requests to the same server, directly and through the gateway, by 16 clients.

`python bench/gateway.py [--seconds 4] [--rounds 6] [--vllm [--model-dir DIR]]`

Against a server that answers at once, which shows the gateway's own cost, and with `--vllm` against vLLM (its CPU build
with the tests' tiny model, or the model of `--model-dir`). Server, gateway and clients are processes of their own. vLLM
has half of the cores to itself, gateway and clients the others: a model server computes on its own device, and does not
slow down because a gateway runs. Direct and gateway alternate, and so does who begins; medians over the rounds are
shown. The clients wait for each answer before they ask again; `paced` ones also pause, so that the latency is not that
of a queue. They write and read plain sockets, so that they leave their cores to the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from semievold.event_loop import run_loop

ROOT = Path(__file__).parents[1]
TOKEN = "token-of-the-benchmark"
ALIAS = "bench"
CLIENTS = 16
TOKENS = 16
PACE_S = 0.25
START_S = 600.0
SHORT = ("--max-model-len", "256")  # any model has as many positions


@dataclass(frozen=True)
class Target:
    """Where to ask, and by which model name."""

    name: str
    url: str
    model: str
    cpu_pid: int | None = None


@dataclass(frozen=True)
class Run:
    """One measurement."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


async def load(target: Target, seconds: float, *, stream: bool, pace_s: float) -> Run:
    """16 clients for so long; every answer is read to its end, and must be a good one."""
    latencies: list[float] = []
    stop = time.perf_counter() + seconds
    address = urlsplit(target.url)

    async def client(number: int) -> None:
        turns = [{"role": "user", "content": f"question {number}: what is my card balance?"}]
        body = {"model": target.model, "messages": turns, "max_tokens": TOKENS, "temperature": 0, "stream": stream}
        request = _request(address.netloc, {**body, "ignore_eos": True})
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.sleep(pace_s * number / CLIENTS)
        while (started := time.perf_counter()) < stop:
            writer.write(request)
            await _answer(reader)
            latencies.append(time.perf_counter() - started)
            if pace_s:
                await asyncio.sleep(pace_s)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    wall = time.perf_counter() - started
    latencies.sort()
    p99 = latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))]
    return Run(len(latencies) / wall, statistics.median(latencies) * 1e3, p99 * 1e3)


def _request(host: str, body: dict[str, Any]) -> bytes:
    payload = json.dumps(body).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {TOKEN}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


async def _answer(reader: asyncio.StreamReader) -> None:
    """Read one answer to its end, whole or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    if b"content-length:" in head:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        assert await reader.readexactly(length)
        return
    end = b""
    while not end.endswith(b"\r\n0\r\n\r\n"):
        part = await reader.read(65_536)
        assert part, "the answer broke off"
        end = (end + part)[-64:]


# --- the processes --------------------------------------------------------------------------------------------------


def run_instant(answer: Connection) -> None:
    """A server that answers at once, in vLLM's shape."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "word " * TOKENS}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
    base = {"id": "chatcmpl-1", "created": 1, "model": "base"}
    whole = json.dumps({**base, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    delta = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    event = json.dumps({**base, "object": "chat.completion.chunk", "choices": [delta]}).encode()

    async def chat(request: web.Request) -> web.StreamResponse:
        if not json.loads(await request.read())["stream"]:
            return web.Response(body=whole, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(TOKENS):
            await response.write(b"data: " + event + b"\n\n")
            await asyncio.sleep(0)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        answer.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    run_loop(main())


def run_gateway(upstream: str, base_model: str, answer: Connection) -> None:
    """The real gateway over one replica."""
    from semievol.http.server_address import ServerAddress
    from semievold.config.fronts import GatewayConfig
    from semievold.garbage import set_aside_what_was_built
    from semievold.gateway.front import Gateway, GatewayTools
    from semievold.gateway.proxy import OneServer, ProxyBackend
    from semievold.monitoring.metrics import Metrics
    from semievold.serving.alias import Alias
    from semievold.store.aliases import AliasState

    async def main() -> None:
        config, metrics = GatewayConfig(port=0), Metrics("bench")
        pool = OneServer(ServerAddress("replica", upstream, {"Authorization": "Bearer x"}, base_model))
        tools = GatewayTools(ProxyBackend(pool, config, metrics), None)  # type: ignore[arg-type]
        set_aside_what_was_built()  # as the daemon does
        gateway = Gateway(config, ALIAS, tools, Alias(AliasState(None, None, 1)), metrics, TOKEN)
        await gateway.run(lambda host, port: answer.send(f"http://{host}:{port}"), asyncio.Event())

    run_loop(main())


@contextmanager
def process(run: Any, *arguments: Any) -> Iterator[tuple[str, int]]:
    """Run a server as a process of its own; where it listens, and its process id."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    started = context.Process(target=run, args=(*arguments, sender), daemon=True)
    started.start()
    try:
        if not receiver.poll(60):
            raise SystemExit("a server of the benchmark did not start")
        assert started.pid is not None
        yield receiver.recv(), started.pid
    finally:
        started.terminate()
        started.join()


# --- the comparison -------------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """User and system time of a process, seconds."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def compare(title: str, upstream: str, base_model: str, options: argparse.Namespace) -> None:
    print(f"\n{title}\n{'':<22} {'requests/s':>22} {'p50 ms':>20} {'p99 ms':>20}")
    print(f"{'':<22}" + f" {'direct':>10} {'gateway':>11}" + f" {'direct':>9} {'gateway':>10}" * 2)
    with process(run_gateway, upstream, base_model) as (url, pid):
        targets = [Target("direct", upstream, base_model), Target("gateway", url, ALIAS, pid)]
        for stream in (False, True):
            for pace_s in (0.0, PACE_S):
                kind = f"{'stream' if stream else 'whole'}, {'paced' if pace_s else 'saturated'}"
                measure(kind, targets, options, stream=stream, pace_s=pace_s)


def measure(kind: str, targets: list[Target], options: argparse.Namespace, *, stream: bool, pace_s: float) -> None:
    runs: dict[str, list[Run]] = {target.name: [] for target in targets}
    used = asked = 0.0
    for target in targets:
        run_loop(load(target, 1.0, stream=stream, pace_s=pace_s))  # warm
    for turn in range(options.rounds):
        for target in targets if turn % 2 == 0 else targets[::-1]:
            before = 0.0 if target.cpu_pid is None else cpu_s(target.cpu_pid)
            run = run_loop(load(target, options.seconds, stream=stream, pace_s=pace_s))
            runs[target.name].append(run)
            if target.cpu_pid is not None:
                used += cpu_s(target.cpu_pid) - before
                asked += run.requests_per_s * options.seconds
    direct, gateway = runs["direct"], runs["gateway"]

    def medians(name: str) -> tuple[float, float]:
        return tuple(statistics.median(getattr(run, name) for run in some) for some in (direct, gateway))  # type: ignore[return-value]

    rate, p50, p99 = medians("requests_per_s"), medians("p50_ms"), medians("p99_ms")
    ratio = statistics.median(g.requests_per_s / d.requests_per_s for d, g in zip(direct, gateway, strict=True))
    more = statistics.median(g.p50_ms - d.p50_ms for d, g in zip(direct, gateway, strict=True))
    print(
        f"{kind:<22} {rate[0]:>10.1f} {rate[1]:>11.1f} {p50[0]:>9.2f} {p50[1]:>10.2f} {p99[0]:>9.1f} {p99[1]:>10.1f}   "
        f"throughput x{ratio:.3f}, p50 {more:+.2f} ms, gateway CPU {used / asked * 1e3:.2f} ms/request",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one run")
    parser.add_argument("--rounds", type=int, default=6, help="runs of each kind")
    parser.add_argument("--vllm", action="store_true", help="also against vLLM's CPU build")
    parser.add_argument("--model-dir", type=Path, help="what vLLM serves; the tests' tiny model unless given")
    options = parser.parse_args()
    with process(run_instant) as (upstream, _):
        compare("a server that answers at once", upstream, "base", options)
    if options.vllm:
        sys.path.insert(0, str(ROOT))
        from tests.servers import vllm

        vllm.need_vllm()
        with tempfile.TemporaryDirectory() as directory:
            model = options.model_dir or vllm.make_served_model(Path(directory) / "model")
            dtype = "bfloat16" if options.model_dir else "float32"
            cores = sorted(os.sched_getaffinity(0))
            half = max(1, len(cores) // 2)
            server = vllm.VllmServer(model, Path(directory), dtype=dtype, threads=half, arguments=SHORT)
            # What is started inherits the cores of who starts it.
            os.sched_setaffinity(0, cores[:half])
            server.start()
            os.sched_setaffinity(0, cores[half:] or cores)
            try:
                server.wait(START_S)
                compare(f"vLLM, {options.model_dir or 'a tiny model'}", server.url, "base", options)
            finally:
                server.stop()


if __name__ == "__main__":
    main()
