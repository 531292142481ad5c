"""Slow is not dead: what a daemon with default settings labels while its vLLM servers run at a tenth of their speed.

`python bench/slow_server.py [--brake 10] [--seconds 90] [--model-dir DIR]`

Two vLLM replicas (the CPU build), each behind a proxy that counts and can brake. First a bare client finds the full
speed: the best of several fixed numbers of requests at a time; and, with both proxies braked to a tenth of it, delays
included, the best that is to be had then, on two replicas and on one. Then a real `semievold` (queries from its local
stream, the base model, two requests a query and self-justification) starts under the brake and labels; the brake is let
go and drawn again; one replica leaves. Claims: labels from the first minute on, at 0.80 or more of the bare client's
speed with two replicas and with one; no answered request is asked again; within 60 s after the brake is off, 0.80 of
the speed that it has when it has been off for long.

By default the model is the tests' tiny one: the brake, not the model, decides what is measured, and a stretch of a
minute then holds enough answers. With a real model (--model-dir) take longer stretches.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from parts.braking_proxy import BrakingProxy, Counts

from semievol.engines.cpu import has_bfloat16
from tests.daemon_process import COLOURS, DaemonProcess, tiny_config
from tests.servers import vllm

AT_A_TIME = (1, 4, 8, 16, 32)
LEAST_SHARE = 0.8
WITHIN_S = 60.0
WINDOW_S = 5.0
PUBLISHED_AT_ONCE = 500


class Bare:
    """A client that keeps a fixed number of requests at each server; every request is new."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    async def best(self, urls: Sequence[str], seconds: float, numbers: Sequence[int] = AT_A_TIME) -> tuple[float, int]:
        """The most answers a second, and with how many requests at a time on each server."""
        return max([(await self.speed(urls, number, seconds), number) for number in numbers])

    async def speed(self, urls: Sequence[str], at_a_time: int, seconds: float) -> float:
        """Answers a second; those that are under way at the end are left."""
        answered = 0

        async def ask(session: aiohttp.ClientSession, url: str) -> None:
            nonlocal answered
            while True:
                number = next(self._numbers)
                body = {
                    "model": "base",
                    "messages": [{"role": "user", "content": f"{COLOURS[number % 4]} bare {number}"}],
                    "max_tokens": 8,
                    "temperature": 1.0,
                    "n": 1 + number % 2,
                    "seed": number,
                    "logprobs": True,
                }
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    assert response.status == 200, await response.text()
                    await response.json()
                answered += 1

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(ask(session, url)) for url in urls for _ in range(at_a_time)]
            await asyncio.sleep(min(2.0, seconds / 4))  # the line in front of the brake fills
            began, before = time.monotonic(), answered
            await asyncio.sleep(seconds)
            rate = (answered - before) / (time.monotonic() - began)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [each for each in ended if isinstance(each, Exception)]
        if failures:
            raise failures[0]
        return rate


