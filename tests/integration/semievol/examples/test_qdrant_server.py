"""The example index on a Qdrant server: the same contract, and what several processes share.

Needs the server at QDRANT_URL (with QDRANT_API_KEY when it asks for one); each test has a collection of its own there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.index import QdrantExampleIndex
from semievol.types import Example, Query
from tests.example_index_contract import EXAMPLES, ExampleIndexContract

# Skipped in CI too: the server is a binary that no package index has.
pytestmark = pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL names no Qdrant server")

NewIndex = Callable[..., QdrantExampleIndex]


@pytest.fixture
def new_index() -> Iterator[NewIndex]:
    """Opens indexes of one collection, and deletes it."""
    from qdrant_client import QdrantClient

    url, key = os.environ["QDRANT_URL"], os.environ.get("QDRANT_API_KEY")
    name = f"semievol-test-{secrets.token_hex(4)}"
    with ExitStack() as stack:

        def opened(dimensions: int = 64) -> QdrantExampleIndex:
            index = QdrantExampleIndex(HashingEmbedder(dimensions), name, url, key)
            stack.callback(index.close)
            return index

        yield opened
        # As the index does: a server of another minor version is no reason for a warning, which would be an error here.
        client = QdrantClient(url=url, api_key=key, check_compatibility=False)
        stack.callback(client.close)
        for collection in client.get_collections().collections:
            if collection.name.startswith(name):
                client.delete_collection(collection.name)


class TestServer(ExampleIndexContract):
    """The contract, on the server."""

    @pytest.fixture
    def index(self, new_index: NewIndex) -> QdrantExampleIndex:
        return new_index()


def test_processes_share_one_index(new_index: NewIndex) -> None:
    writer, reader = new_index(), new_index()
    writer.upsert(EXAMPLES)
    assert reader.ids() == {example.id for example in EXAMPLES}
    assert reader.neighbours(["has my card arrived"], 1)[0][0].example == EXAMPLES[0]
    writer.delete(["card"])
    assert "card" not in reader.ids()


def test_another_embedder_embeds_the_same_examples_anew(new_index: NewIndex) -> None:
    new_index().upsert(EXAMPLES)
    other = new_index(32)
    assert other.ids() == {example.id for example in EXAMPLES}
    assert other.neighbours(["i forgot my pin"], 1)[0][0].example == EXAMPLES[1]


def test_more_examples_than_a_page_come_back(new_index: NewIndex) -> None:
    index = new_index()
    index.upsert([Example(Query(f"e{number}", f"question {number}"), "x") for number in range(600)])
    assert len(index.ids()) == 600
