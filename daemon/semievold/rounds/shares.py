"""How much of a round one source may have: who sends much has a say in it, and not the only one.

Owns the bound; pure. A source is who asked a query: a client of the gateway, or what a producer names. Invariants: with
few sources nothing is left out; whoever floods, the others' pseudo-labels stay; nobody can push a source below `least`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence


def most_of_one(counts: Mapping[str, int], unnamed: int, share: float, least: int) -> int | None:
    """The most pseudo-labels that a source may have in a round; None: there is no bound.

    A bound by share needs others: it holds where `1 / share` sources are there (each pseudo-label without a source
    counts as one). It is the largest number with which no source has more than its share of what is left.

    Args:
        counts: selected pseudo-labels of each source.
        unnamed: selected pseudo-labels without a source; they are not bounded.
        share: in (0, 1].
        least: a source is not cut below this many, however few the others have sent.
    """
    if not counts or (len(counts) + unnamed) * share < 1:
        return None
    low, high = 0, max(counts.values())
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * (unnamed + sum(min(count, middle) for count in counts.values())):
            low = middle
        else:
            high = middle - 1
    return max(low, least)


def beyond_share(ranked: Sequence[str], sources: Mapping[str, str], share: float, least: int) -> set[str]:
    """The ids that a source has beyond its share; `ranked`: the selected ids, surest first, of which the first stay.

    Args:
        ranked: ids, each once.
        sources: {id: source} of those that have one.
        share: as in `most_of_one`.
        least: as in `most_of_one`.
    """
    counts = Counter(sources[each] for each in ranked if each in sources)
    most = most_of_one(counts, len(ranked) - counts.total(), share, least)
    if most is None:
        return set()
    taken: defaultdict[str, int] = defaultdict(int)
    beyond = set()
    for each in ranked:
        if each in sources:
            taken[sources[each]] += 1
            if taken[sources[each]] > most:
                beyond.add(each)
    return beyond
