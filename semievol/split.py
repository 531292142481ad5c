"""Which labelled examples are held out: decided by the id alone, for ever.

Owns one pure function, used on files and by the service alike. Invariant: the same id, share and salt give the
same answer on every machine, and raising the share only adds ids to the holdout.
"""

from __future__ import annotations

import hashlib


def is_holdout(example_id: str, share: float, salt: str = "") -> bool:
    """Whether the example is only ever evaluated on.

    Args:
        example_id: the example's id.
        share: expected share of held-out examples, in [0, 1].
        salt: separates workloads whose ids coincide.
    """
    digest = hashlib.blake2b(f"{salt}\x1f{example_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64
