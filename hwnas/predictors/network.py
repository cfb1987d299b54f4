"""From workloads to networks: a sum is not an end-to-end latency, so a correction is learned on whole networks.

The sum is kept apart by class of kernel, and so are the counts: an isolated kernel carries the cost of its own call
and of its own layout change, which a network pays once or not at all. A ridge regression towards 'the plain sum'
learns how much of each to count, and out-of-fold residuals calibrate the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.core.estimate import Estimate, Source
from hwnas.core.measurement import Fidelity
from hwnas.core.workload import Workload
from hwnas.digest import canonical_json
from hwnas.errors import DataError
from hwnas.predictors.conformal import conformal_quantile, lower_quantile, out_of_fold
from hwnas.predictors.features import CLASSES, kernel_class
from hwnas.predictors.memory import MemoryPredictor
from hwnas.predictors.peak import PeakPredictor
from hwnas.predictors.workload import WorkloadPredictor
from hwnas.records import write_atomically

COLUMNS = 2 * len(CLASSES)
"""The sum of the metric over each class, then how many kernels of each class."""
MIN_NETWORKS = 8
"""Fewer whole networks than this teach one factor on the plain sum, and no interval: UNCALIBRATED_FACTOR stands in."""
UNCALIBRATED_FACTOR = 2.0
FOLDS = 10
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FLOOR = 0.02
"""A correction never takes a network below this share of its plain sum: small kernels alone cost ten times their part."""


@dataclass(frozen=True, slots=True)
class Error:
    """What calibration saw: mean absolute percentage error out of fold, on how many whole networks."""

    mape: float
    networks: int


class NetworkPredictor:
    """A metric (latency in s, instructions, cycles) of whole networks from the counts of their workloads.

    `memory` tells flash and RAM, `peak` the SRAM of an accelerator, where the rows of the table do. `beside` holds
    predictors of other metrics of the same table, and `seconds_per` what one cycle lasts, where the device says so.
    """

    def __init__(
        self,
        workloads: WorkloadPredictor,
        seed: int = 0,
        memory: MemoryPredictor | None = None,
        peak: PeakPredictor | None = None,
    ) -> None:
        self.workloads, self.memory, self.peak = workloads, memory, peak
        self.beside: dict[str, NetworkPredictor] = {}
        self.seconds_per: float | None = None
        self.fidelity: Fidelity = workloads.fidelity
        self.metric = workloads.metric
        self._seed = seed
        self._weights = _plain_sum()
        self._intercept = 0.0
        self._residuals = np.array([])
        self.calibration = (np.empty((0, COLUMNS)), np.array([]))  # the networks it was fitted to
        self.error: Error | None = None
        self.points = np.empty((0, 2))  # out-of-fold prediction and measurement (s) of each network
        self._classes: dict[str, int] = {}

    def rows(self, workloads: Sequence[Workload]) -> np.ndarray:
        """What one occurrence of each of n workloads adds to a network's columns, n x COLUMNS."""
        values, _ = self.workloads.values(workloads)
        rows = np.zeros((len(workloads), COLUMNS))
        for i, workload in enumerate(workloads):
            if workload.id not in self._classes:
                self._classes[workload.id] = CLASSES.index(kernel_class(workload))
            k = self._classes[workload.id]
            rows[i, k], rows[i, len(CLASSES) + k] = values[i], 1.0
        return rows

    def columns(self, networks: Sequence[Mapping[str, int]], known: Mapping[str, Workload]) -> np.ndarray:
        """The columns of n networks given as workload counts, n x COLUMNS. Raises DataError for an unknown workload."""
        used = sorted({part for parts in networks for part in parts})
        if missing := [part for part in used if part not in known]:
            raise DataError(f"workload {missing[0]} is not known", given=missing[0])
        rows = dict(zip(used, self.rows([known[u] for u in used])))
        sums = [sum((rows[p] * n for p, n in parts.items()), np.zeros(COLUMNS)) for parts in networks]
        return np.array(sums).reshape(len(networks), COLUMNS)

    def fit(self, columns: np.ndarray, values: Sequence[float] | np.ndarray) -> None:
        """Learn the correction from n measured networks (columns n x COLUMNS, values n in SI units)."""
        x, y = self.calibration = np.asarray(columns, dtype=float), np.asarray(values, dtype=float)
        self._weights, self._intercept, self._residuals, self.error = _plain_sum(), 0.0, np.array([]), None
        self.points = np.empty((0, 2))
        if len(y) < MIN_NETWORKS:
            if len(y):
                self._weights = _plain_sum() * float(np.median(y / x[:, : len(CLASSES)].sum(1)))
            return
        best: tuple[float, float, np.ndarray] | None = None
        for penalty in PENALTIES:

            def fit_predict(train: np.ndarray, test: np.ndarray, penalty: float = penalty) -> np.ndarray:
                return _apply(x[test], *_ridge(x[train], y[train], penalty))

            left_out = out_of_fold(len(y), FOLDS, np.random.default_rng(self._seed), fit_predict)
            residuals = np.log(y / left_out)
            score = float(np.mean(np.abs(residuals)))
            if best is None or score < best[0]:
                best = (score, penalty, residuals)
        assert best is not None
        self._weights, self._intercept = _ridge(x, y, best[1])
        self._residuals = best[2]
        self.error = Error(float(np.mean(np.abs(np.expm1(-best[2])))), len(y))
        self.points = np.stack([y * np.exp(-best[2]), y], axis=1)

    def predict_columns(self, columns: np.ndarray, confidence: float = 0.9) -> np.ndarray:
        """mean, low and high of n networks, n x 3; each bound holds one-sidedly with the confidence."""
        mean = _apply(columns, self._weights, self._intercept)
        low = 1 / UNCALIBRATED_FACTOR
        if len(self._residuals):
            low = float(np.exp(min(0.0, lower_quantile(self._residuals, confidence))))
        return np.stack([mean, mean * low, mean * self.upper_factor(confidence)], axis=1)

    def upper_factor(self, confidence: float) -> float:
        """Upper bound over prediction, the same for every network."""
        if not len(self._residuals):
            return UNCALIBRATED_FACTOR
        return float(np.exp(max(0.0, conformal_quantile(self._residuals, confidence))))

    def estimate(self, parts: Mapping[str, int], known: Mapping[str, Workload], confidence: float = 0.9) -> Estimate:
        """The estimate of one network of the space; its source is that of its least certain workload."""
        mean, low, high = self.predict_columns(self.columns([parts], known), confidence)[0]
        source = self._source(self.workloads.values([known[p] for p in parts])[1])
        return Estimate(float(mean), float(low), float(high), source, self.fidelity.of(self.metric))

    def estimate_any(self, parts: Mapping[str, int], known: Mapping[str, Workload]) -> Estimate:
        """The estimate of any network, at 90 %: kernels that were not measured widen the interval, by their share.

        The interval of `estimate` was calibrated on networks of which most kernels stand in the table.
        """
        within = self.estimate(parts, known)
        values, sources = self.workloads.values([known[p] for p in parts])
        totals = values * np.array([parts[p] for p in parts], dtype=float)
        share = float(totals[np.array([s != "table" for s in sources])].sum() / max(totals.sum(), 1e-30))
        doubt = 1 + share * (self.workloads.factor(self._source(sources)) - 1)
        low, high = min(within.low, within.mean / doubt), max(within.high, within.mean * doubt)
        return Estimate(within.mean, low, high, within.source, within.fidelity)

    def others(self, parts: Mapping[str, int], known: Mapping[str, Workload]) -> dict[str, Estimate]:
        """What stands beside the metric, of any network: latency from cycles, other metrics of the same table."""
        found = {metric: other.estimate_any(parts, known) for metric, other in self.beside.items()}
        if self.seconds_per is not None:
            run, s = self.estimate_any(parts, known), self.seconds_per
            found["latency"] = Estimate(run.mean * s, run.low * s, run.high * s, run.source, run.fidelity)
        return found

    @staticmethod
    def _source(sources: Sequence[Source]) -> Source:
        return "roofline" if "roofline" in sources else "predictor"

    def to_json(self) -> dict[str, Any]:
        """Everything `from_json` needs, as JSON."""
        return {
            "kind": "network-predictor",
            "seed": self._seed,
            "workloads": self.workloads.to_json(),
            "memory": None if self.memory is None else self.memory.to_json(),
            "peak": None if self.peak is None else self.peak.to_json(),
            "beside": {metric: other.to_json() for metric, other in self.beside.items()},
            "seconds_per": self.seconds_per,
            "weights": self._weights.tolist(),
            "intercept": self._intercept,
            "residuals": self._residuals.tolist(),
            "points": self.points.tolist(),
            "calibration": [array.tolist() for array in self.calibration],
            "error": None if self.error is None else [self.error.mape, self.error.networks],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> NetworkPredictor:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            if document["kind"] != "network-predictor":
                raise ValueError(f"its kind is {document['kind']!r}")
            memory = None if document["memory"] is None else MemoryPredictor.from_json(document["memory"])
            peak = None if document.get("peak") is None else PeakPredictor.from_json(document["peak"])
            self = cls(WorkloadPredictor.from_json(document["workloads"]), int(document["seed"]), memory, peak)
            self.beside = {str(m): cls.from_json(other) for m, other in document.get("beside", {}).items()}
            for metric, other in self.beside.items():
                mine, its = self.workloads, other.workloads
                same = (mine.device, mine.fidelity, mine.toolchain) == (its.device, its.fidelity, its.toolchain)
                if not same or metric != other.metric or metric == self.metric:
                    raise ValueError(f"{metric} beside its {self.metric} is not of the same table")
            rate = document.get("seconds_per")
            self.seconds_per = None if rate is None else float(rate)
            if self.seconds_per is not None and not 0 < self.seconds_per < np.inf:
                raise ValueError(f"one run of its metric lasts {self.seconds_per} s")
            weights = np.array(document["weights"], dtype=float)
            if weights.shape != (COLUMNS,):
                raise ValueError(f"it has {weights.size} weights, not {COLUMNS}")
            self._weights, self._intercept = weights, float(document["intercept"])
            self._residuals = np.array(document["residuals"], dtype=float)
            self.points = np.array(document["points"], dtype=float).reshape(-1, 2)
            columns, values = (np.array(array, dtype=float) for array in document["calibration"])
            self.calibration = columns.reshape(len(values), COLUMNS), values
            self.error = (
                None if document["error"] is None else Error(float(document["error"][0]), int(document["error"][1]))
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"is not a saved network predictor ({error})") from error
        return self

    def save(self, path: Path) -> None:
        """Write the predictor as JSON, atomically."""
        write_atomically(path, canonical_json(self.to_json()) + "\n")


def _plain_sum() -> np.ndarray:
    return np.repeat([1.0, 0.0], len(CLASSES))


def _apply(x: np.ndarray, weights: np.ndarray, intercept: float) -> np.ndarray:
    total = x[:, : len(CLASSES)].sum(1)
    return np.asarray(np.maximum(x @ weights + intercept, FLOOR * total + 1e-12))


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Least relative squared error, pulled towards the plain sum w0.

    min sum ((x w + c - y) / y)^2 + penalty |D (w - w0)|^2, where D scales each weight by its column's share of y, so
    that one penalty fits seconds and counts alike.
    """
    z = np.column_stack([x, np.ones(len(y))]) / y[:, None]
    prior = np.append(_plain_sum(), 0.0)
    scale = np.sqrt(np.mean(z**2, axis=0))
    # Counts and the intercept may move freely by microseconds; their share of y is a poor measure of how far.
    d = np.where(scale > 0, scale, 1.0) * np.sqrt(penalty)
    left = z.T @ z + np.diag(d**2)
    right = z.T @ (1.0 - z @ prior)
    solution = prior + np.linalg.solve(left, right)
    return solution[:-1], float(solution[-1])
