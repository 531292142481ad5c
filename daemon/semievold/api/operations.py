"""What operators see, as plain JSON values: one set of views for the CLI, the API and the demo.

Reads state alone, so it answers also when the daemon is down. Writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from semievol.errors import DataError
from semievol.examples.json_values import fault_of
from semievol.training.progress import read_progress
from semievold.api import drift
from semievold.api.known import known_adapter, known_round
from semievold.api.limits import LISTED
from semievold.api.lineage import as_json
from semievold.config.daemon import DaemonConfig
from semievold.errors import StateConflict
from semievold.round_states import RoundState
from semievold.rounds import observing
from semievold.rounds.places import RoundPlace
from semievold.store.adapters import AdapterVersion
from semievold.store.freezes import MAX_REASON
from semievold.store.leases import LeaseState
from semievold.store.retention import bytes_of, bytes_under, sizes
from semievold.store.rounds import Round
from semievold.store.stores import Stores

RECENT_ROUNDS = 20


def status(config: DaemonConfig, stores: Stores, place: RoundPlace, labels_lag: int = 0) -> dict[str, Any]:
    """The state of the workload in a dozen numbers, and what is waited for.

    `labels_lag`: label records that are not read yet, where that is known. `answers_a_minute` are the queries labelled
    in the last one.
    """
    serving = stores.alias.get()
    examples, labels = stores.examples.counts(), stores.pseudo_labels.counts()
    open_round = stores.rounds.open()
    window = stores.pseudo_labels.window(200)
    lease, frozen, contradictions = stores.leases.get(), stores.freezes.get(), stores.contradictions.open()
    return {
        "alias": config.workload.served_alias,
        "waiting_for": observing.waiting_for(config, stores, labels_lag),
        "held": observing.held(config, stores),
        "frozen": None if frozen is None else frozen._asdict(),
        "lease": None if lease is None else _lease(lease),
        "serving": serving.adapter,
        **({} if (label := stores.retractions.unclean(serving.adapter)) is None else {"serving_descends_from": label}),
        "previous": serving.previous,
        **({} if open_round is None or (trial := canary(open_round)) is None else {"canary": trial}),
        "anchor": stores.adapters.anchor(),
        "promotions": serving.generation,
        "examples": {
            "training": examples.training,
            "holdout": examples.holdout,
            **({} if not config.selection.calibrated else {"calibration": examples.calibration}),
            "retracted": examples.retracted,
        },
        "pseudo_labels": {"total": labels.total, "unparseable": labels.unparseable, "unpublished": labels.unpublished},
        "review": {**stores.reviews.waiting(), "contradiction": contradictions},
        "feedback": {"waiting": stores.waiting.count(), "contradictions": contradictions},
        "answers_a_minute": stores.pseudo_labels.count_since(stores.database.now() - 60.0),
        "recent": {"labels": window.count, "entropy": window.mean_entropy, "agreement": window.mean_agreement},
        "drift": drift.summary(config, stores),
        "breaker": _breaker(stores),
        **({} if config.trigger.kind != "worth" else {"worth": _worth(config, stores)}),
        "round": None if open_round is None else round_summary(open_round, place),
    }


def _worth(config: DaemonConfig, stores: Stores) -> dict[str, Any] | None:
    """What the next round would bring and take; None before the warm round has ended."""
    seen = observing.RoundObserver(config, stores).observe()
    return None if seen.worth is None or not seen.warm_ended else asdict(seen.worth)


def _breaker(stores: Stores) -> dict[str, Any] | None:
    """What the collapse breaker measured last, and for what it stopped the open round; None: no round came to that."""
    measured = next((each for each in stores.rounds.all(RECENT_ROUNDS) if each.breaker), None)
    if measured is None or measured.breaker is None:
        return None
    figures = {name: each["figure"] for name, each in measured.breaker["measures"].items()}
    tripped = measured.breaker["breaches"] if measured.state is RoundState.PLANNED else []
    return {"round": measured.number, **figures, "tripped": tripped}


def state_size(config: DaemonConfig, stores: Stores, place: RoundPlace) -> dict[str, Any]:
    """What the state holds, in rows and bytes, and what bounds it. Counts whole tables."""
    tables = sizes(stores.database, config.workload.name)
    file = stores.database.file
    return {
        "database": stores.database.description,
        "database_bytes": None if file is None else bytes_of(file.parent.glob(f"{file.name}*")),
        "rounds_bytes": bytes_under(place.rounds),
        "adapters_bytes": bytes_under(place.adapters),
        "retention": config.store.retention.model_dump(),
        "tables": [asdict(size) for size in tables],
    }


def freeze_reason(body: Mapping[str, Any]) -> str:
    """What a freeze is to say.

    Raises:
        DataError: it is no short text, or there is another field.
    """
    return said_reason("freeze", body, MAX_REASON)


def said_reason(what: str, body: Mapping[str, Any], most: int) -> str:
    """The reason that somebody gives for `what`; "by hand" where none is given.

    Raises:
        DataError: it is no text of at most so many characters, or there is another field.
    """
    if (fault := fault_of(body)) is not None:
        raise DataError(f"{what}: field {fault.field or 'body'!r}: {fault.problem}")
    if unknown := sorted(body.keys() - {"reason"}):
        raise DataError(f"{what}: field {unknown[0][:60]!r}: unknown; known fields: reason")
    reason = body.get("reason", "by hand")
    if not isinstance(reason, str) or not 0 < len(reason) <= most:
        raise DataError(f"{what}: field 'reason': expected a text of 1 to {most} characters")
    return reason


def _lease(lease: LeaseState) -> dict[str, Any]:
    """Who leads; `held` is false when its time has run out and nobody has taken over."""
    left_s = lease.left_s if math.isfinite(lease.left_s) else None
    return {"holder": lease.holder, "epoch": lease.epoch, "held": lease.left_s > 0, "left_s": left_s}


def round_summary(round_: Round, place: RoundPlace | None = None) -> dict[str, Any]:
    """One line of `rounds list`; with `place`, a running training's progress."""
    evaluation, taken = round_.evaluation or {}, round_.snapshot or {}
    summary: dict[str, Any] = {
        "number": round_.number,
        "kind": round_.kind,
        "state": round_.state.value,
        "reason": round_.reason,
        "trigger": round_.trigger,
        "incumbent": round_.incumbent,
        "adapter": round_.adapter,
        "pool": taken.get("pool"),
        "selected": taken.get("selected"),
        "holdout_accuracy": {
            "incumbent": evaluation.get("incumbent_accuracy"),
            "candidate": evaluation.get("candidate_accuracy"),
            "p_better": evaluation.get("p_better"),
        },
        "gate": _gate(evaluation),
        "watch": _watch(round_.watch),
        "created_at": round_.created_at,
        "updated_at": round_.updated_at,
    }
    if place is not None and round_.state.value == "training":
        summary["training"] = read_progress(place.training(round_).work)
    return summary


