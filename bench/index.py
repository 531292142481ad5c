"""The example index without a server: vectors in the state and a search in memory, beside Qdrant in the process.

`python bench/index.py [--examples 750 --examples 20000] [--dimensions 384] [--questions 32] [--repeats 15]`

`resident` is the daemon's own index: FollowedIndex over ResidentExampleIndex, vectors and examples in SQLite. `local`
is the local mode of qdrant-client (its vectors searched by its own Python), `edge` and `edge HNSW` Qdrant's engine in
the process (qdrant-edge-py, where it is installed) exactly and by its graph; they hold each example as a JSON
payload. Each kind fills a directory in one process and is opened in another one, which is the one that is measured:
time until the first answer (restart), memory that it then has more than before, and searches, in which the kinds take
turns. `change` is one example more and then a search. No time contains embedding: vectors are random, and made
before.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import multiprocessing
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from semievol.examples.records import example_from_json, example_to_json
from semievol.protocols import Vectors
from semievol.types import Example, Neighbour, Query

K = 3
WORKLOAD = "bench"
PAGE = 256


class Measured(Protocol):
    """One kind of index over a directory."""

    def fill(self, examples: Sequence[Example]) -> None: ...

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]: ...


class TableEmbedder:
    """Vectors by text, made before; a text that is not in the table is an error."""

    name = "bench"

    def __init__(self, dimensions: int, texts: Sequence[str]) -> None:
        vectors = np.random.default_rng(0).standard_normal((len(texts), dimensions), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.dimensions = dimensions
        self._table = dict(zip(texts, vectors, strict=True))

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._table[text] for text in texts])

    def forget(self, texts: Sequence[str]) -> None:
        for text in texts:
            del self._table[text]


class Resident:
    """What the daemon runs; `fill` stores, and each opening reads the state."""

    def __init__(self, directory: Path, embedder: TableEmbedder, *, filled: bool) -> None:
        from semievol.examples.resident import ResidentExampleIndex
        from semievold.serving.followed_index import FollowedIndex
        from semievold.store.database import Database
        from semievold.store.examples import ExampleStore
        from semievold.store.vectors import ExampleVectors

        database = Database(f"sqlite:///{directory / 'state.db'}", WORKLOAD)
        database.migrate()
        self._store = ExampleStore(database, WORKLOAD)
        resident = ResidentExampleIndex(embedder, ExampleVectors(database, WORKLOAD, embedder))
        self._index = FollowedIndex(self._store, resident, 2.0)
        if filled:
            self._index._catch_up()
            assert resident.embedded == 0

    def fill(self, examples: Sequence[Example]) -> None:
        for start in range(0, len(examples), PAGE):
            page = examples[start : start + PAGE]
            self._store.upsert([(example, False) for example in page])
            self._index.upsert(page)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        return self._index.neighbours(questions, k)


def payload(example: Example) -> dict[str, str]:
    return {"example": json.dumps(example_to_json(example), ensure_ascii=False)}


def found(points: Sequence[Any]) -> list[Neighbour]:
    return [Neighbour(example_from_json(json.loads(point.payload["example"])), point.score) for point in points]


class Local:
    """qdrant-client without a server."""

    def __init__(self, directory: Path, embedder: TableEmbedder, *, filled: bool) -> None:
        from qdrant_client import QdrantClient, models

        self._models = models
        self._embedder = embedder
        self._client = QdrantClient(path=str(directory / "local"))
        if not filled:
            params = models.VectorParams(size=embedder.dimensions, distance=models.Distance.DOT)
            self._client.create_collection(WORKLOAD, vectors_config=params)

    def fill(self, examples: Sequence[Example]) -> None:
        for start in range(0, len(examples), PAGE):
            page = examples[start : start + PAGE]
            vectors = self._embedder.embed([example.query.question for example in page])
            points = [
                self._models.PointStruct(
                    id=str(uuid.uuid5(uuid.NAMESPACE_OID, each.id)), vector=row, payload=payload(each)
                )
                for each, row in zip(page, vectors.tolist(), strict=True)
            ]
            self._client.upsert(WORKLOAD, points=points)

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        requests = [
            self._models.QueryRequest(query=row, limit=k, with_payload=True)
            for row in self._embedder.embed(questions).tolist()
        ]
        return [found(answer.points) for answer in self._client.query_batch_points(WORKLOAD, requests=requests)]


class Edge:
    """Qdrant's engine in the process; `hnsw`: optimised after it was filled, and asked by its graph."""

    def __init__(self, directory: Path, embedder: TableEmbedder, *, filled: bool, hnsw: bool) -> None:
        import qdrant_edge

        self._edge = qdrant_edge
        self._embedder = embedder
        self._hnsw = hnsw
        place = directory / "edge"
        if filled:
            self._shard = qdrant_edge.EdgeShard.load(str(place))
        else:
            params = qdrant_edge.EdgeVectorParams(size=embedder.dimensions, distance=qdrant_edge.Distance.Dot)
            # The graph from the first point on, or never.
            optimizers = qdrant_edge.EdgeOptimizersConfig(indexing_threshold=1 if hnsw else 10**9)
            place.mkdir()
            config = qdrant_edge.EdgeConfig(vectors=params, optimizers=optimizers)
            self._shard = qdrant_edge.EdgeShard.create(str(place), config)

    def fill(self, examples: Sequence[Example]) -> None:
        for start in range(0, len(examples), PAGE):
            page = examples[start : start + PAGE]
            vectors = self._embedder.embed([example.query.question for example in page])
            points = [
                self._edge.Point(uuid.uuid5(uuid.NAMESPACE_OID, each.id), row, payload(each))
                for each, row in zip(page, vectors.tolist(), strict=True)
            ]
            self._shard.update(self._edge.UpdateOperation.upsert_points(points))
        if self._hnsw and len(examples) > 1:
            self._shard.optimize()
        self._shard.flush()

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        answers = []
        for row in self._embedder.embed(questions).tolist():
            request = self._edge.SearchRequest(
                query=self._edge.Query.Nearest(row),
                limit=k,
                with_payload=True,
                params=self._edge.SearchParams(exact=not self._hnsw),
            )
            answers.append(found(self._shard.search(request)))
        return answers


