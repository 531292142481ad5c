"""An ExampleIndex by words instead of vectors: BM25, the peer that dense retrieval is compared with.

Owns nothing but the calls into bm25s. Invariant: the same examples and question give the same neighbours; ties go to
the example that was added first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semievol.errors import ConfigError
from semievol.types import Example, Neighbour

_EVERYWHERE = "everywhere"


class Bm25ExampleIndex:
    """Examples in memory, ranked by BM25 (Lucene's variant, bm25s' default). `Neighbour.similarity` is its score, >= 0.

    Raises:
        ConfigError: bm25s is not installed.
    """

    def __init__(self, examples: Sequence[Example] = ()) -> None:
        try:
            import bm25s
        except ImportError:
            raise ConfigError("BM25 needs bm25s; pip install 'semievol[compare]'") from None
        self._bm25s: Any = bm25s
        self._examples: dict[str, Example] = {}
        self._ranker: Any = None
        self.upsert(examples)

    def upsert(self, examples: Sequence[Example]) -> None:
        self._examples.update({example.id: example for example in examples})
        self._ranker = None

    def delete(self, ids: Sequence[str]) -> None:
        for each in ids:
            self._examples.pop(each, None)
        self._ranker = None

    def neighbours(self, questions: Sequence[str], k: int) -> list[list[Neighbour]]:
        k = min(k, len(self._examples))
        if k == 0 or not questions:
            return [[] for _ in questions]
        stored = list(self._examples.values())
        if self._ranker is None:
            self._ranker = self._bm25s.BM25()
            # bm25s refuses a collection without a word: one word stands in every text, and tells none apart.
            texts = [f"{_EVERYWHERE} {example.query.question}" for example in stored]
            self._ranker.index(self._tokens(texts), show_progress=False)
        rows = []
        for question in questions:
            scores = self._scores(question, len(stored))
            best = sorted(range(len(stored)), key=lambda place: (-scores[place], place))[:k]
            rows.append([Neighbour(stored[place], scores[place]) for place in best])
        return rows

    def ids(self) -> frozenset[str]:
        return frozenset(self._examples)

    def close(self) -> None:
        """Nothing is held."""

    def _scores(self, question: str, count: int) -> list[float]:
        words = self._bm25s.tokenize([question], stopwords=None, return_ids=False, show_progress=False)[0]
        if not words:  # bm25s refuses a question without a word
            return [0.0] * count
        scores: list[float] = self._ranker.get_scores(words).tolist()
        return scores

    def _tokens(self, texts: Sequence[str]) -> Any:
        # Stop words are kept: in short questions they tell intents apart.
        return self._bm25s.tokenize(list(texts), stopwords=None, show_progress=False)
