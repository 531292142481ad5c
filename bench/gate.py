"""How often the sequential gate is wrong, how many labels it takes, and what a chain of rounds on one holdout comes to.

`python bench/gate.py [--runs 2000] [--labels 2000] [--seed 0]`

1. One candidate, a look after every label: equal candidates promoted (claim: at most 6.1 %), candidates 2 points worse
   (at most 2.5 %), labels until a gain of 5 points is proved where 20 % of the pairs differ, beside the 530 that
   McNemar's test wants in one planned look (median at most 1.1 times, 80 % of runs at most 2.1 times); with labels on
   disagreements alone (median at most 0.35 times); equal candidates whose wait is ended as futile (at least 90 %).
2. Chains of 50 rounds against one holdout of 50 which is used again and again, with a mean true gain of -1 point: where
   the worst twentieth of 2,000 ends (claim: at most 0.5 points below the start), beside simpler rules.

The rule is that of semievol.proof, as arrays, which are checked against it first. One core, at most a minute.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import numpy.typing as npt

from semievol.proof.evidence import GRID, Pairs, log_better, log_gain_below, wins_needed
from semievol.proof.gate import binomial_tail

ALPHA = BETA = 0.05
GAIN = 0.05
FIXED_LABELS = 530
"""McNemar's test, one-sided at 0.05: labels for 80 % power at a gain of 5 points where 20 % of the pairs differ."""
DIFFER, ANSWERS_DIFFER = 0.20, 0.25
"""Share of pairs of which one is right and one is wrong; share of pairs whose answers differ (both may be wrong)."""
START = 0.80
NEVER = np.iinfo(np.int32).max

Ints = npt.NDArray[np.int32]
Table = npt.NDArray[np.int32]


def mcnemar_needed(alpha: float) -> Iterator[int]:
    """For 0, 1, 2, ... losses, the fewest wins that are significant in one look."""
    wins = losses = 0
    while True:
        while binomial_tail(wins, wins + losses) > alpha:
            wins += 1
        yield wins
        losses += 1


def table(needed: Iterator[int], losses: int) -> Table:
    return np.fromiter(islice(needed, losses + 1), dtype=np.int32)


def log_futile(wins: Ints, losses: Ints, ties: Ints, margin: float) -> npt.NDArray[np.float64]:
    """semievol.proof.evidence.log_gain_below over arrays."""
    total = np.full(wins.shape, -np.inf)
    for step in range(1, GRID + 1):
        stake = step / ((GRID + 1) * (1 + margin))
        up, down, tie = (math.log1p(-stake * (x - margin)) for x in (-1, 1, 0))
        total = np.logaddexp(total, losses * up + wins * down + ties * tie)
    return np.asarray(total - math.log(GRID))


def check(needed: Table) -> None:
    """The arrays say what the service's functions say."""
    draw = random.Random(1)
    for _ in range(300):
        wins, losses, ties = draw.randrange(120), draw.randrange(120), draw.randrange(900)
        assert (log_better(wins, losses) >= math.log(1 / ALPHA)) == (wins >= needed[losses])
        won, lost, tied = (np.array([each], dtype=np.int32) for each in (wins, losses, ties))
        one = log_futile(won, lost, tied, GAIN)
        assert math.isclose(one[0], log_gain_below(Pairs(wins, losses, ties), GAIN), abs_tol=1e-9)


def first(reached: npt.NDArray[np.bool_]) -> Ints:
    """Of each run (a row) the number of labels at the first look that says so; NEVER where none does."""
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, NEVER).astype(np.int32)


def streams(draw: np.random.Generator, runs: int, labels: int, wins: float, losses: float) -> tuple[Ints, Ints]:
    """Wins and losses so far, at each label of each run."""
    drawn = draw.random((runs, labels), dtype=np.float32)
    won = np.cumsum(drawn < wins, axis=1, dtype=np.int32)
    lost = np.cumsum(drawn >= 1 - losses, axis=1, dtype=np.int32)
    return won, lost


def show(what: str, value: float, claim: str, holds: bool) -> bool:
    print(f"  {what:<66} {value:>9.4g}   {claim:<16} {'holds' if holds else 'DOES NOT HOLD'}")
    return holds


