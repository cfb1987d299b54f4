"""The members of the network stack: look-up tables, trees on them, a Gaussian process and a law, each predicting log seconds.

All of them see the same columns; what differs is how they extrapolate. A look-up table adds up parts and is exact
where the device does, trees correct what addition misses, the process is best where rows are few. The law, where the
space counts operators, knows least and needs the fewest rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from hwnas.errors import DataError
from hwnas.predictors.gp import GenotypeProcess
from hwnas.predictors.operator_law import OperatorLaw
from hwnas.predictors.stack_columns import NetworkColumns, Table
from hwnas.predictors.xgb import Trees, fit_trees

MEMBERS = ("lut-raw", "lut-full", "trees", "lut+trees", "process", "law")
"""In the order of their predictions; the law is absent where the space does not count operators."""
_FLOOR = 0.3
"""No prediction falls below this part of the least measured value: an additive table can reach zero, no device can."""
_PRIOR_ROWS = 10.0
_SHARPNESS = 3.0
"""2 is best for errors that are independent of each other; members err together, which favours the better one."""


def lut_weights(parts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Non-negative least squares of n values on a constant and n x p counts: 1 + p weights.

    Squared errors are weighted by 1 / value: between absolute errors (largest networks decide) and relative ones.
    Source: Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23.
    """
    from scipy.optimize import nnls

    design = np.hstack([np.ones((len(parts), 1)), parts])
    scale = np.sqrt(np.median(values) / values)[:, None]
    return cast(np.ndarray, nnls(design * scale, values * scale[:, 0], maxiter=50 * design.shape[1] + 1000)[0])


