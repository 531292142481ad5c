"""Texts to vectors by hashing alone: for tests, smoke runs, and where no model may be had."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from semievol.examples.embedding.unit import unit_rows
from semievol.protocols import Vectors

_INFORMATIVE_WORD_CHARS = 6


class HashingEmbedder:
    """Words and their character 3- and 4-grams hashed to signed buckets: no model, no download, numpy only.

    Args:
        dimensions: width of the vectors.
    """

    def __init__(self, dimensions: int = 256) -> None:
        self._dimensions = dimensions
        self._features = lru_cache(maxsize=1 << 14)(self._word_features)

    @property
    def name(self) -> str:
        return f"hashing-1:{self._dimensions}"

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            folded = text.casefold()
            # A text without a single word (only punctuation) is hashed as it stands, so that no vector is zero.
            for word in re.findall(r"\w+", folded) or [folded]:
                vectors[row] += self._features(word)
        return unit_rows(vectors)

    def _word_features(self, word: str) -> Vectors:
        vector = np.zeros(self._dimensions, dtype=np.float32)
        padded = f"<{word}>"
        grams = sorted({padded[i : i + size] for size in (3, 4) for i in range(len(padded) - size + 1)})
        # All grams together weigh twice the word itself; without statistics of the language, a word's length is
        # the best sign of how much it says (intents of short queries: nearest neighbour right for 0.60, not 0.44).
        gram_weight = max(len(grams), 1) ** -0.5
        for feature, weight in [(f"w:{word}", 0.5), *((f"c:{gram}", gram_weight) for gram in grams)]:
            code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
            vector[code % self._dimensions] += weight if code >> 31 else -weight
        return vector * np.float32(min(1.0, len(word) / _INFORMATIVE_WORD_CHARS))
