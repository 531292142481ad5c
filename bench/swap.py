"""What a swap costs those who ask meanwhile: 16 clients over two vLLM replicas while the serving adapter changes.

`python bench/swap.py [--swaps 6] [--seconds 5]`

A swap is all that a daemon does from the gate's decision on: the candidate is loaded into both replicas, answers the
fingerprint twice (before it is evaluated and before it is promoted), the alias moves, the old version is drained and
unloaded. Steady windows and swap windows of the same length alternate; latencies of each kind are pooled. vLLM is its
CPU build with the tests' tiny model, one thread each; servers, clients and replica set share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from semievol.types import GenerationRequest, Message
from semievold.serving.adapter_servers import HeldAdapter
from tests.replica_world import World, held, replica_world
from tests.servers import vllm

CLIENTS = 16
TOKENS = 16


class Clients:
    """Ask without pause; each request is bound to the version that serves when it begins."""

    def __init__(self, world: World, serving: str) -> None:
        self.serving = serving
        self.latencies: list[float] = []
        self.running: dict[str, int] = {}
        self._world = world
        self._tasks = [asyncio.create_task(self._ask(number)) for number in range(CLIENTS)]

    async def _ask(self, number: int) -> None:
        while True:
            adapter = self.serving
            self.running[adapter] = self.running.get(adapter, 0) + 1
            started = time.perf_counter()
            request = GenerationRequest((Message("user", f"question {number}"),), adapter, max_tokens=TOKENS)
            await self._world.generator.generate([request])  # a failure ends the benchmark: none is allowed
            self.latencies.append(time.perf_counter() - started)
            self.running[adapter] -= 1

    async def drained(self, adapter: str) -> None:
        while self.running.get(adapter, 0):  # noqa: ASYNC110 - a benchmark's own bookkeeping
            await asyncio.sleep(0.005)

    def take(self) -> list[float]:
        """The latencies since the last call."""
        for task in self._tasks:
            if task.done():
                task.result()
        taken, self.latencies = self.latencies, []
        return taken

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def swap(world: World, clients: Clients, old: HeldAdapter, new: HeldAdapter) -> float:
    """Seconds from the decision until every replica proved the new version."""
    decided = time.perf_counter()
    await world.replicas.load(new)
    proof = await world.replicas.prove(new)
    if not proof.passed or len(proof.replicas) != len(world.replicas.show()):
        raise SystemExit(f"not attested everywhere: {proof.reason}")
    attested = time.perf_counter() - decided
    clients.serving = new.name
    await world.replicas.keep(new, None)
    await clients.drained(old.name)
    await world.replicas.unload(old.name)
    return attested


async def measure(servers: list[vllm.VllmServer], directory: Path, options: argparse.Namespace) -> None:
    adapters = directory / "adapters"
    old, new = [await held(servers[0].model, adapters, seed) for seed in (1, 2)]
    async with replica_world(servers, adapters, watch_interval_s=1.0) as world:
        await world.replicas.keep(old, None)
        clients = Clients(world, old.name)
        await asyncio.sleep(options.seconds)  # warm
        clients.take()
        steady: list[float] = []
        swapping: list[float] = []
        attested: list[float] = []
        for _ in range(options.swaps):
            await asyncio.sleep(options.seconds)
            steady += clients.take()
            window = asyncio.create_task(asyncio.sleep(options.seconds))
            attested.append(await swap(world, clients, old, new))
            await window
            swapping += clients.take()
            old, new = new, old
        await clients.stop()
    report(steady, swapping, attested)


def report(steady: list[float], swapping: list[float], attested: list[float]) -> None:
    print(f"{'':<10} {'requests':>9} {'p50 ms':>9} {'p99 ms':>9}")
    for name, latencies in (("steady", steady), ("swapping", swapping)):
        print(f"{name:<10} {len(latencies):>9} {percentile(latencies, 50):>9.1f} {percentile(latencies, 99):>9.1f}")
    ratio = percentile(swapping, 99) / percentile(steady, 99)
    print(
        f"p99 while swapping is x{ratio:.2f} the steady one (claim: at most 1.2); no request failed\n"
        f"decision to all attested: median {statistics.median(attested):.2f} s, longest {max(attested):.2f} s"
    )


def percentile(latencies: list[float], percent: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(latencies, n=100)[percent - 1] * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a window")
    options = parser.parse_args()
    vllm.need_vllm()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = vllm.make_served_model(directory / "model")
        servers = [vllm.VllmServer(model, directory) for _ in range(2)]
        with vllm.running(*servers):
            asyncio.run(measure(servers, directory, options))


if __name__ == "__main__":
    main()
