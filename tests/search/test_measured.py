"""The estimator that learns from measured candidates only."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau
from small_search import WHOLE, Formula, few, latencies_s

from hwnas.core.device import TabularSource
from hwnas.core.workload import Candidate
from hwnas.predictors.stack import NetworkStack
from hwnas.runners.tabular import load_tabular
from hwnas.search.measured import MeasuredEstimator
from hwnas.search.tabulated import TabulatedSpace


def taught(n: int, **settings: object) -> MeasuredEstimator:
    estimator = MeasuredEstimator(WHOLE, ("latency",), **settings)  # type: ignore[arg-type]
    for candidate in estimator.design(n):
        estimator.learn(candidate, {"latency": float(latencies_s(np.array([candidate.genotype]))[0])})
    return estimator


def test_it_knows_nothing_before_it_was_told() -> None:
    rows = WHOLE.sample_batch(3, np.random.default_rng(0))
    assert np.isinf(MeasuredEstimator(WHOLE, ("latency",)).estimate(rows)["latency"]).all()


def test_a_few_measurements_teach_an_additive_device() -> None:
    rows = WHOLE.sample_batch(500, np.random.default_rng(5))
    mean, high = taught(30).estimate(rows)["latency"].T
    assert np.median(np.abs(mean / latencies_s(rows) - 1)) < 0.05
    assert (high >= latencies_s(rows)).mean() > 0.85


def test_the_design_teaches_more_than_a_draw_on_a_real_device(shared_data: Path) -> None:
    device = load_tabular(
        TabularSource(
            file="nb201_hw_cifar10.csv",
            candidate="net",
            metrics={"latency": "edgegpu_latency"},
            unit={"latency": "ms"},
        ),
        WHOLE.parse,
        folder=shared_data,
    )
    space = TabulatedSpace(WHOLE, [c for c in device.candidates if WHOLE.connected(c)])
    rng = np.random.default_rng(0)
    rows = np.unique(space.sample_batch(1500, rng), axis=0)
    truth = np.array([device(Candidate(WHOLE.id, tuple(g)))["latency"] for g in rows.tolist()])
    taus: dict[str, list[float]] = {"designed": [], "drawn": []}
    for seed in range(5):
        drawn = [space.sample(rng) for _ in range(20)]
        for name, some in (
            ("designed", MeasuredEstimator(space, ("latency",), seed=seed).design(20)),
            ("drawn", drawn),
        ):
            stack = NetworkStack(seed, rounds=50).fit(space, some, [device(c)["latency"] for c in some])
            taus[name].append(float(kendalltau(stack.predict(rows).mean, truth).statistic))
    assert np.mean(taus["designed"]) > np.mean(taus["drawn"])


def test_the_design_holds_no_candidate_twice_and_ends_with_the_space() -> None:
    design = MeasuredEstimator(few(40), ("latency",)).design(1000)
    assert len(design) == len(set(design)) == len(few(40))
    assert MeasuredEstimator(WHOLE, ("latency",)).design(12) == MeasuredEstimator(WHOLE, ("latency",)).design(12)


def test_a_measured_candidate_is_answered_by_its_measurement() -> None:
    estimator = taught(12)
    candidate = Candidate(WHOLE.id, (2, 2, 2, 2, 2, 2))
    estimator.learn(candidate, {"latency": 123.0})
    assert estimator.estimate(np.array([candidate.genotype]))["latency"].tolist() == [[123.0, 123.0]]


def test_what_could_not_be_measured_is_infinite_and_teaches_its_like() -> None:
    estimator = MeasuredEstimator(WHOLE, ("latency",))
    rows = WHOLE.sample_batch(150, np.random.default_rng(0))
    for row in rows.tolist():
        runs = row[0] != 4  # this device cannot pool on the first edge
        estimator.learn(
            Candidate(WHOLE.id, tuple(row)), {"latency": float(latencies_s(np.array([row]))[0])} if runs else {}
        )
    assert np.isinf(estimator.estimate(rows[rows[:, 0] == 4])["latency"]).all()
    others = WHOLE.sample_batch(300, np.random.default_rng(1))
    mean = estimator.estimate(others)["latency"][:, 0]
    assert np.isinf(mean[others[:, 0] == 4]).mean() > 0.9
    assert np.isfinite(mean[others[:, 0] != 4]).mean() > 0.9


def test_other_metrics_come_from_the_other_estimator() -> None:
    estimator = MeasuredEstimator(WHOLE, ("energy",), others=Formula())
    assert estimator.metrics == ("energy", "latency")
    found = estimator.estimate(np.array([[0, 0, 0, 0, 0, 0]]))
    assert math.isinf(found["energy"][0, 0])
    assert found["latency"][0, 0] > 0
