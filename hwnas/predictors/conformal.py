"""Conformal bounds: intervals that hold for a stated share of new networks, whatever the predictor."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor

import numpy as np


def conformal_quantile(residuals: np.ndarray, level: float) -> float:
    """The finite-sample quantile of n calibration residuals: a new one is below it with probability >= level.

    It is the ceil((n + 1) level)-th smallest; the largest stands in when n is too small to promise the level.
    Source: Lei et al., "Distribution-free predictive inference for regression", JASA 2018.
    """
    ordered = np.sort(np.asarray(residuals, dtype=float))
    rank = ceil((len(ordered) + 1) * level)
    return float(ordered[min(rank, len(ordered)) - 1])


def lower_quantile(residuals: np.ndarray, level: float) -> float:
    """The mirror of `conformal_quantile`: a new residual is above it with probability >= level."""
    ordered = np.sort(np.asarray(residuals, dtype=float))
    rank = floor((len(ordered) + 1) * (1 - level))
    return float(ordered[max(rank, 1) - 1])


def out_of_fold(
    n: int, folds: int, rng: np.random.Generator, fit_predict: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Predictions (n) of each point by a predictor that was fitted without it (cross-conformal calibration).

    `fit_predict(train, test)` gets index arrays and returns predictions for `test`.
    Source: Vovk, "Cross-conformal predictors", 2015.
    """
    fold = rng.permutation(n) % min(folds, n)
    predicted = np.empty(n)
    for k in range(fold.max() + 1):
        test = np.flatnonzero(fold == k)
        predicted[test] = fit_predict(np.flatnonzero(fold != k), test)
    return predicted
