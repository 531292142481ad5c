"""Vectors of examples where the embedder may refuse one of them: a text may be longer than its model reads.

Owns the search by halves for who it is. Owns not what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from semievol.errors import DataError
from semievol.protocols import Embedder
from semievol.types import Example


def vector_of_each(
    embedder: Embedder, examples: Sequence[Example]
) -> Iterator[tuple[Example, NDArray[np.float32] | DataError]]:
    """Each with its question's vector, or with the refusal, which names it.

    Raises:
        TransientError: the embedder did not answer.
    """
    try:
        vectors = embedder.embed([example.query.question for example in examples])
    except DataError as refusal:
        if len(examples) == 1:
            yield examples[0], DataError(f"example {examples[0].id!r}: {refusal}")
            return
        half = len(examples) // 2
        yield from vector_of_each(embedder, examples[:half])
        yield from vector_of_each(embedder, examples[half:])
        return
    yield from zip(examples, vectors, strict=True)
