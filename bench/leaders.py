"""Two candidates for one lease on PostgreSQL, and the lead taken by force thirty times.

`python bench/leaders.py [--changes 30] [--seed 0]`

By turns the leader is killed (SIGKILL; another candidate takes its place) or stands still (SIGSTOP) until the other
one leads, and wakes up (SIGCONT) while that one writes; each at a random moment of a round. Control, lease, rounds and
fleet are the daemon's; what answers and trains is scripted (tests/candidate.py). A trigger in the database sees every
write to rounds and alias, who made it and who held the lease in that transaction (tests/candidates.py). The claim:
never two rounds at once, never a write of one that was deposed (but that it takes its own count of an attempt back),
each round's path is whole, and nobody who stands still keeps the lead, wherever he was stopped.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from tests.candidates import LEASE_S, Candidates
from tests.servers.postgres import PostgresServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, server = random.Random(options.seed), PostgresServer()
    took: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGSTOP: []}
    try:
        server.start()
        with tempfile.TemporaryDirectory() as directory:
            candidates = Candidates(server, Path(directory))
            try:
                for change in range(options.changes):
                    kind = (signal.SIGSTOP, signal.SIGKILL)[change % 2]
                    took[kind].append(candidates.change(kind, rng))
                    if change % 5 == 4:
                        candidates.rollback()
                candidates.ask()
                candidates.settle()
                seen = candidates.seen()
                candidates.assert_rounds_were_whole()
                rounds = candidates.stores.rounds.all()
                refused = candidates.log.count("taken over")
                epoch = candidates.stores.leases.get()
            finally:
                candidates.close()
    finally:
        server.close()
    for kind, some in took.items():
        print(
            f"{kind.name}: {len(some)} changes, the next leads after {statistics.median(some):.1f} s "
            f"(most {max(some):.1f} s; the lease lasts {LEASE_S:g} s)"
        )
    print(f"changes that came about only when the leader woke up: {candidates.held}")
    states = dict(Counter(each.state.value for each in rounds))
    print(f"epoch {0 if epoch is None else epoch.epoch}; {len(rounds)} rounds: {states}")
    print(
        f"{seen.writes} statements that write, of {seen.writers} processes: {seen.by_others} by one that did not lead "
        f"({seen.withdrawn} counts of an attempt withdrawn); most rounds open at once: {seen.most_open}; "
        f"work of a former leader refused: {refused} times"
    )
    assert candidates.held == 0
    assert seen.by_others == 0
    assert seen.most_open <= 1


if __name__ == "__main__":
    main()
