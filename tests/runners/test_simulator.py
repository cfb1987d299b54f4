"""The board that answers what a run costs: the price in an artifact's folder, and outputs by LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.config import load_device
from hwnas.core.artifact import TFLITE
from hwnas.core.device import Device
from hwnas.core.interfaces import Health, Runner
from hwnas.core.price import PRICE, Price, write_price
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceError, DeviceUnavailable
from hwnas.graph.precision import cast
from hwnas.graph.session import open_session
from hwnas.graph.tflite import tflite_bytes
from hwnas.registry import runners
from hwnas.runners.simulator import SimulatorRunner
from hwnas.testing.contracts import RunnerContract, small_network

NPU, TPU = "ethos-u55-128", "coral-edgetpu"
"""A device that counts cycles, and one of fidelity `model`, whose price is in seconds."""


def priced(folder: Path, unit: str = "cycles", **parts: float) -> Artifact:
    folder.mkdir(exist_ok=True)
    price = Price(
        unit=unit,  # type: ignore[arg-type]
        parts=parts or {"accelerator": 900.0, "cpu": 60.0, "transfer": 40.0},  # type: ignore[arg-type]
        macs=5000.0,
        traffic={"sram": 2048.0, "flash": 512.0},
        tool="a tool 1.0",
    )
    write_price(price, folder)
    return Artifact(path=str(folder), toolchain="vela", version="1", options={}, schedule="")


class TestSimulatorRunner(RunnerContract):
    @pytest.fixture
    def runner(self) -> Runner:
        return SimulatorRunner()

    @pytest.fixture
    def device(self) -> Device:
        return load_device(NPU)

    @pytest.fixture
    def artifact(self, tmp_path: Path) -> Artifact:
        return priced(tmp_path / "artifact")

    def test_its_health_is_told_and_a_loop_lasts(self, runner: Runner, device: Device, artifact: Any) -> None:
        """Nothing runs, so there is no loop, and it says so."""
        board = runner.open(device)
        assert board.health() == Health()
        board.stage([artifact])
        with pytest.raises(DeviceUnavailable, match=f"{NPU} is simulated: no meter can be beside it"):
            board.loop(artifact, 0.2, 30.0)


def test_it_is_registered() -> None:
    assert runners.load("simulator") is SimulatorRunner


def test_every_reading_is_the_price_and_its_parts_are_kept(tmp_path: Path) -> None:
    board = SimulatorRunner().open(load_device(NPU))
    samples = board.run(priced(tmp_path), 3, 1.0)
    assert samples.cycles == (1000.0, 1000.0, 1000.0) and not samples.latency_s
    assert samples.parts == {"accelerator": 900.0, "cpu": 60.0, "transfer": 40.0}
    assert samples.traffic == {"sram": 2048.0, "flash": 512.0} and samples.macs == 5000.0


def test_latency_and_energy_follow_from_the_devices_own_rules(tmp_path: Path) -> None:
    device = load_device(NPU)
    samples = SimulatorRunner().open(device).run(priced(tmp_path), 1, 1.0)
    assert device.accelerator is not None and device.accelerator.energy is not None
    assert device.value(samples, "latency") == pytest.approx(1000 / device.accelerator.clock)
    rule = device.accelerator.energy
    moved = 2048 * rule.per_byte["sram"] + 512 * rule.per_byte["flash"]
    expected = 5000 * rule.per_mac + moved + rule.power * 1000 / device.accelerator.clock
    assert device.value(samples, "energy") == pytest.approx(expected)


def test_a_device_of_fidelity_model_is_priced_in_seconds(tmp_path: Path) -> None:
    samples = SimulatorRunner().open(load_device(TPU)).run(priced(tmp_path, "s", accelerator=2e-3), 2, 1.0)
    assert samples.latency_s == (2e-3, 2e-3) and samples.cycles is None


@pytest.mark.parametrize(("name", "unit", "counts"), [(NPU, "s", "cycles"), (TPU, "cycles", "s")])
def test_a_price_in_another_unit_is_refused(name: str, unit: str, counts: str, tmp_path: Path) -> None:
    board = SimulatorRunner().open(load_device(name))
    with pytest.raises(DeviceError, match=f"the price is in {unit}, and {name} counts {counts}"):
        board.run(priced(tmp_path, unit), 1, 1.0)


@pytest.mark.parametrize("text", ["{}", "not json", '{"unit": "cycles", "parts": {"accelerator": 0}}'])
def test_a_price_that_is_none_is_a_device_error(text: str, tmp_path: Path) -> None:
    artifact = priced(tmp_path)
    (tmp_path / PRICE).write_text(text)
    with pytest.raises(DeviceError, match="is not a price"):
        SimulatorRunner().open(load_device(NPU)).run(artifact, 1, 1.0)


def test_a_closed_board_does_not_answer(tmp_path: Path) -> None:
    board = SimulatorRunner().open(load_device(NPU))
    board.close()
    with pytest.raises(DeviceUnavailable, match="the board is closed"):
        board.run(priced(tmp_path), 1, 1.0)


def test_it_has_one_place() -> None:
    with pytest.raises(DeviceUnavailable, match=f"there is no board 'desk' of {NPU}, only 'simulator'"):
        SimulatorRunner().open(load_device(NPU), "desk")


def test_outputs_are_the_networks_own(tmp_path: Path) -> None:
    artifact = priced(tmp_path)
    network: ModelProto = cast(small_network(), "int8")
    (tmp_path / TFLITE).write_bytes(tflite_bytes(network))
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    shape = session.get_inputs()[0].shape
    board = SimulatorRunner().open(load_device(NPU))
    for seed in range(5):
        x = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
        [ours] = board.outputs(artifact, [x], 60.0)
        [theirs] = session.run(None, {session.get_inputs()[0].name: x})
        assert np.abs(ours - theirs).max() <= 2.0**-5 + 1e-6  # a step of the nominal scales


def test_outputs_of_an_artifact_without_a_network_are_not_to_be_had(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"the artifact holds no network\.tflite"):
        SimulatorRunner().open(load_device(NPU)).outputs(priced(tmp_path), [], 1.0)
