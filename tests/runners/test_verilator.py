"""Whole quantised networks on the simulated core with its CPU rest: onnxruntime's bits, in the cycles of the law."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.config import load_device
from hwnas.core.artifact import DESCRIPTION
from hwnas.core.device import Device
from hwnas.core.price import read_price
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, DeviceError, DeviceTimeout, DeviceUnavailable
from hwnas.firmware.fpga import build
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.product import Product
from hwnas.firmware.fpga.program import PROGRAM, CoreStep, HostStep, Program, read_program, write_program
from hwnas.graph.export import export
from hwnas.graph.precision import cast
from hwnas.graph.quantize import quantize
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.scales import ScaleRule
from hwnas.graph.session import open_session
from hwnas.graph.view import view
from hwnas.profiling.subjects import untrained
from hwnas.registry import spaces
from hwnas.runners import verilator
from hwnas.runners.verilator import LoadedProgram, VerilatorBoard, VerilatorRunner
from hwnas.testing import RunnerContract, small_network
from hwnas.toolchains.cgen.kernels.reference import rescaled
from hwnas.toolchains.fpga import FpgaToolchain
from hwnas.toolchains.fpga.rules import rules
from hwnas.toolchains.fpga.settings import array_of
from hwnas.toolchains.partition.extract import Cutter
from hwnas.toolchains.partition.kernels import placed_kernels
from tests.toolchains.test_cgen_networks import NETWORKS

SMALL, LARGE = "fpga-systolic-8x8", "fpga-systolic-16x16"
TIMEOUT_S = 120.0


@pytest.fixture(params=[SMALL, LARGE])
def device(request: pytest.FixtureRequest) -> Device:
    return load_device(request.param)


@pytest.fixture
def board(device: Device) -> Iterator[VerilatorBoard]:
    opened = VerilatorRunner().open(device)
    yield opened
    opened.close()


def micro(seed: int, scales: ScaleRule) -> tuple[ModelProto, list[np.ndarray]]:
    """A random mbconv-micro network, calibrated, and inputs."""
    space, rng = spaces.load("mbconv-micro")(), np.random.default_rng(seed)
    images = [rng.standard_normal(space.input_shape).astype(np.float32) for _ in range(6)]
    return quantize(untrained(space, space.sample(rng), "fp32"), images, scales), images


def reference_outputs(network: ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """onnxruntime's, of a network of one input and one output, without graph optimisations."""
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    name = session.get_inputs()[0].name
    return [np.asarray(session.run(None, {name: x})[0]) for x in inputs]


def simulated(board: VerilatorBoard) -> int:
    """Cycles of the core in the last run."""
    assert board._loaded is not None
    return board._loaded[1].simulated_cycles


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_network_gives_the_bits_of_onnxruntime_in_the_cycles_of_the_law(
    board: VerilatorBoard, device: Device, seed: int, tmp_path: Path
) -> None:
    network, images = micro(seed, "power-of-two")
    artifact = FpgaToolchain().build(network, device, tmp_path)
    for image, expected in zip(images[:3], reference_outputs(network, images)):
        [found] = board.outputs(artifact, [image], TIMEOUT_S)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    price = read_price(tmp_path)
    assert simulated(board) == price.parts["accelerator"]
    assert board.run(artifact, 3, TIMEOUT_S).cycles == (price.total,) * 3


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scales", ["power-of-two", "free"])
def test_networks_of_other_kinds(name: str, scales: ScaleRule, tmp_path: Path) -> None:
    """Attention (weights that are computed stay on the CPU), pools, concatenation, groups, a cell network."""
    import torch

    torch.manual_seed(0)
    module, shape = NETWORKS[name]()
    rng = np.random.default_rng(0)
    images = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]
    network = quantize(export(module.eval(), shape), images, scales)
    board, device = VerilatorRunner().open(load_device(SMALL)), load_device(SMALL)
    try:
        artifact = FpgaToolchain().build(network, device, tmp_path)
        assert any(isinstance(step, CoreStep) for step in read_program(tmp_path).steps)
        for image, expected in zip(images[:2], reference_outputs(network, images)):
            [found] = board.outputs(artifact, [image], TIMEOUT_S)
            if scales == "power-of-two":
                np.testing.assert_array_equal(found, expected)
            else:
                np.testing.assert_allclose(found, expected, atol=0.1 * float(np.abs(expected).max()))
    finally:
        board.close()


