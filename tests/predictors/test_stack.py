"""The network stack on public measurements: order, bounds, what cannot run, and the same predictor after reading it back."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, DataError
from hwnas.predictors.stack import NetworkStack
from hwnas.predictors.stack_estimator import StackEstimator
from hwnas.spaces.cell import CellSpace

SPACE = CellSpace()


@pytest.fixture(scope="module")
def benchmark(shared_data: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Genotypes of the connected networks, n x 6, and seconds by device (n), NaN where not measurable."""
    with (shared_data / "nb201_hw_cifar10.csv").open(newline="") as file:
        rows = [(SPACE.parse(row["net"]), row) for row in csv.DictReader(file)]
    rows = [(c, row) for c, row in rows if SPACE.connected(c)]
    columns = {}
    for device in ("raspi4", "edgegpu", "edgetpu"):
        values = np.array([float(row[f"{device}_latency"]) / 1e3 for _, row in rows])
        columns[device] = np.where(values > 0, values, math.nan)
    return np.array([c.genotype for c, _ in rows]), columns


def fitted(benchmark: Any, device: str, n: int, seed: int = 0) -> tuple[NetworkStack, np.ndarray, np.ndarray]:
    """A stack of n random networks, and the genotypes and seconds of 3,000 others."""
    genotypes, columns = benchmark
    order = np.random.default_rng(seed).permutation(len(genotypes))
    train, others = order[:n], order[n : n + 3000]
    stack = NetworkStack(seed).fit(SPACE, genotypes[train], columns[device][train].tolist())
    return stack, genotypes[others], columns[device][others]


@pytest.mark.parametrize(("device", "tau"), [("raspi4", 0.78), ("edgegpu", 0.76)])
def test_fifty_networks_are_enough_to_rank_and_bound(benchmark: Any, device: str, tau: float) -> None:
    found, covered = [], []
    for seed in range(2):
        stack, genotypes, seconds = fitted(benchmark, device, 50, seed)
        mean, low, high = stack.predict(genotypes)
        assert (low <= mean).all()
        assert (mean <= high).all()
        found.append(kendalltau(mean, seconds)[0])
        covered.append((np.mean(seconds <= high), np.mean(seconds >= low)))
    assert np.mean(found) >= tau
    assert np.mean(covered) == pytest.approx(0.9, abs=0.08)


def test_more_confidence_is_a_wider_bound(benchmark: Any) -> None:
    stack, genotypes, _ = fitted(benchmark, "raspi4", 30)
    highs = [stack.predict(genotypes[:50], confidence=c).high.mean() for c in (0.6, 0.8, 0.95)]
    assert highs == sorted(highs)
    assert sum(stack.mix.values()) == pytest.approx(1)


def test_what_a_device_cannot_run_is_a_class_and_not_a_number(benchmark: Any) -> None:
    stack, genotypes, seconds = fitted(benchmark, "edgetpu", 150)
    chance, runs = stack.measurable(genotypes), ~np.isnan(seconds)
    assert 0.2 < np.mean(~runs) < 0.4
    assert np.mean((chance >= 0.5) == runs) > np.mean(runs) + 0.1
    assert kendalltau(stack.predict(genotypes[runs]).mean, seconds[runs])[0] > 0.85

    estimator = StackEstimator(stack)
    estimates = estimator.estimate(genotypes)["latency"]
    assert np.isinf(estimates[chance < 0.5]).all()
    measured, crashed = (Candidate(SPACE.id, tuple(g)) for g in genotypes[:2].tolist())
    estimator.learn(measured, {"latency": 0.123})
    estimator.learn(crashed, {})
    assert estimator.estimate(genotypes[:2])["latency"].tolist() == [[0.123, 0.123], [math.inf, math.inf]]


