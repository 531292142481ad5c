import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import EmbeddingConfig
from semievol.errors import ConfigError, TransientError
from semievol.examples.embedding import HashingEmbedder, OpenAIEmbedder, build_embedder, package_model_directory

# --- hashing --------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=8))
def test_every_text_gives_a_finite_vector_of_unit_length(texts: list[str]) -> None:
    vectors = HashingEmbedder(64).embed(texts)
    assert vectors.shape == (len(texts), 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


@given(st.text(), st.lists(st.text(), max_size=4))
def test_a_vector_does_not_depend_on_the_rest_of_the_batch(text: str, others: list[str]) -> None:
    alone = HashingEmbedder(64).embed([text])[0]
    np.testing.assert_array_equal(HashingEmbedder(64).embed([*others, text])[-1], alone)


def test_texts_that_share_words_or_parts_of_words_are_nearer() -> None:
    asked, same_words, same_stem, other = HashingEmbedder().embed(
        ["cancel my card", "my card: CANCEL!", "cancelling cards", "weather in rome"]
    )
    assert asked @ same_words > 0.99
    assert asked @ same_words > asked @ same_stem > asked @ other + 0.2


def test_the_name_says_the_width() -> None:
    embedder = build_embedder(EmbeddingConfig(kind="hashing", dimensions=32))
    assert (embedder.name, embedder.dimensions) == ("hashing-1:32", 32)


# --- models on this machine -----------------------------------------------------------------------------------------


def test_a_package_that_is_not_installed_is_named_with_the_fix() -> None:
    with pytest.raises(ConfigError, match="'no_such_model' is not installed; pip install no-such-model"):
        package_model_directory("no_such_model")


def test_a_package_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="'httpx' holds no model"):
        package_model_directory("httpx")


def test_the_directory_of_a_model_in_a_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "some_model_package" / "data" / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (tmp_path / "some_model_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (model / "1_Pooling" / "config.json").write_text("{}")
    (model / "modules.json").write_text("[]")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_model_directory("some_model_package") == model


def test_a_directory_that_does_not_exist_is_not_taken_for_a_hub_name() -> None:
    with pytest.raises(ConfigError, match=r"the directory './nowhere' does not exist"):
        build_embedder(EmbeddingConfig(name="./nowhere"))


# --- an endpoint ----------------------------------------------------------------------------------------------------


def endpoint(answer: Callable[[list[str]], httpx.Response], api_key: str | None = None) -> OpenAIEmbedder:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://embeddings/v1/embeddings"
        assert request.headers.get("authorization") == (f"Bearer {api_key}" if api_key else None)
        body = json.loads(request.content)
        assert body["model"] == "m"
        return answer(body["input"])

    return OpenAIEmbedder("m", "http://embeddings/v1/", api_key, 2, httpx.MockTransport(handle))


def embeddings(vectors: list[list[float]]) -> httpx.Response:
    rows = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return httpx.Response(200, json={"data": rows[::-1]})


def test_vectors_of_an_endpoint_are_ordered_by_index_and_scaled_to_unit_length() -> None:
    embedder = endpoint(lambda texts: embeddings([[float(len(text)), 0.0, 0.0] for text in texts]), api_key="k")
    assert embedder.dimensions == 3
    np.testing.assert_array_equal(embedder.embed(["a", "bb", "ccc"]), [[1, 0, 0]] * 3)
    assert embedder.embed([]).shape == (0, 3)
    assert embedder.name == "openai:m@http://embeddings/v1"


def test_a_vector_of_an_endpoint_that_is_no_number_reaches_no_other() -> None:
    def answer(texts: list[str]) -> httpx.Response:
        rows = [
            {"index": i, "embedding": [None, None] if text == "bad" else [0.0, 2.0]} for i, text in enumerate(texts)
        ]
        return httpx.Response(200, json={"data": rows})

    np.testing.assert_array_equal(endpoint(answer).embed(["good", "bad"]), [[0, 1], [1, 0]])


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_overloaded_endpoint_is_a_transient_error(status: int) -> None:
    with pytest.raises(TransientError, match=f"HTTP {status}"):
        endpoint(lambda texts: httpx.Response(status))


@pytest.mark.parametrize("status", [400, 401, 404])
def test_an_endpoint_that_refuses_is_a_configuration_error(status: int) -> None:
    with pytest.raises(ConfigError, match=f"answered HTTP {status}: no such model"):
        endpoint(lambda texts: httpx.Response(status, text="no such model"))


def test_an_endpoint_of_another_kind_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="does not speak the OpenAI embeddings API"):
        endpoint(lambda texts: httpx.Response(200, text="<html>"))


def test_a_missing_vector_is_a_transient_error() -> None:
    with pytest.raises(TransientError, match="0 vectors for 1"):
        endpoint(lambda texts: embeddings([]))


def test_an_endpoint_without_address_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"embedding.base_url: missing"):
        build_embedder(EmbeddingConfig(kind="openai"))


def test_an_endpoint_that_changes_its_width_is_refused() -> None:
    widths = iter([2, 3])
    embedder = endpoint(lambda texts: embeddings([[1.0] * next(widths)] * len(texts)))
    with pytest.raises(ConfigError, match="changed from 2 to 3 dimensions"):
        embedder.embed(["a"])
