"""Predicting workloads: the table first, trees on features for the rest, a roofline when there is nothing to learn.

The trees learn the log ratio between a measurement and the roofline, so that far outside the training data they fall
back to physics instead of to the nearest leaf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.core.device import Device
from hwnas.core.estimate import Estimate, Source
from hwnas.core.measurement import Fidelity
from hwnas.core.workload import Workload
from hwnas.digest import canonical_json
from hwnas.errors import DataError
from hwnas.predictors.features import features, work
from hwnas.predictors.xgb import Trees, fit_trees
from hwnas.records import write_atomically

MIN_ROWS = 12
"""Fewer measured workloads than this teach trees nothing: the roofline answers instead."""
MEMBERS = 5
ROOFLINE_FACTOR = 10.0
"""A roofline is taken to be right within this factor (one-sided): it knows work and traffic, not the kernel."""


class WorkloadPredictor:
    """A metric of workloads on one device through one toolchain (None: not told), with one fidelity.

    `metric` is what a run is measured in on the device unless named: latency (s), or instructions.
    """

    def __init__(self, device: Device, seed: int = 0, toolchain: str | None = None, metric: str | None = None) -> None:
        self.device, self.toolchain = device.name, toolchain
        self.fidelity: Fidelity = device.fidelity
        self.metric = metric or device.metric
        self._seed = seed
        bandwidth = next((m.bandwidth for m in device.memories if m.use == "ram" and m.bandwidth), None)
        compute = device.compute
        # A second of the roofline stands for so many of the metric; of joules nobody knows how many.
        clock = device.mcu.clock if device.mcu else device.accelerator.clock if device.accelerator else None
        rate = {"latency": 1.0, "instructions": compute.instructions_per_s, "cycles": clock}.get(self.metric)
        self._in_unit = rate is not None
        per_s = rate or 1.0
        self._roof = (compute.macs_per_s / per_s, (bandwidth or float("inf")) / per_s, compute.overhead * per_s)
        self._known: dict[str, float] = {}
        self._trees: list[Trees] = []
        self._spread = np.log(ROOFLINE_FACTOR)

    def roofline(self, workloads: Sequence[Workload]) -> np.ndarray:
        """overhead + max(macs / peak, bytes / bandwidth) of n workloads, in the unit of the metric.

        In seconds where no rate turns them into that unit (joules have none): a base for the trees, and no answer.
        Source: Williams, Waterman and Patterson, "Roofline", CACM 2009, with a constant for the call.
        """
        macs, moved = work(workloads)
        peak, bandwidth, overhead = self._roof
        return np.asarray(overhead + np.maximum(macs / peak, moved / bandwidth))

    def fit(self, workloads: Sequence[Workload], values: Sequence[float]) -> None:
        """Learn from measured workloads (values in SI units).

        What is not positive teaches nothing: energy above idle may be lost in a meter's offset.
        """
        taught = [(w, float(v)) for w, v in zip(workloads, values) if v > 0]
        workloads, values = [w for w, _ in taught], [v for _, v in taught]
        self._known = {w.id: v for w, v in taught}
        self._trees = []
        if len(workloads) < MIN_ROWS:
            return
        x, base = self._inputs(workloads)
        y = np.log(np.asarray(values, dtype=float)) - base
        rng = np.random.default_rng(self._seed)
        rounds = 250 if len(y) >= 60 else 120
        fold = rng.permutation(len(y)) % MEMBERS
        errors = np.zeros(len(y))
        for k in range(MEMBERS):  # each member leaves a fifth out: an ensemble and an honest error in one go
            keep = fold != k
            trees = fit_trees(x[keep], y[keep], rounds=rounds, seed=self._seed + k, max_depth=5, min_child_weight=2)
            errors[~keep] = np.abs(trees.predict(x[~keep]) - y[~keep])
            self._trees.append(trees)
        self._spread = float(np.quantile(errors, 0.9))

    def values(self, workloads: Sequence[Workload]) -> tuple[np.ndarray, list[Source]]:
        """The best known value of n workloads in SI units, and where each came from.

        Raises DataError for workloads that were not measured where nothing was learned and no roofline has that unit.
        """
        sources: list[Source] = ["table" if w.id in self._known else "predictor" for w in workloads]
        result = np.array([self._known.get(w.id, np.nan) for w in workloads])
        unknown = [i for i, w in enumerate(workloads) if w.id not in self._known]
        if unknown:
            missing = [workloads[i] for i in unknown]
            if self._trees:
                x, base = self._inputs(missing)
                result[unknown] = np.exp(base + self._members(x).mean(0))
            elif not self._in_unit:
                raise DataError(
                    f"{len(self._known)} measured workloads of {self.device} with {self.metric} are too few to learn "
                    f"from, and nothing else tells it of workload {missing[0].id}: profile at least {MIN_ROWS} with it"
                )
            else:
                result[unknown] = self.roofline(missing)
                for i in unknown:
                    sources[i] = "roofline"
        return result, sources

    def uncertainty(self, workloads: Sequence[Workload]) -> np.ndarray:
        """Disagreement of the ensemble on n workloads, as a relative standard deviation; 0 for measured ones."""
        if not self._trees:
            return np.ones(len(workloads))
        known = np.array([w.id in self._known for w in workloads])
        return np.where(known, 0.0, self._members(self._inputs(workloads)[0]).std(0))

    def factor(self, source: str) -> float:
        """How far off, as a factor, a value of that source is at the 90 % end; 1 for a measured one."""
        spread = {"table": 0.0, "predictor": float(self._spread)}.get(source, float(np.log(ROOFLINE_FACTOR)))
        return float(np.exp(spread))

    def predict(self, workloads: Sequence[Workload]) -> list[Estimate]:
        """An estimate for each workload; the interval holds 90 % of what was left out when the trees were fitted."""
        values, sources = self.values(workloads)
        factors = [self.factor(s) for s in sources]
        return [
            Estimate(float(v), float(v) / f, float(v) * f, s, self.fidelity.of(self.metric))
            for v, s, f in zip(values, sources, factors)
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything `from_json` needs, as JSON."""
        return {
            "device": self.device,
            "toolchain": self.toolchain,
            "fidelity": str(self.fidelity),
            "metric": self.metric,
            "seed": self._seed,
            "in_unit": self._in_unit,
            "roof": [value if np.isfinite(value) else None for value in self._roof],
            "known": self._known,
            "trees": [t.to_json() for t in self._trees],
            "spread": self._spread,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> WorkloadPredictor:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        self = cls.__new__(cls)
        try:
            self.device, toolchain = str(document["device"]), document["toolchain"]
            self.toolchain = None if toolchain is None else str(toolchain)
            self.fidelity, self.metric = Fidelity(document["fidelity"]), str(document["metric"])
            self._seed = int(document["seed"])
            self._in_unit = bool(document.get("in_unit", self.metric in ("latency", "instructions")))
            peak, bandwidth, overhead = (float("inf") if v is None else float(v) for v in document["roof"])
            self._roof = (peak, bandwidth, overhead)
            self._known = {str(k): float(v) for k, v in document["known"].items()}
            self._trees = [Trees.from_json(t) for t in document["trees"]]
            self._spread = float(document["spread"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"is not a saved workload predictor ({error})") from error
        return self

    def save(self, path: Path) -> None:
        """Write the predictor as JSON, atomically."""
        write_atomically(path, canonical_json(self.to_json()))

    def _inputs(self, workloads: Sequence[Workload]) -> tuple[np.ndarray, np.ndarray]:
        base = np.log(self.roofline(workloads))
        return np.column_stack([features(workloads), base]), base

    def _members(self, x: np.ndarray) -> np.ndarray:
        return np.stack([t.predict(x) for t in self._trees])