class Labels:
    """What the daemon has stored, read from its state."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self._file = daemon.data / "state.db"

    def count(self) -> int:
        with sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=10.0) as connection:
            return int(connection.execute("SELECT count(*) FROM pseudo_labels").fetchone()[0])


async def publish(daemon: DaemonProcess, count: int) -> None:
    for start in range(0, count, PUBLISHED_AT_ONCE):
        records = [
            {"id": f"q{n}", "question": f"{COLOURS[n % 4]} {n}"}
            for n in range(start, min(count, start + PUBLISHED_AT_ONCE))
        ]
        await asyncio.to_thread(daemon.publish, "queries", records)


async def labels_a_second(labels: Labels, seconds: float) -> float:
    began, before = time.monotonic(), labels.count()
    await asyncio.sleep(seconds)
    return (labels.count() - before) / (time.monotonic() - began)


async def since_release(labels: Labels, full_after_s: float, full_for_s: float) -> tuple[float, float]:
    """(seconds until a window first had LEAST_SHARE of the full speed, the full speed in labels a second).

    The full speed is that of a stretch long after the brake was let go, which is now.
    """
    began = time.monotonic()
    seen = [(0.0, labels.count())]
    while seen[-1][0] < full_after_s + full_for_s:
        await asyncio.sleep(0.5)
        seen.append((time.monotonic() - began, labels.count()))
    start = next(each for each in seen if each[0] >= full_after_s)
    full = (seen[-1][1] - start[1]) / (seen[-1][0] - start[0])
    for at, count in seen:
        later = next((each for each in seen if each[0] >= at + WINDOW_S), None)
        if later is not None and (later[1] - count) / (later[0] - at) >= LEAST_SHARE * full:
            return at + WINDOW_S, full
    return float("inf"), full


async def measure(servers: Sequence[vllm.VllmServer], directory: Path, options: argparse.Namespace) -> bool:
    ours, theirs, bare = Counts(), Counts(), Bare()
    proxies = [BrakingProxy(server.url, theirs) for server in servers]
    for proxy in proxies:
        await proxy.start()
    urls = [proxy.url for proxy in proxies]
    await bare.speed(urls, 4, 5.0)  # the first requests after a start wait for compilation
    full, at_full = await bare.best(urls, options.probe_seconds)
    alone = await bare.speed(urls[:1], 1, options.probe_seconds)

    braked = full / options.brake / len(proxies)
    delay_s = (options.brake - 1) / alone  # a server so many times slower takes so much longer also for one request
    for proxy in proxies:
        proxy.brake(braked, delay_s)
    print(
        f"full speed: {full:.1f} answers/s on two replicas ({at_full} at a time on each), {alone:.1f} one by one "
        f"on one; braked to {braked:.2f} on each, every answer {delay_s:.2f} s later",
        flush=True,
    )
    several = [number for number in AT_A_TIME if number >= 4]
    theirs_two, at_two = await bare.best(urls, options.probe_seconds * 2, several)
    theirs_one, at_one = await bare.best(urls[:1], options.probe_seconds * 2, several)

    config = tiny_config(
        directory,
        generation={"kind": "vllm", "replicas": urls, "threads": None},
        labelling={},
        rounds={"wait_for_warm": False},
        model={"name": str(servers[0].model)},
    )
    daemon = DaemonProcess(_with_default_labelling(config))
    daemon.start()
    try:
        await asyncio.to_thread(daemon.wait_ready, 300.0)
        for proxy in proxies:  # after the warm-up, which asks every replica the same
            proxy.counts = ours
        labels = Labels(daemon)
        await publish(daemon, options.queries)
        began = time.monotonic()
        while labels.count() == 0:
            if time.monotonic() - began > WITHIN_S:
                raise SystemExit(f"no label within {WITHIN_S:.0f} s\n{daemon.log()}")
            await asyncio.sleep(0.1)
        first_s = time.monotonic() - began
        answered, two_began = ours.answered.total(), time.monotonic()
        two = await labels_a_second(labels, options.seconds)
        two_answers = (ours.answered.total() - answered) / (time.monotonic() - two_began)
        print(daemon.status()["answers_a_minute"], "answers a minute,", daemon.status()["queries_waiting"], "waiting")
        a_label = two_answers / two if two else float("nan")

        for proxy in proxies:
            proxy.release()
        back_s, own_full = await since_release(labels, WITHIN_S + 10.0, 20.0)

        for proxy in proxies:
            proxy.brake(braked, delay_s)
        await proxies[1].stop()
        await asyncio.sleep(10.0)
        answered, one_began = ours.answered.total(), time.monotonic()
        one = await labels_a_second(labels, options.seconds)
        one_answers = (ours.answered.total() - answered) / (time.monotonic() - one_began)
        log = [line for line in daemon.log(400).splitlines() if "answers a minute" in line or "waiting" in line]
    finally:
        await asyncio.to_thread(daemon.stop)
        for proxy in proxies[:1]:
            await proxy.stop()
    share_two, share_one = two * a_label / theirs_two, one * a_label / theirs_one
    print(*(line for line in log[-4:]), sep="\n")
    print(
        f"first label after {first_s:.1f} s; {a_label:.2f} answers a label\n"
        f"two replicas: {two:.2f} labels/s, {two_answers:.2f} answers/s; bare client {theirs_two:.2f} answers/s with "
        f"{at_two} at a time on each: x{share_two:.2f} (claim: at least {LEAST_SHARE:.2f})\n"
        f"one replica: {one:.2f} labels/s, {one_answers:.2f} answers/s; bare client {theirs_one:.2f} answers/s with "
        f"{at_one} at a time: x{share_one:.2f} (claim: at least {LEAST_SHARE:.2f})\n"
        f"answered requests that were asked again: {ours.twice} (claim: 0)\n"
        f"at full speed ({own_full:.1f} labels/s) {back_s:.0f} s after the brake was off (claim: within "
        f"{WITHIN_S:.0f} s)"
    )
    return min(share_two, share_one) >= LEAST_SHARE and ours.twice == 0 and back_s <= WITHIN_S


def _with_default_labelling(config: Path) -> Path:
    """As a user would have it: nothing is set that is not needed to find the servers."""
    import yaml

    sections = yaml.safe_load(config.read_text())
    for section in ("labelling", "selection", "trigger", "training", "labels", "gate", "rollout"):
        sections.pop(section, None)
    sections["generation"].pop("threads")
    config.write_text(yaml.safe_dump(sections))
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brake", type=float, default=10.0, help="how many times slower")
    parser.add_argument("--seconds", type=float, default=90.0, help="of labelling in each stretch")
    parser.add_argument("--probe-seconds", type=float, default=5.0, help="of the bare client at each number")
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--model-dir", type=Path, default=None, help="what vLLM serves; without it, a tiny model")
    options = parser.parse_args()
    vllm.need_vllm()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = options.model_dir or vllm.make_served_model(directory / "served")
        dtype = "bfloat16" if options.model_dir and has_bfloat16() else "float32"
        servers = [vllm.VllmServer(model, directory, dtype=dtype, threads=1) for _ in range(2)]
        with vllm.running(*servers):
            held = asyncio.run(measure(servers, directory, options))
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
