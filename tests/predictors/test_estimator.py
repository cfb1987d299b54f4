"""Batch estimates equal those of each candidate alone; what is measured corrects them; what does not belong is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwnas import api
from hwnas.core.measurement import Fidelity
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError, TableConflict
from hwnas.graph.analysis import analyse
from hwnas.graph.fusion import split
from hwnas.predictors.estimator import SpaceEstimator
from hwnas.predictors.network import NetworkPredictor
from hwnas.predictors.workload import WorkloadPredictor
from hwnas.profiling.subjects import space_subjects, untrained
from hwnas.toolchains.ort import OrtToolchain
from tests.predictors.known_workloads import law, space

HOST = api.load_device("host")
SLOWDOWN = 1.4


def fitted(networks: int) -> NetworkPredictor:
    subjects = space_subjects(space(), "ort", networks)
    kernels = WorkloadPredictor(HOST, toolchain="ort")
    known = list(subjects.known.values())[::2]
    kernels.fit(known, law(known))
    predictor = NetworkPredictor(kernels)
    parts = [s.item.parts for s in subjects.networks]  # type: ignore[union-attr]
    columns = predictor.columns(parts, subjects.known)
    predictor.fit(columns, [sum(n * law([subjects.known[p]])[0] for p, n in each.items()) for each in parts])
    return predictor


@pytest.fixture(scope="module")
def document() -> dict[str, object]:
    return fitted(12).to_json()


@pytest.fixture
def predictor(document: dict[str, object]) -> NetworkPredictor:
    return NetworkPredictor.from_json(json.loads(json.dumps(document)))


def candidates(n: int, seed: int = 5) -> np.ndarray:
    return space().sample_batch(n, np.random.default_rng(seed))


def test_a_batch_equals_each_candidate_alone(predictor: NetworkPredictor) -> None:
    genotypes = candidates(6)
    estimator = SpaceEstimator(space(), OrtToolchain(), predictor, confidence=0.8)
    batch, bounds = estimator.estimate(genotypes), estimator.bounds(genotypes)
    for i, genotype in enumerate(genotypes.tolist()):
        candidate = Candidate(space().id, tuple(genotype))
        network = untrained(space(), candidate)
        parts = split(network, "ort")
        alone = predictor.estimate(parts.parts, parts.workloads, confidence=0.8)
        assert batch["latency"][i] == pytest.approx([alone.mean, alone.high])
        assert bounds[i] == pytest.approx([alone.mean, alone.low, alone.high])
        assert estimator.workload_counts(candidate) == dict(parts.parts)
        sums = analyse(network, "ort")
        assert batch["params"][i].tolist() == [sums.params] * 2
        assert batch["macs"][i].tolist() == [sums.macs] * 2
        assert batch["ram"][i].tolist() == [sums.peak_activation_bytes] * 2
        assert batch["flash"][i, 0] == pytest.approx(OrtToolchain().flash_bytes(network), rel=0.05)


def test_without_a_predictor_the_exact_metrics_are_left() -> None:
    estimator = SpaceEstimator(space(), OrtToolchain(), None)
    assert "latency" not in estimator.metrics
    assert set(estimator.estimate(candidates(2))) == set(estimator.metrics)
    with pytest.raises(ConfigError, match="latency needs a predictor"):
        estimator.bounds(candidates(2))


def test_measurements_pull_estimates_towards_them(predictor: NetworkPredictor) -> None:
    estimator = SpaceEstimator(space(), OrtToolchain(), predictor)
    genotypes = candidates(30)
    before = estimator.estimate(genotypes)["latency"][:, 0].copy()
    errors = []
    for i, genotype in enumerate(genotypes[:20].tolist()):
        estimator.learn(Candidate(space().id, tuple(genotype)), {"latency": SLOWDOWN * before[i], "flash": 1.0})
        if i in (0, 19):
            now = estimator.estimate(genotypes[20:])["latency"][:, 0]
            errors.append(float(np.mean(np.abs(now / (SLOWDOWN * before[20:]) - 1))))
    start = 1 - 1 / SLOWDOWN
    assert errors[1] < errors[0] < start
    assert errors[1] < 0.5 * start


def test_a_measurement_of_something_else_changes_nothing(predictor: NetworkPredictor) -> None:
    estimator = SpaceEstimator(space(), OrtToolchain(), predictor)
    before = estimator.estimate(candidates(3))["latency"]
    estimator.learn(Candidate(space().id, tuple(candidates(1)[0].tolist())), {"energy": 3.0})
    assert np.array_equal(estimator.estimate(candidates(3))["latency"], before)


def test_a_predictor_of_another_device_fidelity_or_toolchain_is_refused(predictor: NetworkPredictor) -> None:
    other = HOST.model_copy(update={"name": "board"})
    simulated = HOST.model_copy(update={"fidelity": Fidelity.MODEL})
    for device, toolchain, message in (
        (other, None, "of device 'host', not 'board'"),
        (simulated, None, "of fidelity hardware, but host is of model"),
        (HOST, "tvm", "of toolchain 'ort', not 'tvm'"),
    ):
        with pytest.raises(TableConflict, match=message):
            api.estimator(space(), device, predictor=predictor, toolchain=toolchain)
        with pytest.raises(TableConflict, match=message):
            api.estimate(untrained(space(), space().sample(np.random.default_rng(0))), device, predictor=predictor,
                         toolchain=toolchain)  # fmt: skip
    assert "latency" in api.estimator(space(), HOST, predictor=predictor).metrics


def test_the_caller_of_estimate_is_told_where_it_comes_from(predictor: NetworkPredictor) -> None:
    network = untrained(space(), space().sample(np.random.default_rng(0)))
    found = api.estimate(network, HOST, predictor=predictor)
    assert found.source in ("predictor", "table")
    rows = api.breakdown(network, predictor, "ort")
    assert [r[2] for r in rows] == sorted((r[2] for r in rows), reverse=True)
    assert {r[3] for r in rows} <= {"table", "predictor"}
