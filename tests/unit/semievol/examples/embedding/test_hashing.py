import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import EmbeddingConfig
from semievol.examples.embedding.hashing import HashingEmbedder
from semievol.examples.embedding.opening import build_embedder


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
