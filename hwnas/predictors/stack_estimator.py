"""A hardware estimator from a predictor of whole candidates: for devices that are known by measurements alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hwnas.core.interfaces import HardwareEstimator
from hwnas.core.workload import Candidate
from hwnas.predictors.stack import NetworkStack


class StackEstimator:
    """Estimates one metric by a fitted stack; `others` estimate what needs no measuring.

    The stack is not refitted: a candidate that was measured in the meantime is answered by its measurement.
    """

    def __init__(
        self,
        stack: NetworkStack,
        metric: str = "latency",
        *,
        confidence: float = 0.9,
        others: HardwareEstimator | None = None,
    ) -> None:
        self._stack, self._metric, self._confidence, self._others = stack, metric, confidence, others
        self.metrics: tuple[str, ...] = (metric, *(m for m in (others.metrics if others else ()) if m != metric))
        self._measured: dict[tuple[int, ...], float] = {}

    def learn(self, candidate: Candidate, measured: Mapping[str, float]) -> None:
        """Take in SI values by metric; one that is missing could not be measured."""
        self._measured[candidate.genotype] = measured.get(self._metric, math.inf)
        if self._others is not None:
            self._others.learn(candidate, measured)

    def estimate(self, genotypes: np.ndarray) -> Mapping[str, np.ndarray]:
        """metric -> n x 2 (mean, high) in SI units; infinite where a candidate most likely cannot be measured."""
        found = {} if self._others is None else dict(self._others.estimate(genotypes))
        mean, _, high = self._stack.predict(genotypes, confidence=self._confidence)
        runs = self._stack.measurable(genotypes)
        values = np.column_stack(
            [np.where(runs < 0.5, math.inf, mean), np.where(runs < self._confidence, math.inf, high)]
        )
        for i, genotype in enumerate(np.asarray(genotypes).tolist()):
            if (known := self._measured.get(tuple(genotype))) is not None:
                values[i] = known
        return {**found, self._metric: values}
