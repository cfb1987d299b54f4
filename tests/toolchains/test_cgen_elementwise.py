"""Micro-kernels element by element: products and gates, floats that become integers; on this computer and on boards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.config import load_device
from hwnas.core.artifact import LAYOUT
from hwnas.runners.firmware import FirmwareRunner
from hwnas.toolchains.cgen import CgenToolchain
from tests.toolchains.generated import Qdq, built, expected

KINDS = {"uint8": np.uint8, "int8": np.int8}


def product(a: tuple[int, ...], b: tuple[int, ...], dtypes: tuple[str, str, str], steps: tuple[float, float, float],
            clamp: bool = False) -> ModelProto:  # fmt: skip
    graph = Qdq()
    zeros = [KINDS[d](z) for d, z in zip(dtypes, (9, 3, 101))]
    x = graph.dequantize(graph.input(a, dtypes[0]), steps[0], zeros[0])
    gate = graph.dequantize(graph.input(b, dtypes[1]), steps[1], zeros[1])
    y = graph.operator("Mul", [x, gate])
    if clamp:
        y = graph.operator("Clip", [y, graph.constant(np.float32(-1)), graph.constant(np.float32(2))])
    shape = tuple(max(m, n) for m, n in zip(a, b))
    graph.output(graph.quantize(y, steps[2], zeros[2]), shape, dtypes[2])
    return graph.network()


FULL, GATE = (2, 6, 3, 5), (2, 6, 1, 1)
PRODUCTS = {
    "equal": (product(FULL, FULL, ("uint8", "uint8", "uint8"), (2.0**-5, 2.0**-6, 2.0**-4)), "multiply"),
    "gate": (product(FULL, GATE, ("uint8", "uint8", "uint8"), (2.0**-5, 2.0**-7, 2.0**-5)), "gate"),
    "gate-first": (product(GATE, FULL, ("int8", "uint8", "int8"), (2.0**-6, 2.0**-5, 2.0**-5)), "gate"),
    "gate-of-one-image": (product(FULL, (1, 6, 1, 1), ("uint8", "int8", "uint8"), (2.0**-5, 2.0**-7, 2.0**-4), True), "gate"),
    "lifted": (product(FULL, GATE, ("uint8", "uint8", "uint8"), (2.0**-2, 2.0**-1, 2.0**-3)), "gate"),
    "free": (product(FULL, GATE, ("uint8", "uint8", "int8"), (0.031, 0.0071, 0.033)), "gate"),
    "free-equal": (product(FULL, FULL, ("int8", "int8", "uint8"), (0.031, 0.0271, 0.053), True), "multiply"),
}  # fmt: skip


def integers(network: ModelProto, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for value in network.graph.input:
        kind = np.iinfo(np.uint8 if value.type.tensor_type.elem_type == 2 else np.int8)
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        found.append(rng.integers(kind.min, kind.max, shape, kind.dtype, endpoint=True))
    return found


def code(folder: Path) -> str:
    return str(json.loads((folder / LAYOUT).read_text())["code"][0])


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    network, kernel = PRODUCTS[name]
    loaded = built(network, tmp_path, "scalar")
    assert code(tmp_path).startswith(kernel)
    for seed in range(5):
        inputs = integers(network, seed)
        np.testing.assert_array_equal(loaded.outputs(inputs)[0], expected(network, inputs)[0])


def quantized(step: float, dtype: str = "uint8", zero: int = 121, count: int = 4096) -> ModelProto:
    graph = Qdq()
    graph.output(graph.quantize(graph.input((1, count), "float32"), step, KINDS[dtype](zero)), (1, count), dtype)
    return graph.network()


def floats(step: float) -> np.ndarray:
    """All halves of steps around a grid, their neighbours, and the extremes."""
    halves = (np.arange(-600, 600) / 2 * step).astype(np.float32)
    extremes = np.array([0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-38, -1e-38, 1e-45, 512.5 * step, -32768.5 * step])
    drawn = np.random.default_rng(0).standard_normal(4096 - 3 * 1200 - 11) * 100 * step
    parts = [
        halves,
        np.nextafter(halves, np.float32(np.inf)),
        np.nextafter(halves, np.float32(-np.inf)),
        extremes,
        drawn,
    ]
    return np.concatenate(parts).astype(np.float32)[None]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("step", [2.0**-5, 1.0, 2.0**3, 0.0271])
def test_floats_become_integers_as_onnxruntime_rounds(step: float, dtype: str, tmp_path: Path) -> None:
    network = quantized(step, dtype)
    loaded = built(network, tmp_path, "scalar")
    assert code(tmp_path) == "quantize/scalar"
    np.testing.assert_array_equal(loaded.outputs([floats(step)])[0], expected(network, [floats(step)])[0])


@pytest.mark.parametrize("name", ["cortex-m3-qemu", "cortex-m4-qemu"])
def test_boards_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    device = load_device(name)
    cases = [(quantized(step), [floats(step)]) for step in (2.0**-5, 0.0271)]
    cases += [(network, integers(network, 1)) for network, _ in PRODUCTS.values()]
    board = FirmwareRunner().open(device)
    try:
        artifacts = [CgenToolchain().build(network, device, tmp_path / str(k)) for k, (network, _) in enumerate(cases)]
        board.stage(artifacts)
        for artifact, (network, inputs) in zip(artifacts, cases):
            np.testing.assert_array_equal(board.outputs(artifact, inputs, 60)[0], expected(network, inputs)[0])
    finally:
        board.close()
