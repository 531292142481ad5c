"""What labelling costs beside generation: queries labelled per second against a bare client with the same prompts.

`python bench/labelling.py [--queries 96] [--rounds 3] [--model-dir DIR]`

From Kafka to Kafka: the real Intake reads the queries topic of a real broker, labels (neighbours in memory,
four candidate answers, self-justification) over the vLLM generator, stores in SQLite and writes the predictions topic;
against an asynchronous client that sends the very requests it sent, as many at a time, and reads the answers as JSON.
The two alternate on one vLLM server (its CPU build) with the demo's model; medians over the rounds. Broker, intake and
server share the machine's cores. With a toy model the ratio says little: it compares the costs of two HTTP clients.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from parts.instant_intake import label_stream

from semievol.config.method import LabellingConfig, TaskConfig
from semievol.engines.vllm import FixedServers, VllmGenerator
from semievol.engines.vllm_client import VllmClient
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.resident import ResidentExampleIndex
from semievol.http.server_address import ServerAddress
from semievol.labelling.collaboration import CollaborativeLabeller
from semievol.protocols import Tell
from semievol.tasks.task import Task
from semievol.types import Example, GenerationRequest, Query
from semievold.config.streams import IntakeSettings, StreamSettings
from semievold.intake.messages import query_record
from semievold.store.database import Database
from semievold.streams.kafka.stream import KafkaStream
from tests.servers import vllm
from tests.servers.kafka import KafkaBroker, missing

MODEL = Path(__file__).parents[1] / ".cache" / "models" / "SmolLM2-135M-Instruct"
BATCH = 32
CONCURRENCY = 64
LABELS = ("refund", "delivery", "password", "hours", "cancel", "other")


class Recording(VllmGenerator):
    """Remembers what it was asked."""

    requests: list[GenerationRequest]

    async def answer(self, requests: Sequence[GenerationRequest], tell: Tell) -> None:
        self.requests.extend(requests)
        await super().answer(requests, tell)


async def label(
    labeller: CollaborativeLabeller, task: Task, broker: KafkaBroker, directory: Path, turn: int, queries: list[Query]
) -> float:
    """All of them through the intake, on topics of their own; queries per second."""
    topics = StreamSettings(
        kind="kafka",
        queries=f"queries-{turn}",
        predictions=f"predictions-{turn}",
        kafka={"bootstrap_servers": [broker.bootstrap], "partitions": 3},  # type: ignore[arg-type]
    )
    stream = KafkaStream(topics)
    producer = stream.producer()
    await producer.publish(topics.queries, [query_record(query) for query in queries])
    await producer.close()
    await asyncio.to_thread(stream.topics.ensure, topics.predictions)
    database = Database(f"sqlite:///{directory / f'state-{turn}.db'}")
    database.migrate()
    settings = IntakeSettings(batch_size=BATCH)
    run = await label_stream(database, stream, topics, settings, len(queries), labeller, task, None)
    database.close()
    return run.queries_per_s


async def bare(url: str, requests: Sequence[GenerationRequest], queries: int) -> float:
    """Send the same requests as fast as the server takes them; queries per second."""
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(session: aiohttp.ClientSession, request: GenerationRequest) -> None:
        body: dict[str, Any] = {
            "model": "base",
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "n": request.samples,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed % 2**62,
            "logprobs": True,
        }
        async with slots, session.post(f"{url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            await response.json()

    started = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session, request) for request in requests))
    return queries / (time.perf_counter() - started)


async def measure(server: vllm.VllmServer, broker: KafkaBroker, directory: Path, options: argparse.Namespace) -> None:
    task = Task(TaskConfig(labels=LABELS, max_answer_tokens=8))
    index = ResidentExampleIndex(HashingEmbedder())
    words = ("money", "parcel", "login", "open", "stop", "card", "late", "help")
    index.upsert(
        [
            Example(Query(f"e{n}", f"my {words[n % 8]} and {words[n // 8 % 8]}"), LABELS[n % len(LABELS)])
            for n in range(64)
        ]
    )
    queries = [Query(f"q{n}", f"about {words[n % 8]}, {words[n // 8 % 8]} and {n}") for n in range(options.queries)]
    client = VllmClient()
    generator = Recording(client, FixedServers(client, [ServerAddress("vllm", server.url)]), concurrency=CONCURRENCY)
    generator.requests = []
    labeller = CollaborativeLabeller(generator, index, task, LabellingConfig(batch_size=BATCH), seed=0)
    await label(labeller, task, broker, directory, 0, queries)  # warm, and the requests to repeat
    requests = list(generator.requests)
    await bare(server.url, requests, len(queries))
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(1, options.rounds + 1):
        for labels in (True, False) if turn % 2 else (False, True):
            if labels:
                ours.append(await label(labeller, task, broker, directory, turn, queries))
            else:
                theirs.append(await bare(server.url, requests, len(queries)))
    await generator.close()
    index.close()
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    print(
        f"{len(queries)} queries, {len(requests)} requests, {sum(request.samples for request in requests)} answers\n"
        f"labelled {statistics.median(ours):.1f} queries/s, bare client {statistics.median(theirs):.1f} queries/s: "
        f"x{ratio:.3f} (claim: at least 0.90)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--model-dir", type=Path, default=MODEL, help="what vLLM serves, in bfloat16")
    options = parser.parse_args()
    if not (options.model_dir / "config.json").is_file():
        raise SystemExit(f"{options.model_dir} holds no model: run `make model`, or set --model-dir")
    if (lacking := missing()) is not None:
        raise SystemExit(f"{lacking}; nothing measured")
    vllm.need_vllm()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = vllm.VllmServer(options.model_dir, directory, dtype="bfloat16", threads=None)
        broker = KafkaBroker(directory / "broker").start()
        try:
            with vllm.running(server):
                asyncio.run(measure(server, broker, directory, options))
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
