"""MVE kernels: the integers of generated reference code, from portable C on this computer and from an emulated M55."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.config import load_device
from hwnas.core.artifact import LAYOUT
from hwnas.runners.firmware import FirmwareBoard
from hwnas.runners.stations import QemuStation
from hwnas.toolchains.cgen import CgenToolchain
from hwnas.toolchains.cgen.kernels import pooling_mve, sums_mve
from tests.toolchains import sanitised
from tests.toolchains.generated import Qdq, built, expected

TIMEOUT_S = 60.0
STEP = 2.0**-5
CASES = [(dtype, kind) for dtype in ("uint8", "int8") for kind in ("shift", "multiply")]
SANITISED, PORTABLE = (CASES[0], CASES[3]), (CASES[1], CASES[2])
"""Cases whose portable C runs on this computer, with sanitizers or in full."""


@dataclass
class Drawing:
    """One network of a few operators on the same inputs: what a board says of a network has to fit into one frame."""

    dtype: str
    kind: str
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.graph = Qdq()
        self.type = np.dtype(self.dtype).type
        self.factor = 1.0 if self.kind == "shift" else 0.93
        self.inputs: dict[tuple[tuple[int, ...], float], str] = {}

    def zero(self) -> Any:
        info = np.iinfo(self.type)
        return self.type(self.rng.integers(info.min, info.max, endpoint=True))

    def activation(self, shape: Sequence[int], step: float = STEP) -> str:
        key = (tuple(shape), step)
        if key not in self.inputs:
            stored = self.graph.input(shape, self.dtype)
            self.inputs[key] = self.graph.dequantize(stored, step * self.factor, self.zero())
        return self.inputs[key]

    def result(self, real: str, shape: Sequence[int], step: float, *, clamp: bool = False) -> None:
        if clamp:
            real = self.graph.operator("Relu", [real])
        self.graph.output(self.graph.quantize(real, step * self.factor**2, self.zero()), shape, self.dtype)

    def weights(self, shape: Sequence[int]) -> tuple[str, np.ndarray]:
        exponents = self.rng.integers(-12, -8, shape[0])
        scale = (np.exp2(exponents.astype(np.float64)) * self.factor).astype(np.float32)
        values = self.rng.integers(-128, 128, shape).astype(np.int8)
        return self.graph.dequantize(self.graph.constant(values), scale, np.zeros(shape[0], np.int8), 0), scale

    def bias(self, scale: np.ndarray) -> str:
        steps = (scale * np.float32(STEP * self.factor)).astype(np.float32)
        values = self.rng.integers(-3000, 3000, len(scale)).astype(np.int32)
        return self.graph.dequantize(self.graph.constant(values), steps, np.zeros(len(scale), np.int32), 0)

    def convolution(self, size: Sequence[int], outputs: int, window: Sequence[int], groups: int = 1,
                    strides: Sequence[int] = (1, 1), dilations: Sequence[int] = (1, 1),
                    pads: Sequence[int] = (0, 0, 0, 0), clamp: bool = False) -> None:  # fmt: skip
        height, width, channels = size
        w, scale = self.weights((outputs, channels // groups, *window))
        operands = [self.activation((1, channels, height, width)), w, self.bias(scale)]
        y = self.graph.operator("Conv", operands, strides=list(strides), dilations=list(dilations), pads=list(pads),
                                group=groups)  # fmt: skip
        extents = [
            (extent + pads[k] + pads[k + 2] - dilations[k] * (window[k] - 1) - 1) // strides[k] + 1
            for k, extent in enumerate((height, width))
        ]
        self.result(y, (1, outputs, *extents), 2.0**-4, clamp=clamp)

    def drawn(self, size: Sequence[int], *, depthwise: bool = False) -> None:
        """A convolution of which all but the input is drawn."""
        window = [int(v) for v in self.rng.integers(1, 6, 2)]
        pads = [int(self.rng.integers(0, window[k % 2])) for k in range(4)]
        strides = [int(v) for v in self.rng.integers(1, 3, 2)]
        outputs, groups = (size[2], size[2]) if depthwise else (int(self.rng.integers(1, 20)), 1)
        self.convolution(size, outputs, window, groups, strides=strides, pads=pads)

    def dense(self, inputs: int, outputs: int, rows: int = 1) -> None:
        w, scale = self.weights((outputs, inputs))
        y = self.graph.operator("Gemm", [self.activation((rows, inputs)), w, self.bias(scale)], transB=1)
        self.result(y, (rows, outputs), 2.0**-4)

    def pool(self, op: str, size: Sequence[int], window: Sequence[int] = (), step: float = STEP,
             strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), **more: Any) -> None:  # fmt: skip
        height, width, channels = size
        x = self.activation((1, channels, height, width))
        if not window:
            self.result(self.graph.operator(op, [x]), (1, channels, 1, 1), step)
            return
        y = self.graph.operator(op, [x], kernel_shape=list(window), strides=list(strides), pads=list(pads), **more)
        extents = [
            (extent + pads[k] + pads[k + 2] - window[k]) // strides[k] + 1 for k, extent in enumerate((height, width))
        ]
        self.result(y, (1, channels, *extents), step)

    def pair(self, op: str, shape: Sequence[int], other: Sequence[int] | None = None, *, turned: bool = False) -> None:
        operands = [self.activation(shape), self.activation(other or shape, STEP / 4)]
        step = 2.0**-2 if op == "Mul" else STEP
        self.result(self.graph.operator(op, operands[::-1] if turned else operands), shape, step)

    def unary(self, op: str, shape: Sequence[int]) -> None:
        self.result(self.graph.operator(op, [self.activation(shape)]), shape, 2.0**-7)


def sixteen_channels(drawing: Drawing, size: Sequence[int] = (9, 11, 16)) -> None:
    drawing.convolution(size, 16, (3, 3), pads=(1, 1, 1, 1), clamp=True)
    drawing.convolution(size, 24, (1, 1))
    drawing.convolution(size, 7, (1, 1), strides=(2, 2))
    drawing.convolution(size, 12, (3, 3), 2, dilations=(2, 2), pads=(2, 2, 2, 2))
    drawing.convolution(size, 16, (3, 3), 16, pads=(1, 1, 1, 1), clamp=True)
    drawing.pool("MaxPool", size, (2, 2), 4 * STEP, strides=(2, 2))


def one_channel(drawing: Drawing, size: Sequence[int] = (13, 6, 1)) -> None:
    drawing.convolution(size, 9, (10, 4), strides=(2, 2), pads=(4, 1, 5, 1))
    drawing.convolution(size, 5, (1, 1))
    drawing.drawn(size)
    drawing.pool("AveragePool", size, (3, 2), pads=(1, 0, 1, 1), count_include_pad=1)
    drawing.unary("Sigmoid", (1, 1, 13, 6))


def three_channels(drawing: Drawing, size: Sequence[int] = (11, 9, 3)) -> None:
    drawing.convolution(size, 13, (3, 3), strides=(2, 2), pads=(0, 1, 1, 1))
    drawing.convolution(size, 3, (3, 3), 3, pads=(1, 1, 1, 1))
    drawing.drawn(size)
    drawing.pool("GlobalAveragePool", size)
    drawing.pool("MaxPool", size, (3, 3), pads=(1, 1, 1, 1))
    drawing.pool("AveragePool", size, (3, 3), strides=(2, 1), pads=(1, 1, 1, 1))


def odd_channels(drawing: Drawing, size: Sequence[int] = (8, 8, 27)) -> None:
    drawing.convolution(size, 27, (5, 5), 27, pads=(2, 2, 2, 2))
    drawing.convolution(size, 27, (3, 3), 27, strides=(2, 2), pads=(0, 0, 1, 1), clamp=True)
    drawing.convolution(size, 27, (3, 3), 27, dilations=(2, 2), pads=(2, 2, 2, 2))
    drawing.drawn(size, depthwise=True)
    drawing.pool("GlobalAveragePool", size)
    drawing.pool("AveragePool", size, (2, 2), strides=(2, 2))


def large(drawing: Drawing, size: Sequence[int] = (18, 17, 40)) -> None:
    drawing.pool("GlobalAveragePool", size)
    drawing.convolution(size, 6, (1, 1), clamp=True)
    drawing.convolution(size, 40, (3, 3), 40, pads=(0, 0, 1, 1))


def pairs(drawing: Drawing, shape: Sequence[int] = (1, 20, 4, 3)) -> None:
    drawing.pair("Add", shape)
    drawing.pair("Mul", shape)
    drawing.pair("Mul", shape, (1, 20, 1, 1))
    drawing.pair("Mul", shape, (1, 20, 1, 1), turned=True)


def dense(drawing: Drawing) -> None:
    drawing.dense(82, 10)
    drawing.dense(82, 3)
    drawing.dense(5, 6, rows=3)
    drawing.pair("Add", (1, 13, 3, 3))
    drawing.pair("Sub", (1, 13, 3, 3))


def networks(dtype: str, kind: str) -> Iterator[ModelProto]:
    rng = np.random.default_rng(0)
    for fill in (sixteen_channels, one_channel, three_channels, odd_channels, large, pairs, dense):
        drawing = Drawing(dtype, kind, rng)
        fill(drawing)
        yield drawing.graph.network()


def draw(network: ModelProto, seed: int) -> list[np.ndarray]:
    """Inputs of a network: the whole range of their type."""
    rng = np.random.default_rng(seed)
    kinds = {2: np.uint8, 3: np.int8}
    inputs = []
    for value in network.graph.input:
        kind = kinds[value.type.tensor_type.elem_type]
        limits, shape = np.iinfo(kind), [d.dim_value for d in value.type.tensor_type.shape.dim]
        inputs.append(rng.integers(limits.min, limits.max, shape, endpoint=True).astype(kind))
    return inputs


def codes(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / LAYOUT).read_text())["code"]
    return found


def reference(network: ModelProto, kind: str, inputs: Sequence[Sequence[np.ndarray]], folder: Path) -> list[Any]:
    """What has to come out for each of the inputs: onnxruntime's integers, or those of generated reference code."""
    if kind == "shift":
        return [expected(network, one) for one in inputs]
    loaded = built(network, folder)
    return [loaded.outputs(list(one)) for one in inputs]


