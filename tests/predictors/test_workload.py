"""Workloads: the table first, then trees on the log ratio to the roofline, then the roofline itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwnas import api
from hwnas.core.measurement import Fidelity
from hwnas.errors import DataError
from hwnas.predictors.features import work
from hwnas.predictors.workload import MIN_ROWS, ROOFLINE_FACTOR, WorkloadPredictor
from tests.predictors.known_workloads import law, workloads

HOST = api.load_device("host")


def split(seed: int = 0) -> tuple[list, list]:  # type: ignore[type-arg]
    order = np.random.default_rng(seed).permutation(len(workloads()))
    half = len(order) // 2
    return [workloads()[i] for i in order[:half]], [workloads()[i] for i in order[half:]]


@pytest.fixture(scope="module")
def fitted() -> WorkloadPredictor:
    seen, _ = split()
    predictor = WorkloadPredictor(HOST, seed=0, toolchain="ort")
    predictor.fit(seen, law(seen))
    return predictor


def error(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(np.abs(np.log(predicted / truth))))


def test_trees_beat_the_roofline_on_workloads_they_never_saw(fitted: WorkloadPredictor) -> None:
    _, unseen = split()
    values, sources = fitted.values(unseen)
    assert set(sources) == {"predictor"}
    assert error(values, law(unseen)) < 0.15
    assert error(values, law(unseen)) < 0.25 * error(fitted.roofline(unseen), law(unseen))


def test_what_was_measured_is_answered_by_the_measurement(fitted: WorkloadPredictor) -> None:
    seen, unseen = split()
    for workload, estimate in zip(seen[:5], fitted.predict(seen[:5])):
        assert estimate.source == "table"
        assert estimate.mean == pytest.approx(law([workload])[0])
        assert estimate.low == estimate.mean == estimate.high
        assert estimate.fidelity is Fidelity.HARDWARE
    assert fitted.predict(unseen[:1])[0].source == "predictor"
    assert fitted.uncertainty([seen[0], unseen[0]])[0] == 0
    assert fitted.uncertainty([seen[0], unseen[0]])[1] > 0


def test_intervals_of_the_trees_hold_for_most(fitted: WorkloadPredictor) -> None:
    _, unseen = split()
    within = [e.low <= t <= e.high for e, t in zip(fitted.predict(unseen), law(unseen))]
    assert np.mean(within) > 0.8


def test_with_nothing_to_learn_from_the_roofline_answers() -> None:
    few = list(workloads()[: MIN_ROWS - 1])
    predictor = WorkloadPredictor(HOST)
    predictor.fit(few, law(few))
    other = workloads()[-1]
    estimate = predictor.predict([other])[0]
    macs, moved = work([other])
    bandwidth = next(m.bandwidth for m in HOST.memories if m.bandwidth)
    expected = HOST.compute.overhead + max(macs[0] / HOST.compute.macs_per_s, moved[0] / bandwidth)
    assert estimate.source == "roofline"
    assert estimate.mean == pytest.approx(expected)
    assert (estimate.low, estimate.high) == pytest.approx((expected / ROOFLINE_FACTOR, expected * ROOFLINE_FACTOR))
    assert predictor.predict(few[:1])[0].source == "table"
    assert predictor.uncertainty([other]).tolist() == [1.0]


def test_what_is_saved_predicts_the_same(fitted: WorkloadPredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "p.json")
    again = WorkloadPredictor.from_json(json.loads((tmp_path / "p.json").read_text()))
    assert again.predict(list(workloads())) == fitted.predict(list(workloads()))
    assert (again.device, again.toolchain, again.fidelity) == ("host", "ort", Fidelity.HARDWARE)


def test_the_same_seed_gives_the_same_trees(fitted: WorkloadPredictor) -> None:
    seen, unseen = split()
    again = WorkloadPredictor(HOST, seed=0)
    np.random.seed(7)
    again.fit(seen, law(seen))
    assert again.predict(unseen) == fitted.predict(unseen)


@pytest.mark.parametrize(
    "change",
    [{"fidelity": "guess"}, {"roof": [1]}, {"known": []}, {"trees": [{"a": 1}]}, {"spread": "x"}, {"trees": None}],
    ids=str,
)
def test_a_damaged_document_is_refused(fitted: WorkloadPredictor, change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not a saved workload predictor|not an xgboost document"):
        WorkloadPredictor.from_json({**fitted.to_json(), **change})
    document = fitted.to_json()
    document.pop("seed")
    with pytest.raises(DataError, match="seed"):
        WorkloadPredictor.from_json(document)


@pytest.mark.parametrize(("metric", "unit"), [("energy", 1e-3), ("cycles", 1e6)])
def test_a_metric_without_a_rate_has_no_roofline(metric: str, unit: float) -> None:
    few, other = list(workloads()[: MIN_ROWS - 1]), workloads()[-1]
    predictor = WorkloadPredictor(HOST, metric=metric)
    predictor.fit(few, unit * law(few))
    assert predictor.predict(few[:1])[0].mean == pytest.approx(unit * law(few[:1])[0])
    for again in (predictor, WorkloadPredictor.from_json(json.loads(json.dumps(predictor.to_json())))):
        with pytest.raises(DataError, match=f"{MIN_ROWS - 1} measured workloads of host with {metric} are too few"):
            again.predict([other])
    many = list(workloads()[:40])
    predictor.fit(many, unit * law(many))
    estimate = predictor.predict([other])[0]
    assert estimate.source == "predictor"
    assert estimate.mean == pytest.approx(unit * law([other])[0], rel=3)


def test_counts_of_a_known_clock_have_a_roofline() -> None:
    board = api.load_device("cortex-m4-qemu")
    assert board.mcu is not None
    seconds, cycles = (WorkloadPredictor(board, metric=m).values([workloads()[0]]) for m in ("latency", "cycles"))
    assert cycles[1] == ["roofline"]
    assert cycles[0] == pytest.approx(seconds[0] * board.mcu.clock)


def test_energy_lost_in_the_offset_of_a_meter_teaches_nothing() -> None:
    known = list(workloads()[:20])
    values = 1e-3 * law(known)
    values[:2] = 0.0, -1e-6
    predictor = WorkloadPredictor(HOST, metric="energy")
    predictor.fit(known, values)
    estimates = predictor.predict(known)
    assert [e.source for e in estimates[:3]] == ["predictor", "predictor", "table"]
    assert all(e.mean > 0 for e in estimates)
