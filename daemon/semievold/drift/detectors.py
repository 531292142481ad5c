"""The detectors of one workload: which there are, what each is told of a query or a label, and their state as rows.

Owns names and values; the statistics are semievol.drift's, reading and writing the watch's. Invariant: what is told of
a query depends on its row alone, so that a query that is looked at again after a crash is told alike.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semievol.drift.accuracy import ProxyRecord
from semievol.drift.falls import FallDetector
from semievol.drift.mixes import BUCKETS, MixDetector, batch_for, bucket
from semievol.seeds import derive
from semievold.config.drift import DriftKind, DriftSettings
from semievold.store.drift.events import Answered

BASE = "base"
MOST_CATEGORIES = 30
LONGEST_CATEGORY = 200
"""Characters of a category in the state."""
LATELY = 100
"""The labels of which accuracy is shown."""
UNPARSED = "(no answer)"

Detector = FallDetector | MixDetector
_FALLS = ("input", "confidence", "accuracy")
_ORDER: tuple[DriftKind, ...] = ("input", "topics", "confidence", "answers")
"""Of the alarms that one query raises."""
Known = Mapping[str, tuple[str | None, str]]
"""{example id: its category and its answer}."""


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm of one detector, `count` values after the shift seems to have begun."""

    kind: DriftKind
    adapter: str | None
    category: str | None
    detector: Detector
    count: int


@dataclass(slots=True)
class Accuracy:
    """What labels said of one adapter: the record of its proxy, and the newest labels with their proxies."""

    record: ProxyRecord = field(default_factory=ProxyRecord)
    lately: list[tuple[bool, float]] = field(default_factory=list)

    def add(self, correct: bool, proxy: float) -> None:
        self.record.add(correct, proxy)
        self.lately = [*self.lately, (correct, proxy)][-LATELY:]

    def state(self) -> dict[str, Any]:
        return {"record": self.record.state(), "lately": self.lately}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Accuracy:
        return cls(ProxyRecord.of(state["record"]), [(bool(each[0]), float(each[1])) for each in state["lately"]])


