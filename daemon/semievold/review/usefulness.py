"""What a label of a question would teach, and orders that nobody outside the service can foresee.

Pure. The usefulness is a rule of thumb, which ranks what is put before people and decides nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable


def uncertainty_of(entropy: float, agreement: float) -> float:
    """In [0, 1]: `1 - exp(-entropy) * agreement`; entropy in nats per token, infinite where no candidate parsed."""
    return 1.0 - math.exp(-max(0.0, entropy)) * agreement


def usefulness(uncertainty: float, times: int, nearest: float | None) -> float:
    """High for what the model is unsure of, what is asked often, and what no example is near to.

    Args:
        uncertainty: in [0, 1].
        times: how many queries ask it; each doubling counts as much as the first.
        nearest: cosine of the nearest example; None: there was none.
    """
    distance = 1.0 - max(0.0, min(1.0, nearest or 0.0))
    return uncertainty * (1.0 + math.log2(max(1, times))) * (1.0 + distance) / 2.0


class SecretOrder:
    """Orders by a keyed hash: the same everywhere with one secret, and unknown to whoever has none."""

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()[:64]

    def place(self, *parts: object) -> bytes:
        """Where these stand."""
        content = "\x1f".join(map(str, parts)).encode(errors="surrogatepass")
        return hashlib.blake2b(content, key=self._key, digest_size=16).digest()

    def shuffled(self, what: str, answers: Iterable[str]) -> tuple[str, ...]:
        """Different answers to `what`, so that their order tells nothing of who gave them."""
        return tuple(sorted(set(answers), key=lambda answer: self.place("answers", what, answer)))
