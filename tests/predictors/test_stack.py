"""The network stack: quality on public measurements, calibrated bounds, the feasibility class, and hostile files."""

from __future__ import annotations

import csv
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from hwnas.core.workload import Candidate
from hwnas.errors import CandidateError, DataError
from hwnas.predictors.stack import NetworkStack
from hwnas.predictors.stack_members import lut_sum, lut_weights, stacking_weights
from hwnas.spaces.cell import CellSpace
from hwnas.spaces.mbconv import mbconv_micro

SPACE = CellSpace()


@cache
def measurements(folder: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Genotypes (n x 6) and seconds (n, NaN where not measurable) of the networks that compute something."""
    with (folder / "nb201_hw_cifar10.csv").open(newline="") as file:
        rows = [(SPACE.parse(row["net"]).genotype, float(row[column])) for row in csv.DictReader(file)]
    genotypes, values = np.array([g for g, _ in rows]), np.array([v for _, v in rows])
    live = (SPACE.prune(genotypes) != 1).any(1)
    return genotypes[live], np.where(values < 0, math.nan, values / 1e3)[live]


def split(folder: Path, column: str, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    genotypes, values = measurements(folder, column)
    order = np.random.default_rng(seed).permutation(len(values))
    train, test = order[:n], order[n : n + 4000]
    return genotypes[train], values[train], genotypes[test], values[test]


def synthetic(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    genotypes = SPACE.sample_batch(n, rng)
    return genotypes, (1 + (genotypes == 2).sum(1) * 2 + (genotypes == 3).sum(1)) * 1e-3 * rng.uniform(0.9, 1.1, n)


@pytest.mark.parametrize(("column", "least"), [("raspi4_latency", 0.77), ("edgegpu_latency", 0.76)])
def test_fifty_networks_order_the_rest_and_bound_them(shared_data: Path, column: str, least: float) -> None:
    taus, covered = [], []
    for seed in range(4):
        genotypes, values, others, truth = split(shared_data, column, seed, 50)
        mean, low, high = NetworkStack(seed).fit(SPACE, genotypes, values).predict(others, confidence=0.9)
        assert ((low <= mean) & (mean <= high)).all()
        taus.append(kendalltau(mean, truth).statistic)
        covered.append(float((truth <= high).mean()))
    assert np.mean(taus) >= least
    assert 0.85 <= np.mean(covered) <= 0.97


def test_an_additive_device_is_predicted_exactly(shared_data: Path) -> None:
    genotypes, values, others, truth = split(shared_data, "eyeriss_latency", 0, 60)
    mean, _, high = NetworkStack().fit(SPACE, genotypes, values).predict(others)
    assert np.abs(mean / truth - 1).max() < 1e-3
    assert (high / mean).max() < 1.001


def test_a_value_that_cannot_be_measured_is_a_class_and_no_number(shared_data: Path) -> None:
    genotypes, values, others, truth = split(shared_data, "edgetpu_latency", 0, 150)
    stack = NetworkStack().fit(SPACE, genotypes, values)
    runs = stack.measurable(others)
    able, unable = runs[~np.isnan(truth)], runs[np.isnan(truth)]
    assert (able[:, None] > unable[None]).mean() > 0.85
    assert (stack.predict(others).low > 0).all()
    with_none = NetworkStack().fit(SPACE, genotypes, [None if math.isnan(v) else v for v in values])
    assert np.array_equal(with_none.predict(others).mean, stack.predict(others).mean)


def test_where_everything_was_measured_everything_is_measurable() -> None:
    genotypes, values = synthetic(30)
    assert (NetworkStack().fit(SPACE, genotypes, values).measurable(genotypes) == 1).all()


def test_a_wider_confidence_gives_wider_bounds() -> None:
    stack = NetworkStack().fit(SPACE, *synthetic(60))
    others, _ = synthetic(20, seed=1)
    wide, narrow = stack.predict(others, confidence=0.95), stack.predict(others, confidence=0.6)
    assert (wide.high >= narrow.high).all()
    assert (wide.low <= narrow.low).all()
    with pytest.raises(DataError, match="between 0 and 1"):
        stack.predict(others, confidence=1.0)


def test_the_same_seed_gives_the_same_predictor_whatever_the_global_state() -> None:
    genotypes, values = synthetic(40)
    others, _ = synthetic(50, seed=1)
    np.random.seed(1)
    first = NetworkStack(3).fit(SPACE, genotypes, values).predict(others)
    np.random.seed(2)
    second = NetworkStack(3).fit(SPACE, genotypes, values).predict(others)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_candidates_and_genotypes_are_the_same_thing() -> None:
    genotypes, values = synthetic(30)
    candidates = [Candidate(SPACE.id, tuple(g)) for g in genotypes.tolist()]
    a = NetworkStack().fit(SPACE, candidates, values.tolist()).predict(candidates)
    b = NetworkStack().fit(SPACE, genotypes, values).predict(genotypes)
    assert np.array_equal(a.mean, b.mean)


def test_repeated_measurements_of_one_network_do_no_harm() -> None:
    genotypes, values = synthetic(12)
    stack = NetworkStack().fit(SPACE, np.vstack([genotypes] * 3), np.concatenate([values] * 3))
    assert np.isfinite(stack.predict(genotypes).high).all()


def test_a_space_that_does_not_prune_is_predicted_from_its_blocks() -> None:
    space = mbconv_micro()
    rows = space.sample_batch(140, np.random.default_rng(0))
    seconds = 1e-4 + space.macs(rows) / 1e9
    mean, _, _ = NetworkStack().fit(space, rows[:100], seconds[:100]).predict(rows[100:])
    assert kendalltau(mean, seconds[100:]).statistic > 0.8


def test_a_saved_predictor_predicts_the_same(tmp_path: Path, shared_data: Path) -> None:
    genotypes, values, others, _ = split(shared_data, "edgetpu_latency", 1, 60)
    stack = NetworkStack(1).fit(SPACE, genotypes, values)
    stack.save(tmp_path / "stack.json")
    again = NetworkStack.load(tmp_path / "stack.json", SPACE)
    for one, other in zip(stack.predict(others), again.predict(others)):
        np.testing.assert_allclose(other, one, rtol=1e-6)
    np.testing.assert_allclose(again.measurable(others), stack.measurable(others), atol=1e-6)
    assert sum(again.mix.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0] * 4, "at least 5 measured networks, not 4"),
        ([1.0] * 5 + [-1.0], "row 5 is not a measurement; write None"),
        ([1.0] * 5 + [0.0], "value 0.0 of row 5"),
        ([1.0] * 5 + [math.inf], "value inf of row 5"),
        ([1.0] * 3 + [None] * 5, "at least 5 measured networks, not 3"),
    ],
)
def test_values_that_are_no_measurements_are_refused(values: list[float | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        NetworkStack().fit(SPACE, synthetic(len(values))[0], values)


def test_arguments_that_do_not_fit_are_refused() -> None:
    genotypes, values = synthetic(10)
    with pytest.raises(DataError, match="10 candidates and 9 values"):
        NetworkStack().fit(SPACE, genotypes, values[:9])
    with pytest.raises(CandidateError, match="belongs to space other"):
        NetworkStack().fit(SPACE, [Candidate("other", (0, 0, 0, 0, 0, 0))], [1.0])
    with pytest.raises(CandidateError, match="n x g integers"):
        NetworkStack().fit(SPACE, genotypes.astype(float), values)
    with pytest.raises(DataError, match="has not been fitted"):
        NetworkStack().predict(genotypes)


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    return NetworkStack(rounds=10).fit(SPACE, *synthetic(20)).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "network-predictor"}, "is not a network-stack of schema 1"),
        ({"schema": 2}, "is not a network-stack of schema 1"),
        ({"space": "cell-of-another-size"}, "was fitted on space 'cell-of-another-size'"),
        ({"weights": [1.0]}, "is damaged: weights"),
        ({"weights": [-1.0, 1, 1, 0, 0]}, "is damaged: weights"),
        ({"residuals": []}, "is damaged: residuals"),
        ({"columns": {}}, "is damaged"),
        ({"columns": {"raw": [[-1, 0]], "pruned": [], "blocks": [], "features": []}}, "an index is negative"),
        ({"columns": {"raw": [[0, 0]], "pruned": [], "blocks": [], "features": []}}, "do not belong together"),
        ({"members": {}}, "is damaged"),
        ({"members": None}, "is damaged"),
    ],
)
def test_a_damaged_document_is_refused(saved: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        NetworkStack.from_json({**saved, **change}, SPACE)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000])
def test_a_file_that_is_no_predictor_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stack.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"stack\.json"):
        NetworkStack.load(path, SPACE)


def test_a_saved_document_is_json_without_surprises(saved: dict[str, Any]) -> None:
    assert NetworkStack.from_json(json.loads(json.dumps(saved, allow_nan=False)), SPACE).seed == 0


def test_the_look_up_table_finds_what_the_parts_take() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, (60, 5)).astype(float)
    values = 2.0 + counts @ np.array([1.0, 0.0, 3.0, 0.5, 2.0])
    weights = lut_weights(counts, values)
    np.testing.assert_allclose(lut_sum(weights, counts), values, rtol=1e-6)
    assert (weights >= 0).all()


def test_stacking_prefers_the_better_member_and_believes_an_exact_one() -> None:
    rng = np.random.default_rng(0)
    logs = rng.normal(size=200)
    unseen = logs[:, None] + rng.normal(size=(200, 3)) * [0.05, 0.3, 0.6]
    weights = stacking_weights(unseen, logs)
    assert weights[0] > 0.8
    assert weights.sum() == pytest.approx(1)
    unseen[:, 2] = logs
    assert stacking_weights(unseen, logs).tolist() == [0, 0, 1]
