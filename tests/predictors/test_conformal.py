"""Conformal bounds, against simulation: they hold for at least the share of new points that they promise."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.predictors.conformal import conformal_quantile, lower_quantile, out_of_fold


def test_the_rank_is_the_finite_sample_one() -> None:
    residuals = np.arange(1.0, 11.0)  # n = 10: ceil(11 * 0.9) = 10th, ceil(11 * 0.5) = 6th
    assert conformal_quantile(residuals, 0.9) == 10
    assert conformal_quantile(residuals, 0.5) == 6
    assert lower_quantile(residuals, 0.9) == 1
    assert lower_quantile(residuals, 0.5) == 5


def test_too_few_points_give_the_largest() -> None:
    assert conformal_quantile(np.array([3.0, 1.0]), 0.99) == 3.0
    assert lower_quantile(np.array([3.0, 1.0]), 0.99) == 1.0


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("n", [20, 60])
def test_coverage_is_at_least_the_level(n: int, level: float) -> None:
    """Coverage averaged over calibration sets is exactly ceil((n + 1) level) / (n + 1) for continuous residuals."""
    rng = np.random.default_rng(0)
    rounds = 4000
    samples = rng.standard_t(3, size=(rounds, n + 1))  # heavy tails: nothing about the shape is assumed
    upper = np.mean([s[-1] <= conformal_quantile(s[:-1], level) for s in samples])
    lower = np.mean([s[-1] >= lower_quantile(s[:-1], level) for s in samples])
    promised = np.ceil((n + 1) * level) / (n + 1)
    margin = 4 * np.sqrt(promised * (1 - promised) / rounds)
    assert promised >= level
    for share in (upper, lower):
        assert share == pytest.approx(promised, abs=margin)


def test_each_point_is_predicted_by_what_did_not_see_it() -> None:
    seen: list[set[int]] = []

    def fit_predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        assert not set(train) & set(test)
        seen.append(set(test.tolist()))
        return test.astype(float)

    predicted = out_of_fold(23, 5, np.random.default_rng(0), fit_predict)
    assert predicted.tolist() == list(range(23))
    assert len(seen) == 5
    assert set.union(*seen) == set(range(23))
    assert out_of_fold(3, 10, np.random.default_rng(0), fit_predict).tolist() == [0, 1, 2]
