"""How soon the watch sees a version that went wrong, and how often it takes a good one for one.

`python bench/watch.py [--runs 2000] [--seed 0]`

1. Paired concentration: an adapter that answers one thing to everything (claim: found within 50 pairs), one that does
   so for 30 % of the queries (99 % of the runs within 150), two good versions that differ in a fifth of their answers
   (none in 2,000 pairs; the guarantee is one run of 1,000, for ever). Of 10 and of 150 answers, as clinc150 has.
2. Answers that do not parse: the incumbent's rate is 1 % and is known from 1,000 answers; from 1 to 10 % (claim: 80 %
   of the runs within 150 answers), and at the old rate (none in 20,000; where the bound lies below the true rate, as it
   does in a twentieth of the cases, an alarm is not excluded).
3. Accuracy from 80 to 70 % on labels that arrive late, answered by both versions, of which 20 % differ in who is right
   (claim: 80 % of the runs within 220 labels); equal versions (at most 5 %, for ever).

The rules are those of semievol.proof.watch, as arrays, which are checked against it first. One core, at most a minute.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import numpy.typing as npt

from semievol.proof.evidence import GRID, wins_needed
from semievol.proof.watch import (
    ACCURACY_ALARM,
    ALARM,
    BOUND_ANSWERS,
    TIMES,
    TOLERANCE,
    Concentration,
    incumbent_bound,
    log_rate_above,
)

NEVER = np.iinfo(np.int32).max
STAKES = np.arange(1, GRID + 1) / (GRID + 1)

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


def log_mean(logs: Floats) -> Floats:
    """Over the last axis."""
    highest = logs.max(axis=-1)
    return np.asarray(highest + np.log(np.exp(logs - highest[..., None]).mean(axis=-1)))


class Concentrations:
    """semievol.proof.watch.Concentration, many runs at once. Of answers that gained as much it bets on the lowest
    number, where that bets on the first that was seen.
    """

    def __init__(self, runs: int, answers: int) -> None:
        self._gained = np.zeros((runs, answers), dtype=np.int32)
        self._logs = np.zeros((runs, GRID))
        self._rows = np.arange(runs)

    def see(self, incumbent: Ints, candidate: Ints) -> Floats:
        k = self._gained.argmax(axis=1)
        bets = self._gained[self._rows, k] > 0
        excess = ((candidate == k).astype(float) - (incumbent == k) - TOLERANCE) / (1 + TOLERANCE)
        self._logs += np.where(bets[:, None], np.log1p(STAKES * excess[:, None]), 0.0)
        self._gained[self._rows, candidate] += 1
        self._gained[self._rows, incumbent] -= 1
        return log_mean(self._logs)


def log_rates(events: Ints, bound: Floats | float) -> Floats:
    """log_rate_above after each answer of each run (a row)."""
    answers = np.arange(1, events.shape[1] + 1)
    total = np.full(events.shape, -np.inf)
    for times in TIMES:
        rate = np.minimum(times * np.asarray(bound), (1 + np.asarray(bound)) / 2)
        total = np.logaddexp(
            total, events * np.log(rate / bound) + (answers - events) * np.log((1 - rate) / (1 - np.asarray(bound)))
        )
    return np.asarray(total - math.log(len(TIMES)))


def check(draw: np.random.Generator) -> None:
    """The arrays say what the service's functions say."""
    old, new = draw.integers(0, 9, (2, 1, 300), dtype=np.int32)
    # In the order in which the service sees them first, so that equals are told apart alike.
    first: dict[int, int] = {}
    for one, other in zip(old[0], new[0], strict=True):
        for each in (int(other), int(one)) if one != other else (int(other),):
            first.setdefault(each, len(first))
    many, alone = Concentrations(1, len(first)), Concentration()
    for one, other in zip(old[0], new[0], strict=True):
        places = (np.array([first[int(each)]], dtype=np.int32) for each in (one, other))
        found = many.see(*places)
        alone.see(str(one), str(other))
        if alone.answer is not None:
            assert math.isclose(found[0], alone.log_evidence, abs_tol=1e-9)
    failed = np.cumsum(draw.random((1, 500)) < 0.1, axis=1, dtype=np.int32)
    rates = log_rates(failed, 0.03)
    for place in range(0, 500, 7):
        assert math.isclose(rates[0, place], log_rate_above(int(failed[0, place]), place + 1, 0.03), abs_tol=1e-9)


def first(reached: npt.NDArray[np.bool_]) -> Ints:
    """Of each run (a row) the number of the first that says so; NEVER where none does."""
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, NEVER).astype(np.int32)