@dataclass(frozen=True)
class Computed:
    """Outputs of a network for some inputs: what they have to be, of portable C, and (of the first inputs) of a board."""

    network: ModelProto
    codes: list[str]
    wanted: list[Any]
    portable: list[Any]
    board: Any


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Computed]]:
    """All networks of each case; the board runs them from one image."""
    device, folder = load_device("cortex-m55-qemu"), tmp_path_factory.mktemp("mve")
    assert device.emulator is not None
    made = [(case, network) for case in CASES for network in networks(*case)]
    artifacts = [CgenToolchain().build(network, device, folder / f"board{k}") for k, (_, network) in enumerate(made)]
    board = FirmwareBoard(device, QemuStation(device.emulator, "test"))
    found: dict[tuple[str, str], list[Computed]] = {case: [] for case in CASES}
    try:
        board.stage(artifacts)
        for k, ((case, network), artifact) in enumerate(zip(made, artifacts)):
            inputs = [draw(network, seed) for seed in range(3)]
            loaded = built(network, folder / f"host{k}", core="mve") if case in PORTABLE else None
            layout = json.loads((Path(artifact.path) / LAYOUT).read_text())
            found[case].append(
                Computed(network, layout["code"], reference(network, case[1], inputs, folder / f"wanted{k}"),
                         [loaded.outputs(one) for one in inputs] if loaded else [], board.outputs(artifact, inputs[0], TIMEOUT_S))
            )  # fmt: skip
    finally:
        board.close()
    return found


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_every_operator_has_a_kernel(dtype: str, kind: str, computed: dict[tuple[str, str], list[Computed]]) -> None:
    for one in computed[dtype, kind]:
        assert all("/mve" in code for code in one.codes), one.codes