def test_saved_and_read_back_it_predicts_the_same(benchmark: Any, tmp_path: Path) -> None:
    stack, genotypes, _ = fitted(benchmark, "edgetpu", 40)
    path = tmp_path / "stack.json"
    stack.save(path)
    again = NetworkStack.load(path, SPACE)
    for a, b in zip(stack.predict(genotypes[:300]), again.predict(genotypes[:300])):
        assert np.allclose(a, b, rtol=1e-9, atol=0)
    assert np.allclose(stack.measurable(genotypes[:300]), again.measurable(genotypes[:300]))
    assert again.to_json() == stack.to_json()
    with pytest.raises(DataError, match="was fitted on space"):
        NetworkStack.load(path, CellSpace(cells=2))
    whole = json.loads(path.read_text())
    for key, value, message in (
        ("weights", [1.0], "is damaged: weights"),
        ("weights", None, "is damaged"),
        ("residuals", [], "is damaged: residuals"),
        ("residuals", ["x"], "is damaged"),
        ("members", {}, "is damaged: the saved members"),
        ("columns", {}, "is damaged: the saved columns"),
        ("feasibility", 3, "is damaged"),
        ("kind", "table", "is not a network-stack"),
    ):
        path.write_text(json.dumps({**whole, key: value}))
        with pytest.raises(DataError, match=message):
            NetworkStack.load(path, SPACE)
    for text in ("", "[", "[" * 100_000, "3"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"cannot be read|is not a network-stack"):
            NetworkStack.load(path, SPACE)
    with pytest.raises(DataError, match="cannot be read"):
        NetworkStack.load(tmp_path / "none.json", SPACE)


def test_the_same_seed_gives_the_same_stack(benchmark: Any) -> None:
    np.random.seed(1)
    first, genotypes, _ = fitted(benchmark, "raspi4", 20, 3)
    np.random.seed(2)
    again, _, _ = fitted(benchmark, "raspi4", 20, 3)
    assert np.array_equal(first.predict(genotypes).mean, again.predict(genotypes).mean)
    assert len(first.predict(genotypes[:0]).mean) == 0


def test_what_cannot_be_learned_from_is_an_error() -> None:
    rows = SPACE.sample_batch(6, np.random.default_rng(0))
    candidates = [Candidate(SPACE.id, tuple(g)) for g in rows.tolist()]
    for values, message in (
        ([1e-3] * 4 + [None, math.nan], "at least 5 measured networks, not 4"),
        ([1e-3] * 5, "6 candidates and 5 values"),
        ([1e-3] * 5 + [-1.0], "value -1.0 of row 5 is not a measurement; write None"),
        ([1e-3] * 5 + [0.0], "is not a measurement"),
        ([1e-3] * 5 + [math.inf], "value inf of row 5"),
    ):
        with pytest.raises(DataError, match=message):
            NetworkStack().fit(SPACE, candidates, values)
    with pytest.raises(CandidateError, match="belongs to space"):
        NetworkStack().fit(SPACE, [Candidate("other", c.genotype) for c in candidates], [1e-3] * 6)
    with pytest.raises(CandidateError, match="must be n x g integers"):
        NetworkStack().fit(SPACE, rows.astype(float), [1e-3] * 6)
    with pytest.raises(DataError, match="has not been fitted"):
        NetworkStack().predict(candidates)
    stack = NetworkStack().fit(SPACE, candidates, [1e-3, 2e-3, 3e-3, 1e-3, 2e-3, 5e-3])
    with pytest.raises(DataError, match="a confidence lies between 0 and 1, not 1"):
        stack.predict(candidates, confidence=1)


def test_a_stack_that_was_saved_before_there_was_a_law_is_still_read(benchmark: Any, tmp_path: Path) -> None:
    stack, genotypes, _ = fitted(benchmark, "edgetpu", 30)
    document = stack.to_json()
    assert list(stack.mix) == ["lut-raw", "lut-full", "trees", "lut+trees", "process", "law"]
    del document["members"]["law"], document["columns"]["operators"]
    document["weights"] = [0.2] * 5
    older = NetworkStack.from_json(document, SPACE)
    assert list(older.mix) == ["lut-raw", "lut-full", "trees", "lut+trees", "process"]
    assert np.isfinite(older.predict(genotypes[:20]).mean).all()
    with pytest.raises(DataError, match="members and columns do not belong together"):
        NetworkStack.from_json({**document, "columns": stack.to_json()["columns"]}, SPACE)
