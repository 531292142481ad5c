"""When answers mean the same: by spelling, by value, by normal form, or by an embedder.

Owns the relation over a batch of answers, the clusters of candidate answers and the comparison with the truth.
Invariant: every cluster is named by one of its own answers, so that whoever counts equal strings counts clusters.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from semievol.errors import ConfigError, DataError
from semievol.halving import each_or_refusal
from semievol.protocols import Embedder
from semievol.tasks.task import Task
from semievol.types import CandidateAnswer, Example

logger = logging.getLogger(__name__)

Same = Callable[[str, str], bool]
"""Whether two canonical answers mean the same: symmetric, but not always transitive."""


class AnswerEquality:
    """The relation of one task.

    Args:
        task: its form decides.
        embedder: compares free-form answers; not used by the other forms.

    Raises:
        ConfigError: the form needs an embedder and there is none.
    """

    def __init__(self, task: Task, embedder: Embedder | None = None) -> None:
        if task.embeds and embedder is None:
            raise ConfigError("task.form: free_form compares answers by embedding; it needs the section embedding")
        self._task = task
        self._embedder = embedder if task.embeds else None

    def among(self, answers: Iterable[str | None]) -> Same:
        """The relation between any two of `answers`. Blocking where it embeds; then nothing else may be compared.

        An answer that the embedder refuses, too long for it, is the same as itself alone.

        Raises:
            TransientError: the embedder did not answer.
        """
        if self._embedder is None:
            return self._task.same
        texts = list(dict.fromkeys(answer for answer in answers if answer is not None))
        vectors = _vectors(self._embedder, texts)
        threshold = self._task.config.similarity

        def same(one: str, other: str) -> bool:
            if one == other or one not in vectors or other not in vectors:
                return one == other
            return float(np.vecdot(vectors[one], vectors[other])) >= threshold

        return same

    async def among_async(self, answers: Iterable[str | None]) -> Same:
        """`among`, with the embedding in a thread."""
        if self._embedder is None:
            return self._task.same
        return await asyncio.to_thread(self.among, list(answers))


def _vectors(embedder: Embedder, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Of all texts that the embedder takes; each of the others is told in the log."""
    vectors: dict[str, NDArray[np.float32]] = {}
    for text, vector in zip(texts, each_or_refusal(texts, embedder.embed), strict=True):
        if isinstance(vector, DataError):
            logger.warning("an answer is compared by its spelling alone: %s", vector)
        else:
            vectors[text] = vector
    return vectors


def clustered(candidates: Sequence[CandidateAnswer], same: Same) -> tuple[CandidateAnswer, ...]:
    """The candidates, each with the answer that stands for its cluster; texts stay as they are.

    Greedy, surest first: a candidate joins the first cluster whose representative it is the same as, or founds one; so
    a representative has the lowest entropy of its cluster, and the order of the candidates does not matter.
    Unparseable candidates belong to no cluster.
    """
    representatives: dict[str, str] = {}
    for candidate in sorted(candidates, key=_surest_first):
        answer = candidate.answer
        if answer is not None and answer not in representatives:
            founders = dict.fromkeys(representatives.values())
            representatives[answer] = next((each for each in founders if same(answer, each)), answer)
    return tuple(
        each if each.answer is None else replace(each, answer=representatives[each.answer]) for each in candidates
    )


def is_correct(answer: str | None, example: Example, same: Same) -> bool:
    """Whether `answer` is the same as one of the example's true answers; what did not parse is wrong."""
    return answer is not None and any(same(answer, gold) for gold in example.answers)


def _surest_first(candidate: CandidateAnswer) -> tuple[float, str]:
    return (math.inf if math.isnan(candidate.entropy) else candidate.entropy, candidate.answer or "")
