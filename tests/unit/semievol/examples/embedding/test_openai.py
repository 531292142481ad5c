import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from pydantic import ValidationError

from semievol import backoff
from semievol.config.method import EmbeddingConfig
from semievol.errors import ConfigError, DataError, TransientError
from semievol.examples.embedding import remembered
from semievol.examples.embedding.openai import OpenAIEmbedder
from semievol.http.client import BlockingHttpClient


def endpoint(answer: Callable[[list[str]], httpx.Response], api_key: str | None = None) -> OpenAIEmbedder:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.url == "http://embeddings/v1/embeddings"
        assert request.headers.get("authorization") == (f"Bearer {api_key}" if api_key else None)
        body = json.loads(request.content)
        assert body["model"] == "m"
        return answer(body["input"])

    http = BlockingHttpClient(transport=httpx.MockTransport(handle))
    return OpenAIEmbedder("m", "http://embeddings/v1/", api_key, 2, http)


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


def test_an_endpoint_without_address_is_refused_with_the_settings() -> None:
    with pytest.raises(ValidationError, match=r"base_url: missing"):
        EmbeddingConfig(kind="openai")


def test_an_endpoint_that_changes_its_width_is_refused() -> None:
    widths = iter([2, 3])
    embedder = endpoint(lambda texts: embeddings([[1.0] * next(widths)] * len(texts)))
    with pytest.raises(ConfigError, match="changed from 2 to 3 dimensions"):
        embedder.embed(["a"])


def test_an_endpoint_with_too_much_to_do_gets_less_at_a_time_and_nothing_is_embedded_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(backoff.time, "sleep", waits.append)
    asked: list[list[str]] = []

    def answer(texts: list[str]) -> httpx.Response:
        asked.append(texts)
        if len(texts) > 1:
            return httpx.Response(429, headers={"Retry-After": "3"})
        return embeddings([[1.0, 0.0]])

    embedder = endpoint(answer)
    assert embedder.embed(["a", "b", "c"]).shape == (3, 2)
    assert waits[0] == 3.0
    answered = [texts[0] for texts in asked[1:] if len(texts) == 1]
    assert answered == ["a", "b", "c"]


def test_vectors_that_came_before_an_endpoint_left_are_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "REMEMBERED_AT_ONCE", 2)
    away = [True]
    asked: list[str] = []

    def answer(texts: list[str]) -> httpx.Response:
        if "c" in texts and away:
            away.pop()
            return httpx.Response(502)
        asked.extend(texts)
        return embeddings([[1.0, 0.0]] * len(texts))

    vectors = remembered.RememberedVectors(endpoint(answer))
    with pytest.raises(TransientError):
        vectors.embed(["a", "b", "c", "d"])
    assert vectors.embed(["a", "b", "c", "d"]).shape == (4, 2)
    assert asked == ["dimensions", "a", "b", "c", "d"]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_an_endpoint_refuses_is_named_and_the_others_are_not(status: int) -> None:
    asked: list[list[str]] = []

    def answer(texts: list[str]) -> httpx.Response:
        asked.append(texts)
        if any(len(text) > 500 for text in texts):
            return httpx.Response(status, text="512 tokens at most")
        return embeddings([[1.0, 0.0]] * len(texts))

    embedder = endpoint(answer)
    message = rf"text 4 of 5, 8000 characters, with HTTP {status}: 512 tokens at most"
    with pytest.raises(DataError, match=message):
        embedder.embed(["a", "b", "c", "long" * 2000, "e"])
    assert asked[-2:] == [["long" * 2000], ["dimensions"]]
    assert embedder.embed(["a", "b", "c", "e"]).shape == (4, 2)


def test_an_endpoint_that_takes_fewer_texts_at_a_time_gets_fewer() -> None:
    def answer(texts: list[str]) -> httpx.Response:
        return embeddings([[1.0, 0.0]]) if len(texts) == 1 else httpx.Response(422, text="batch too large")

    assert endpoint(answer).embed(["a", "b", "c"]).shape == (3, 2)


def test_a_model_that_an_endpoint_has_no_more_is_no_texts_fault() -> None:
    gone: list[bool] = []
    embedder = endpoint(lambda texts: httpx.Response(400, text="no model m") if gone else embeddings([[1.0, 0.0]]))
    gone.append(True)
    with pytest.raises(ConfigError, match="answered HTTP 400: no model m"):
        embedder.embed(["a"])


@pytest.mark.parametrize("spent", [(402, ""), (429, "insufficient_quota")])
def test_a_spent_quota_is_waited_for_by_who_can_wait(spent: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.time, "sleep", lambda _: pytest.fail("it was asked again"))
    status, code = spent
    error = {"message": "pay first", "code": code}
    with pytest.raises(TransientError, match=f"the quota is spent: .* HTTP {status}: pay first"):
        endpoint(lambda texts: httpx.Response(status, json={"error": error}))


@pytest.mark.parametrize("late", [httpx.ConnectTimeout, httpx.ReadTimeout])
def test_an_endpoint_that_is_late_is_asked_again(
    late: type[httpx.TimeoutException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff.time, "sleep", lambda _: None)
    failures: list[bool] = []

    def answer(texts: list[str]) -> httpx.Response:
        if failures:
            failures.pop()
            raise late("late")
        return embeddings([[1.0, 0.0]] * len(texts))

    embedder = endpoint(answer)
    failures.append(True)
    assert embedder.embed(["a", "b", "c"]).shape == (3, 2)
