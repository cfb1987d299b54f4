"""The Python interface as the README shows it: profile, fit, search with a function of one's own, verify, export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from torch import nn

import hwnas
from hwnas import api
from hwnas.core.artifact import read_artifact
from hwnas.core.interfaces import BatchSpace
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError, NoFeasibleCandidate, TableConflict
from hwnas.graph.load import load_onnx
from hwnas.predictors.network import NetworkPredictor
from hwnas.runners.fake import FakeRunner, Script
from hwnas.runners.tabular import TabularRunner
from tests import steady_device
from tests.api import small_run

SPACE = {k: v for k, v in small_run.SETTINGS["space"].items() if k != "use"}


class ByParameters:
    """A made-up accuracy: it rises with the number of parameters."""

    def __init__(self, space: BatchSpace) -> None:
        self.space, self.asked = space, 0

    def __call__(self, candidates: Sequence[Candidate]) -> list[float]:
        self.asked += len(candidates)
        params = [sum(p.numel() for p in self.space.decode(c).parameters()) for c in candidates]
        return [1 - 1 / (1 + n / 1000) for n in params]


@pytest.fixture(scope="module")
def space() -> BatchSpace:
    found = hwnas.load_space("mbconv", **SPACE)
    assert isinstance(found, BatchSpace)
    return found


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> hwnas.Device:
    found: hwnas.Device = hwnas.load_device(steady_device.write(tmp_path_factory.mktemp("device")))
    return found


@pytest.fixture(scope="module")
def predictor(space: BatchSpace, device: hwnas.Device, tmp_path_factory: pytest.TempPathFactory) -> NetworkPredictor:
    folder = tmp_path_factory.mktemp("tables")
    table = hwnas.profile(device, space, workloads=20, networks=10, toolchain="ort", tables=folder)
    found: NetworkPredictor = hwnas.fit(table, seed=0)
    return found


def test_from_profile_to_export(
    space: BatchSpace, device: hwnas.Device, predictor: NetworkPredictor, tmp_path: Path
) -> None:
    accuracy, before = ByParameters(space), predictor.to_json()
    budget = hwnas.Budget(latency="20 ms", flash="1 MiB")
    found = hwnas.search(space, device, predictor=predictor, budget=budget, accuracy=accuracy, trials=40,
                         accuracy_queries=6, device_measurements=6, seed=0)  # fmt: skip
    assert accuracy.asked == 6
    assert predictor.to_json() == before  # the search corrected a copy
    assert found.front
    assert all(t.measured for t in found.front)
    best = hwnas.verify(found, device, top=2, spacing_s=0).best
    assert best.trial in found.trials
    assert best.trial.accuracy == max(t.accuracy for t in found.trials if t.accuracy is not None)
    assert len(best.verdict.readings) == 5
    assert best.meets_budget

    written = best.export(tmp_path / "out", format=("onnx", "tvm"))
    assert {p.name for p in written} == {"network.onnx", "network.so", "inputs.json", "artifact.json", "export.json"}
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (facts["weights"], facts["candidate"], facts["toolchain"]) == ("random", best.trial.encoded, "ort")
    load_onnx(tmp_path / "out" / "network.onnx")
    assert read_artifact(tmp_path / "out" / "tvm").toolchain == "tvm"
    with pytest.raises(ConfigError, match=r"unknown format \(did you mean onnx"):
        best.export(tmp_path, format="onxx")


def test_trained_weights_are_exported_where_there_are_some(
    space: BatchSpace, device: hwnas.Device, predictor: NetworkPredictor, tmp_path: Path
) -> None:
    class Trained(ByParameters):
        def network(self, candidate: Candidate) -> nn.Module:
            network = self.space.decode(candidate)
            for parameter in network.parameters():
                nn.init.constant_(parameter, 0.125)
            return network

    budget = hwnas.Budget(latency="20 ms")
    found = hwnas.search(space, device, predictor=predictor, budget=budget, accuracy=Trained(space), trials=10,
                         accuracy_queries=2, device_measurements=0, strategy="random")  # fmt: skip
    best = hwnas.verify(found, top=1, spacing_s=0).best
    best.export(tmp_path)
    assert json.loads((tmp_path / "export.json").read_text())["weights"] == "trained"
    network = load_onnx(tmp_path / "network.onnx")
    bias = [np.frombuffer(t.raw_data, np.float32) for t in network.graph.initializer if list(t.dims) == [10]]
    assert bias
    assert np.allclose(bias[0], 0.125)


SECONDS_PER_BYTE = 1e-7


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local runner replaced by a scripted board, some fifty times slower than this computer."""
    script = Script(latency_s=lambda artifact: SECONDS_PER_BYTE * (artifact.flash_bytes or 0), noise=0.0)
    monkeypatch.setitem(api.found.registry.runners._loaded, "local", lambda: FakeRunner(script))


