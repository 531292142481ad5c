import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from semievol.errors import ConfigError, TransientError
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.index import QdrantExampleIndex, point_id
from semievol.protocols import Vectors
from semievol.types import Example, Query
from tests.example_index_contract import EXAMPLES, ExampleIndexContract


class CountingEmbedder(HashingEmbedder):
    """Remembers what it embedded."""

    def __init__(self, dimensions: int = 64, name: str = "counting") -> None:
        super().__init__(dimensions)
        self._given_name = name
        self.texts: list[str] = []

    @property
    def name(self) -> str:
        return self._given_name

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        return super().embed(texts)


class TestLocalMode(ExampleIndexContract):
    """The contract, in memory."""

    @pytest.fixture
    def index(self) -> Iterator[QdrantExampleIndex]:
        index = QdrantExampleIndex(HashingEmbedder(64), "examples")
        yield index
        index.close()


def test_point_ids_are_the_same_on_every_machine() -> None:
    assert point_id("card") == "2e59cf8f-96ff-5873-be39-f76f93a113a9"


def test_an_index_on_disk_is_found_again_without_embedding(tmp_path: Path) -> None:
    first = QdrantExampleIndex(CountingEmbedder(), "examples", tmp_path / "index")
    first.upsert(EXAMPLES)
    first.delete(["pin", "unknown"])
    found = first.neighbours(["is 2 more than 1", "where is my card"], 2)
    first.close()
    first.close()
    embedder = CountingEmbedder()
    second = QdrantExampleIndex(embedder, "examples", tmp_path / "index")
    assert second.ids() == {"card", "sum"}
    assert embedder.texts == []
    assert found[0][0].example == EXAMPLES[2]
    assert second.neighbours(["is 2 more than 1", "where is my card"], 2) == found
    second.close()


def test_a_crash_while_another_embedder_takes_over_loses_nothing(tmp_path: Path) -> None:
    class CrashingEmbedder(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            raise KeyboardInterrupt

    first = QdrantExampleIndex(CountingEmbedder(), "examples", tmp_path / "index")
    first.upsert(EXAMPLES)
    first.close()
    with pytest.raises(KeyboardInterrupt):
        QdrantExampleIndex(CrashingEmbedder(name="other"), "examples", tmp_path / "index")
    second = QdrantExampleIndex(CountingEmbedder(name="other"), "examples", tmp_path / "index")
    assert second.ids() == {"card", "pin", "sum"}
    second.close()


def test_indexes_of_one_directory_do_not_touch_each_other(tmp_path: Path) -> None:
    for name, embedder in [("a", "one"), ("b", "two"), ("a", "three"), ("b", "two")]:
        index = QdrantExampleIndex(CountingEmbedder(name=embedder), name, tmp_path / "index")
        index.upsert([Example(Query(name, name), name)])
        assert index.ids() == {name}
        index.close()
    assert len(list((tmp_path / "index" / "collection").iterdir())) == 4


@pytest.mark.parametrize(("name", "dimensions"), [("other", 64), ("counting", 32)])
def test_another_embedder_embeds_the_same_examples_anew(tmp_path: Path, name: str, dimensions: int) -> None:
    first = QdrantExampleIndex(CountingEmbedder(), "examples", tmp_path / "index")
    first.upsert(EXAMPLES)
    first.close()
    embedder = CountingEmbedder(dimensions, name)
    second = QdrantExampleIndex(embedder, "examples", tmp_path / "index")
    assert sorted(embedder.texts) == sorted(example.query.question for example in EXAMPLES)
    assert second.ids() == {"card", "pin", "sum"}
    assert second.neighbours(["i forgot my pin"], 1)[0][0].example == EXAMPLES[1]
    second.close()
    again = CountingEmbedder(dimensions, name)
    QdrantExampleIndex(again, "examples", tmp_path / "index").close()
    assert again.texts == []


# The client leaves its handle of the lock file to the garbage collector when the lock is taken.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_directory_held_by_another_process_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index"
    holder = (
        "import sys; from pathlib import Path; from semievol.examples.embedding.hashing import HashingEmbedder;"
        "from semievol.examples.index import QdrantExampleIndex;"
        "index = QdrantExampleIndex(HashingEmbedder(64), 'examples', Path(sys.argv[1]));"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"index.path: {path} is held by another process; stop that one"):
            QdrantExampleIndex(HashingEmbedder(64), "examples", path)
        process.communicate()


def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/index cannot be opened"):
        QdrantExampleIndex(HashingEmbedder(64), "examples", tmp_path / "file" / "index")


def test_path_and_url_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        QdrantExampleIndex(HashingEmbedder(64), "examples", tmp_path, "http://localhost:1")


def test_a_server_that_does_not_answer_is_a_transient_error() -> None:
    with pytest.raises(TransientError, match=r"http://127.0.0.1:1 does not answer"):
        QdrantExampleIndex(HashingEmbedder(64), "examples", url="http://127.0.0.1:1")


def test_threads_may_write_and_read_at_once(tmp_path: Path) -> None:
    index = QdrantExampleIndex(HashingEmbedder(64), "examples", tmp_path / "index")

    def work(worker: int) -> None:
        for i in range(10):
            example_id = f"{worker}-{i}"
            index.upsert([Example(Query(example_id, f"question {example_id}"), "x")])
            assert index.neighbours([f"question {example_id}"], 1)[0]
            if i % 2:
                index.delete([example_id])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert index.ids() == {f"{worker}-{i}" for worker in range(4) for i in range(0, 10, 2)}
    index.close()


def test_vectors_of_the_local_mode_are_exact() -> None:
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(200)]
    texts = [" ".join(rng.choice(words, size=5)) for _ in range(300)]
    embedder = HashingEmbedder(128)
    index = QdrantExampleIndex(embedder, "examples")
    index.upsert([Example(Query(f"{i:03}", text), "x") for i, text in enumerate(texts)])
    vectors = embedder.embed(texts)
    asked = [" ".join(rng.choice(words, size=5)) for _ in range(20)]
    for found, similarities in zip(index.neighbours(asked, 5), embedder.embed(asked) @ vectors.T, strict=True):
        assert [n.similarity for n in found] == pytest.approx(sorted(similarities.tolist(), reverse=True)[:5])
