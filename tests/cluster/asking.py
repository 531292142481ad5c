"""A client of the gateway, run in a pod of its own by the daemon's image: asks until /tmp/stop is there.

`asking.py URL WORKERS PACE_S QUESTIONS TOKEN_FILE`; a worker asks once in so many seconds, or as soon as it has its
answer where that takes longer; no request is tried again. Prints each failure as it comes, a line of
counts every few seconds, and one JSON object at the end. It imports nothing of the project, since it is a client.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx

STOP = Path("/tmp/stop")
TIMEOUT_S = 300.0
"""As long as the gateway's own limit: how fast two busy cores answer is not the question here."""
REPORT_S = 5.0


def stopped() -> bool:
    return STOP.exists()


async def ask(client: httpx.AsyncClient, questions: list[str], place: int, step: int, seen: Counter[str]) -> None:
    """One worker: one request after the other, over connections that are kept as clients keep them."""
    await asyncio.sleep(PACE_S * place / step)
    while not stopped():
        question = questions[place % len(questions)]
        place += step
        begun = time.monotonic()
        try:
            body = {"model": "support", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
            answer = await client.post("/v1/chat/completions", json=body)
            problem = "" if answer.status_code == 200 else f"status {answer.status_code}: {answer.text[:200]}"
            if not problem and not answer.json()["choices"][0]["message"]["content"]:
                problem = "an empty answer"
        except (httpx.HTTPError, ValueError, KeyError) as error:
            problem = f"{type(error).__name__}: {error}"
        seen["asked"] += 1
        if problem:
            seen["failed"] += 1
            print(f"FAILED at {time.time():.1f} after {time.monotonic() - begun:.1f} s: {problem}", flush=True)
        else:
            seen[f"adapter {answer.headers.get('x-semievol-adapter', '-')}"] += 1
            seen[f"replica {answer.headers.get('x-semievol-replica', '-')}"] += 1
            seen["slowest_ms"] = max(seen["slowest_ms"], int(1e3 * (time.monotonic() - begun)))
        await asyncio.sleep(max(0.0, begun + PACE_S - time.monotonic()))


async def admitted(client: httpx.AsyncClient) -> None:
    """Wait until this pod is let through: the policies of a new one follow within seconds."""
    while not stopped():
        with suppress(httpx.TransportError):
            await client.get("/v1/models")
            return
        await asyncio.sleep(0.5)


async def report(seen: Counter[str]) -> None:
    while not stopped():
        await asyncio.sleep(REPORT_S)
        print(f"so far {seen['asked']} asked, {seen['failed']} failed", flush=True)


async def main(url: str, step: int, questions: list[str], token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    seen: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
        await admitted(client)
        await asyncio.gather(report(seen), *(ask(client, questions, place, step, seen) for place in range(step)))
    print(json.dumps(dict(sorted(seen.items()))), flush=True)


URL, WORKERS, PACE, QUESTIONS, TOKEN = sys.argv[1:]
PACE_S = float(PACE)
ASKED = [json.loads(line)["question"] for line in Path(QUESTIONS).read_text().splitlines()]
asyncio.run(main(URL, int(WORKERS), ASKED, Path(TOKEN).read_text().strip()))
