"""What one client can take from the others and from labelling, on the generator in this process.

`python bench/fairness.py [--seconds 15] [--share 0.5] [--cache-tokens 16384] [--model-dir DIR]`

1. Memory: 16 answers to a prompt that fills the model's positions, and 16 of the longest answers, each in a process of
   its own. Their peak above the loaded model, against what `generation.cache_tokens` stands for (claim: at most 1.10).
2. Time: while one client asks for 16 answers of 4,096 tokens (as many as the positions hold), three ask without pause
   and labelling has always more, a fourth client asks a short question again and again, with pauses. Its time against
   its time alone (claim: at most 3). Labelling's part of the time that the engine works (claim: its share; the moment
   that clients are ahead by when they come is given back). And its rate against its rate alone: a batch that others
   come between finds less of its data in the processor's caches, which is nobody's share.

Both sides of each ratio are measured in the same process, one after the other, four times; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from semievol.config.method import ModelConfig
from semievol.engines.local import LocalGenerator, Serving
from semievol.engines.stepwise.turns import CREDIT_S
from semievol.types import GenerationRequest, Message
from tests.tiny_model import make_tiny_model

POSITIONS = 4_352
SHORT_TOKENS = 24
BATCH = 32


def client(turn: str, text: str, **settings: object) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), interactive=True, turn=turn, **settings)  # type: ignore[arg-type]


def generator(model: str, options: argparse.Namespace) -> LocalGenerator:
    return LocalGenerator(
        ModelConfig(name=model, dtype="float32", device="cpu"),
        threads=options.threads,
        cache_tokens=options.cache_tokens,
        serving=Serving(labelling_share=options.share),
    )


# --- memory ---------------------------------------------------------------------------------------------------------


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _begin_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak(model: str, options: argparse.Namespace, longest: bool, answer: Connection) -> None:
    """Sends bytes above the loaded model at the peak, and bytes of the budget."""
    from semievol.engines.stepwise.cache_budget import CacheCosts

    async def main() -> None:
        made = generator(model, options)
        await made.generate([client("first", "hello", max_tokens=4)])
        costs = CacheCosts.of(made._model)
        before = _status_bytes("VmRSS")
        _begin_peak()
        room = POSITIONS - 200
        text, tokens = ("x", room) if longest else ("x" * (room - 64), 32)
        with suppress(TimeoutError):
            async with asyncio.timeout(options.memory_seconds):
                await made.generate([client("one", text, samples=16, temperature=1.0, max_tokens=tokens)])
        answer.send((_status_bytes("VmHWM") - before, options.cache_tokens * costs.token_bytes))
        await made.close()

    asyncio.run(main())


def memory(model: str, options: argparse.Namespace) -> None:
    for longest in (False, True):
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=peak, args=(model, options, longest, sender))
        child.start()
        taken, budget = receiver.recv()
        child.join()
        kind = "16 of the longest answers" if longest else "16 answers to the longest prompt"
        print(
            f"memory, {kind}: {taken / 2**20:.0f} MiB above the model, budget {budget / 2**20:.0f} MiB: "
            f"x{taken / budget:.2f} (claim: at most 1.10)",
            flush=True,
        )


# --- time -----------------------------------------------------------------------------------------------------------


async def short_times(made: LocalGenerator, until: float) -> list[float]:
    times = []
    for number in itertools.count():
        if time.perf_counter() >= until and times:
            return times
        started = time.perf_counter()
        await made.generate([client("fourth", f"short {number}", max_tokens=SHORT_TOKENS)])
        times.append(time.perf_counter() - started)
        await asyncio.sleep(times[-1] * 3)
    raise AssertionError


async def labelled(made: LocalGenerator, until: float) -> float:
    """Requests for labelling answered, in tokens per second."""
    started, tokens = time.perf_counter(), 0
    for number in itertools.count():
        if time.perf_counter() >= until:
            return tokens / (time.perf_counter() - started)
        answers = await made.generate(
            [
                GenerationRequest(
                    (Message("user", f"label {number} {place} " * 8),),
                    samples=4,
                    temperature=0.7,
                    max_tokens=12,
                    seed=place,
                )
                for place in range(BATCH)
            ]
        )
        tokens += sum(len(each.token_ids) for answer in answers for each in answer)
    raise AssertionError


async def for_ever(work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await work()


class Worked:
    """Seconds that an engine worked for clients and for labelling."""

    def __init__(self, made: LocalGenerator) -> None:
        assert made._batching is not None
        self.clients = self.labelling = 0.0
        turns = made._batching._turns
        charge_clients, charge_labelling = turns.charge_clients, turns.charge_labelling

        def for_clients(tokens: Mapping[str, float], seconds: float) -> None:
            self.clients += seconds
            charge_clients(tokens, seconds)

        def for_labelling(seconds: float) -> None:
            self.labelling += seconds
            charge_labelling(seconds)

        turns.charge_clients, turns.charge_labelling = for_clients, for_labelling  # type: ignore[method-assign]


async def measure(model: str, options: argparse.Namespace) -> None:
    made = generator(model, options)
    await labelled(made, time.perf_counter() + 1)
    worked = Worked(made)
    shares: list[float] = []
    alone: list[float] = []
    beside: list[float] = []
    rates: list[tuple[float, float]] = []
    for _ in range(4):
        alone += await short_times(made, time.perf_counter() + options.seconds / 4)
        rate = await labelled(made, time.perf_counter() + options.seconds)
        room = POSITIONS - 100
        hog = client("hog", "x", samples=16, temperature=1.0, max_tokens=min(4096, room))
        others = [client(f"client {n}", "a question " * 8, max_tokens=64, seed=n) for n in range(3)]
        crowd = [
            asyncio.create_task(for_ever(lambda request=request: made.generate([request])))  # type: ignore[misc]
            for request in (hog, *others)
        ]
        until = time.perf_counter() + options.seconds
        worked.clients = worked.labelling = 0.0
        times, crowded = await asyncio.gather(short_times(made, until), labelled(made, until))
        beside += times
        rates.append((rate, crowded))
        # So far may clients that come be ahead, once: seconds over share, of both.
        ahead = CREDIT_S * options.share * (1 - options.share)
        shares.append((worked.labelling + ahead) / (worked.labelling + worked.clients))
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    await made.close()
    mine, theirs = statistics.median(alone) * 1e3, statistics.median(beside) * 1e3
    worst = sorted(beside)[int(0.95 * (len(beside) - 1))] * 1e3
    print(
        f"a short request: alone {mine:.1f} ms, beside the others {theirs:.1f} ms (95th percentile {worst:.1f} ms, "
        f"{len(beside)} requests): x{theirs / mine:.2f} (claim: at most 3)"
    )
    print(
        f"labelling: {statistics.median(shares):.3f} of the engine's time beside the others "
        f"(claim: at least its share, {options.share})"
    )
    ratio = statistics.median(now / before for before, now in rates)
    print(
        f"labelling: alone {statistics.median(each for each, _ in rates):.0f} tokens/s, beside the others "
        f"{statistics.median(each for _, each in rates):.0f} tokens/s: x{ratio:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of one run")
    parser.add_argument("--memory-seconds", type=float, default=60.0, help="longest a request for memory may take")
    parser.add_argument("--share", type=float, default=0.5, help="generation.labelling_share")
    parser.add_argument("--cache-tokens", type=int, default=16_384, help="generation.cache_tokens")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--model-dir", type=Path, help="a model with 4,352 positions; a small random one unless given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = options.model_dir or make_tiny_model(Path(directory) / "m", layers=8, hidden=256, positions=POSITIONS)
        memory(str(model), options)
        asyncio.run(measure(str(model), options))


if __name__ == "__main__":
    main()
