"""What a strategy is given: the space, the budget, how much may be asked, and what is known about hardware."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hwnas.core.estimate import Budget
from hwnas.core.interfaces import BatchSpace, HardwareEstimator
from hwnas.core.workload import Candidate

Columns = Callable[[np.ndarray], np.ndarray]
"""Extra features of n x g genotypes, n x p: proxies, for instance."""

MEASURABLE = ("latency", "energy", "instructions", "cycles")
"""Metrics that only running a network tells; the others follow from the network itself and are exact estimates."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A search problem as strategies see it. `objectives` are minimised beside the error; counts are upper limits."""

    space: BatchSpace
    budget: Budget
    seed: int
    objectives: tuple[str, ...] = ("latency",)
    trials: int = 2000
    accuracy_queries: int = 100
    device_measurements: int = 0
    estimator: HardwareEstimator | None = None
    columns: Columns | None = None

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of its own for each purpose, so that one more draw here changes nothing there."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])

    def candidates(self, genotypes: np.ndarray) -> list[Candidate]:
        """n x g genotypes as candidates."""
        return [Candidate(self.space.id, tuple(row)) for row in genotypes.tolist()]

    def estimates(self, genotypes: np.ndarray) -> dict[str, np.ndarray]:
        """metric -> n x 2 (mean, high); empty without an estimator."""
        if self.estimator is None or not len(genotypes):
            return {}
        return dict(self.estimator.estimate(genotypes))

    def excess(self, genotypes: np.ndarray) -> np.ndarray:
        """The worst relative excess of n genotypes over the limits at the estimates' high end, 0 where unknown."""
        found = self.estimates(genotypes)
        worst = np.full(len(genotypes), -math.inf)
        for metric, limit in self.budget.limits().items():
            if metric in found:
                worst = np.maximum(worst, _relative_excess(found[metric][:, 1], limit))
        return np.where(np.isneginf(worst), 0.0, worst)


def _relative_excess(values: np.ndarray, limit: float) -> np.ndarray:
    return (values - limit) / limit if limit else np.where(values > 0, 1.0, 0.0)


def feasibility(budget: Budget, estimates: Mapping[str, np.ndarray]) -> np.ndarray:
    """The probability that n candidates meet every estimated limit, taking metrics as independent and log-normal.

    The spread follows from the distance of mean and high, which holds at the budget's confidence. An infinite mean is
    'most likely not measurable'; a mean that equals its high end is exact.
    """
    from scipy.stats import norm

    width = float(norm.ppf(budget.confidence))
    result: np.ndarray | None = None
    for metric, limit in budget.limits().items():
        if metric not in estimates:
            continue
        mean, high = np.maximum(estimates[metric], 1e-300).T
        with np.errstate(invalid="ignore"):
            spread = np.nan_to_num((np.log(high) - np.log(mean)) / width, nan=0.0, posinf=math.inf)
        margin = np.log(max(limit, 1e-300)) - np.log(mean)
        unsure = spread > 1e-9
        chance = np.where(unsure, norm.cdf(margin / np.where(unsure, spread, 1.0)), margin >= 0)
        chance = np.where(np.isinf(mean), 0.0, chance)
        result = chance if result is None else result * chance
    size = len(next(iter(estimates.values()))) if estimates else 0
    return np.ones(size) if result is None else result