def convolved(product: Product, image: np.ndarray) -> np.ndarray:
    """hwnas' integer reference of a product over an image (n x h x w x c)."""
    from tests.firmware.test_fpga_driver import convolved as definition

    return definition(product, image)


def test_free_scales_are_the_integer_reference_and_within_a_step_of_onnxruntime(tmp_path: Path) -> None:
    """Kernel by kernel: both get the same integers, onnxruntime computes in float32."""
    device = load_device(SMALL)
    network, _ = micro(3, "free")
    graph = unshare(view(network))
    cutter, rng = Cutter(network, graph), np.random.default_rng(0)
    board = VerilatorRunner().open(device)
    counted = differing = 0
    try:
        for k, kernel in enumerate(placed_kernels(graph, rules(array_of(device)), prefix_only=False)):
            if kernel.rule is None:
                continue
            piece = cutter.piece("kernel", kernel.operators, kernel.inputs, kernel.outputs)
            artifact = FpgaToolchain().build(piece, device, tmp_path / str(k))
            given = rng.integers(0, 256, graph.types[kernel.inputs[0]].shape).astype(np.uint8)
            [found] = board.outputs(artifact, [given], TIMEOUT_S)
            [step] = read_program(tmp_path / str(k)).steps
            assert isinstance(step, CoreStep)
            assert step.product.kind == "multiply"
            image = verilator.to_image(given, step.layout)
            exact = verilator.from_image(convolved(step.product, image), step.layout, step.shape)
            np.testing.assert_array_equal(found, exact)
            [float32] = reference_outputs(piece, [given])
            steps = np.abs(found.astype(int) - float32.astype(int))
            assert steps.max() <= 1
            counted, differing = counted + steps.size, differing + int((steps > 0).sum())
    finally:
        board.close()
    assert counted > 5000
    assert differing <= counted // 1000


def int8_network() -> ModelProto:
    return cast(small_network(), "int8")


class TestContract(RunnerContract):
    @pytest.fixture
    def runner(self) -> VerilatorRunner:
        return VerilatorRunner()

    @pytest.fixture
    def device(self) -> Device:
        return load_device(SMALL)

    @pytest.fixture
    def artifact(self, device: Device, tmp_path: Path) -> Any:
        return FpgaToolchain().build(int8_network(), device, tmp_path / "artifact")

    def test_its_health_is_told_and_a_loop_lasts(self, runner: Any, device: Device, artifact: Any) -> None:
        """No meter can be beside a simulation, so that a loop for one is refused."""
        board = runner.open(device)
        assert board.health().complaints == ()
        with pytest.raises(DeviceUnavailable, match="no meter"):
            board.loop(artifact, 0.2, 30.0)
        board.close()


@pytest.fixture
def small_artifact(tmp_path: Path) -> Artifact:
    return FpgaToolchain().build(int8_network(), load_device(SMALL), tmp_path / "small")


@pytest.fixture
def small_board() -> Iterator[VerilatorBoard]:
    opened = VerilatorRunner().open(load_device(SMALL))
    yield opened
    opened.close()


INPUT = np.zeros((1, 1, 12, 12), np.float32)


def test_a_deadline_ends_a_run_and_the_board_goes_on(small_board: VerilatorBoard, small_artifact: Artifact) -> None:
    [expected] = small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)
    with pytest.raises(DeviceTimeout, match="deadline"):
        small_board.outputs(small_artifact, [INPUT], 0.0)
    [again] = small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)
    np.testing.assert_array_equal(again, expected)


def test_cycles_that_are_not_the_laws_are_an_error(
    small_board: VerilatorBoard, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = verilator.cycles
    monkeypatch.setattr(verilator, "cycles", lambda shape, array: law(shape, array) + 1)
    with pytest.raises(DeviceError, match=r"Conv.*: the core took \d+ cycles, and its law says \d+"):
        small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)


@pytest.mark.parametrize("inputs", [[], [INPUT, INPUT], [INPUT[:, :, 1:]], [INPUT.astype(np.float64)]])
def test_inputs_of_another_network_are_refused(
    small_board: VerilatorBoard, small_artifact: Artifact, inputs: list[np.ndarray]
) -> None:
    with pytest.raises(DeviceError, match=r"takes 1 inputs|input 'x0' is float32 \(1, 1, 12, 12\), not float"):
        small_board.outputs(small_artifact, inputs, TIMEOUT_S)


