"""Whole-network predictor fitted on a few measurements of one device: mean, conformal bounds, and whether it runs at all.

It needs no latency table: a device that can only answer for whole networks (a simulator, a benchmark table, a phone
behind somebody else's interface) is predicted from 20 to 1,000 measured candidates. It predicts one metric.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from hwnas.core.interfaces import BatchSpace
from hwnas.core.workload import Candidate
from hwnas.digest import canonical_json
from hwnas.errors import DataError
from hwnas.predictors.conformal import conformal_quantile, lower_quantile
from hwnas.predictors.feasibility import Feasibility
from hwnas.predictors.stack_columns import NetworkColumns, Table, genotype_rows
from hwnas.predictors.stack_members import MEMBERS, Members, fold_numbers, stacking_weights, unseen_mix
from hwnas.records import write_atomically

KIND = "network-stack"
SCHEMA = 1
MIN_ROWS = 5
_FOLDS = 5


class Intervals(NamedTuple):
    """Predictions for n candidates in SI units: mean, and one-sided bounds at the confidence asked for, n each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class NetworkStack:
    """Look-up tables, trees, a Gaussian process and a law, mixed by cross-validation, with cross-conformal bounds.

    Bounds are quantiles of out-of-fold logarithmic residuals (Vovk, "Cross-conformal predictors", 2015). A value of
    None or NaN is a candidate that the device cannot run: it trains the feasibility class and is never a number.
    """

    def __init__(self, seed: int = 0, *, rounds: int = 250) -> None:
        self.seed, self.rounds = seed, rounds
        self._space: BatchSpace | None = None

    def fit(
        self, space: BatchSpace, candidates: Sequence[Candidate] | np.ndarray, values: Sequence[float | None]
    ) -> NetworkStack:
        """Fit to n candidates (or n x g genotypes) and n values in SI units, None or NaN where not measurable.

        Raises DataError for values that are not positive and finite, or for fewer than 5 measured networks.
        """
        genotypes = genotype_rows(space, candidates)
        numbers = _checked_values(values, len(genotypes))
        known = ~np.isnan(numbers)
        if known.sum() < MIN_ROWS:
            raise DataError(f"a network predictor needs at least {MIN_ROWS} measured networks, not {int(known.sum())}")
        self._columns = NetworkColumns.choose(space, genotypes[known])
        table = self._columns.table(space, genotypes[known])
        measured, logs = numbers[known], np.log(numbers[known])
        groups = _same_network(table)
        folds = fold_numbers(groups, min(_FOLDS, len(np.unique(groups))), np.random.default_rng([self.seed, 0]))
        unseen = np.zeros((len(measured), len(MEMBERS) if table.operators.shape[1] else len(MEMBERS) - 1))
        for fold in np.unique(folds):
            held = folds == fold
            part = ~held if not held.all() else held
            fitted = Members.fit(table.rows(part), measured[part], groups[part], seed=self.seed, rounds=self.rounds)
            unseen[held] = fitted.logs(table.rows(held))
        self.weights = stacking_weights(unseen, logs)
        self.residuals = np.sort(logs - unseen_mix(unseen, logs, folds))
        self._members = Members.fit(table, measured, groups, seed=self.seed, rounds=self.rounds)
        self._feasibility = Feasibility.fit(space, genotypes, known, self.seed)
        self._space = space
        return self

    def predict(self, candidates: Sequence[Candidate] | np.ndarray, *, confidence: float = 0.9) -> Intervals:
        """Predict n candidates (or n x g genotypes), supposing that they can be measured at all."""
        space = self._fitted_space()
        if not 0 < confidence < 1:
            raise DataError(f"a confidence lies between 0 and 1, not {confidence}")
        genotypes = genotype_rows(space, candidates)
        if not len(genotypes):
            return Intervals(np.zeros(0), np.zeros(0), np.zeros(0))
        logs = self._members.logs(self._columns.table(space, genotypes)) @ self.weights
        below = min(lower_quantile(self.residuals, confidence), 0.0)
        above = max(conformal_quantile(self.residuals, confidence), 0.0)
        return Intervals(np.exp(logs), np.exp(logs + below), np.exp(logs + above))

    def measurable(self, candidates: Sequence[Candidate] | np.ndarray) -> np.ndarray:
        """The probability that the device can run each of n candidates (or n x g genotypes)."""
        space = self._fitted_space()
        genotypes = genotype_rows(space, candidates)
        if self._feasibility is None or not len(genotypes):
            return np.ones(len(genotypes))
        return self._feasibility.runs(space, genotypes)

    @property
    def mix(self) -> dict[str, float]:
        """The weight of each member by name."""
        return {name: float(w) for name, w in zip(self._members.names, self.weights)}

    def to_json(self) -> dict[str, Any]:
        """Everything that predicting needs but the space."""
        space = self._fitted_space()
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "space": space.id,
            "seed": self.seed,
            "rounds": self.rounds,
            "weights": self.weights.tolist(),
            "residuals": self.residuals.tolist(),
            "columns": self._columns.to_json(),
            "members": self._members.to_json(),
            "feasibility": None if self._feasibility is None else self._feasibility.to_json(),
        }

    def save(self, path: Path) -> None:
        """Write the predictor as one JSON document."""
        write_atomically(path, canonical_json(self.to_json()))

    @classmethod
    def load(cls, path: Path, space: BatchSpace) -> NetworkStack:
        """Read a saved predictor. Raises DataError if the file is not one, or belongs to another space."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")), space)
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot be read: {error}", path=path) from error
        except DataError as error:
            raise DataError(str(error), path=path) from error

    @classmethod
    def from_json(cls, document: Any, space: BatchSpace) -> NetworkStack:
        """Read what `to_json` wrote. Raises DataError for anything else, or for another space."""
        if not isinstance(document, dict) or (document.get("kind"), document.get("schema")) != (KIND, SCHEMA):
            raise DataError(f"is not a {KIND} of schema {SCHEMA}")
        if document.get("space") != space.id:
            raise DataError(f"was fitted on space {document.get('space')!r}, not {space.id!r}")
        try:
            return cls._from_json(document, space)
        except (DataError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"is damaged: {error}") from error

    @classmethod
    def _from_json(cls, document: dict[str, Any], space: BatchSpace) -> NetworkStack:
        stack = cls(int(document["seed"]), rounds=int(document["rounds"]))
        weights, residuals = (np.asarray(document[key], dtype=float) for key in ("weights", "residuals"))
        stack._columns = NetworkColumns.from_json(document["columns"])
        stack._members = Members.from_json(document["members"])
        stack._members.check(stack._columns)
        if (
            weights.shape != (len(stack._members.names),)
            or weights.min() < 0
            or not math.isclose(float(weights.sum()), 1, abs_tol=1e-6)
        ):
            raise ValueError("weights must be one non-negative number for each member, of sum 1")
        if residuals.ndim != 1 or not len(residuals) or not np.isfinite(residuals).all():
            raise ValueError("residuals must be finite numbers")
        stack.weights, stack.residuals = weights, np.sort(residuals)
        feasibility = document["feasibility"]
        stack._feasibility = None if feasibility is None else Feasibility.from_json(feasibility)
        stack._space = space
        return stack

    def _fitted_space(self) -> BatchSpace:
        if self._space is None:
            raise DataError("the predictor has not been fitted")
        return self._space


def _checked_values(values: Sequence[float | None], n: int) -> np.ndarray:
    numbers = np.array([math.nan if v is None else float(v) for v in values], dtype=float)
    if len(numbers) != n:
        raise DataError(f"{n} candidates and {len(numbers)} values: they must be as many")
    wrong = np.isinf(numbers) | (numbers <= 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"value {numbers[row]} of row {row} is not a measurement; write None (an empty field) for what a device "
            "cannot run"
        )
    return numbers


def _same_network(table: Table) -> np.ndarray:
    """A number for each row, equal for rows that no pruned column tells apart: twins must not cross a fold."""
    return cast(np.ndarray, np.unique(np.round(table.smooth, 9), axis=0, return_inverse=True)[1].ravel())
