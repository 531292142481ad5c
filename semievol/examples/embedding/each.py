"""Vectors of examples where the embedder may refuse one of them: a text may be longer than its model reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semievol.errors import DataError
from semievol.halving import each_or_refusal
from semievol.protocols import Embedder
from semievol.types import Example


def vector_of_each(
    embedder: Embedder, examples: Sequence[Example]
) -> tuple[list[tuple[Example, NDArray[np.float32]]], dict[str, DataError]]:
    """Those that the embedder takes, each with its question's vector, and by id why it refuses the others.

    Raises:
        TransientError: the embedder did not answer.
    """
    taken: list[tuple[Example, NDArray[np.float32]]] = []
    refused: dict[str, DataError] = {}
    vectors = each_or_refusal(examples, lambda some: embedder.embed([each.query.question for each in some]))
    for example, vector in zip(examples, vectors, strict=True):
        if isinstance(vector, DataError):
            refused[example.id] = DataError(f"example {example.id!r}: {vector}")
        else:
            taken.append((example, vector))
    return taken, refused
