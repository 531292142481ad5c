"""What the daemon did by itself in the demo, in words and figures: gates that opened, canaries, what was taken back,
and drift.

Reads the daemon's state and what the customers saw; measures nothing. Invariant: what did not happen is not told, and
what the story is about and did not happen is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from semievold.demo.customers import CustomerRecord
from semievold.demo.scenario import Story
from semievold.round_states import RoundState
from semievold.store.rollout.canaries import in_percent
from semievold.store.rounds import Round
from semievold.store.stores import Stores


@dataclass(frozen=True, slots=True)
class GateTold:
    """A gate that was open. pairs: live queries that both versions answered while it was, or later in the round;
    labels: given by people to what the review asked; open_s: for how long.
    """

    round: int
    opened: str
    pairs: int
    differ: int
    labels: int
    open_s: float
    closed: str

    def __str__(self) -> str:
        return (
            f"Round {self.round} was not proved by the held-out labels, and its gate stayed open ({self.opened}). "
            f"Of customers' mail {self.pairs} queries were answered by both versions, {self.differ} of them "
            f"differently; people gave {self.labels} labels, most of them where answers differ. After "
            f"{self.open_s:.0f} s it closed: {self.closed}."
        )


@dataclass(frozen=True, slots=True)
class CanaryTold:
    """A canary. stages: by share, how many customers were answered, how many of them by the version on trial; `both`:
    customers whose version changed within a stage.
    """

    round: int
    state: str
    stages: tuple[tuple[float, int, int], ...]
    both: int

    def __str__(self) -> str:
        def said(share: float, customers: int, by_it: int) -> str:
            return f"{in_percent(share)} of the customers ({by_it} of {customers})"

        stages = ", then ".join(said(*each) for each in self.stages)
        kept = "each kept its version" if not self.both else f"{self.both} were answered by both within a stage"
        return f"Round {self.round} was on trial with {stages}; {kept}."


@dataclass(frozen=True, slots=True)
class RollbackTold:
    """A version that the daemon took back. after_s: since its first client."""

    round: int
    test: str
    evidence: float
    alarm: float
    detail: str
    after_s: float
    lie: str | None

    def __str__(self) -> str:
        learned = "" if self.lie is None else f" had learned from labels that all said {self.lie!r}, and"
        return (
            f"Round {self.round}{learned} passed its gate; {self.after_s:.0f} s after its first client the daemon took "
            f"it back by itself. Test: {self.test.replace('_', ' ')}: {self.detail} (evidence {self.evidence:.3g}, "
            f"alarm at {self.alarm:.3g})."
        )


@dataclass(frozen=True, slots=True)
class DriftTold:
    """A drift event. also: kinds that raised an alarm while it was open, and belong to it."""

    number: int
    kind: str
    said: str
    words: tuple[str, ...]
    also: tuple[str, ...]

    def __str__(self) -> str:
        also = f" (part of it: {', '.join(self.also)})" if self.also else ""
        return f"Drift event {self.number}, {self.kind}{also}: {self.said}."


@dataclass(frozen=True, slots=True)
class Told:
    """All of it, in the order of rounds. not_seen: what the story shows on other days, and did not on this one."""

    gates: tuple[GateTold, ...]
    canaries: tuple[CanaryTold, ...]
    rollbacks: tuple[RollbackTold, ...]
    drift: tuple[DriftTold, ...]
    not_seen: tuple[str, ...]

    def sentences(self) -> tuple[str, ...]:
        told = (*self.gates, *self.canaries, *self.rollbacks, *self.drift)
        return (*map(str, told), *(f"Not seen in this run: {each}." for each in self.not_seen))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def tell(stores: Stores, story: Story) -> Told:
    """What happened."""
    rounds = sorted(stores.rounds.all(), key=lambda round_: round_.number)
    gates = tuple(gate for each in rounds if (gate := _gate(stores, each)) is not None)
    canaries = tuple(canary for each in rounds if (canary := _canary(each, story.customers)) is not None)
    rollbacks = tuple(back for each in rounds if (back := _rollback(stores, each, story)) is not None)
    drift = tuple(_drift(stores))
    missing = {
        "a gate that opens and is closed by people's labels": [each for each in gates if each.labels],
        "a canary": canaries,
        "a version that learned from lies and is taken back by itself": [
            each for each in rollbacks if each.round == story.poisoned
        ],
        "a drift event that names mail out of scope": drift,
    }
    return Told(gates, canaries, rollbacks, drift, tuple(what for what, seen in missing.items() if not seen))


def _gate(stores: Stores, round_: Round) -> GateTold | None:
    events = stores.rounds.events(round_.number)
    opened = next((each for each in events if each["to_state"] == RoundState.PROVING), None)
    if opened is None:
        return None
    left = next(each for each in events if each["from_state"] == RoundState.PROVING)
    pairs = stores.shadow_pairs.pairs(round_.number)
    return GateTold(
        round_.number,
        opened["detail"] or "",
        len(pairs),
        sum(each.differ for each in pairs),
        len(stores.reviews.evidence(round_.number)),
        left["at"] - opened["at"],
        str((round_.evaluation or {}).get("reason") or round_.reason),
    )


def _canary(round_: Round, record: CustomerRecord) -> CanaryTold | None:
    stages = {stage: by for stage, by in record.answered_by.items() if stage.round == round_.number}
    if not stages:
        return None
    return CanaryTold(
        round_.number,
        round_.state.value,
        tuple(
            (stage.share, len(by), sum(round_.adapter in versions for versions in by.values()))
            for stage, by in sorted(stages.items())
        ),
        sum(len(versions) > 1 for by in stages.values() for versions in by.values()),
    )


def _rollback(stores: Stores, round_: Round, story: Story) -> RollbackTold | None:
    if round_.state is not RoundState.ROLLED_BACK:
        return None
    found = [*(round_.watch or {}).get("findings", ()), *(round_.canary or {}).get("findings", ())]
    breaches = [each for each in found if each["evidence"] >= each["alarm"]]
    if not breaches:  # by hand
        return None
    worst = max(breaches, key=lambda each: float(each["evidence"] / each["alarm"]))
    moves = {each["to_state"]: each["at"] for each in reversed(stores.rounds.events(round_.number))}
    first = moves.get(RoundState.CANARY, moves.get(RoundState.PROMOTED, round_.updated_at))
    return RollbackTold(
        round_.number,
        worst["test"],
        worst["evidence"],
        worst["alarm"],
        worst["detail"],
        round_.updated_at - first,
        story.lie if round_.number == story.poisoned else None,
    )


def _drift(stores: Stores) -> Iterator[DriftTold]:
    for event in sorted(stores.drift.events(), key=lambda each: each.number):
        evidence = event.evidence
        also = sorted({str(each["kind"]) for each in event.also} - {event.kind})
        yield DriftTold(event.number, event.kind, str(evidence["said"]), tuple(evidence.get("words", ())), tuple(also))
