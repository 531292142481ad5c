"""Takes a wrong replica out: what the attestations of all replicas mean together.

Pure judgement of marks and faults; asking is the reconciler's, and `Replica.takes` keeps requests from who is blamed.
Invariant: a replica that fails where another one passes, or fails what serves, is in quarantine until it passes; where
all fail, the adapter is at fault, and is not proved.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from semievold.serving.attestation import Attestation, Proof
from semievold.serving.replica import Replica, states_of

log = logging.getLogger(__name__)


def take_out_wrong(replicas: Sequence[Replica], serving: str | None) -> None:
    """Put in quarantine who is at fault itself, and let out who is not any more; `serving` names what serves."""
    for replica in replicas:
        reason = None
        for name, fault in replica.faults.items():
            others_pass = any(name in other.marks for other in replicas if other is not replica)
            if fault.of_replica and (others_pass or name == serving):
                reason = f"{name}: {fault.attestation.reason}"
        if reason is not None and replica.blamed is None:
            log.error("replica %s is quarantined: %s", replica.name, reason)
        replica.blamed = reason


def joint_proof(replicas: Sequence[Replica], name: str, *, min_share: float, leads: bool) -> Proof:
    """Passed when all that answer and are not quarantined passed, and they are enough of those that answer; one that
    rests does not count.

    Args:
        replicas: all there are.
        name: of the adapter.
        min_share: of the replicas that answer, what must have passed.
        leads: this process loads adapters; one that does not asks only who has it.
    """
    answering = [replica for replica in replicas if replica.answers and replica.resting is None]
    if not leads:  # who the leader did not give it to, or took it from, is not ours to wait for
        answering = [replica for replica in answering if name in replica.models]
    verdicts = {replica.name: replica.verdict(name) for replica in answering}
    passed = [replica for replica in answering if (verdict := verdicts[replica.name]) and verdict.passed]
    open_ones = [replica for replica in answering if replica not in passed and replica.blamed is None]
    enough = max(1, math.ceil(min_share * len(answering)))
    known = {each: verdict for each, verdict in verdicts.items() if verdict is not None}
    if answering and not open_ones and len(passed) >= enough:
        return Proof(True, f"{len(passed)} of {len(answering)} replicas serve the trained weights", known)
    failing = [(each, verdict) for each, verdict in verdicts.items() if verdict is None or not verdict.passed]
    reason = f"{len(passed)} of {len(answering)} replicas passed, {enough} needed and no open one: "
    return Proof(False, reason + (_summary(failing) or states_of(replicas)), known)


def _summary(replicas: Sequence[tuple[str, Attestation | None]]) -> str:
    """One line that names each replica and what is known of it."""
    return "; ".join(f"{name}: {'not attested yet' if found is None else found.reason}" for name, found in replicas)
