"""Vectors of length 1, whatever a model gave."""

from __future__ import annotations

from typing import Any

import numpy as np

from semievol.protocols import Vectors


def unit_rows(vectors: Any) -> Vectors:
    """Rows scaled to length 1; a zero row, or one that is not all numbers, becomes the first axis."""
    array = np.array(vectors, dtype=np.float32)
    # One NaN (an endpoint's null) would reach every centre of a consensus.
    array[~np.isfinite(array).all(axis=1)] = 0.0
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    zero = norms[:, 0] == 0
    array[zero, 0] = 1.0
    norms[zero] = 1.0
    return np.asarray(array / norms, dtype=np.float32)