def lut_sum(weights: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The table's sum for n x p counts."""
    return cast(np.ndarray, weights[0] + parts @ weights[1:])


def fold_numbers(groups: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each of n rows, rows of one group together, folds of about equal size."""
    names, inverse = np.unique(groups, return_inverse=True)
    return cast(np.ndarray, (rng.permutation(len(names)) % folds)[inverse])


@dataclass(frozen=True, slots=True)
class Members:
    """All members fitted on the same rows."""

    floor: float
    raw: np.ndarray
    full: np.ndarray
    trees: Trees
    residual: Trees
    process: GenotypeProcess
    law: OperatorLaw | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Which of MEMBERS there are."""
        return MEMBERS if self.law is not None else MEMBERS[:-1]

    @classmethod
    def fit(cls, table: Table, values: np.ndarray, groups: np.ndarray, *, seed: int, rounds: int) -> Members:
        """Fit to n rows and n positive values; `groups` names rows that are the same network."""
        floor, logs, lut = _FLOOR * float(values.min()), np.log(values), table.lut
        raw, full = lut_weights(table.raw, values), lut_weights(lut, values)
        sums = [np.log(np.maximum(lut_sum(w, x), floor)) for w, x in ((raw, table.raw), (full, lut))]
        # residuals of rows the table was fitted on are too small: the trees learn from out-of-fold ones
        unseen = np.zeros(len(values))
        folds = fold_numbers(groups, 5, np.random.default_rng([seed, 1]))
        for fold in np.unique(folds):
            held = folds == fold
            if held.all():
                unseen[held] = sums[1][held]
                continue
            unseen[held] = np.log(np.maximum(lut_sum(lut_weights(lut[~held], values[~held]), lut[held]), floor))
        columns = table.all
        return cls(
            floor=floor,
            raw=raw,
            full=full,
            trees=fit_trees(np.column_stack([columns, *sums]), logs, rounds=rounds, seed=seed),
            residual=fit_trees(np.column_stack([columns, unseen]), logs - unseen, rounds=rounds // 2, seed=seed),
            process=GenotypeProcess.fit(table.genotypes, table.smooth, values, seed=seed),
            law=OperatorLaw.fit(table.operators, values) if table.operators.shape[1] else None,
        )

    def logs(self, table: Table) -> np.ndarray:
        """Logarithms of the members' predictions, n x members, in the order of `names`."""
        lut, columns = table.lut, table.all
        raw = np.log(np.maximum(lut_sum(self.raw, table.raw), self.floor))
        full = np.log(np.maximum(lut_sum(self.full, lut), self.floor))
        process = self.process.predict(table.genotypes, table.smooth)
        found = [
            raw,
            full,
            self.trees.predict(np.column_stack([columns, raw, full])),
            full + self.residual.predict(np.column_stack([columns, full])),
            np.log(np.maximum(process, self.floor)),
        ]
        if self.law is not None:
            found.append(np.log(np.maximum(self.law.predict(table.operators), self.floor)))
        return np.column_stack(found)

    def check(self, columns: NetworkColumns) -> None:
        """Raises DataError unless the members were fitted on as many columns as these."""
        raw, parts = len(columns.raw), len(columns.pruned) + len(columns.blocks)
        law = 0 if self.law is None else self.law.width
        widths = (len(self.raw) - 1, len(self.full) - 1, self.process.width, law)
        if widths != (raw, raw + parts, parts + len(columns.features), len(columns.operators)):
            raise DataError("members and columns do not belong together")

    def to_json(self) -> dict[str, Any]:
        """Everything that predicting needs, as JSON values."""
        return {
            "floor": self.floor,
            "raw": self.raw.tolist(),
            "full": self.full.tolist(),
            "trees": self.trees.to_json(),
            "residual": self.residual.to_json(),
            "process": self.process.to_json(),
            "law": self.law and self.law.to_json(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Members:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        try:
            floor = float(document["floor"])
            raw, full = (np.asarray(document[key], dtype=float) for key in ("raw", "full"))
            if not floor > 0 or raw.ndim != 1 or full.ndim != 1 or not np.isfinite([*raw, *full, floor]).all():
                raise ValueError("look-up tables are not vectors of finite numbers")
            return cls(
                floor=floor,
                raw=raw,
                full=full,
                trees=Trees.from_json(document["trees"]),
                residual=Trees.from_json(document["residual"]),
                process=GenotypeProcess.from_json(document["process"]),
                law=None if document.get("law") is None else OperatorLaw.from_json(document["law"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"the saved members are not readable: {error}") from error


def stacking_weights(unseen: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Non-negative weights of sum one that minimise the pseudo-Huber loss of out-of-fold n x m predictions.

    A penalty on the distance from weights by the inverse of typical errors to the power _SHARPNESS, worth ten rows, keeps
    a few rows from choosing one member by luck; where one member is exact (an additive simulator), it gets all the weight.
    Source: Breiman, "Stacked Regressions", 1996; van der Laan et al., "Super Learner", 2007.
    """
    from scipy.optimize import minimize

    errors = unseen - logs[:, None]
    typical = np.median(np.abs(errors), axis=0)
    if typical.min() < 1e-4:
        return cast(np.ndarray, (np.arange(len(typical)) == typical.argmin()).astype(float))
    scale = 1e-3 + float(np.median(np.abs(errors - np.median(errors))))
    start = -_SHARPNESS * np.log(typical / typical.min())
    prior = np.exp(start) / np.exp(start).sum()

    def loss(z: np.ndarray) -> tuple[float, np.ndarray]:
        weights = np.exp(z - z.max())
        weights = np.maximum(weights / weights.sum(), 1e-12)
        ratio = errors @ weights / scale
        root = np.sqrt(1 + ratio**2)
        surprise = np.log(weights / prior)
        slope = ((ratio / root / scale) @ errors + _PRIOR_ROWS * (surprise + 1)) / len(logs)
        value = np.mean(root - 1) + _PRIOR_ROWS * weights @ surprise / len(logs)
        return float(value), weights * (slope - weights @ slope)

    z = minimize(loss, start, jac=True, method="L-BFGS-B").x
    weights = np.exp(z - z.max())
    return cast(np.ndarray, weights / weights.sum())


def unseen_mix(unseen: np.ndarray, logs: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Out-of-fold n x m predictions mixed with weights that did not see the row's fold either, n values.

    Weights chosen on the very rows whose residuals they leave make conformal bounds too narrow.
    """
    mixed = np.zeros(len(logs))
    for fold in np.unique(folds):
        held = folds == fold
        seen = ~held if not held.all() else held
        mixed[held] = unseen[held] @ stacking_weights(unseen[seen], logs[seen])
    return mixed
