"""Words: what the words of a question say about its answer, learned from examples and from what is unlabeled.

Naive Bayes (Nigam et al., 2000, Text classification from labeled and unlabeled documents using EM), over words and
pairs of adjacent words, each counted once a text. Vectors know what a text is about; words know which of two things
that lie close together it names.

Owns the vocabulary and the counts; whose shares they are is the consensus's. Invariant: a text's evidence depends on
the set of texts, not on their order.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import islice, pairwise

import numpy as np

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that write no spaces between words: each of their characters counts as a word."""
_READ = 64
"""Of a text its first so many words are read: it counts as _MOST of them, and 20,000 texts have millions."""
_PRIOR = 100.0
"""An answer is as if it had said so many words more, as often each as all texts together say it: what few examples
have not said they have not denied."""
_MOST = 32
"""A text counts as so many of its words and pairs at most. They are not independent, as the model has it, and of a long
text every answer would be sure."""
_VOCABULARY = 50_000
"""The most frequent ones: there is a number for each with each answer."""
_TERMS_AT_ONCE = 65_536


class Words:
    """The words of some texts, as far as two of the texts have them.

    Args:
        texts: queries and examples, in the order of the shares' rows.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        frequent = Counter(term for text in texts for term in _terms(text))
        known = sorted((term for term, n in frequent.items() if n > 1), key=lambda term: (-frequent[term], term))
        column = {term: place for place, term in enumerate(known[:_VOCABULARY])}
        rows, columns = array("i"), array("i")
        for row, text in enumerate(texts):
            its_own = array("i", sorted(column[term] for term in _terms(text) if term in column))
            rows.extend([row] * len(its_own))
            columns.extend(its_own)
        of_rows, of_columns = np.array(rows, dtype=np.int32), np.array(columns, dtype=np.int32)
        self._texts, self._terms = len(texts), len(column)
        self._by_text = _Groups(of_rows, of_columns)
        by_term = np.lexsort((of_rows, of_columns))
        self._by_term = _Groups(of_columns[by_term], of_rows[by_term])
        self._scales = np.minimum(1.0, _MOST / np.maximum(np.bincount(of_rows, minlength=len(texts)), 1))
        self._usual = np.bincount(of_columns, minlength=len(column)) / max(1, len(rows))

    def evidence(self, shares: np.ndarray) -> np.ndarray:
        """How much likelier the words of each text are with each answer than at large, in nats.

        Args:
            shares: of the texts in the answers, shape (texts, answers); a row of zeros counts nowhere.

        Returns:
            Shape (texts, answers).
        """
        counts = self._by_term.summed(shares, self._terms)
        usual = self._usual[:, None]
        ratios = np.log((counts + _PRIOR * usual) / ((counts.sum(axis=0) + _PRIOR) * usual))
        return self._by_text.summed(ratios, self._texts) * self._scales[:, None]


class _Groups:
    """Rows of a table to be added up by group.

    Args:
        groups: the group of each row, ascending.
        rows: which row of the table, of the same shape.
    """

    def __init__(self, groups: np.ndarray, rows: np.ndarray) -> None:
        self._rows = rows
        self._groups, self._starts = np.unique(groups, return_index=True)

    def summed(self, table: np.ndarray, groups: int) -> np.ndarray:
        """The sums, shape (groups, columns of the table); of a group without rows 0."""
        sums = np.zeros((groups, table.shape[1]))
        ends = np.append(self._starts[1:], len(self._rows))
        first = 0
        while first < len(self._starts):  # whole groups, some at once: all rows together may be gigabytes
            last = int(np.searchsorted(ends, self._starts[first] + _TERMS_AT_ONCE, side="right"))
            last = max(last, first + 1)
            begin, end = self._starts[first], ends[last - 1]
            part = table[self._rows[begin:end]]
            sums[self._groups[first:last]] = np.add.reduceat(part, self._starts[first:last] - begin, axis=0)
            first = last
        return sums


def _terms(text: str) -> set[str]:
    """The first words of a text, and the pairs of them that are adjacent."""
    found = islice(_word().finditer(unicodedata.normalize("NFC", text).lower()), _READ)
    words = [match.group() for match in found]
    return {*words, *(" ".join(pair) for pair in pairwise(words))}


@functools.cache
def _word() -> re.Pattern[str]:
    """Letters, digits and the marks on them: vowel signs and accents, which the class of word characters leaves out."""
    signs = (character for character in map(chr, range(0x300, 0x20000)) if unicodedata.category(character)[0] == "M")
    return re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[\w{''.join(signs)}])+")
