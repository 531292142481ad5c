"""What a label, a pseudo-label, a round or an adapter was made from, and what was made from it, for operators.

Reads state alone. Long lists are cut (`MOST`), and how many there are stands beside them. What is not `whole` leaves
out what looks through whole tables: the descendants, and of what a round learned all but the first.
"""

from __future__ import annotations

from typing import Any

from semievold.api.known import known_adapter, known_round
from semievold.errors import StateConflict
from semievold.store.lineage.walk import Descendants
from semievold.store.rounds import Round
from semievold.store.stores import Stores

MOST = 20


def explain_round(stores: Stores, number: int, *, whole: bool = True) -> dict[str, Any]:
    """A round, both ways.

    Raises:
        StateConflict: there is no such round.
    """
    round_ = known_round(stores, number)

    def below() -> Descendants:
        return Descendants() if round_.adapter is None else stores.lineage.of_adapter(round_.adapter)

    return {
        "round": number,
        "kind": round_.kind,
        "state": round_.state.value,
        "adapter": round_.adapter,
        "made_from": _made_from(stores, round_, whole),
        **({"descendants": as_json(below())} if whole else {}),
    }


def explain_adapter(stores: Stores, name: str, *, whole: bool = True) -> dict[str, Any]:
    """An adapter, both ways.

    Raises:
        StateConflict: there is no such adapter.
    """
    version = known_adapter(stores, name)
    made = stores.rounds.get(version.round)
    return {
        "adapter": name,
        "state": version.state,
        "parent": version.parent,
        "depth": stores.lineage.depths().get(name, 0),
        "made_from": None if made is None else {"round": made.number, **_made_from(stores, made, whole)},
        **({"descendants": as_json(stores.lineage.of_adapter(name))} if whole else {}),
    }


def explain_label(stores: Stores, example_id: str, *, whole: bool = True) -> dict[str, Any]:
    """A labelled example: what it is for, and all that descends from it; also of one that was taken back.

    Raises:
        StateConflict: it was never there.
    """
    stored = stores.examples.get(example_id)
    if stored is None and not stores.examples.asked([example_id]):
        raise StateConflict(f"there is no labelled example {example_id!r}; `semievol labels export -` lists them")
    side = None if stored is None else "held out" if stored.holdout else "training"
    return {
        "label": example_id,
        "side": "taken back" if side is None else side,
        "question": None if stored is None else stored.example.query.question,
        "answer": None if stored is None else stored.example.answer,
        **({"descendants": as_json(stores.lineage.of_example(example_id))} if whole else {}),
    }


def as_json(found: Descendants) -> dict[str, Any]:
    """Counts, and the first of each kind; pseudo-labels by their query, with the revisions that descend."""
    revisions: dict[str, list[int]] = {}
    for query_id, revision in sorted(found.pseudo_labels):
        revisions.setdefault(query_id, []).append(revision)
    return {
        "pseudo_labels": len(revisions),
        "revisions": len(found.pseudo_labels),
        "rounds": list(found.rounds),
        "adapters": list(found.adapters),
        "first_pseudo_labels": [{"id": key, "revisions": revisions[key]} for key in list(revisions)[:MOST]],
    }


def _made_from(stores: Stores, round_: Round, whole: bool) -> dict[str, Any]:
    """The ancestors one step up: examples, pseudo-labels with who answered them, the adapter that it went on from.

    Not whole: how many pseudo-labels it learned is what its snapshot says, and who answered them all is not said.
    """
    taken = stores.lineage.examples_of(round_.number)
    training = [key for key, role in taken.items() if role == "training"]
    calibration = [key for key, role in taken.items() if role == "calibration"]
    version = None if round_.adapter is None else stores.adapters.get(round_.adapter)
    snapshot = round_.snapshot or {}
    selected = None if whole else snapshot.get("selected")
    learned = stores.lineage.learned(round_.number, None if selected is None else MOST)
    by = {"labelled_by": sorted({row["labelled_by"] or "base" for row in learned})} if selected is None else {}
    return {
        "examples": len(training),
        "first_examples": training[:MOST],
        **({"calibration": len(calibration), "first_calibration": calibration[:MOST]} if calibration else {}),
        "pseudo_labels": len(learned) if selected is None else selected,
        "first_pseudo_labels": [_learned(row) for row in learned[:MOST]],
        **by,
        "whole_pool": snapshot.get("answers_changed") is not None,
        "depth": snapshot.get("depth"),
        "trained_with": snapshot.get("training"),
        "went_on_from": None if version is None else version.parent,
    }


def _learned(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["query_id"],
        "revision": row["revision"],
        "depth": row["depth"],
        "answer": row["answer"],
        "labelled_by": row["labelled_by"] or "base",
    }