@pytest.mark.parametrize(("dtype", "kind"), PORTABLE)
def test_portable_c_gives_the_integers_of_the_reference(
    dtype: str, kind: str, computed: dict[tuple[str, str], list[Computed]]
) -> None:
    for one in computed[dtype, kind]:
        for ours, wanted in zip(one.portable, one.wanted, strict=True):
            _same(one.network, ours, wanted)


@pytest.mark.parametrize(("dtype", "kind"), CASES)
def test_an_emulated_m55_gives_the_integers_of_the_reference(
    dtype: str, kind: str, computed: dict[tuple[str, str], list[Computed]]
) -> None:
    for one in computed[dtype, kind]:
        _same(one.network, one.board, one.wanted[0])


def _same(network: ModelProto, ours: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    for value, one, other in zip(network.graph.output, ours, wanted, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=value.name)


def test_weights_take_their_own_bytes_in_flash() -> None:
    for outputs, depth in ((16, 144), (10, 64), (5, 27), (1, 16), (64, 40)):
        rows = np.arange(outputs * depth).reshape(outputs, depth) % 256 - 128
        packed = sums_mve._blocks(rows)
        assert packed.nbytes == rows.size and sorted(packed.tolist()) == sorted(rows.reshape(-1).tolist())


def test_reciprocals_divide_exactly() -> None:
    rng = np.random.default_rng(0)
    for divisor in [2, 3, 4, 5, 7, 9, 49, 64, 576, 2**14, 2**14 - 1, *rng.integers(2, 2**14, 50).tolist()]:
        power = (divisor - 1).bit_length() - 1
        factor = pooling_mve._reciprocal(divisor)
        assert factor < 2**32
        numbers = [0, 1, divisor - 1, divisor, 2**31 - 1, *rng.integers(0, 2**31, 200).tolist()]
        multiples = [n // divisor * divisor + k for n in numbers for k in (0, -1) if n >= divisor]
        for number in (*numbers, *multiples):
            assert (number * factor >> 32) >> power == number // divisor


@pytest.mark.parametrize(("dtype", "kind"), SANITISED)
def test_no_sanitizer_objects_to_portable_c(dtype: str, kind: str, tmp_path: Path) -> None:
    rng, made = np.random.default_rng(3), []
    for fill in (
        lambda drawing: drawing.convolution((9, 7, 3), 13, (3, 3), strides=(2, 2), pads=(0, 1, 1, 1)),
        lambda drawing: drawing.convolution((6, 5, 8), 12, (3, 3), 2, dilations=(2, 2), pads=(2, 2, 2, 2)),
        lambda drawing: drawing.convolution((5, 3, 17), 6, (1, 1)),
        lambda drawing: drawing.convolution((8, 7, 19), 19, (3, 3), 19, pads=(1, 1, 1, 1)),
        lambda drawing: drawing.convolution((7, 9, 19), 19, (3, 3), 19, pads=(1, 2, 1, 1)),
        lambda drawing: drawing.drawn((7, 8, 5), depthwise=True),
        lambda drawing: drawing.dense(37, 5, rows=3),
        lambda drawing: drawing.pool("AveragePool", (7, 6, 12), (3, 3), strides=(2, 1), pads=(1, 1, 1, 1)),
        lambda drawing: drawing.pool("MaxPool", (7, 6, 12), (3, 3), strides=(2, 1), pads=(1, 1, 1, 1)),
        lambda drawing: drawing.pool("GlobalAveragePool", (18, 17, 5)),
        lambda drawing: drawing.pair("Sub", (1, 5, 3, 3)),
        lambda drawing: drawing.pair("Mul", (1, 9, 4, 3), (1, 9, 1, 1), turned=True),
    ):
        drawing = Drawing(dtype, kind, rng)
        fill(drawing)
        made.append(drawing.graph.network())
    inputs = [draw(network, 1) for network in made]
    found = sanitised.outputs(made, inputs, "mve", tmp_path)
    for k, (network, ours) in enumerate(zip(made, found)):
        [wanted] = reference(network, kind, [inputs[k]], tmp_path / f"wanted{k}")
        _same(network, [ours], wanted)
