"""From kernels to networks: the correction recovers a known law, and its bounds hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwnas import api
from hwnas.errors import DataError
from hwnas.predictors.features import CLASSES
from hwnas.predictors.network import MIN_NETWORKS, UNCALIBRATED_FACTOR, NetworkPredictor
from hwnas.predictors.workload import WorkloadPredictor
from tests.predictors.known_workloads import law, workloads

HOST = api.load_device("host")
FACTOR, CALL_S = 0.85, 1.5e-6


@pytest.fixture
def predictor() -> NetworkPredictor:
    kernels = WorkloadPredictor(HOST, toolchain="ort")
    kernels.fit(list(workloads()), law(workloads()))
    return NetworkPredictor(kernels)


def networks(n: int, seed: int = 0) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    known = [w.id for w in workloads()]
    return [
        {known[int(i)]: int(rng.integers(1, 4)) for i in rng.choice(len(known), rng.integers(6, 16), replace=False)}
        for _ in range(n)
    ]


def columns_of(predictor: NetworkPredictor, parts: list[dict[str, int]]) -> np.ndarray:
    return predictor.columns(parts, {w.id: w for w in workloads()})


def truth(columns: np.ndarray) -> np.ndarray:
    """A network runs its kernels faster than they run alone, and pays less for each call."""
    k = len(CLASSES)
    return np.asarray(FACTOR * columns[:, :k].sum(1) - CALL_S * columns[:, k:].sum(1))


def test_columns_are_seconds_and_counts_by_kind(predictor: NetworkPredictor) -> None:
    (parts,) = networks(1)
    (row,) = columns_of(predictor, [parts])
    by_id = dict(zip([w.id for w in workloads()], law(workloads())))
    assert row[: len(CLASSES)].sum() == pytest.approx(sum(by_id[p] * n for p, n in parts.items()))
    assert row[len(CLASSES) :].sum() == sum(parts.values())
    with pytest.raises(DataError, match="workload nonsense is not known"):
        predictor.columns([{"nonsense": 1}], {})


def test_a_known_law_is_recovered_out_of_fold(predictor: NetworkPredictor) -> None:
    columns = columns_of(predictor, networks(60))
    predictor.fit(columns, truth(columns))
    assert predictor.error is not None
    assert predictor.error.networks == 60
    assert predictor.error.mape < 0.02
    unseen = columns_of(predictor, networks(40, seed=1))
    mean = predictor.predict_columns(unseen)[:, 0]
    assert np.mean(np.abs(mean / truth(unseen) - 1)) < 0.02
    plain = unseen[:, : len(CLASSES)].sum(1)
    assert np.mean(np.abs(plain / truth(unseen) - 1)) > 0.15


def test_bounds_hold_for_the_share_that_they_promise(predictor: NetworkPredictor) -> None:
    rng = np.random.default_rng(3)
    covered = []
    for seed in range(8):
        columns = columns_of(predictor, networks(100, seed=seed))
        noisy = truth(columns) * np.exp(0.08 * rng.standard_normal(100))
        predictor.fit(columns[:60], noisy[:60])
        _, low, high = predictor.predict_columns(columns[60:], 0.9).T
        covered += [(noisy[60:] <= high).mean(), (noisy[60:] >= low).mean()]
    assert 0.87 < np.mean(covered) < 0.97


def test_the_high_end_rises_with_the_confidence(predictor: NetworkPredictor) -> None:
    columns = columns_of(predictor, networks(60))
    predictor.fit(columns, truth(columns) * np.exp(0.1 * np.random.default_rng(0).standard_normal(60)))
    factors = [predictor.upper_factor(c) for c in (0.5, 0.8, 0.95)]
    assert factors == sorted(factors)
    assert 1 <= factors[0] < factors[-1]


def test_without_whole_networks_the_plain_sum_answers(predictor: NetworkPredictor) -> None:
    parts = networks(1)
    estimate = predictor.estimate(parts[0], {w.id: w for w in workloads()})
    total = columns_of(predictor, parts)[0, : len(CLASSES)].sum()
    assert estimate.mean == pytest.approx(total)
    assert estimate.high == pytest.approx(total * UNCALIBRATED_FACTOR)
    assert predictor.error is None


def test_a_few_networks_teach_one_factor(predictor: NetworkPredictor) -> None:
    columns = columns_of(predictor, networks(MIN_NETWORKS - 1))
    plain = columns[:, : len(CLASSES)].sum(1)
    predictor.fit(columns, 0.7 * plain)
    assert predictor.predict_columns(columns)[:, 0] == pytest.approx(0.7 * plain)
    assert predictor.error is None


def test_nothing_is_predicted_to_take_no_time(predictor: NetworkPredictor) -> None:
    columns = columns_of(predictor, networks(20))
    predictor.fit(columns, truth(columns))
    assert (predictor.predict_columns(np.vstack([columns[:1] * 0, columns[:1] * 1e-3])) > 0).all()


def test_what_is_saved_predicts_the_same_and_can_be_fitted_on(predictor: NetworkPredictor, tmp_path: Path) -> None:
    columns = columns_of(predictor, networks(30))
    predictor.fit(columns, truth(columns))
    predictor.save(tmp_path / "p.json")
    again = NetworkPredictor.from_json(json.loads((tmp_path / "p.json").read_text()))
    assert np.array_equal(again.predict_columns(columns), predictor.predict_columns(columns))
    assert again.error == predictor.error
    assert np.array_equal(again.points, predictor.points)
    again.fit(*again.calibration)
    assert np.array_equal(again.predict_columns(columns), predictor.predict_columns(columns))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "joke"},
        {"weights": [1.0]},
        {"workloads": {}},
        {"points": "x"},
        {"calibration": [[1], [2]]},
        {"error": 3},
    ],
    ids=str,
)
def test_a_damaged_document_is_refused(predictor: NetworkPredictor, change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not a saved (network|workload) predictor"):
        NetworkPredictor.from_json({**predictor.to_json(), **change})


def test_kernels_that_were_not_measured_widen_the_interval_of_any_network() -> None:
    known = {w.id: w for w in workloads()[:40]}
    kernels = WorkloadPredictor(HOST, toolchain="ort")
    measured = list(known.values())[:30]
    kernels.fit(measured, [float(v) for v in kernels.roofline(measured) * np.linspace(0.5, 2, 30)])
    predictor = NetworkPredictor(kernels)
    columns = predictor.columns([{w.id: k + 1} for k, w in enumerate(measured)], known)
    predictor.fit(columns, columns.sum(1))
    seen = {w.id: 1 for w in measured[:3]}
    unseen = {w.id: 1 for w in list(known.values())[30:33]}
    inside, outside = predictor.estimate_any(seen, known), predictor.estimate_any(unseen, known)
    assert inside.high / inside.mean == pytest.approx(predictor.estimate(seen, known).high / inside.mean)
    assert outside.high / outside.mean > predictor.estimate(unseen, known).high / outside.mean


def test_a_call_may_cost_more_than_the_kernel_in_it() -> None:
    """Alone, each kernel carries a call of a microsecond; the network pays one call for all: a twelfth of the sum."""
    rng = np.random.default_rng(5)
    counts = rng.integers(2, 9, (60, len(CLASSES)))
    work = counts * rng.uniform(2e-8, 8e-8, (60, len(CLASSES)))
    columns, values = np.hstack([work + counts * 1e-6, counts]), work.sum(1) + 1e-6
    assert (values / columns[:, : len(CLASSES)].sum(1)).max() < 0.2
    predictor = NetworkPredictor(WorkloadPredictor(api.load_device("host")))
    predictor.fit(columns[:40], values[:40])
    assert np.abs(predictor.predict_columns(columns[40:])[:, 0] / values[40:] - 1).max() < 0.2
