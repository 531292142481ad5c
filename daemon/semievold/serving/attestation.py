"""The proof that a replica serves the very weights that were trained: it answers the fingerprint as they did.

Pure comparison; asking is the caller's. The trainer recorded what the trained weights and the base model alone answer.
The base model's answers calibrate: how far a replica's base is from the trainer's is what precision and kernels do
to any weights, and the adapter may be a few times as far, no more. A replica passes when its answers are within that
tolerance of the record, are not the very answers of its base or incumbent, and are not nearer to those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semievol.types import Completion, GenerationRequest, Message

# Nats per token: what is allowed however little the base model's answers deviate (measured: docs/decisions/0005).
FLOORS: Mapping[str, float] = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.02}
NOISE_FACTOR = 4.0
CAP = 0.25
"""Beyond it even the base model's answers are another model's. Also the largest tolerance."""
# The same weights under two names answer alike to the last bit; two trainings on nearly the same rows came as near as
# 2e-4 where both were sure of their answers.
SAME = 1e-5
# Nats: where the two best tokens are nearer than this, rounding may choose the other one. A bfloat16 logit between 16
# and 32 is a multiple of 0.125.
TIES: Mapping[str, float] = {"float32": 0.01, "bfloat16": 0.3, "float16": 0.05}


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy tokens with their log-probabilities, and how far behind the second best token was (nats)."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...] = ()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Answer:
        """Raises KeyError or TypeError when it is none."""
        return cls(tuple(record["token_ids"]), tuple(record["logprobs"]), tuple(record.get("margins", ())))


@dataclass(frozen=True, slots=True)
class FingerprintEntry:
    """One prompt and what the trainer's weights answered to it. `base` None: not recorded."""

    messages: tuple[Message, ...]
    adapted: Answer
    base: Answer | None = None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FingerprintEntry:
        """Raises KeyError or TypeError when it is none."""
        base = record.get("base")
        return cls(
            tuple(Message(**message) for message in record["messages"]),
            Answer.from_record(record),
            None if base is None else Answer.from_record(base),
        )

    def request(self, adapter: str | None) -> GenerationRequest:
        """The question whose answer is compared."""
        answers = [self.adapted, *([] if self.base is None else [self.base])]
        return GenerationRequest(self.messages, adapter, max_tokens=max(len(each.token_ids) for each in answers))


@dataclass(frozen=True, slots=True)
class Attestation:
    """Whether one replica passed; distances in nats per token."""

    passed: bool
    reason: str
    deviation: float | None = None
    tolerance: float | None = None
    noise: float | None = None
    distance_to_base: float | None = None
    distance_to_incumbent: float | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """The attestations of all replicas, by name, and what they mean together."""

    passed: bool
    reason: str
    replicas: Mapping[str, Attestation] = field(default_factory=dict)


def deviation(expected: Sequence[Answer], answers: Sequence[Completion], tie: float) -> float:
    """Mean absolute difference of log-probability over the recorded tokens.

    Only the common prefix of tokens is comparable. From the first different token on, each recorded token counts as one
    nat, so that another continuation is never near; unless the two best tokens were within `tie` nats there, and the
    answer took the other one: then what follows is not compared.
    """
    total, count = 0.0, 0
    for entry, answer in zip(expected, answers, strict=True):
        same = _common(entry.token_ids, answer.token_ids)
        total += sum(abs(a - b) for a, b in zip(entry.logprobs[:same], answer.logprobs[:same], strict=True))
        if same == len(entry.token_ids):
            count += same
        elif _is_tie(entry, answer, same, tie):
            total += abs(entry.logprobs[same] - answer.logprobs[same])
            count += same + 1
        else:
            total += len(entry.token_ids) - same
            count += len(entry.token_ids)
    return total / count if count else 0.0


def tolerance(dtype: str, noise: float | None) -> float:
    """What the adapter's answers may deviate, given what the base model's do (None: not known)."""
    floor = FLOORS[dtype]
    return 2 * floor if noise is None else min(CAP, max(floor, NOISE_FACTOR * noise))


