"""When one has measured enough."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.profiling.stats import median_interval, relative_half_width


def test_five_readings_know_nothing_at_95_percent() -> None:
    assert median_interval([1, 2, 3, 4, 5]) == (float("-inf"), float("inf"))
    assert median_interval([1, 2, 3, 4, 5, 6]) == (1, 6)  # 2 / 2^6 = 3.1 % outside


@pytest.mark.parametrize("n", [8, 15, 40])
def test_the_interval_covers_as_often_as_it_says(n: int) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(rng.exponential(size=n).tolist())  # skewed, as timing noise is
        hits += low <= np.log(2) <= high
    assert hits / 2000 >= 0.945


def test_a_steady_device_needs_few_readings() -> None:
    assert relative_half_width([1.0] * 8) == 0.0
    assert relative_half_width([1.0, 1.1, 1.0, 0.9, 1.0, 1.05, 1.0, 0.95]) > 0.05