class Detectors:
    """All detectors, from their stored states on.

    Args:
        labels: how many labels the task has; None: answers are no closed set.
        arming: the number of the reference, which seeds the draws.
    """

    def __init__(
        self, settings: DriftSettings, labels: int | None, seed: int, arming: int, states: Mapping[str, Any]
    ) -> None:
        self._settings = settings
        self._labels = labels
        self._seed = seed
        self._arming = arming
        self._states = dict(states)
        self._found: dict[str, Detector] = {}
        self._accuracies: dict[str, Accuracy] = {}

    def tell(self, rows: Sequence[Answered], known: Known) -> list[tuple[Answered, Raised]]:
        """Queries that the serving adapter answered, oldest first; what is raised, beside the query that raised it.

        Told detector by detector: many values at once cost one little more than a single one.
        """
        values: defaultdict[tuple[DriftKind, str, str | None], list[tuple[int, Any]]] = defaultdict(list)
        for place, row in enumerate(rows):
            adapter, similarity = row.adapter or BASE, similarity_of(row)
            for category in self._watched(category_of(row, known)):
                if similarity is not None:
                    values["input", "", category].append((place, similarity))
                values["confidence", adapter, category].append((place, sureness_of(row)))
            if similarity is not None:
                values["topics", "", None].append((place, self._topic(row, known)))
            values["answers", adapter, None].append((place, self._closed(row.answer)))
        raised: list[tuple[int, Raised]] = []
        for (kind, adapter, category), some in values.items():
            found = self._falls(kind, adapter, category) if kind in _FALLS else self._mixes(kind, adapter)
            if found is None:
                continue
            seen, given = found.seen, [value for _, value in some]
            if (last := found.add_all(given)) is not None:
                count = seen + last + 1 - found.began
                raised.append((some[last][0], Raised(kind, adapter or None, category, found, count)))
        raised.sort(key=lambda each: (each[0], _ORDER.index(each[1].kind)))
        return [(rows[place], each) for place, each in raised]

    def tell_truth(self, row: Answered, known: Known, correct: bool, mean_proxy: float) -> list[Raised]:
        """A label of a query that the serving adapter answered; `mean_proxy`: of the queries around it."""
        adapter = row.adapter or BASE
        seen = self.accuracy(adapter)
        value, low, high = seen.record.powered(correct, row.confidence, mean_proxy)
        seen.add(correct, row.confidence)
        raised = []
        for category in self._watched(category_of(row, known)):
            found = self._falls("accuracy", adapter, category)
            if found is not None and found.add(value, low, high):
                raised.append(Raised("accuracy", adapter, category, found, found.seen - found.began))
        return raised

    def accuracy(self, adapter: str) -> Accuracy:
        """What is known of it; changed by whoever tells."""
        if adapter not in self._accuracies:
            state = self._states.get(_name("labels", adapter, ""))
            self._accuracies[adapter] = Accuracy() if state is None else Accuracy.of(state)
        return self._accuracies[adapter]

    def changed(self) -> dict[str, dict[str, Any]]:
        """{name: state} of those that were told something."""
        states = {
            name: {**found.state(), "line": found.false_alarm_every, "referred": found.phase != "reference"}
            for name, found in self._found.items()
        }
        return states | {_name("labels", name, ""): each.state() for name, each in self._accuracies.items()}

    def others(self, keep: set[str]) -> list[str]:
        """Names of those that belong to adapters which neither serve nor did before."""
        return [name for name in self._states if name.split("|", 2)[1] not in keep | {""}]

    def _watched(self, category: str | None) -> tuple[str | None, ...]:
        """The whole workload, and a category of it, where these are watched."""
        return (None, category) if self._settings.categories and category else (None,)

    def _falls(self, kind: DriftKind, adapter: str, category: str | None) -> FallDetector | None:
        name = _name(kind, adapter, category or "")
        if name not in self._found:
            new = name not in self._states
            if new and category is not None and self._categories(kind, adapter) >= MOST_CATEGORIES:
                return None
            by_label = kind == "accuracy"
            reference = self._settings.reference_labels if by_label else self._settings.reference
            line = self._line() * (self._label_share(adapter) if by_label else 1.0)
            self._add(name, FallDetector(reference, line, grows=by_label))
        found = self._found[name]
        assert isinstance(found, FallDetector)
        return found

    def _mixes(self, kind: DriftKind, adapter: str) -> MixDetector:
        name = _name(kind, adapter, "")
        if name not in self._found:
            seed = derive(self._seed, "drift", kind, adapter, self._arming)
            size = batch_for(BUCKETS if self._labels is None else self._labels)
            self._add(name, MixDetector(self._settings.reference, self._settings.false_alarm_every, size, seed))
        found = self._found[name]
        assert isinstance(found, MixDetector)
        return found

    def _add(self, name: str, new: Detector) -> None:
        if (state := self._states.get(name)) is not None:
            new.restore(state)
        self._found[name] = new

    def _line(self) -> float:
        every = float(self._settings.false_alarm_every)
        return 2 * every if self._settings.categories else every

    def _label_share(self, adapter: str) -> float:
        """Of the queries those that get a label: what is stated in queries, in labels."""
        asked = int(self._states.get(_name("confidence", adapter, ""), {"seen": 0})["seen"])
        labels = max(self.accuracy(adapter).record.count, self._settings.reference_labels)
        return min(1.0, labels / (asked + 1))

    def _categories(self, kind: str, adapter: str) -> int:
        begin = _name(kind, adapter, "")
        return sum(name.startswith(begin) and name != begin for name in {*self._states, *self._found})

    def _closed(self, answer: str | None) -> str:
        if answer is None:
            return UNPARSED
        # What is no closed set is counted by a fixed hash: new ones must not look like new kinds.
        return answer if self._labels is not None else bucket(answer)

    def _topic(self, row: Answered, known: Known) -> str:
        category, answer = known.get(row.neighbours[0][0], (None, None))
        if category is None and answer is not None and self._labels is not None:
            return answer
        return shortened(category) if category else bucket(row.neighbours[0][0])


def similarity_of(row: Answered) -> float | None:
    """To the nearest example, in [0, 1]; None: none was looked for."""
    return None if not row.neighbours else min(1.0, max(0.0, float(row.neighbours[0][1])))


def sureness_of(row: Answered) -> float:
    """exp(-entropy), in [0, 1]: the geometric mean of what the tokens of the answer were given."""
    return 0.0 if row.answer is None or not math.isfinite(row.entropy) else min(1.0, math.exp(-row.entropy))


def category_of(row: Answered, known: Known) -> str | None:
    """Its own, else the one of the nearest example; shortened."""
    category = row.category
    if not category and row.neighbours:
        category = known.get(row.neighbours[0][0], (None, ""))[0]
    return shortened(category) if category else None


def shortened(category: str) -> str:
    """At most LONGEST_CATEGORY characters; two long ones that begin alike stay apart by a hash."""
    if len(category) <= LONGEST_CATEGORY:
        return category
    digest = hashlib.blake2b(category.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{category[: LONGEST_CATEGORY - len(digest) - 1]}…{digest}"


def _name(kind: str, adapter: str, category: str) -> str:
    return f"{kind}|{adapter}|{category}"
