"""Verdicts from spaced readings, networks on a bench, and toolchains side by side, on a scripted device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import api
from hwnas.core.device import Device
from hwnas.core.estimate import Budget
from hwnas.core.interfaces import Health
from hwnas.core.measurement import Samples
from hwnas.core.workload import Artifact
from hwnas.deploy.measurer import Bench, measure_candidates
from hwnas.deploy.toolchains import compare_toolchains
from hwnas.deploy.verify import MOST_ROUNDS, footprint, judge, measure_networks, spaced_readings
from hwnas.errors import BuildError, DeviceCrashed, DeviceError
from hwnas.graph.analysis import analyse
from hwnas.runners.fake import FakeRunner, Script
from hwnas.testing import small_network
from hwnas.toolchains.ort import OrtToolchain


@pytest.fixture
def device() -> Device:
    return api.load_device("host")


def visits(*medians: float) -> list[Samples]:
    return [Samples(latency_s=(m * 0.9, m, m * 1.1)) for m in medians]


def test_a_verdict_rests_on_the_median_of_visits() -> None:
    verdict = judge("n", visits(1.0, 1.2, 1.1, 9.0, 1.0), "latency", 1.21, 0.1)
    assert verdict.readings == (1.0, 1.2, 1.1, 9.0, 1.0)
    assert verdict.median == 1.1
    assert verdict.error == pytest.approx(0.1)
    assert judge("n", visits(1.0), "latency", 1.09, 0.1).within
    assert judge("n", visits(1.0), "latency", 1.2, 0.1).within is False
    assert judge("n", visits(1.0), "latency", None, 0.1).within is None


def test_the_high_end_never_lies_below_the_median_and_rises_with_the_confidence() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 3, 5, 9, 20):
        verdict = judge("n", visits(*rng.lognormal(0, 1, n)), "latency", None, 0.1)
        highs = [verdict.high(c) for c in (0.5, 0.9, 0.99)]
        assert highs == sorted(highs)
        assert verdict.median <= highs[0] or n % 2 == 0
        assert highs[-1] <= max(verdict.readings)


def test_the_high_end_bounds_the_true_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = [judge("n", visits(*rng.lognormal(0, 0.3, 9)), "latency", None, 0.1).high(0.9) >= 1.0 for _ in range(2000)]
    assert np.mean(held) > 0.9 - 0.02


def artifacts(folder: Path, names: str) -> dict[str, Artifact]:
    for name in names:
        (folder / name).mkdir()
    return {n: Artifact(str(folder / n), "ort", "1", {}, "s") for n in names}


class Scripted:
    """A board that tells whom it visited, and gives each visit the next latency of a script."""

    def __init__(self, latencies: Iterable[float]) -> None:
        self.visited: list[str] = []
        self._latencies = iter(latencies)

    def stage(self, artifacts: Iterable[Artifact]) -> None:
        """Nothing to prepare."""

    def health(self) -> Health:
        return Health()

    def run(self, artifact: Artifact, readings: int, timeout_s: float) -> Samples:
        self.visited.append(Path(artifact.path).name)
        return Samples(latency_s=(next(self._latencies),) * readings)


def test_networks_are_visited_in_turn_with_pauses_between_rounds(device: Device, tmp_path: Path) -> None:
    pauses: list[float] = []
    built = artifacts(tmp_path, "abr")
    reference = built.pop("r")
    board: Any = Scripted([1.0] * 99)
    found = spaced_readings(board, device, built, reference, readings=3, spacing_s=0.7, sleep=pauses.append)
    assert board.visited == ["r", *"abr" * 3]
    assert {name: len(v) for name, v in found.items()} == {"a": 3, "b": 3}
    assert pauses == [0.7, 0.7]


def test_a_disturbed_round_is_visited_again_whatever_its_readings(device: Device, tmp_path: Path) -> None:
    device = device.model_copy(update={"protocol": device.protocol.model_copy(update={"drift": 0.15})})
    built = artifacts(tmp_path, "ar")
    reference = built.pop("r")
    # reference, then (a, reference) a round: the second round is disturbed at its end, so the third begins disturbed
    board: Any = Scripted([1.0, 5.0, 1.0, 9.0, 1.6, 8.0, 1.0, 5.1, 1.1, 4.9, 1.0])
    found = spaced_readings(board, device, built, reference, readings=3, spacing_s=0.0)
    assert [s.metric("latency") for s in found["a"]] == [5.0, 5.1, 4.9]


def test_a_device_that_never_settles_is_taken_as_it_is(device: Device, tmp_path: Path) -> None:
    device = device.model_copy(update={"protocol": device.protocol.model_copy(update={"drift": 0.15})})
    built = artifacts(tmp_path, "ar")
    reference = built.pop("r")
    board: Any = Scripted([1.0, *(x for i in range(1, 99) for x in (5.0, 1.2**i))])
    found = spaced_readings(board, device, built, reference, readings=5, spacing_s=0.0)
    assert len(found["a"]) == 5
    assert board.visited.count("a") == 5 * MOST_ROUNDS


def test_a_network_on_the_bench_has_every_value_that_a_budget_asks_for(device: Device, tmp_path: Path) -> None:
    network = small_network()
    with Bench(device, OrtToolchain(), FakeRunner()) as bench:
        found = measure_networks(
            bench, {"n": network}, estimates={"n": 1.0}, confidence=0.9, folder=tmp_path, spacing_s=0.0
        )["n"]
    sums = analyse(network, "ort")
    assert found.values["params"] == sums.params
    assert found.values["macs"] == sums.macs
    assert found.values["ram"] == sums.peak_activation_bytes
    assert found.values["flash"] == (tmp_path / "n" / "network.onnx").stat().st_size
    assert found.values["latency"] == found.verdict.high(0.9)
    assert (tmp_path / "n" / "artifact.json").exists()
    assert len(found.verdict.readings) == 5


def test_candidates_are_measured_or_their_failure_is_a_device_error(device: Device) -> None:
    space = api.load_space("mbconv-micro")
    candidate = space.sample(np.random.default_rng(0))
    with Bench(device, OrtToolchain(), FakeRunner(Script(faults={1: "crash"}))) as bench:
        measured = measure_candidates(bench, space)
        assert set(measured(candidate)) == {"latency", "flash"}
        with pytest.raises(DeviceCrashed, match="scripted crash"):
            measured(candidate)
        assert measured(candidate)["latency"] > 0
        assert not list(bench._scratch.iterdir())  # built networks are not kept


def test_what_cannot_be_built_says_so(device: Device) -> None:
    class Odd:
        name, id, input_shape, classes = "odd", "odd", (1, 1, 12, 12), 4

        def graph(self, _: object) -> object:
            network = small_network()
            network.graph.node[0].op_type = "Frobnicate"
            return network

        def encode(self, _: object) -> str:
            return "odd one"

    with Bench(device, OrtToolchain(), FakeRunner()) as bench:
        with pytest.raises(DeviceError, match="odd one cannot be built: .*Frobnicate"):
            measure_candidates(bench, Odd())(None)  # type: ignore[arg-type]
        with pytest.raises(BuildError, match="Frobnicate"):
            bench.build(Odd().graph(None))  # type: ignore[arg-type]
        assert bench.build(small_network()).flash_bytes  # the bench goes on


def test_the_faster_toolchain_comes_first_and_a_broken_one_last(device: Device) -> None:
    class Broken(OrtToolchain):
        name = "nonsense"

    networks = [small_network(4), small_network(8)]
    found = compare_toolchains(device, FakeRunner(), [Broken(), OrtToolchain()], networks)
    assert [c.name for c in found] == ["ort", "nonsense"]
    assert len(found[0].values) == 2
    a, b = found[0].values
    assert found[0].geometric_mean == pytest.approx((a * b) ** 0.5)
    assert found[1].geometric_mean == float("inf")
    assert "nonsense" in (found[1].reason or "")


def test_a_round_in_which_the_device_was_throttled_does_not_count(device: Device, tmp_path: Path) -> None:
    built = artifacts(tmp_path, "ar")
    reference = built.pop("r")

    class Throttled(Scripted):
        def health(self) -> Health:
            return Health(complaints=("throttled",) if len(self.visited) in (4, 5) else ())

    board: Any = Throttled([1.0] * 99)
    found = spaced_readings(board, device, built, reference, readings=5, spacing_s=0, sleep=lambda _: None)
    assert len(found["a"]) == 5

    class Hot(Scripted):
        def health(self) -> Health:
            return Health(complaints=("throttled",))

    hot: Any = Hot([1.0] * 999)
    with pytest.raises(DeviceError, match="throttled"):
        spaced_readings(hot, device, built, reference, readings=5, spacing_s=0, sleep=lambda _: None)


def test_a_limit_is_not_met_by_what_nobody_told() -> None:
    artifact = Artifact(path="", toolchain="it", version="1", options={}, schedule="", memory={"sram": 10})
    values = footprint(artifact, small_network(), "ort")
    over = Budget.model_validate({"flash": "1 kB", "sram": "20 B", "dsp": 5}).violations(values)
    assert over == {"flash": float("inf"), "sram": -0.5, "dsp": float("inf")}
