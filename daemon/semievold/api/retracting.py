"""What `semievol labels retract` and the console do: take labels back with all that descends from them.

Owns the order: the null value in the stream (the index follows), label and marks in the state, then what the controller
is asked for. Works without a daemon, but for the last: where that is refused, the trigger starts the clean round later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from semievol.examples.records import record_id
from semievold.api.asking import ask
from semievold.api.lineage import as_json
from semievold.round_states import CANCELLABLE
from semievold.store.stores import Stores
from semievold.streams.protocol import OutgoingRecord, StreamProducer

LATER = "a clean round starts by itself once no round is open and rounds are not frozen"


async def retract(
    stores: Stores, producer: StreamProducer, topic: str, ids: Sequence[str], *, now: bool, wait_s: float = 20.0
) -> dict[str, Any]:
    """Take the labels back, and ask for a clean round where the serving version descends from one of them.

    Args:
        stores: the state.
        producer: of the stream.
        topic: of the labels.
        ids: of the labels.
        now: go back to the last clean version first, possibly the base model.
        wait_s: how long each answer of the controller is waited for.

    Raises:
        DataError: one of the ids can be no id; nothing was changed.
    """
    ids = [record_id(each) for each in ids]
    present = await asyncio.to_thread(stores.examples.present, ids)
    unknown = [each for each in ids if each not in present]
    await producer.publish(topic, [OutgoingRecord(each, None) for each in ids])
    report = await asyncio.to_thread(_take_back, stores, ids, now, wait_s)
    # Also of those: a label that is on its way is taken back when it comes.
    return {"topic": topic, "retracted": len(ids), **({"unknown": unknown} if unknown else {}), **report}


def _take_back(stores: Stores, ids: Sequence[str], now: bool, wait_s: float) -> dict[str, Any]:
    found = stores.retractions.retract(*ids)
    report: dict[str, Any] = {"descendants": as_json(found)}
    open_round = stores.rounds.open()
    if open_round is not None and open_round.number in found.rounds and open_round.state in CANCELLABLE:
        because = {"round": open_round.number, "reason": _reason(ids)}
        report["cancelled"] = ask(stores.requests, "cancel_round", because, wait_s)
    serving = stores.alias.get().adapter
    if serving is None or stores.retractions.unclean(serving) is None:
        return {**report, "serving": serving or "base", "serving_is_clean": True}
    if now:
        report["moved"] = ask(stores.requests, "leave_unclean", {}, wait_s)
        serving = stores.alias.get().adapter
    # From the base model alone a round begins as the first one did; what serves else labels, or the last clean one.
    kind = "warm" if now and serving is None else "evolve"
    asked = ask(stores.requests, "start_round", {"kind": kind, "reason": _reason(ids)}, wait_s)
    if asked["state"] == "refused" and serving is not None and stores.retractions.unclean(serving) is not None:
        begun = stores.rounds.open()
        if begun is not None and begun.created_at >= stores.retractions.taken_back_at(ids[0]):
            asked = {"state": "done", "round": begun.number}  # the trigger was faster
        else:
            asked["note"] = LATER
    report["clean_round"] = asked
    return {**report, "serving": serving or "base", "serving_is_clean": stores.retractions.unclean(serving) is None}


def _reason(ids: Sequence[str]) -> str:
    return f"label taken back: {', '.join(ids)}"[:200]
