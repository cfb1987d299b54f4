"""Gradient-boosted trees: the one place that imports xgboost. Single-threaded, seeded, saved as xgboost's own JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hwnas.errors import DataError

DEFAULTS: dict[str, Any] = {
    "max_depth": 4,
    "eta": 0.05,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "min_child_weight": 1,
    "reg_lambda": 1.0,
    "tree_method": "hist",
    "objective": "reg:squarederror",
}


class Trees:
    """A fitted ensemble: `predict` maps n x f features to n values."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predict n values from n x f features."""
        return np.asarray(self._booster.inplace_predict(np.ascontiguousarray(x, dtype=np.float32)), dtype=float)

    def to_json(self) -> dict[str, Any]:
        """The ensemble in xgboost's own JSON format."""
        document: dict[str, Any] = json.loads(self._booster.save_raw("json"))
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Trees:
        """Read what `to_json` wrote. Raises DataError for anything else."""
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        try:
            booster.load_model(bytearray(json.dumps(document).encode()))
        except xgboost.core.XGBoostError as error:
            raise DataError("the saved trees are not an xgboost document") from error
        return cls(booster)


def fit_trees(
    x: np.ndarray,
    y: np.ndarray,
    *,
    rounds: int = 300,
    seed: int = 0,
    weights: np.ndarray | None = None,
    **params: Any,
) -> Trees:
    """Fit trees to n x f features and n values; `params` override DEFAULTS.

    Source: Chen and Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016.
    """
    import xgboost

    settings = {**DEFAULTS, **params, "seed": seed, "nthread": 1, "verbosity": 0, "base_score": float(np.mean(y))}
    data = xgboost.DMatrix(np.ascontiguousarray(x, dtype=np.float32), label=y, weight=weights, nthread=1)
    return Trees(xgboost.train(settings, data, rounds))