def attest(
    expected: Sequence[FingerprintEntry],
    candidate: Sequence[Completion],
    base: Sequence[Completion],
    incumbent: Sequence[Completion] | None,
    dtype: str,
) -> Attestation:
    """Judge the answers of one replica under the candidate's name, the base model's and the incumbent's."""
    if not expected:
        return Attestation(False, "its manifest holds no fingerprint, so nothing can be proved")
    adapted = [entry.adapted for entry in expected]
    recorded_base = [entry.base for entry in expected if entry.base is not None]
    tie = TIES[dtype]
    noise = deviation(recorded_base, base, tie) if len(recorded_base) == len(expected) else None
    allowed = tolerance(dtype, noise)
    own, to_base = deviation(adapted, candidate, tie), deviation(adapted, base, tie)
    to_incumbent = None if incumbent is None else deviation(adapted, incumbent, tie)
    slack = max(FLOORS[dtype], noise or 0.0)

    def verdict(passed: bool, reason: str) -> Attestation:
        return Attestation(passed, reason, own, allowed, noise, to_base, to_incumbent)

    if noise is not None and noise > CAP:
        return verdict(
            False,
            f"it serves another base model than the one trained on: its base answers deviate by {noise:.3f} nats per "
            f"token (at most {CAP:.2f})",
        )
    if distance(candidate, base) < SAME:
        return verdict(False, "answers are the base model's: the adapter is not applied")
    if incumbent is not None and distance(candidate, incumbent) < SAME:
        return verdict(False, "answers are the incumbent's: the old weights are served under the new name")
    if own > allowed:
        return verdict(False, f"wrong weights: answers deviate by {own:.3f} nats per token (tolerance {allowed:.3f})")
    for whose, nearer in (("base model", to_base), ("incumbent", to_incumbent)):
        if nearer is not None and nearer + slack < own:
            return verdict(False, f"wrong weights: the {whose}'s answers are nearer to the trained ones")
    return verdict(True, "served weights answer as the trained ones")


def answered_by_all(
    expected: Sequence[FingerprintEntry], *answers: Mapping[int, Completion] | None
) -> tuple[list[FingerprintEntry], list[list[Completion] | None]]:
    """The entries that everybody answered, and the answers to them; None stays None.

    A prompt that an engine refuses (too long for it, against its chat template) proves nothing, and disproves nothing.

    Args:
        expected: the fingerprint.
        answers: of each who was asked, by the place of the entry; None: it was not asked.
    """
    given = [each for each in answers if each is not None]
    places = [place for place in range(len(expected)) if all(place in each for each in given)]
    kept = [None if each is None else [each[place] for place in places] for each in answers]
    return [expected[place] for place in places], kept


def none_answered(refusal: str) -> Attestation:
    """Every prompt of the fingerprint is refused."""
    return Attestation(False, f"every prompt of its fingerprint is refused: {refusal}")


def distance(one: Sequence[Completion], other: Sequence[Completion]) -> float:
    """How differently two sets of answers of one replica read, nats per token; infinite where tokens differ."""
    total, count = 0.0, 0
    for a, b in zip(one, other, strict=True):
        if a.token_ids != b.token_ids:
            return math.inf
        total += sum(abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True))
        count += len(a.token_ids)
    return total / max(1, count)


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two answers share from their start."""
    same = 0
    for a, b in zip(ours, theirs, strict=False):
        if a != b:
            break
        same += 1
    return same


def _is_tie(entry: Answer, answer: Completion, place: int, tie: float) -> bool:
    """Whether rounding alone explains that the answer goes another way at `place`."""
    if place >= len(entry.margins) or place >= len(answer.logprobs) or entry.margins[place] >= tie:
        return False
    return abs(entry.logprobs[place] - answer.logprobs[place]) < tie