@pytest.mark.usefixtures("slow")
def test_a_missed_budget_corrects_the_estimates_and_the_search_goes_on(
    space: BatchSpace, device: hwnas.Device, predictor: NetworkPredictor
) -> None:
    genotypes = space.sample_batch(500, np.random.default_rng(0))
    sizes = api.estimator(space, device, predictor=None, toolchain="ort").estimate(genotypes)["flash"][:, 0]
    limit = SECONDS_PER_BYTE * 0.5 * float(sizes.min() + sizes.max())
    accuracy, budget = ByParameters(space), hwnas.Budget(latency=f"{limit!r} s")
    optimist = NetworkPredictor(predictor.workloads)  # knows kernels of this computer, and no whole network
    settings: dict[str, Any] = {
        "predictor": optimist, "accuracy": accuracy, "trials": 200, "device_measurements": 0, "objectives": ("macs",),
    }  # fmt: skip
    found = hwnas.search(space, device, budget=budget, accuracy_queries=8, **settings)
    wrong = max(found.trials, key=lambda t: t.accuracy or 0)
    assert wrong.feasible
    assert wrong.estimates["latency"][1] < 0.2 * limit
    verified = hwnas.verify(found, top=1, spacing_s=0, rounds=6)
    assert verified.rounds > 1
    assert verified.best.values["latency"] <= limit
    assert verified.best.trial.estimates["latency"][0] == pytest.approx(verified.best.values["latency"], rel=0.6)

    impossible = hwnas.search(space, device, budget=hwnas.Budget(latency="60 us"), accuracy_queries=2, **settings)
    with pytest.raises(NoFeasibleCandidate, match="over latency by"):
        hwnas.verify(impossible, top=1, spacing_s=0, rounds=2)


def test_what_does_not_belong_together_is_refused(
    space: BatchSpace, device: hwnas.Device, predictor: NetworkPredictor
) -> None:
    accuracy, budget = ByParameters(space), hwnas.Budget(latency="20 ms")
    other = device.model_copy(update={"name": "board"})
    with pytest.raises(TableConflict, match="of device 'host', not 'board'"):
        hwnas.search(space, other, predictor=predictor, budget=budget, accuracy=accuracy)
    with pytest.raises(ConfigError, match="nothing here tells latency"):
        hwnas.search(space, device, budget=budget, accuracy=accuracy, device_measurements=0)
    found = hwnas.search(space, device, predictor=predictor, budget=budget, accuracy=accuracy, trials=4,
                         accuracy_queries=1, device_measurements=0, strategy="random")  # fmt: skip
    with pytest.raises(ConfigError, match="the search was for host"):
        hwnas.verify(found, other)
    with pytest.raises(ConfigError, match="does not handle batches"):
        hwnas.search(PlainSpace(), device, budget=budget, accuracy=accuracy)


class PlainSpace:
    name = "plain"


def test_a_device_that_answers_from_a_table(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell: Any = hwnas.load_space("cell")
    source = {"file": "nb201_hw_cifar10.csv", "candidate": "net", "metrics": {"latency": "raspi4_latency"},
              "unit": {"latency": "ms"}}  # fmt: skip
    host = hwnas.load_device("host").model_dump(mode="json", by_alias=True)
    document = {**host, "name": "raspi4", "runner": "tabular", "tabular": source}
    raspi4 = hwnas.Device.model_validate(document)
    monkeypatch.setitem(api.found.registry.runners._loaded, "tabular", lambda: TabularRunner(shared_data))
    frame = pandas.read_csv(shared_data / "nb201_hw_cifar10.csv").sample(60, random_state=1)
    candidates = [cell.parse(text) for text in frame["net"]]
    stack = hwnas.fit_measurements(cell, candidates, list(frame["raspi4_latency"] / 1e3), seed=0)
    budget = hwnas.Budget(latency="15 ms")
    found = hwnas.search(cell, raspi4, predictor=stack, budget=budget, trials=200, accuracy_queries=10,
                         device_measurements=10, accuracy=lambda cs: [sum(c.genotype) / 30 for c in cs])  # fmt: skip
    best = hwnas.verify(found, raspi4).best
    row = pandas.read_csv(shared_data / "nb201_hw_cifar10.csv").set_index("net")["raspi4_latency"]
    truth = {cell.parse(text): value / 1e3 for text, value in row.items()}
    assert best.values["latency"] == pytest.approx(truth[best.trial.candidate])
    assert best.values["latency"] <= 0.015
