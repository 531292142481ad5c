"""What a metric is, declared once: for the registry, for the series that start at zero, and for docs/metrics.md.

Owns the shape of a declaration. Invariant: a label whose values are a tuple never has another value; one whose values
are a sentence is named by it, and a process holds few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

PREFIX = "semievol_"
Kind = Literal["counter", "gauge", "histogram"]
Labels = Mapping[str, tuple[str, ...] | str]


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric.

    by: the roles of which a process exports it; empty: every process does.
    labels: beside `workload`, with the values that each can have, or what they are in words.
    """

    name: str
    kind: Kind
    text: str
    by: tuple[str, ...]
    labels: Labels

    @property
    def full_name(self) -> str:
        """As it is exported."""
        return PREFIX + self.name

    @property
    def samples(self) -> frozenset[str]:
        """The names of its samples."""
        ends = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return frozenset(self.full_name + end for end in ends)

    def series(self) -> Iterator[dict[str, str]]:
        """The labels of every series that it can have; none where the values of a label are not a closed set."""
        sets = [values for values in self.labels.values() if isinstance(values, tuple)]
        if len(sets) == len(self.labels):
            for values in product(*sets):
                yield dict(zip(self.labels, values, strict=True))
