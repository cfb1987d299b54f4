"""When has one measured enough: the interval of a median, without any assumption on the noise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import comb


@cache
def _rank(n: int, confidence: float) -> int:
    """The largest k such that [x_(k), x_(n+1-k)] covers the median with at least that confidence; 0 if none does."""
    tail, k = 0.0, 0
    while k < n // 2:
        tail += comb(n, k) / 2**n
        if tail > (1 - confidence) / 2:
            break
        k += 1
    return k


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The distribution-free confidence interval of the median by order statistics (sign test inversion).

    Source: Conover, "Practical Nonparametric Statistics", section 3.2. With too few values for that confidence it
    is (-inf, inf): one does not know.
    """
    ordered = sorted(values)
    k = _rank(len(ordered), confidence)
    if k == 0:
        return float("-inf"), float("inf")
    return ordered[k - 1], ordered[-k]


def relative_half_width(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half the width of the median's interval over the median; infinite while one does not know."""
    low, high = median_interval(values, confidence)
    middle = sorted(values)[len(values) // 2]
    return (high - low) / (2 * middle)


def median_upper_bound(values: Sequence[float], confidence: float = 0.9) -> float:
    """The smallest value that the median does not exceed, one-sidedly, with that confidence; the largest of too few.

    x_(k) for the smallest k with P(Bin(n, 1/2) >= k) <= 1 - confidence: of nine readings the seventh, so that two
    disturbed ones change nothing. Source: as `median_interval`.
    """
    ordered = sorted(values)
    n = len(ordered)
    tail = 0.0
    for k in range(n, 0, -1):
        tail += comb(n, k) / 2**n
        if tail > 1 - confidence:
            return ordered[min(k, n - 1)]
    return ordered[0]
