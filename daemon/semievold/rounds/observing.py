"""What the trigger looks at, read from the state; and what is waited for, in words, for whoever asks.

Reads alone, so that the command line says the same as the controller does, also while no daemon runs. Decides nothing
(`semievold.rounds.planning.trigger`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from semievol.training.progress import WAITING, read_progress
from semievold.config.daemon import DaemonConfig
from semievold.round_states import RoundState
from semievold.rounds.ages import Moment
from semievold.rounds.history import BriefRound, RoundHistory
from semievold.rounds.places import RoundPlace
from semievold.rounds.planning.trigger import Observation, decide
from semievold.rounds.planning.worth import PastRound, Worth, weigh
from semievold.store.rounds import Round
from semievold.store.stores import Stores


class RoundObserver:
    """Looks at one workload's state; remembers what it saw when, so that no clock that is set back holds a round up."""

    def __init__(self, config: DaemonConfig, stores: Stores) -> None:
        self._config = config
        self._stores = stores
        self._last_label = Moment(stores.database.now)
        self._last_round = Moment(stores.database.now)
        self._hash = config.hash()
        self._history = RoundHistory(stores.rounds)
        self._past_rounds: dict[int, PastRound] = {}

    def observe(self, labels_lag: int = 0) -> Observation:
        """Blocking; `labels_lag`: label records that are not read yet."""
        rounds = self._history.look()
        examples = self._stores.examples
        counts, last_change = examples.counts(), examples.last_change() or 0.0
        decided = [each for each in rounds if each.decided]
        at_last = max((each.labelled_total for each in decided if each.labelled_total is not None), default=0)
        labelled = self._stores.pseudo_labels.labelled()
        last = rounds[0] if rounds else None
        retractions = self._stores.retractions
        unclean = retractions.unclean(self._stores.alias.get().adapter)
        taken_back = 0.0 if unclean is None else retractions.taken_back_at(unclean)
        ended_at = max((each.updated_at for each in rounds), default=0.0)
        return Observation(
            training_examples=counts.training,
            holdout_examples=counts.holdout_questions,
            min_holdout=self._config.gate.min_holdout,
            labels_lag=labels_lag,
            last_label_age_s=self._last_label.age_s(last_change),
            warm_ended=self._stores.warm_ended(),
            evolve_rounds=sum(each.kind == "evolve" for each in decided),
            new_pseudo_labels=labelled - at_last,
            last_round_age_s=self._last_round.age_s(ended_at),
            last_failure=last.reason if last is not None and last.state is RoundState.FAILED else None,
            last_cancelled=last is not None and last.state is RoundState.CANCELLED,
            failures=alike(rounds, self._hash, last_change),
            pseudo_labels=labelled,
            unclean=unclean,
            drift=self._stores.drift.asks_for_round() if self._config.drift.enabled else None,
            worth=self._worth(decided, labelled - at_last, self._last_round.age_s(ended_at)),
            clean_rounds=sum(each.ended and each.created_at >= taken_back for each in rounds),
        )

    def _worth(self, decided: Sequence[BriefRound], new: int, since_s: float) -> Worth | None:
        """What a round is worth now, where the trigger goes by that; `decided`: newest first."""
        if self._config.trigger.kind != "worth":
            return None
        past: list[PastRound] = []
        labelled = 0
        for each in reversed(decided):
            total = labelled if each.labelled_total is None else each.labelled_total
            past.append(self._past(each, total - labelled))
            labelled = total
        # Before the first round nothing has drifted away from one.
        return weigh(past, new, since_s if decided else 0.0, self._config.trigger.worth)

    def _past(self, brief: BriefRound, new: int) -> PastRound:
        """What a round that is over tells; looked up once."""
        if (known := self._past_rounds.get(brief.number)) is None:
            round_ = self._stores.rounds.get(brief.number)
            assert round_ is not None
            known = past_round(round_, new, self._stores.rounds.events(brief.number))
            self._past_rounds[brief.number] = known
        return known

    def warm_ended(self) -> bool:
        """A warm round was decided, or something was promoted by hand."""
        return self._stores.warm_ended()


def past_round(round_: Round, new: int, events: Sequence[Mapping[str, Any]]) -> PastRound:
    """What a decided round tells of the worth of rounds; `new`: pseudo-labels since the decided one before it."""
    seen, chosen = round_.evaluation or {}, round_.snapshot or {}
    at = {event["to_state"]: event["at"] for event in reversed(events)}  # the first time of each
    served = round_.state is RoundState.SETTLED and "candidate_accuracy" in seen
    trained = RoundState.TRAINED in at
    evolved = round_.kind == "evolve" and bool(chosen.get("pool"))
    return PastRound(
        round_.number,
        100.0 * (seen["candidate_accuracy"] - seen["incumbent_accuracy"]) if served else 0.0,
        new if evolved else None,
        chosen["selected"] / chosen["pool"] if evolved else None,
        max(0.0, at[RoundState.TRAINED] - at[RoundState.PLANNED]) if trained else None,
    )