def one_candidate(draw: np.random.Generator, runs: int, labels: int) -> bool:
    print(f"One candidate: {runs} runs, a look after every label up to {labels}")
    needed, fixed = table(wins_needed(ALPHA), labels), table(mcnemar_needed(ALPHA), labels)
    check(needed)
    held = True
    for what, gain, most in (("equal", 0.0, 0.061), ("2 points worse", -0.02, 0.025)):
        won, lost = streams(draw, runs, labels, (DIFFER + gain) / 2, (DIFFER - gain) / 2)
        proved, peeked = first(won >= needed[lost]), first(won >= fixed[lost])
        share = float((proved != NEVER).mean())
        held &= show(f"{what}: share promoted", share, f"at most {most:g}", share <= most)
        print(f"  {'':<4}by McNemar's test, looked at as often: {float((peeked != NEVER).mean()):.4g}")
        ties = np.arange(1, labels + 1, dtype=np.int32) - won - lost
        futile = first(log_futile(won, lost, ties, GAIN) >= math.log(1 / BETA))
        ended = float(((futile != NEVER) & (futile < proved)).mean())
        if gain == 0.0:
            median = float(np.median(np.minimum(futile, labels)))
            held &= show("equal: share whose wait is ended as futile", ended, "at least 0.9", ended >= 0.9)
            print(f"  {'':<4}after a median of {median:.0f} labels")
    won, lost = streams(draw, runs, labels, (DIFFER + GAIN) / 2, (DIFFER - GAIN) / 2)
    proved = first(won >= needed[lost])
    median, most = (float(np.quantile(proved, share)) / FIXED_LABELS for share in (0.5, 0.8))
    held &= show(f"5 points better: median labels / {FIXED_LABELS}", median, "at most 1.1", median <= 1.1)
    held &= show(f"5 points better: labels of 80 % of the runs / {FIXED_LABELS}", most, "at most 2.1", most <= 2.1)
    print(f"  {'':<4}labels: median {median * FIXED_LABELS:.0f}, 80 % of the runs {most * FIXED_LABELS:.0f}")
    ties = np.arange(1, labels + 1, dtype=np.int32) - won - lost
    futile = first(log_futile(won, lost, ties, GAIN) >= math.log(1 / BETA))
    print(f"  {'':<4}given up as futile before: {float((futile < proved).mean()):.4g} (bound {BETA:g})")
    share = 1 / ANSWERS_DIFFER  # of the disagreements, a label decides DIFFER of ANSWERS_DIFFER
    won, lost = streams(draw, runs, labels, share * (DIFFER + GAIN) / 2, share * (DIFFER - GAIN) / 2)
    median = float(np.median(first(won >= needed[lost]))) / FIXED_LABELS
    held &= show(f"labels on disagreements alone: median / {FIXED_LABELS}", median, "at most 0.35", median <= 0.35)
    print(f"  {'':<4}labels: median {median * FIXED_LABELS:.0f}")
    return held


Rule = Callable[[Ints, Ints], npt.NDArray[np.bool_]]


def chain(draw: np.random.Generator, chains: int, rounds: int, holdout: int, spread: float, rule: Rule) -> float:
    """The twentieth part of the ends' distribution, in points: the true accuracy of what serves after the last round.

    A candidate's true gain is drawn around -1 point; it answers each held-out example, which was asked in all rounds
    before, as its rates of wins and losses say.
    """
    accuracy = np.full(chains, START)
    right = draw.random((chains, holdout)) < START
    for _ in range(rounds):
        gain = np.clip(draw.normal(-0.01, spread, chains), -DIFFER, DIFFER)
        gain = np.clip(gain, -accuracy, 1 - accuracy)
        wins = np.clip((DIFFER + gain) / 2, 0, 1 - accuracy)  # of all queries
        losses = wins - gain
        mended = (wins / np.maximum(1 - accuracy, 1e-9))[:, None]
        broken = (losses / np.maximum(accuracy, 1e-9))[:, None]
        drawn = draw.random((chains, holdout))
        candidate = np.where(right, drawn >= broken, drawn < mended)
        won = (candidate & ~right).sum(axis=1, dtype=np.int32)
        lost = (right & ~candidate).sum(axis=1, dtype=np.int32)
        promoted = rule(won, lost)
        accuracy = np.where(promoted, accuracy + gain, accuracy)
        right = np.where(promoted[:, None], candidate, right)
    return 100 * float(np.quantile(accuracy, 0.05))


def chains(draw: np.random.Generator, runs: int, rounds: int, holdout: int) -> bool:
    print(f"\nChains: {runs} of {rounds} rounds on one holdout of {holdout}, mean true gain -1 point, from {START:.1%}")
    needed, fixed = table(wins_needed(ALPHA), holdout), table(mcnemar_needed(ALPHA), holdout)
    rules: dict[str, Rule] = {
        "more wins than losses": lambda won, lost: won > lost,
        "McNemar's test, once a round": lambda won, lost: won >= fixed[lost],
        "the sequential gate": lambda won, lost: won >= needed[lost],
    }
    held = True
    for spread in (0.01, 0.02, 0.03):
        print(f"  true gains of a standard deviation of {100 * spread:g} points; the worst twentieth ends at")
        for what, rule in rules.items():
            end = chain(draw, runs, rounds, holdout, spread, rule)
            if "gate" in what:
                held &= show(what, end, "at least 79.5", end >= 100 * START - 0.5)
            else:
                print(f"  {what:<66} {end:>9.4g}")
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--labels", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--holdout", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    draw = np.random.default_rng(options.seed)
    held = one_candidate(draw, options.runs, options.labels)
    held &= chains(draw, options.runs, options.rounds, options.holdout)
    print(f"\n{time.monotonic() - begun:.0f} s")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
