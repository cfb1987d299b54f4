"""A hardware estimator that knows nothing but whole candidates measured in this search.

For devices without a latency table: it names a designed set to measure first, fits one network stack a metric, and
refits as measurements come in. A measured candidate is answered by its measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from hwnas.core.interfaces import BatchSpace, HardwareEstimator
from hwnas.core.workload import Candidate
from hwnas.predictors.stack import MIN_ROWS, NetworkStack
from hwnas.predictors.stack_columns import NetworkColumns

_POOL = 2000
_PENALTY = 0.1
_ROUNDS = 100
"""Trees of a stack that is refitted with every batch: fewer than one that is fitted once and kept."""


class MeasuredEstimator:
    """Estimates `metrics` from measured candidates; `others` come from an estimator of what needs no measuring."""

    def __init__(
        self,
        space: BatchSpace,
        metrics: tuple[str, ...],
        *,
        confidence: float = 0.9,
        seed: int = 0,
        others: HardwareEstimator | None = None,
    ) -> None:
        self._space, self._own, self._others = space, metrics, others
        self.metrics = metrics + tuple(m for m in (others.metrics if others else ()) if m not in metrics)
        self._confidence, self._seed = confidence, seed
        self._rows: dict[tuple[int, ...], dict[str, float]] = {}
        self._stacks: dict[str, NetworkStack | None] = {}
        self._fitted = -1

    def design(self, n: int) -> list[Candidate]:
        """n candidates to measure first: half spread out by a D-optimal design, half drawn as the space draws them.

        Each step takes the row x of a pool that maximises x' M^-1 x, M the information so far (Fedorov, "Theory of
        Optimal Experiments", 1972). The drawn half keeps calibration honest: bounds hold for networks like those they
        were calibrated on.
        """
        rng = np.random.default_rng([self._seed, 0xD0E])
        pool = np.unique(self._space.sample_batch(_POOL, rng), axis=0)
        pool = pool[rng.permutation(len(pool))]
        columns = NetworkColumns.choose(self._space, pool).table(self._space, pool).lut
        x = np.column_stack([np.ones(len(pool)), columns / np.maximum(columns.max(0, initial=0.0), 1e-9)])
        inverse = np.eye(x.shape[1]) / _PENALTY
        taken = list(range(min(n - n // 2, len(pool))))
        for row in taken:
            inverse = _with_row(inverse, x[row])
        while len(taken) < min(n, len(pool)):
            gain = np.einsum("ij,jk,ik->i", x, inverse, x)
            gain[taken] = -math.inf
            taken.append(int(gain.argmax()))
            inverse = _with_row(inverse, x[taken[-1]])
        return [Candidate(self._space.id, tuple(row)) for row in pool[taken].tolist()]

    def learn(self, candidate: Candidate, measured: Mapping[str, float]) -> None:
        """Take in SI values by metric; a metric that is missing could not be measured."""
        self._rows[candidate.genotype] = {m: float(measured[m]) for m in self._own if m in measured}
        if self._others is not None:
            self._others.learn(candidate, measured)

    def estimate(self, genotypes: np.ndarray) -> Mapping[str, np.ndarray]:
        """metric -> n x 2 (mean, high) in SI units. The mean is infinite where a candidate most likely cannot be
        measured, the high end where it cannot with more than the probability that the confidence leaves."""
        self._refit()
        found = {} if self._others is None else dict(self._others.estimate(genotypes))
        rows = [self._rows.get(tuple(g)) for g in np.asarray(genotypes).tolist()]
        for metric in self._own:
            found[metric] = self._predicted(metric, genotypes)
            for i, row in enumerate(rows):
                if row is not None:
                    found[metric][i] = row.get(metric, math.inf)
        return found

    def _predicted(self, metric: str, genotypes: np.ndarray) -> np.ndarray:
        stack = self._stacks[metric]
        if stack is None:
            return np.full((len(genotypes), 2), math.inf)
        mean, _, high = stack.predict(genotypes, confidence=self._confidence)
        runs = stack.measurable(genotypes)
        return np.column_stack(
            [np.where(runs < 0.5, math.inf, mean), np.where(runs < self._confidence, math.inf, high)]
        )

    def _refit(self) -> None:
        if self._fitted == len(self._rows):
            return
        self._fitted = len(self._rows)
        genotypes = np.array(list(self._rows), dtype=np.int64)
        for metric in self._own:
            values = [row.get(metric) for row in self._rows.values()]
            known = sum(v is not None for v in values)
            stack = NetworkStack(self._seed, rounds=_ROUNDS) if known >= MIN_ROWS else None
            self._stacks[metric] = stack and stack.fit(self._space, genotypes, values)


def _with_row(inverse: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The inverse of M + x x' (Sherman-Morrison)."""
    along = inverse @ x
    return cast(np.ndarray, inverse - np.outer(along, along) / (1 + x @ along))
