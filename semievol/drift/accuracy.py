"""How often answers are right, from few labels that come late and a proxy that every query has.

Owns estimates; whether accuracy fell is semievol.drift.falls' question. The proxy (confidence) is no truth: its mean
over all queries is corrected by what the labels say (prediction-powered inference, 2301.09633), weighed by how well it
went with the truth before (PPI++, 2311.01453, with the weight of earlier labels so that it is known before the next).
It holds whatever the proxy is worth, as long as labelled queries are drawn from all without regard to their answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

BINS = 10
LEAST = 20
"""Labels without which the proxy gets no weight, and no estimate is made without labels."""
_SHRINK = 5.0
_WIDTHS = {0.9: 1.6449, 0.95: 1.96, 0.99: 2.5758}


class Interval(NamedTuple):
    """Of an accuracy: the estimate and where it lies with the stated confidence."""

    estimate: float
    low: float
    high: float
    labels: int


@dataclass(slots=True)
class ProxyRecord:
    """What earlier labels say of the proxy: sums over them, and by its height how often the answer was right."""

    count: int = 0
    right: float = 0.0
    proxy: float = 0.0
    proxy_squares: float = 0.0
    both: float = 0.0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    bins_right: list[int] = field(default_factory=lambda: [0] * BINS)

    def add(self, correct: bool, proxy: float) -> None:
        """One more label; `proxy` in [0, 1]."""
        self.count += 1
        self.right += correct
        self.proxy += proxy
        self.proxy_squares += proxy * proxy
        self.both += proxy * correct
        self.bins[_bin(proxy)] += 1
        self.bins_right[_bin(proxy)] += correct

    @property
    def _moments(self) -> tuple[float, float, float]:
        """Variance of the truth, of the proxy, and their covariance."""
        n = max(1, self.count)
        right, proxy = self.right / n, self.proxy / n
        return right * (1 - right), max(0.0, self.proxy_squares / n - proxy * proxy), self.both / n - right * proxy

    @property
    def weight(self) -> float:
        """Of the proxy in the next estimate, in [0, 1]."""
        _, proxy, both = self._moments
        return 0.0 if self.count < LEAST or proxy < 1e-6 else min(1.0, max(0.0, both / proxy))

    @property
    def correlation(self) -> float | None:
        right, proxy, both = self._moments
        return None if self.count < LEAST or min(right, proxy) < 1e-9 else both / math.sqrt(right * proxy)

    @property
    def variance(self) -> float:
        """Of a label's correction at the present weight; with few labels that of a coin."""
        right, proxy, both = self._moments
        weight = self.weight
        known = max(0.0, right + weight * weight * proxy - 2 * weight * both)
        return (self.count * known + _SHRINK * 0.25) / (self.count + _SHRINK)

    def powered(self, correct: bool, proxy: float, mean_proxy: float) -> tuple[float, float, float]:
        """A label's prediction-powered value, and the least and the most that it could have been.

        Its mean is the accuracy over all queries. `mean_proxy`: of all queries from which the labelled one was drawn.
        """
        weight = self.weight
        shift = weight * mean_proxy
        return correct - weight * proxy + shift, shift - weight, 1 + shift

    def estimated(self, proxies: Sequence[float]) -> float | None:
        """The accuracy on queries without any label, by how often answers of such a proxy were right before.

        None: too few labels. It holds only while queries are like those that had labels.
        """
        if self.count < LEAST or not len(proxies):
            return None
        overall = self.right / self.count
        rates = (np.array(self.bins_right) + _SHRINK * overall) / (np.array(self.bins) + _SHRINK)
        return float(np.mean([rates[_bin(each)] for each in proxies]))

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, state: dict[str, Any]) -> ProxyRecord:
        return cls(**state)


def powered_interval(
    earlier: ProxyRecord,
    labelled: Sequence[tuple[bool, float]],
    proxies: Sequence[float],
    confidence: float = 0.95,
) -> Interval | None:
    """The accuracy over a window of queries; None without a label.

    Args:
        earlier: of the labels before this window.
        labelled: of those with a label, whether the answer was right and its proxy.
        proxies: of all of the window, the labelled among them; at least one.
        confidence: 0.9, 0.95 or 0.99. With fewer than some 20 labels it is a little less.
    """
    if not labelled:
        return None
    mean = float(np.mean(proxies))
    values = np.array([earlier.powered(correct, proxy, mean)[0] for correct, proxy in labelled])
    n, estimate = len(values), float(values.mean())
    # With few labels their own spread is a poor guess (none was wrong: none); what came before is a better one.
    prior = min(float(max(earlier.count, _SHRINK)), 4.0 * n)
    spread = (float(((values - estimate) ** 2).sum()) + prior * earlier.variance) / (n + prior)
    half = _WIDTHS[confidence] * math.sqrt(spread / n)
    estimate = min(1.0, max(0.0, estimate))
    return Interval(estimate, max(0.0, estimate - half), min(1.0, estimate + half), n)


def _bin(proxy: float) -> int:
    return min(BINS - 1, max(0, int(proxy * BINS)))
