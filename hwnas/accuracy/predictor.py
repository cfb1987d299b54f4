"""Accuracy of candidates from few trained ones: a bagged ensemble of gradient-boosted trees with calibrated spread.

Built for n = 15 to 150 trained candidates and pools of tens of thousands. It knows nothing of spaces or proxies: it
takes features, n x f, and accuracies, n. On disk it is one JSON file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.errors import DataError
from hwnas.records import write_atomically

SCHEMA = 1
MEMBERS = 8
FOLDS = 8
"""Each member leaves out one of so many parts of the rows, so every row is out of the bag of MEMBERS / FOLDS of them."""
ROUNDS = 150
EDGE = 0.01
"""Accuracies are learned as log((a + EDGE) / (1 + EDGE - a)): a point counts for more near 1, and no value is infinite."""
PARAMETERS: dict[str, Any] = {
    "objective": "reg:squarederror",
    "max_depth": 4,
    "eta": 0.07,
    "subsample": 0.7,
    "colsample_bytree": 0.25,
    "tree_method": "hist",
    "nthread": 1,
    "verbosity": 0,
}
"""Chosen on NAS-Bench-201 CIFAR-10; at n <= 150 few columns a tree is what matters most."""


class AccuracyPredictor:
    """Mean and spread of the accuracy of unseen candidates. Deterministic for a seed; single-threaded.

    Trees by XGBoost (Chen and Guestrin, arXiv:1603.02754). The spread is that of a mixture (Lakshminarayanan et al.,
    arXiv:1612.01474, section 2.4): variance between members plus the residual variance found out of the bag.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._boosters: list[Any] = []
        self._columns = 0
        self._noise = 0.0

    def fit(self, features: np.ndarray, accuracies: np.ndarray) -> AccuracyPredictor:
        """Learn from n x f features and n accuracies (fractions 0..1); returns itself.

        Rows whose accuracy is NaN (a training failed) are left out. Raises ValueError for other shapes or values, or
        with fewer than two rows.
        """
        import xgboost

        x, a = np.asarray(features, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
        if x.ndim != 2 or a.shape != (len(x),):
            raise ValueError(f"features must be n x f and accuracies n, not {x.shape} and {a.shape}")
        x, a = x[~np.isnan(a)], a[~np.isnan(a)]
        if len(a) < 2:
            raise ValueError(f"{len(a)} trained candidates are too few; at least 2 are needed")
        if np.isinf(x).any() or a.min() < 0 or a.max() > 1:
            raise ValueError("features must not be infinite, and accuracies must be fractions in 0..1")
        goal = _spread_out(a)
        folds = np.random.default_rng(self.seed).permutation(len(a)) % min(FOLDS, len(a))
        out_of_bag: list[list[float]] = [[] for _ in a]
        self._boosters, self._columns = [], x.shape[1]
        for member in range(MEMBERS):
            out = folds == member % (folds.max() + 1)
            booster = xgboost.train(
                {**PARAMETERS, "seed": self.seed * MEMBERS + member, "base_score": float(goal[~out].mean())},
                xgboost.DMatrix(x[~out], goal[~out]),
                ROUNDS,
            )
            self._boosters.append(booster)
            for row, value in zip(np.flatnonzero(out), booster.predict(xgboost.DMatrix(x[out]))):
                out_of_bag[row].append(float(value))
        held = np.array([_fractions(np.array(values)).mean() for values in out_of_bag])
        between = self._members(x).var(axis=0)
        self._noise = float(np.sqrt(max(np.mean((held - a) ** 2) - between.mean(), 0.0)))
        return self

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (n, n; fractions) for n x f features. Raises ValueError if it does not fit."""
        x = np.asarray(features, dtype=np.float64)
        if not self._boosters:
            raise ValueError("the predictor has not been fitted")
        if x.ndim != 2 or x.shape[1] != self._columns:
            raise ValueError(f"features must be n x {self._columns}, not {x.shape}")
        members = self._members(x)
        return members.mean(axis=0), np.sqrt(members.var(axis=0) + self._noise**2)

    def save(self, path: Path) -> None:
        """Write the predictor as one JSON file, atomically. Raises ValueError if it was not fitted."""
        if not self._boosters:
            raise ValueError("the predictor has not been fitted")
        members = [json.loads(bytes(booster.save_raw("json"))) for booster in self._boosters]
        record = {
            "kind": "accuracy-predictor",
            "schema": SCHEMA,
            "seed": self.seed,
            "columns": self._columns,
            "noise": self._noise,
            "members": members,
        }
        write_atomically(path, json.dumps(record))

    @classmethod
    def load(cls, path: Path) -> AccuracyPredictor:
        """Read a predictor back; it predicts the same. Raises DataError for a file that is not one."""
        import xgboost

        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["kind"] != "accuracy-predictor" or record["schema"] != SCHEMA:
                raise ValueError(f"it is {record['kind']!r} of schema {record['schema']!r}")
            predictor = cls(int(record["seed"]))
            predictor._columns, predictor._noise = int(record["columns"]), float(record["noise"])
            for member in record["members"]:
                booster = xgboost.Booster({"nthread": 1})
                booster.load_model(bytearray(json.dumps(member).encode()))
                predictor._boosters.append(booster)
            if not predictor._boosters:
                raise ValueError("it has no members")
        except (OSError, ValueError, KeyError, TypeError, xgboost.core.XGBoostError) as error:
            raise DataError(f"is not an accuracy predictor of schema {SCHEMA} ({error})", path=path) from error
        return predictor

    def _members(self, features: np.ndarray) -> np.ndarray:
        """Accuracies by every member, MEMBERS x n."""
        import xgboost

        matrix = xgboost.DMatrix(features)
        return np.stack([_fractions(booster.predict(matrix).astype(np.float64)) for booster in self._boosters])


def _spread_out(accuracies: np.ndarray) -> np.ndarray:
    return np.log((accuracies + EDGE) / (1 + EDGE - accuracies))


def _fractions(values: np.ndarray) -> np.ndarray:
    odds = np.exp(values)
    fractions: np.ndarray = ((1 + EDGE) * odds - EDGE) / (1 + odds)
    return fractions.clip(0.0, 1.0)
