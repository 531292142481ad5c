"""Shares of a set of ids, decided by each id alone: which examples are held out, for ever.

Owns pure functions, used on files and by the service alike. Invariant: the same id, share and salt give the
same answer on every machine, and raising the share only adds ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from semievol.types import Example


def is_holdout(example_id: str, share: float, salt: str = "") -> bool:
    """Whether the example is only ever evaluated on: never retrieved, never trained on.

    Args:
        example_id: the example's id.
        share: expected share of held-out examples, in [0, 1].
        salt: separates workloads whose ids coincide.
    """
    return in_share(example_id, share, salt)


def in_share(key: str, share: float, salt: str) -> bool:
    """Whether `key` belongs to the share (in [0, 1]) of all keys that its hash with `salt` picks."""
    digest = hashlib.blake2b(f"{salt}\x1f{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def split_examples(examples: Sequence[Example], share: float) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(examples to retrieve and train on, holdout), decided by each id alone."""
    kept = tuple(example for example in examples if not is_holdout(example.id, share))
    return kept, tuple(example for example in examples if is_holdout(example.id, share))
