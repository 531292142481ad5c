"""The proof that a replica serves the very weights that were trained: it answers the fingerprint as they did.

Pure comparison; asking is the caller's. A replica passes when it gives the recorded tokens with the recorded
log-probabilities within tolerance, and is told apart from the base and the incumbent by more than that tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semievol.types import Completion


@dataclass(frozen=True, slots=True)
class FingerprintEntry:
    """What the trained weights answer to one prompt: greedy tokens and their log-probabilities."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Attestation:
    """Whether the replica passed; deviations in nats per token."""

    passed: bool
    reason: str
    deviation: float
    distance_to_base: float
    distance_to_incumbent: float | None


def deviation(expected: Sequence[FingerprintEntry], answers: Sequence[Completion]) -> float:
    """Mean absolute difference of log-probability over the recorded tokens.

    Only the common prefix of tokens is comparable; from the first different token on, each recorded token counts
    as one nat, so that another continuation is never near.
    """
    total, count = 0.0, 0
    for entry, answer in zip(expected, answers, strict=True):
        same = 0
        for ours, theirs in zip(entry.token_ids, answer.token_ids, strict=False):
            if ours != theirs:
                break
            same += 1
        total += sum(abs(a - b) for a, b in zip(entry.logprobs[:same], answer.logprobs[:same], strict=True))
        total += len(entry.token_ids) - same
        count += len(entry.token_ids)
    return total / max(1, count)


def attest(
    expected: Sequence[FingerprintEntry],
    candidate: Sequence[Completion],
    base: Sequence[Completion],
    incumbent: Sequence[Completion] | None,
    tolerance: float,
) -> Attestation:
    """Judge the answers of one replica."""
    own = deviation(expected, candidate)
    to_base = deviation(expected, base)
    to_incumbent = None if incumbent is None else deviation(expected, incumbent)
    reason = "served weights answer as the trained ones"
    passed = True
    if own > tolerance:
        passed, reason = False, f"answers deviate by {own:.3f} nats per token (tolerance {tolerance:.3f})"
    elif to_base <= own:
        passed, reason = False, "answers cannot be told from the base model's: the adapter is not applied"
    elif to_incumbent is not None and to_incumbent <= own:
        passed, reason = False, "answers cannot be told from the incumbent's: the old weights are served"
    return Attestation(passed, reason, own, to_base, to_incumbent)
