"""Is a version worse than the one before it, by what both answer to live queries and by the labels that come?

Owns which answers each test is fed; the tests are semievol.proof.watch's, what is done about a breach the round's step.
Evidence is computed from what the state holds, in the order in which it holds it, so that whoever goes on after a crash
finds the same. Invariant: what is missing speaks neither for nor against a version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from semievol.errors import AdapterError, TransientError
from semievol.proof.evidence import Pairs
from semievol.proof.watch import (
    BOUND_ANSWERS,
    Concentration,
    Finding,
    accuracy_finding,
    first_breach,
    given_too_rarely,
    incumbent_bound,
    paired_failures,
    rate_finding,
)
from semievold.config.daemon import DaemonConfig
from semievold.round_states import RoundState
from semievold.rounds.evidence import Evidence
from semievold.rounds.tools import RoundTools
from semievold.store.outcomes import StoredOutcome
from semievold.store.rounds import Round

log = logging.getLogger(__name__)

AMONG = 5_000
"""Of so many of the newest pseudo-labels those of the two versions are looked at."""
AT_ONCE = 2_000
NO_LABELS = Pairs()


class Watch:
    """Looks at one round at a time."""

    def __init__(self, config: DaemonConfig, tools: RoundTools, evidence: Evidence) -> None:
        self._config = config
        self._tools = tools
        self._stores = tools.stores
        self._evidence = evidence
        self._round: int | None = None
        self._basis: dict[str, Any] = {}
        self._concentration = Concentration()
        self._place = self._differ = self._lost = self._gained = 0
        self._labels = NO_LABELS
        self._labels_seen: float | None = None
        self._kept: Mapping[str, Any] | None = None
        self._error: str | None = None

    async def look(self, round_: Round) -> Finding | None:
        """What speaks against the version that the round proposes, or promoted, enough to leave it; None: nothing does.

        All that was found is kept with the round.

        Raises:
            StateConflict: the round has ended meanwhile.
            TransientError: the state does not answer.
        """
        if self._round != round_.number:
            await self._begin(round_)
        new = await asyncio.to_thread(self._stores.shadow_pairs.pairs, round_.number, self._place, AT_ONCE)
        for pair in new:
            self._concentration.see(pair.incumbent, pair.candidate)
            self._place = pair.place
            self._differ += pair.differ
            self._lost += pair.candidate is None and pair.incumbent is not None
            self._gained += pair.incumbent is None and pair.candidate is not None
        failures = paired_failures(self._lost, self._gained, self._concentration.pairs)
        findings = [self._concentration.finding(), failures]
        outcomes: Mapping[str, Sequence[StoredOutcome]] = {}
        if round_.state is RoundState.PROMOTED:
            findings.append(await self._parsing(round_))  # a canary counts the answers of both versions
        if round_.state in (RoundState.CANARY, RoundState.PROMOTED):
            outcomes = await self._ask_late(round_)
            findings.append(accuracy_finding(self._labels.wins, self._labels.losses, self._labels.count))
        breach = first_breach(findings)
        await self._keep(round_, findings, breach, outcomes)
        return breach

    async def _begin(self, round_: Round) -> None:
        """Take the round over as it stands; what it is compared by was written down when it was first looked at."""
        self._basis = dict((round_.watch or {}).get("basis") or {})
        if "allowed" not in self._basis:
            self._basis["allowed"] = await asyncio.to_thread(self._allowed, round_)
        self._concentration = Concentration(allowed=self._basis["allowed"])
        self._place = self._differ = self._lost = self._gained = 0
        self._labels, self._labels_seen = NO_LABELS, None
        self._round, self._kept = round_.number, None

    def _allowed(self, round_: Round) -> dict[str, float]:
        """What the version before gives too rarely, by the labels at the gate."""
        rows = self._stores.rounds.outcomes(round_.number).get("incumbent", {})
        return given_too_rarely([(row.outcome.expected, row.outcome.answer) for row in rows.values()])

    async def _parsing(self, round_: Round) -> Finding:
        """Of all that the intake labelled since the promotion, against the bound of the version before."""
        unparsed = self._stores.shadow_pairs.unparsed
        if "answers" not in self._basis:
            answers, failed = await asyncio.to_thread(unparsed, round_.incumbent, 2 * AMONG, BOUND_ANSWERS)
            self._basis |= {"answers": answers, "unparsed": failed}
        answers, failed = await asyncio.to_thread(unparsed, round_.adapter, AMONG, AMONG)
        bound = incumbent_bound(self._basis["unparsed"], self._basis["answers"])
        return rate_finding("parse_failures", failed, answers, bound)

    async def _ask_late(self, round_: Round) -> Mapping[str, Sequence[StoredOutcome]]:
        """Have both versions answer the labels that came since the promotion; what they answered that is new."""
        changed = await asyncio.to_thread(self._stores.examples.last_change)
        if changed is None or changed <= round_.updated_at or changed == self._labels_seen:
            return {}
        try:
            late = await self._evidence.since_promotion(round_)
        except (AdapterError, TransientError) as error:
            if str(error) != self._error:
                log.warning(
                    "round %d: the labels after the promotion are not looked at for now: %s", round_.number, error
                )
            self._error = str(error)
            return {}
        self._labels, self._labels_seen, self._error = late.pairs, changed, None
        return late.outcomes

    async def _keep(
        self,
        round_: Round,
        findings: Sequence[Finding],
        breach: Finding | None,
        outcomes: Mapping[str, Sequence[StoredOutcome]],
    ) -> None:
        watch = {
            "basis": self._basis,
            "pairs": self._concentration.pairs,
            "differ": self._differ,
            "findings": [asdict(finding) for finding in findings],
            "breach": None if breach is None else str(breach),
        }
        if watch != self._kept or outcomes:
            await asyncio.to_thread(self._stores.shadow_pairs.note, round_.number, watch, outcomes)
            self._kept = watch
