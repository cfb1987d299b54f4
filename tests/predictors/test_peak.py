"""SRAM and the other metrics of an accelerator, from its committed table: networks that were not fitted, saved and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import api
from hwnas.core.measurement import Fidelity, Samples
from hwnas.errors import DataError
from hwnas.predictors.network import NetworkPredictor
from hwnas.predictors.peak import PeakPredictor
from hwnas.tables.table import LatencyTable

TABLE = Path(__file__).parents[2] / "latency_tables" / "ethos-u55-128" / "cycle-sim-vela.jsonl"


def told(predictor: PeakPredictor, table: LatencyTable, ids: list[str]) -> np.ndarray:
    """mean and high (bytes) of networks of the table, n x 2."""
    rows = [np.sort(predictor.rows([table.workloads[k] for k in table.networks[i].parts]))[::-1] for i in ids]
    return predictor.predict(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))


def with_sram(table: LatencyTable, sizes: dict[str, int]) -> LatencyTable:
    """The table with other SRAM of some subjects."""
    for id, row in table.measurements.items():
        if row.subject in sizes and isinstance(row.result, Samples):
            table.measurements[id] = replace(row, result=replace(row.result, memory={"sram": sizes[row.subject]}))
    return table


def test_sram_of_networks_that_were_not_fitted() -> None:
    table, half = LatencyTable.read(TABLE), LatencyTable.read(TABLE)
    known, unseen = sorted(table.networks)[::2], sorted(table.networks)[1::2]
    for id in unseen:
        del half.networks[id]
    predictor = PeakPredictor.of(half)
    assert predictor is not None and len(known) == len(unseen) == 20
    real = np.array([table.values("sram")[id] for id in unseen])
    found = told(predictor, table, unseen)
    assert np.abs(found[:, 0] / real - 1).mean() < 0.15
    assert (found[:, 1] >= real).mean() >= 0.9 and (found[:, 1] >= found[:, 0]).all()
    at_known = told(predictor, table, known)[:, 1]
    assert (at_known * (1 + 1e-9) >= [table.values("sram")[id] for id in known]).all()


def test_networks_on_the_cpu_alone_take_no_sram_and_teach_nothing() -> None:
    plain = PeakPredictor.of(LatencyTable.read(TABLE))
    ids = sorted(LatencyTable.read(TABLE).networks)
    one = PeakPredictor.of(with_sram(LatencyTable.read(TABLE), {ids[0]: 0}))
    assert plain is not None and one is not None and np.isfinite(one.to_json()["weights"]).all()
    assert one.to_json()["weights"] == pytest.approx(plain.to_json()["weights"], rel=0.2, abs=200)
    assert PeakPredictor.of(with_sram(LatencyTable.read(TABLE), dict.fromkeys(ids, 0))) is None
    table = LatencyTable.read(TABLE)
    assert PeakPredictor.of(with_sram(table, dict.fromkeys(table.workloads, 0))) is None


def test_a_few_networks_teach_one_factor() -> None:
    table = LatencyTable.read(TABLE)
    few = sorted(table.networks)[:5]
    table.networks = {k: n for k, n in table.networks.items() if k in few}
    predictor = PeakPredictor.of(table)
    assert predictor is not None
    assert predictor.to_json()["weights"][0] == predictor.to_json()["weights"][2] == 0.0
    assert (told(predictor, table, few)[:, 1] * (1 + 1e-9) >= [table.values("sram")[k] for k in few]).all()


@pytest.fixture(scope="module")
def predictor() -> NetworkPredictor:
    return api.fit(TABLE)


def test_latency_and_energy_stand_beside_cycles_with_their_own_fidelity(predictor: NetworkPredictor) -> None:
    table = LatencyTable.read(TABLE)
    parts = next(iter(table.networks.values())).parts
    run, beside = predictor.estimate_any(parts, table.workloads), predictor.others(parts, table.workloads)
    assert beside["latency"].mean == pytest.approx(run.mean / 500e6) and beside["energy"].mean > 0
    assert (run.fidelity, beside["latency"].fidelity) == (Fidelity.CYCLE_SIM, Fidelity.CYCLE_SIM)
    assert beside["energy"].fidelity is Fidelity.MODEL
    assert beside["energy"].source == "predictor" and predictor.beside["energy"].fidelity is Fidelity.CYCLE_SIM


def test_it_is_saved_and_read_again(predictor: NetworkPredictor) -> None:
    table = LatencyTable.read(TABLE)
    again = NetworkPredictor.from_json(json.loads(json.dumps(predictor.to_json())))
    parts = next(iter(table.networks.values())).parts
    assert again.others(parts, table.workloads) == predictor.others(parts, table.workloads)
    assert again.peak is not None and predictor.peak is not None
    assert again.peak.to_json() == predictor.peak.to_json()


def test_one_that_was_saved_before_accelerators_is_read(predictor: NetworkPredictor) -> None:
    document = {k: v for k, v in predictor.to_json().items() if k not in ("peak", "beside", "seconds_per")}
    old = NetworkPredictor.from_json(document)
    assert old.peak is None and not old.beside and old.seconds_per is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(seconds_per=-1.0), "lasts -1.0 s"),
        (lambda d: d.update(seconds_per=float("nan")), "lasts nan s"),
        (lambda d: d.update(beside={"latency": d["beside"]["energy"]}), "latency beside its cycles"),
        (lambda d: d["beside"]["energy"]["workloads"].update(fidelity="hardware"), "is not of the same table"),
        (lambda d: d["peak"].update(weights=[1.0]), "is not a saved predictor of SRAM"),
        (lambda d: d["peak"].update(kernels=[1]), "is not a saved predictor of SRAM"),
    ],
)
def test_what_does_not_belong_together_is_refused(predictor: NetworkPredictor, change: Any, reason: str) -> None:
    document = json.loads(json.dumps(predictor.to_json()))
    change(document)
    with pytest.raises(DataError, match=reason):
        NetworkPredictor.from_json(document)


def test_a_space_is_estimated_in_every_metric_and_learns_each_that_was_measured() -> None:
    predictor, space, device = api.fit(TABLE), api.load_space("mbconv-micro"), api.load_device("ethos-u55-128")
    estimator = api.estimator(space, device, predictor=predictor)
    assert {"cycles", "latency", "energy", "sram", "flash"} <= {*estimator.metrics}
    candidate = space.sample(np.random.default_rng(5))
    genotypes = np.array([candidate.genotype])
    before = {m: v[0] for m, v in estimator.estimate(genotypes).items()}
    assert {*before} == {*estimator.metrics} and before["latency"] == pytest.approx(before["cycles"] / 500e6)
    estimator.learn(candidate, {"energy": 3 * before["energy"][0]})
    after = {m: v[0] for m, v in estimator.estimate(genotypes).items()}
    assert after["energy"][0] > before["energy"][0] and after["cycles"] == pytest.approx(before["cycles"])
    estimator.learn(candidate, {"cycles": 3 * before["cycles"][0], "latency": 1.0})
    last = {m: v[0] for m, v in estimator.estimate(genotypes).items()}
    assert last["cycles"][0] > after["cycles"][0] and last["energy"] == pytest.approx(after["energy"])
    assert last["latency"] == pytest.approx(last["cycles"] / 500e6)