def alike(rounds: Sequence[BriefRound], config_hash: str, changed_at: float) -> int:
    """How many of the newest rounds failed in a row for one reason, under these settings and on these examples.

    Args:
        rounds: newest first.
        config_hash: of the present settings; what failed under others says little.
        changed_at: when an example was last added, changed or retracted, UTC seconds.
    """
    count = 0
    for each in rounds:
        same = each.state is RoundState.FAILED and _shape(each.reason) == _shape(rounds[0].reason)
        if not same or each.config_hash != config_hash or each.updated_at < changed_at:
            break
        count += 1
    return max(1, count)


def waiting_for(
    config: DaemonConfig, stores: Stores, labels_lag: int = 0, observer: RoundObserver | None = None
) -> str:
    """What the rounds wait for, in one sentence; from the state alone.

    `observer`: of who asks often; it remembers past rounds.
    """
    open_round = stores.rounds.open()
    frozen = stores.freezes.get()
    if frozen is not None and (open_round is None or open_round.state is not RoundState.PROMOTED):
        return frozen.said()
    if open_round is not None:
        return at_work(open_round, RoundPlace.under(config.artifacts.directory))
    return decide((observer or RoundObserver(config, stores)).observe(labels_lag), config.trigger).reason


def at_work(open_round: Round, place: RoundPlace) -> str:
    """What an open round does, and what that waits for in turn. Blocking."""
    doing = f"round {open_round.number} ({open_round.kind}), which is {open_round.state}"
    if open_round.state is RoundState.TRAINING:
        progress = read_progress(place.training(open_round).work) or {}
        return f"{doing}: {progress.get('reason')}" if progress.get("state") == WAITING else doing
    evaluation, canary = open_round.evaluation or {}, open_round.canary or {}
    if open_round.state is RoundState.CANARY and canary.get("reason"):
        return f"{doing}: {canary['reason']}"
    if open_round.state is not RoundState.PROVING or not evaluation.get("reason"):
        return doing
    said = f"{doing}: {evaluation['reason']}"
    return f"{said}; a person may `semievol rounds approve {open_round.number}`" if for_approval(open_round) else said


def for_approval(open_round: Round) -> bool:
    """What is proved and not promoted waits for a person's word."""
    proved = (open_round.evaluation or {}).get("decision") == "promote"
    return open_round.state is RoundState.PROVING and proved


def waits_for(open_round: Round) -> str:
    """The same as one word of a closed set (a metric's label)."""
    if open_round.state is RoundState.PROVING:
        return "approval" if for_approval(open_round) else "evidence"
    if open_round.state is RoundState.CANARY:
        return "answers" if (open_round.canary or {}).get("lacks") else "canary"
    return "round"


def held(config: DaemonConfig, stores: Stores, observer: RoundObserver | None = None) -> dict[str, str]:
    """What stands still, by part, and until when; from the state alone."""
    found = {}
    if config.rounds.wait_for_warm and not (observer or RoundObserver(config, stores)).warm_ended():
        found["intake"] = "queries wait until the warm round has decided (rounds.wait_for_warm)"
    if (frozen := stores.freezes.get()) is not None:
        found["rounds"] = frozen.said()
    if (rest := stores.rests.get()) is not None:
        found["replicas"] = rest.said()
    lease = stores.leases.get()
    if lease is None or lease.left_s <= 0:
        found["control"] = "no process leads; start `semievold run` (or `semievold control`)"
    return found


def short_of(config: DaemonConfig, questions: int) -> str | None:
    """What the first round lacks when there are so many labelled examples with different questions; None: nothing."""
    training, holdout = config.trigger.min_examples, config.gate.min_holdout
    if questions >= training + holdout:
        return None
    return (
        f"{questions} of {training + holdout} labelled examples with different questions: the first round wants "
        f"{training} to train on (trigger.min_examples) and {holdout} held out (gate.min_holdout)"
    )


def shape(text: str) -> str:
    """A sentence without its numbers: what stays the same while it counts."""
    return re.sub(r"\d+(\.\d+)?", "#", text)


def _shape(reason: str | None) -> str:
    return re.sub(r"[0-9a-f]{8,}", "#", shape(reason or ""))
