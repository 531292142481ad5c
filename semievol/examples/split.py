"""Who is held out, for ever: decided by what an example asks, so that copies of a question share a side.

Owns pure functions, used on files and by the service alike; who keeps the decisions is theirs to say. Invariants: the
same examples in the same order, share and salt give the same sides on every machine; a question that has a side keeps
it; as long as the examples allow it, at least `least` different questions are held out.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from semievol.types import Example, Query


def asked_key(query: Query) -> str:
    """32 hex digits over what is asked, whatever id, case, spaces and order of options it came with."""
    turns = [(message.role, _folded(message.content)) for message in query.messages or ()]
    parts = [f"{role}\x1e{content}" for role, content in turns or [("user", _folded(query.question))]]
    options = sorted(_folded(option) for option in query.options or ())
    return hashlib.blake2b(
        "\x1f".join([*parts, "", *options]).encode(errors="surrogatepass"), digest_size=16
    ).hexdigest()


def is_holdout(example_id: str, share: float, salt: str = "") -> bool:
    """Whether the hash alone puts an example on the side that is only ever evaluated on.

    Args:
        example_id: of the first example that asks its question.
        share: expected share of held-out questions, in [0, 1].
        salt: separates workloads whose ids coincide.
    """
    return in_share(example_id, share, salt)


def in_share(key: str, share: float, salt: str) -> bool:
    """Whether `key` belongs to the share (in [0, 1]) of all keys that its hash with `salt` picks."""
    return _place(key, salt) < share * 2.0**64


def is_calibration(asked: str, share: float, salt: str = "") -> bool:
    """Whether the hash of what is asked puts a question into the share that selection is calibrated on."""
    return in_share(asked, share, f"calibration\x1f{salt}")


@dataclass(frozen=True, slots=True)
class HoldoutRule:
    """How questions are divided.

    share: of the questions that are held out, by hash.
    salt: another salt is another division.
    calibration: of the questions that selection is calibrated on, by hash; they are never held out for the gate.
    least: so many are held out in any case, because a gate with fewer decides nothing; where the hash picks fewer,
        those that come next in its order. While `share` of all of them would be fewer, no more than `least` are.
    training_first: so many are trained on before any is held out beyond the hash's choice.
    """

    share: float
    salt: str = ""
    least: int = 0
    training_first: int = 0
    calibration: float = 0.0

    def calibrates(self, asked: str) -> bool:
        """Whether a question (`asked_key`) that has no side yet is one to calibrate on, whatever others there are."""
        return is_calibration(asked, self.calibration, self.salt)

    def sides(
        self, asked: Mapping[str, str], known: Mapping[str, bool], training: int, holdout: int
    ) -> dict[str, bool]:
        """{question: held out?} of all that are `asked`; those that are `known` keep their side.

        Args:
            asked: what examples that arrived together ask (`asked_key`), each with the id of the first that asks it:
                the hash of that id places the question.
            known: sides that were decided before, of some of them.
            training: how many different questions are trained on so far.
            holdout: how many are held out so far.
        """
        unknown = [key for key in asked if key not in known]
        new = sorted(unknown, key=lambda key: (_place(asked[key], self.salt), asked[key]))
        total = training + holdout + len(new)
        few = self.share * total < self.least
        held = [key for key in new if is_holdout(asked[key], self.share, self.salt)]
        if few:
            held = held[: max(0, self.least - holdout)]
        wanted = min(self.least, total - self.training_first) - holdout
        taken = frozenset(held)
        held += [key for key in new if key not in taken][: max(0, wanted - len(held))]
        chosen = frozenset(held)
        return {**known, **{key: key in chosen for key in new}}


def one_a_question(examples: Sequence[Example]) -> list[Example]:
    """The first of those that ask the same: what its copies prove, it has proved already."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(asked_key(example.query), example)
    return list(first.values())


def _place(key: str, salt: str) -> int:
    digest = hashlib.blake2b(f"{salt}\x1f{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def first_to_ask(examples: Iterable[Example]) -> dict[str, str]:
    """{what is asked: the id of the first example that asks it}, in the order of the examples."""
    first: dict[str, str] = {}
    for example in examples:
        first.setdefault(asked_key(example.query), example.id)
    return first


def split_examples(
    examples: Sequence[Example], share: float, least: int = 0
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(examples to retrieve and train on, holdout), decided by what each asks.

    At least `least` different questions are held out, where half as many are left to train on. Of held-out examples
    that ask the same the first one stands for all, and the others are left out.
    """
    asked = first_to_ask(examples)
    trained = least // 2
    possible = share > 0 and len(asked) >= least + trained
    held = HoldoutRule(share, least=least if possible else 0, training_first=trained).sides(asked, {}, 0, 0)
    kept = tuple(example for example in examples if not held[asked_key(example.query)])
    return kept, tuple(one_a_question([example for example in examples if held[asked_key(example.query)]]))


def split_calibration(
    examples: Sequence[Example], share: float, salt: str = ""
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(the others, those that selection is calibrated on), by the hash of what each asks; nobody's arrival changes it.

    Of calibration examples that ask the same the first one stands for all, and the others are left out.
    """
    chosen = [is_calibration(asked_key(example.query), share, salt) for example in examples]
    kept = tuple(example for example, taken in zip(examples, chosen, strict=True) if not taken)
    return kept, tuple(one_a_question([e for e, taken in zip(examples, chosen, strict=True) if taken]))