KINDS: dict[str, Callable[..., Measured]] = {"resident": Resident, "local": Local}
if importlib.util.find_spec("qdrant_edge") is not None:
    KINDS["edge"] = functools.partial(Edge, hnsw=False)
    KINDS["edge HNSW"] = functools.partial(Edge, hnsw=True)


def examples_of(count: int) -> list[Example]:
    return [
        Example(Query(f"example-{n}", f"where is my card number {n}, it was to arrive on day {n}?"), "card arrival")
        for n in range(count)
    ]


def questions_of(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def embedder_of(examples: Sequence[Example], dimensions: int, questions: Sequence[str]) -> TableEmbedder:
    return TableEmbedder(dimensions, [*questions, *(example.query.question for example in examples)])


def fill(kind: str, directory: Path, count: int, dimensions: int, questions: Sequence[str]) -> None:
    examples = examples_of(count)
    KINDS[kind](directory, embedder_of(examples, dimensions, questions), filled=False).fill(examples)


def resident_mib() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def serve(kind: str, directory: Path, count: int, dimensions: int, questions: Sequence[str], link: Connection) -> None:
    """Open what is filled, say how long that took and what it holds, then search when asked."""
    more = examples_of(count + 100)
    embedder = embedder_of(more, dimensions, questions)
    embedder.forget([example.query.question for example in more[:count]])  # a restart must not need them
    warm = directory.parent / f"warm {directory.name}"
    warm.mkdir()
    first = KINDS[kind](warm, embedder, filled=False)  # imports and pools are not the index's
    first.fill(more[count : count + 2])
    first.neighbours(questions[:1], K)
    new = iter(more[count:])
    del more
    before, started = resident_mib(), time.perf_counter()
    index = KINDS[kind](directory, embedder, filled=True)
    index.neighbours(questions[:1], K)
    link.send((time.perf_counter() - started, resident_mib() - before))
    while (task := link.recv()) is not None:
        if task == "change":
            example = [next(new)]
            started = time.perf_counter()
            index.fill(example)
            index.neighbours(questions[:1], K)
            link.send(time.perf_counter() - started)
            continue
        started = time.perf_counter()
        answers = index.neighbours(questions[:task], K)
        seconds = time.perf_counter() - started
        link.send((seconds, [[each.example.id for each in row] for row in answers]))


def compare(count: int, dimensions: int, asked: int, repeats: int) -> None:
    context = multiprocessing.get_context("spawn")
    questions = questions_of(asked)
    with tempfile.TemporaryDirectory() as root:
        links: dict[str, Connection] = {}
        processes = []
        opened: dict[str, tuple[float, float]] = {}
        for number, kind in enumerate(KINDS):
            directory = Path(root) / str(number)
            directory.mkdir()
            filling = context.Process(target=fill, args=(kind, directory, count, dimensions, questions))
            filling.start()
            filling.join()
            assert filling.exitcode == 0
            links[kind], theirs = context.Pipe()
            arguments = (kind, directory, count, dimensions, questions, theirs)
            process = context.Process(target=serve, args=arguments)
            process.start()
            opened[kind] = links[kind].recv()
            processes.append(process)
        times: dict[tuple[str, object], list[float]] = {}
        answers: dict[str, Any] = {}
        for repeat in range(repeats):
            for kind in list(links) if repeat % 2 == 0 else list(links)[::-1]:
                for task in (asked, 1, "change"):
                    links[kind].send(task)
                    answer = links[kind].recv()
                    if task == asked and repeat == 0:
                        answers[kind] = answer[1]
                    times.setdefault((kind, task), []).append(answer if task == "change" else answer[0])
        for link, process in zip(links.values(), processes, strict=True):
            link.send(None)
            process.join()
    truth = answers["resident"]
    median = {key: statistics.median(some) * 1000 for key, some in times.items()}
    for kind in links:
        same = sum(len(set(a) & set(b)) for a, b in zip(answers[kind], truth, strict=True)) / (asked * K)
        print(
            f"{count:>8}  {kind:<10} {median[kind, asked]:>9.2f} {min(times[kind, asked]) * 1000:>8.2f} "
            f"{max(times[kind, asked]) * 1000:>8.2f} {median[kind, asked] / median['resident', asked]:>7.2f} "
            f"{median[kind, 1]:>7.2f} {median[kind, 'change']:>8.2f} {opened[kind][0]:>9.2f} {opened[kind][1]:>8.0f} "
            f"{same:>7.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, action="append", help="how many the index holds; may be repeated")
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--questions", type=int, default=32, help="asked at a time")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print(
        f"{'examples':>8}  {'index':<10} {options.questions:>5} ms {'':>3}{'min':>5} {'max':>8} {'ratio':>7} "
        f"{'1, ms':>7} {'change':>8} {'restart s':>9} {'MiB':>8} {'as ours':>7}"
    )
    for count in options.examples or [750, 20_000]:
        compare(count, options.dimensions, options.questions, options.repeats)
    if "edge" not in KINDS:
        print("qdrant-edge-py is not installed: measured without it")


if __name__ == "__main__":
    main()