def _gate(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the labels say so far, and what is still needed; None before they were asked, and of older rounds."""
    if "better" not in evaluation:
        return None
    names = ("decision", "reason", "count", "wins", "losses", "labels_needed")
    return {**{name: evaluation[name] for name in names}, "evidence": evaluation["better"]}


def canary(round_: Round) -> dict[str, Any] | None:
    """How far a round's canary is, and what speaks most against it; None: it has none, or has it no longer."""
    record = round_.canary
    if record is None or round_.state is not RoundState.CANARY:
        return None
    stage, shares = record["stage"], record["shares"]
    worst = max(record.get("findings", ()), key=lambda each: each["evidence"] / each["alarm"], default=None)
    return {
        "adapter": round_.adapter,
        "share": shares[stage],
        "stage": f"{stage + 1} of {len(shares)}",
        "answers": record.get("answers", 0),
        "against_it": None
        if worst is None
        else {name: worst[name] for name in ("test", "evidence", "alarm", "detail")},
    }


def _watch(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What speaks against the round's version on live queries and late labels; None before it was compared."""
    if found is None:
        return None
    tests = [{name: each[name] for name in ("test", "evidence", "alarm", "detail")} for each in found["findings"]]
    return {"pairs": found["pairs"], "differ": found["differ"], "tests": tests, "breach": found["breach"]}


def round_detail(stores: Stores, number: int) -> dict[str, Any]:
    """Everything that is known of one round.

    Raises:
        StateConflict: there is no such round.
    """
    round_ = known_round(stores, number)
    detail = asdict(round_)
    detail["state"] = round_.state.value
    if round_.snapshot is not None:  # weights of a model, which the manifest of the snapshot has too
        detail["snapshot"] = {key: value for key, value in round_.snapshot.items() if key != "confidence"}
    return {**detail, "events": stores.rounds.events(number)}


def rounds(stores: Stores, place: RoundPlace, limit: int = LISTED) -> list[dict[str, Any]]:
    """The newest, newest first."""
    return [round_summary(round_, place) for round_ in stores.rounds.all(limit)]


def adapters(stores: Stores, place: RoundPlace, limit: int = LISTED) -> list[dict[str, Any]]:
    """All that are there and the newest of those that were deleted, oldest first."""
    return [_version(version, place) for version in stores.adapters.listed(limit)]


def _version(version: AdapterVersion, place: RoundPlace) -> dict[str, Any]:
    found = version.found_in(place.adapters)
    return {**asdict(found), "path": str(found.path)}


def adapter_detail(stores: Stores, place: RoundPlace, name: str) -> dict[str, Any]:
    """One version with the round that made it.

    Raises:
        StateConflict: there is no such adapter.
    """
    version = known_adapter(stores, name)
    made = stores.rounds.get(version.round)
    return {
        **_version(version, place),
        "made_by": None if made is None else round_summary(made),
    }


def explain(stores: Stores, query_id: str, descendants: bool = False) -> dict[str, Any]:
    """Why a query got the pseudo-label that it has, what it was used for, and how many rounds and adapters it taught.

    `descendants`: also all that descends from it through what those made; that looks through all pseudo-labels.

    Raises:
        StateConflict: the query has no pseudo-label.
    """
    stored = stores.pseudo_labels.get(query_id)
    truth = stores.examples.get(query_id)
    if stored is None:
        known = " (it is a labelled example)" if truth is not None else ""
        raise StateConflict(
            f"query {query_id!r} has no pseudo-label{known}; was it imported, and is the intake running?"
        )
    label = stored.label
    uses = [_use(stores, use) for use in stores.rounds.memberships(query_id)]
    neighbours = []
    for example_id, similarity in label.neighbours:
        example = stores.examples.get(example_id)
        neighbours.append(
            {
                "id": example_id,
                "similarity": similarity,
                "question": None if example is None else example.example.query.question,
                "answer": None if example is None else example.example.answer,
            }
        )
    return {
        "id": label.query.id,
        "question": label.query.question,
        "options": None if label.query.options is None else list(label.query.options),
        "answer": label.answer,
        "truth": None if truth is None else truth.example.answer,
        "truth_source": None if truth is None else truth.example.source,
        "feedback": stores.feedback.of(query_id),
        "entropy": _finite(label.entropy),
        "agreement": label.agreement,
        "confidence": label.confidence,
        "self_justified": label.justified,
        "adapter": label.adapter,
        "neighbours": neighbours,
        "candidates": [{**asdict(c), "entropy": _finite(c.entropy)} for c in label.candidates],
        "revision": stored.revision,
        "depth": 1 + stores.lineage.depths().get(label.adapter, 0),
        "earlier": stores.pseudo_labels.history(query_id),
        "source": {"topic": stored.topic, "partition": stored.partition, "offset": stored.offset},
        "rounds": uses,
        "taught": _taught(uses),
        **({"descendants": as_json(stores.lineage.of_pseudo_label(query_id))} if descendants else {}),
    }


def _finite(entropy: float) -> float | None:
    """JSON has no infinity: None is the entropy of what did not parse."""
    return entropy if math.isfinite(entropy) else None


def _taught(uses: list[dict[str, Any]]) -> dict[str, int]:
    """How many rounds learned from it, or heard it in their consensus, and how many adapters those made."""
    learned = [use for use in uses if use["selected"] or use["consensus"] is not None]
    return {"rounds": len(learned), "adapters": sum(use["adapter"] is not None for use in learned)}


def _use(stores: Stores, membership: dict[str, Any]) -> dict[str, Any]:
    round_ = stores.rounds.get(membership["number"])
    return {
        "round": membership["number"],
        "selected": membership["selected"],
        "reason": membership["reason"],
        "answer": membership["answer"],
        "consensus": membership["consensus"],
        "revision": membership["revision"],
        "depth": membership["depth"],
        "adapter": None if round_ is None else round_.adapter,
        "state": None if round_ is None else round_.state.value,
    }