def test_a_spoiled_program_is_a_device_error(small_board: VerilatorBoard, small_artifact: Artifact) -> None:
    path = Path(small_artifact.path) / PROGRAM
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DeviceError, match="not a program|damaged"):
        small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)
    path.unlink()
    with pytest.raises(DeviceError, match="cannot be read"):
        small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)
    gone = replace(small_artifact, path=small_artifact.path + "-gone")
    with pytest.raises(DeviceError, match="no artifact"):
        small_board.outputs(gone, [INPUT], TIMEOUT_S)


def test_a_kernel_that_is_no_network_is_a_device_error(small_artifact: Artifact) -> None:
    program = read_program(Path(small_artifact.path))
    steps = tuple(s if isinstance(s, CoreStep) else replace(s, network=b"no network") for s in program.steps)
    with pytest.raises(DeviceError, match="no network that onnxruntime runs"):
        LoadedProgram(replace(program, steps=steps))
    steps = tuple(s if isinstance(s, CoreStep) else replace(s, targets=(*s.targets, "more")) for s in program.steps)
    with pytest.raises(DeviceError, match="other inputs and outputs"):
        LoadedProgram(replace(program, steps=steps))


def test_a_program_that_does_not_fit_together_is_a_device_error(
    small_board: VerilatorBoard, small_artifact: Artifact
) -> None:
    """Written with a digest that is right, by somebody who got it wrong: nothing but DeviceError escapes."""
    folder = Path(small_artifact.path)
    program = read_program(folder)
    [first, *_] = [k for k, step in enumerate(program.steps) if isinstance(step, CoreStep)]
    core = program.steps[first]
    assert isinstance(core, CoreStep)

    def attempt(changed: Program, message: str) -> None:
        write_program(changed, folder)
        os.utime(folder / DESCRIPTION, ns=(next(stamps), next(stamps)))
        with pytest.raises(DeviceError, match=message):
            small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)

    def with_step(step: CoreStep | HostStep, at: int = first) -> Program:
        return replace(program, steps=(*program.steps[:at], step, *program.steps[at + 1 :]))

    stamps = itertools.count(1)
    attempt(replace(program, array=Array(8, 8, steps=16, words=16)), "does not fit the 8x8 array")
    attempt(with_step(replace(core, product=replace(core.product, dtype="int8"))), "takes int8 .*, not uint8")
    attempt(with_step(replace(core, source=program.inputs[0].storage)), "takes uint8 .*, not float32")
    attempt(
        with_step(replace(core, product=replace(core.product, entries=core.product.entries + 99))), "shifts must be"
    )
    host = next(s for s in program.steps if isinstance(s, HostStep) and s.sources != (program.inputs[0].storage,))
    attempt(
        with_step(replace(host, sources=(program.inputs[0].storage,)), program.steps.index(host)), "cannot be computed"
    )


def test_without_verilator_prices_are_told_and_outputs_say_what_to_install(
    small_board: VerilatorBoard, small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    build.verilator_version.cache_clear()
    assert small_board.run(small_artifact, 3, TIMEOUT_S).cycles
    with pytest.raises(BuildError, match="apt-get install") as caught:
        small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)
    assert caught.value.exit_code == 4


def test_a_closed_board_computes_nothing(small_board: VerilatorBoard, small_artifact: Artifact) -> None:
    small_board.close()
    with pytest.raises(DeviceUnavailable, match="closed"):
        small_board.outputs(small_artifact, [INPUT], TIMEOUT_S)
    with pytest.raises(DeviceUnavailable, match="closed"):
        small_board.run(small_artifact, 1, TIMEOUT_S)


def test_rescaled_is_what_the_reference_says() -> None:
    """The reference that these tests lean on rounds halves to even, and multiplied sums up."""
    sums = np.array([-3, -1, 1, 3, 5])
    assert rescaled(sums, "shift", 1, 0, 0, -9, 9).tolist() == [-2, 0, 0, 2, 2]
    assert rescaled(sums, "multiply", 2**31, 0, 0, -9, 9).tolist() == [-1, 0, 1, 2, 3]
