"""The fullest moment of an accelerator's SRAM in a whole network, from that of its kernels and of its blocks.

A kernel alone needs its own inputs and outputs; a network also holds what waits, such as the start of a residual. How
much of either counts depends on how the compiler schedules and cascades, and is fitted to whole networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hwnas.core.workload import Workload
from hwnas.errors import DataError
from hwnas.predictors.features import kernel_class
from hwnas.tables.table import LatencyTable

USE = "sram"
"""The use of memory that rows tell."""
MIN_NETWORKS = 8
"""Fewer whole networks than this teach one factor on the fullest kernel."""


class PeakPredictor:
    """Bytes of SRAM of networks: max(kernels), corrected by whole networks. `error` is the largest share by which a
    measured network exceeded its estimate."""

    def __init__(self, kernels: Mapping[str, float], classes: Mapping[str, str]) -> None:
        """kernels: workload id -> bytes; classes: workload id -> its class of kernel."""
        self._kernels = {k: float(v) for k, v in kernels.items()}
        self._classes = dict(classes)
        self._typical = {
            kind: float(np.median([v for k, v in self._kernels.items() if self._classes[k] == kind]))
            for kind in {*self._classes.values()}
        }
        self._weights = np.array([0.0, 1.0, 0.0])
        self.error = 0.0

    @classmethod
    def of(cls, table: LatencyTable) -> PeakPredictor | None:
        """From a table's valid rows; None if no row of a kernel and of a network tells its SRAM.

        A network that ran on the CPU alone takes none, and teaches nothing.
        """
        values = table.values(USE)
        kernels = {k: v for k, v in values.items() if k in table.workloads}
        self = cls(kernels, {k: kernel_class(table.workloads[k]) for k in kernels})
        fullest = {
            n.id: np.sort(self.rows([table.workloads[k] for k in n.parts]))[::-1]
            for n in table.networks.values()
            if values.get(n.id, 0.0) > 0
        }
        known = {k: rows for k, rows in fullest.items() if rows.size and rows[0] > 0}
        if not known:
            return None
        seen = np.array([[1.0, r[0], r[1] if len(r) > 1 else 0.0] for r in known.values()])
        self._fit(seen, np.array([values[k] for k in known]))
        return self

    def rows(self, workloads: Sequence[Workload]) -> np.ndarray:
        """Bytes of n kernels alone; what is typical of its class for one that was not measured."""
        return np.array([
            self._kernels[w.id] if w.id in self._kernels else self._typical.get(kernel_class(w), 0.0)
            for w in workloads
        ])  # fmt: skip

    def predict(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """mean and high (bytes) of n networks by their fullest and second fullest kernel, n x 2."""
        x = np.column_stack([np.ones(len(first)), first, second])
        mean = np.maximum(x @ self._weights, first * 0.1)
        return np.stack([mean, mean * (1 + self.error)], axis=1)

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        if len(y) < MIN_NETWORKS:
            self._weights = np.array([0.0, float(np.median(y / x[:, 1])), 0.0])
        else:  # relative errors count
            self._weights = np.asarray(np.linalg.lstsq(x / y[:, None], np.ones(len(y)), rcond=None)[0])
        self.error = float(max(0.0, (y / self.predict(x[:, 1], x[:, 2])[:, 0] - 1).max()))

    def to_json(self) -> dict[str, Any]:
        """Everything `from_json` needs, as JSON."""
        return {
            "kernels": self._kernels,
            "classes": self._classes,
            "weights": self._weights.tolist(),
            "error": self.error,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PeakPredictor:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            self = cls(document["kernels"], document["classes"])
            self._weights = np.array(document["weights"], dtype=float).reshape(3)
            self.error = float(document["error"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"is not a saved predictor of SRAM ({error})") from error
        return self