def show(what: str, value: float, claim: str, holds: bool) -> bool:
    print(f"  {what:<72} {value:>8.4g}   {claim:<15} {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


def found_after(
    draw: np.random.Generator, runs: int, pairs: int, answers: int, collapsed: float, differ: float
) -> Ints:
    """Pairs until the alarm. `collapsed`: share of queries to which the candidate gives the same answer."""
    watch = Concentrations(runs, answers)
    found = np.full(runs, NEVER, dtype=np.int32)
    for pair in range(1, pairs + 1):
        old, other = draw.integers(0, answers, (2, runs), dtype=np.int32)
        new = np.where(draw.random(runs) < differ, other, old)
        new = np.where(draw.random(runs) < collapsed, answers // 2, new)
        alarm = watch.see(old, new) >= math.log(ALARM)
        found = np.where(alarm & (found == NEVER), pair, found)
    return found


def concentration(draw: np.random.Generator, runs: int) -> bool:
    print(f"One answer takes over: {runs} runs, shadow pairs until the alarm")
    held = True
    for answers in (10, 150):
        found = found_after(draw, runs, 60, answers, 1.0, 0.0)
        last = float(found.max())
        held &= show(f"{answers} answers, all become one: the slowest run", last, "at most 50", last <= 50)
        print(f"  {'':<4}median {np.median(found):.0f}, 80 % of the runs {np.quantile(found, 0.8):.0f}")
        found = found_after(draw, runs, 300, answers, 0.3, 0.0)
        most = float(np.quantile(found, 0.99))
        held &= show(f"{answers} answers, 30 % become one: 99 % of the runs", most, "at most 150", most <= 150)
        print(f"  {'':<4}median {np.median(found):.0f}, 80 % of the runs {np.quantile(found, 0.8):.0f}")
        found = found_after(draw, runs, 2_000, answers, 0.0, 0.2)
        alarms = float((found != NEVER).mean())
        held &= show(
            f"{answers} answers, two good versions: alarms in 2,000 pairs", alarms, "at most 0.001", alarms <= 0.001
        )
    return held


def parsing(draw: np.random.Generator, runs: int) -> bool:
    print(f"\nAnswers that do not parse: {runs} runs, answers until the alarm")
    known = draw.binomial(BOUND_ANSWERS, 0.01, runs)
    bounds = {int(events): incumbent_bound(int(events), BOUND_ANSWERS) for events in np.unique(known)}
    bound = np.array([bounds[int(events)] for events in known])[:, None]
    failed = np.cumsum(draw.random((runs, 600)) < 0.1, axis=1, dtype=np.int32)
    found = first(log_rates(failed, bound) >= math.log(ALARM))
    most = float(np.quantile(found, 0.8))
    held = show("from 1 to 10 %: 80 % of the runs", most, "at most 150", most <= 150)
    print(f"  {'':<4}median {np.median(found):.0f}")
    alarms = covered = 0
    for begin in range(0, runs, 100):
        failed = np.cumsum(draw.random((100, 20_000), dtype=np.float32) < 0.01, axis=1, dtype=np.int32)
        part = bound[begin : begin + 100]
        reached = (log_rates(failed[: len(part)], part) >= math.log(ALARM)).any(axis=1)
        alarms += int(reached.sum())
        covered += int((reached & (part[:, 0] >= 0.01)).sum())
    share = covered / runs
    held &= show(
        "at the old rate: alarms in 20,000 answers, the bound being one", share, "at most 0.001", share <= 0.001
    )
    print(f"  {'':<4}with bounds below the rate too: {alarms / runs:.4g}")
    return held


def accuracy(draw: np.random.Generator, runs: int) -> bool:
    print(f"\nAccuracy on late labels: {runs} runs, labels until the alarm")
    labels = 2_000
    needed = np.fromiter(islice(wins_needed(1 / ACCURACY_ALARM), labels + 1), dtype=np.int32)
    held = True
    for differ in (0.2, 0.1):
        for fall in (0.1, 0.0):
            drawn = draw.random((runs, labels), dtype=np.float32)
            lost = np.cumsum(drawn < (differ + fall) / 2, axis=1, dtype=np.int32)
            won = np.cumsum(drawn >= 1 - (differ - fall) / 2, axis=1, dtype=np.int32)
            found = first(lost >= needed[won])
            if fall == 0:
                share = float((found != NEVER).mean())
                what = f"equal, {differ:.0%} differ: alarms in {labels:,} labels"
                held &= show(what, share, "at most 0.05", share <= 0.05)
                continue
            most = float(np.quantile(found, 0.8))
            what = f"10 points worse, {differ:.0%} differ: 80 % of the runs"
            held &= show(what, most, "at most 220", most <= 220)
            print(f"  {'':<4}median {np.median(found):.0f}")
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    draw = np.random.default_rng(options.seed)
    check(draw)
    held = concentration(draw, options.runs)
    held &= parsing(draw, options.runs)
    held &= accuracy(draw, options.runs)
    print(f"\n{time.monotonic() - begun:.0f} s")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
