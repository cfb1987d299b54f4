"""40 networks of a public Edge TPU column predict all the others: order, error, and which do not run.

The whole table with 20 splits is `tests/bench/bench_coral.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwnas.spaces.cell import CellSpace
from tests.predictors.public_column import read_column, roc_auc, split


def test_forty_networks_of_the_edge_tpu_column(shared_data: Path) -> None:
    column = read_column(shared_data / "nb201_hw_cifar10.csv", "edgetpu_latency", CellSpace())
    assert np.mean(np.isnan(column.seconds)) == pytest.approx(0.3, abs=0.01)
    scores = [split(column, seed) for seed in range(6)]
    assert all(s.measured < 40 for s in scores)
    assert np.mean([s.tau for s in scores]) >= 0.93
    assert np.mean([s.mape for s in scores]) <= 0.038
    assert np.mean([s.covered for s in scores]) == pytest.approx(0.9, abs=0.08)
    assert min(s.auc for s in scores) >= 0.97


def test_the_area_under_a_roc_curve() -> None:
    scores, positive = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert roc_auc(scores, positive) == 0.75
    assert roc_auc(np.zeros(4), positive) == 0.5
