"""The index on a Qdrant server, with Qdrant's local mode in the server's place; integration tests ask a real one."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from qdrant_client import QdrantClient

from semievol.errors import ConfigError, DataError, TransientError
from semievol.examples import index as module
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.index import QdrantExampleIndex, check_server, point_id
from semievol.protocols import Vectors
from semievol.types import Example, Query
from tests.example_index_contract import EXAMPLES, ExampleIndexContract

URL = "http://qdrant:6333"
Opened = Callable[..., QdrantExampleIndex]


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


class InProcess(QdrantClient):
    """Qdrant's local mode; unlike a server, it raises for a point that is not there."""

    def delete(self, collection_name: str, points_selector: Any, **options: Any) -> Any:
        there = {record.id for record in self.retrieve(collection_name, points_selector, with_payload=False)}
        return super().delete(collection_name, [each for each in points_selector if each in there], **options)

    def close(self, **_: Any) -> None:
        """What it holds outlives its clients, as on a server."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Opens an index on one server."""
    server = InProcess(location=":memory:")
    monkeypatch.setattr(module, "_open_client", lambda url, key: server)
    yield lambda embedder=None, name="examples": QdrantExampleIndex(embedder or HashingEmbedder(64), name, URL)
    QdrantClient.close(server)


class TestQdrant(ExampleIndexContract):
    """The contract."""

    @pytest.fixture
    def index(self, opened: Opened) -> QdrantExampleIndex:
        return opened()


def test_point_ids_are_the_same_on_every_machine() -> None:
    assert point_id("card") == "2e59cf8f-96ff-5873-be39-f76f93a113a9"
    assert uuid.UUID(point_id("card")).version == 5


def test_what_the_server_holds_is_not_embedded_again(opened: Opened) -> None:
    opened(CountingEmbedder()).upsert(EXAMPLES)
    embedder = CountingEmbedder()
    assert opened(embedder).ids() == {"card", "pin", "sum"}
    assert embedder.texts == []


def test_a_crash_while_another_embedder_takes_over_loses_nothing(opened: Opened) -> None:
    class CrashingEmbedder(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            raise KeyboardInterrupt

    opened(CountingEmbedder()).upsert(EXAMPLES)
    with pytest.raises(KeyboardInterrupt):
        opened(CrashingEmbedder(name="other"))
    assert opened(CountingEmbedder(name="other")).ids() == {"card", "pin", "sum"}


def test_indexes_of_one_server_do_not_touch_each_other(opened: Opened) -> None:
    for name, embedder in [("a", "one"), ("b", "two"), ("a", "three"), ("b", "two")]:
        index = opened(CountingEmbedder(name=embedder), name)
        index.upsert([Example(Query(name, name), name)])
        assert index.ids() == {name}
    assert len(index._client.get_collections().collections) == 4


@pytest.mark.parametrize(("name", "dimensions"), [("other", 64), ("counting", 32)])
def test_another_embedder_embeds_the_same_examples_anew(opened: Opened, name: str, dimensions: int) -> None:
    opened(CountingEmbedder()).upsert(EXAMPLES)
    embedder = CountingEmbedder(dimensions, name)
    second = opened(embedder)
    assert sorted(embedder.texts) == sorted(example.query.question for example in EXAMPLES)
    assert second.ids() == {"card", "pin", "sum"}
    assert second.neighbours(["i forgot my pin"], 1)[0][0].example == EXAMPLES[1]
    again = CountingEmbedder(dimensions, name)
    opened(again)
    assert again.texts == []


def test_another_embedder_that_refuses_an_example_takes_over_without_it(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    class Short(CountingEmbedder):
        def embed(self, texts: Sequence[str]) -> Vectors:
            if any(len(text) > 50 for text in texts):
                raise DataError("embedding: refuses a text")
            return super().embed(texts)

    long = Example(Query("long", "long" * 20), "x")
    opened(CountingEmbedder()).upsert([*EXAMPLES, long])
    index = opened(Short(name="short"))
    assert index.ids() == {"card", "pin", "sum"}
    assert "left out of the example index: example 'long': embedding: refuses a text" in caplog.text
    with pytest.raises(DataError, match=r"^example 'long': "):
        index.upsert([*EXAMPLES, long])


def test_a_server_that_does_not_answer_is_a_transient_error() -> None:
    with pytest.raises(TransientError, match=r"http://127.0.0.1:1 does not answer"):
        QdrantExampleIndex(HashingEmbedder(64), "examples", "http://127.0.0.1:1")


def test_a_client_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    for asked in (
        lambda: QdrantExampleIndex(HashingEmbedder(64), "examples", URL),
        lambda: check_server(URL, None),
    ):
        with pytest.raises(ConfigError, match=r"index\.url: .*pip install 'semievol\[qdrant\]'"):
            asked()
