"""What is made of a canary's answers: its stage goes on, has passed, or the version is taken back.

Pure. Invariant: a stage is passed by time and answers together, of both versions: where nobody asks, or nothing is
known of the version that serves, nothing passes, unless that one is asked no more; and what is waited for can be said
in words at every look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

from semievol.proof.watch import Finding, first_breach, incumbent_bound, rate_finding
from semievold.config.daemon import RolloutConfig
from semievold.rollout.answers import WINDOW
from semievold.store.rollout.canaries import SOURCES, Counted, Tally, Version, in_percent

Decision = Literal["hold", "pass", "breach", "late"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a canary.

    answers: of the version on trial in this stage; total: in all stages; incumbent: of what serves.
    lacks: whether answers are waited for, and not time alone.
    """

    decision: Decision
    reason: str
    answers: int
    total: int
    incumbent: int
    lacks: bool
    findings: tuple[Finding, ...]

    def record(self) -> dict[str, Any]:
        """For `rounds.canary`."""
        names = ("reason", "answers", "total", "incumbent", "lacks")
        return {
            **{name: getattr(self, name) for name in names},
            "findings": [{**asdict(finding), "breach": finding.breach} for finding in self.findings],
        }


def findings_of(counted: Sequence[Counted], shares: Sequence[float]) -> tuple[Finding, ...]:
    """What the counts say against the version on trial; clients' requests and queries of the stream apart, for they may
    be of other kinds. How slow answers are depends on the hour: it counts only while both versions are asked.
    """
    found = []
    beside = [each for each in counted if each.version == "incumbent" or shares[each.stage] < 1]
    for source in SOURCES:
        timed = _tally(beside, "canary", source)
        new, old = _tally(counted, "canary", source), _tally(counted, "incumbent", source)
        for test, events, answers, of_old, all_old in (
            ("errors", new.failed, new.answers, old.failed, old.answers),
            ("parse_failures", new.unparsed, new.read, old.unparsed, old.read),
            ("slow_answers", timed.slow, timed.timed, old.slow, old.timed),
        ):
            if answers:
                found.append(rate_finding(test, events, answers, incumbent_bound(of_old, all_old)))  # type: ignore[arg-type]
    return tuple(found)


def look(
    config: RolloutConfig,
    record: Mapping[str, Any],
    counted: Sequence[Counted],
    age_s: float,
) -> Seen:
    """What is to be done now.

    Args:
        config: the least time and answers of a stage.
        record: `rounds.canary`.
        counted: what all processes counted.
        age_s: of the stage, seconds.
    """
    stage, shares = int(record["stage"]), record["shares"]
    answers = sum(each.tally.answers for each in counted if each.version == "canary" and each.stage == stage)
    total, incumbent = (_tally(counted, version).answers for version in ("canary", "incumbent"))
    findings = findings_of(counted, shares)
    doing = f"stage {stage + 1} of {len(shares)} ({in_percent(shares[stage])} of the clients)"
    breach = first_breach(findings)
    wanted = [(answers, config.canary_min_answers, "the version on trial")]
    if shares[stage] < 1:  # who is asked no more gives no more answers: what is known of it has to do
        wanted.append((incumbent, min(config.canary_min_answers, WINDOW), "the one that serves"))
    missing = [f"{least - seen} more answers of {least} by {who}" for seen, least, who in wanted if seen < least]
    lacks, decision = bool(missing), "hold"
    if age_s < config.canary_min_s:
        missing.append(f"the end of its {config.canary_min_s:g} s")
    if breach is not None:
        decision, reason = "breach", f"{doing}: {breach}"
    elif record.get("skip") == stage:
        decision, reason = "pass", f"{doing} was ended by hand after {answers} answers"
    elif not missing:
        decision, reason = "pass", f"{doing} is passed with {answers} answers"
    elif age_s >= config.canary_patience_s:
        lacked = " and ".join(missing)
        decision, reason = (
            "late",
            f"{doing} lacked {lacked}; rollout.canary_patience_s ({config.canary_patience_s:g} s) is over",
        )
    else:
        reason = f"{doing} waits for {' and '.join(missing)}"
    return Seen(decision, reason, answers, total, incumbent, lacks, findings)  # type: ignore[arg-type]


def _tally(counted: Sequence[Counted], version: Version | str, source: str | None = None) -> Tally:
    """The sum over all stages; of all sources, unless one is named."""
    mine = [each.tally for each in counted if each.version == version and source in (None, each.source)]
    return reduce(add, mine, Tally())
