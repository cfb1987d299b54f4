"""Each operator on integers: bit-identical to onnxruntime where scales are powers of two, else to within rare ties."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.errors import UnsupportedOperator
from hwnas.graph.fusion import split
from hwnas.toolchains.cgen.program import read_program
from tests.toolchains.generated import Qdq, built, expected

STEP = 2.0**-5
IMAGES = 12


def same(network: ModelProto, folder: Path, images: int = IMAGES, tolerance: float = 0.0) -> None:
    """Generated code and onnxruntime agree bit for bit; a tolerance is the share of elements that may be one off."""
    loaded = built(network, folder)
    rng = np.random.default_rng(0)
    total = differs = 0
    for _ in range(images):
        inputs = [_draw(rng, value) for value in network.graph.input]
        for ours, theirs in zip(loaded.outputs(inputs), expected(network, inputs), strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            off = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
            if ours.dtype != np.float32 and tolerance:
                assert off.max() <= 1
            total, differs = total + off.size, differs + int((off > 0).sum())
    assert differs <= tolerance * total, f"{differs} of {total} elements differ"


def _draw(rng: np.random.Generator, value: Any) -> np.ndarray:
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    kind = {1: np.float32, 2: np.uint8, 3: np.int8}[value.type.tensor_type.elem_type]
    if kind is np.float32:
        return rng.standard_normal(shape).astype(np.float32) * 3
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)


def convolution(
    shape: Sequence[int],
    weights: Sequence[int],
    out: Sequence[int],
    *,
    clamp: str = "",
    dtype: str = "uint8",
    zero: int = 117,
    per_channel: bool = True,
    real_scales: bool = False,
    bias: bool = True,
    float_output: bool = False,
    **attributes: Any,
) -> ModelProto:
    """A quantised convolution with an optional clamp."""
    rng = np.random.default_rng(1)
    graph, kind = Qdq(), np.dtype(dtype).type
    channels = weights[0]
    factor = 0.93 if real_scales else 1.0
    x = graph.dequantize(graph.input(shape, dtype), STEP * factor, kind(zero))
    exponents = rng.integers(-12, -7, channels) if per_channel else -9
    scale = np.exp2(np.asarray(exponents, np.float32)) * np.float32(factor)
    values = rng.integers(-127, 128, weights).astype(np.int8)
    w = graph.dequantize(graph.constant(values), scale, np.zeros(scale.shape, np.int8), 0 if per_channel else None)
    operands = [x, w]
    if bias:
        steps = (scale * np.float32(STEP * factor)).astype(np.float32)
        stored = graph.constant(rng.integers(-3000, 3000, channels).astype(np.int32))
        operands.append(graph.dequantize(stored, steps, np.zeros(steps.shape, np.int32), 0 if per_channel else None))
    y = graph.operator("Conv", operands, **attributes)
    if clamp == "Relu":
        y = graph.operator("Relu", [y])
    elif clamp == "Clip":
        y = graph.operator("Clip", [y, graph.constant(np.float32(0)), graph.constant(np.float32(6))])
    if float_output:
        graph.output(y, out, "float32")
    else:
        graph.output(graph.quantize(y, 2.0**-4 * factor, kind(0 if clamp else 101)), out, dtype)
    return graph.network()


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "3x3": {"shape": (1, 3, 9, 8), "weights": (8, 3, 3, 3), "out": (1, 8, 9, 8), "pads": [1, 1, 1, 1]},
    "1x1": {"shape": (1, 8, 5, 5), "weights": (12, 8, 1, 1), "out": (1, 12, 5, 5), "clamp": "Clip"},
    "strided": {"shape": (1, 4, 9, 9), "weights": (6, 4, 3, 3), "out": (1, 6, 5, 5), "pads": [1, 1, 1, 1], "strides": [2, 2]},
    "depthwise": {"shape": (1, 8, 7, 7), "weights": (8, 1, 3, 3), "out": (1, 8, 7, 7), "pads": [1, 1, 1, 1], "group": 8,
                      "clamp": "Relu"},
    "depthwise-5-strided": {"shape": (1, 6, 11, 9), "weights": (6, 1, 5, 5), "out": (1, 6, 6, 5), "pads": [2, 2, 2, 2],
                                "strides": [2, 2], "group": 6},
    "multiplied": {"shape": (1, 3, 6, 6), "weights": (6, 1, 3, 3), "out": (1, 6, 4, 4), "group": 3},
    "grouped": {"shape": (1, 8, 6, 6), "weights": (4, 4, 3, 3), "out": (1, 4, 6, 6), "pads": [1, 1, 1, 1], "group": 2},
    "dilated": {"shape": (1, 2, 9, 9), "weights": (3, 2, 3, 3), "out": (1, 3, 5, 5), "dilations": [2, 2]},
    "uneven": {"shape": (1, 2, 7, 6), "weights": (3, 2, 2, 4), "out": (1, 3, 6, 6), "pads": [0, 1, 0, 2]},
    "per-tensor": {"shape": (1, 2, 5, 5), "weights": (3, 2, 3, 3), "out": (1, 3, 3, 3), "per_channel": False},
    "no-bias": {"shape": (1, 2, 5, 5), "weights": (3, 2, 3, 3), "out": (1, 3, 3, 3), "bias": False},
    "signed": {"shape": (1, 2, 5, 5), "weights": (3, 2, 3, 3), "out": (1, 3, 5, 5), "pads": [1, 1, 1, 1], "dtype": "int8", "zero": -7},
    "one-dimensional": {"shape": (1, 3, 16), "weights": (4, 3, 5), "out": (1, 4, 16), "pads": [2, 2]},
    "to-float": {"shape": (1, 2, 5, 5), "weights": (3, 2, 3, 3), "out": (1, 3, 3, 3), "float_output": True},
    "one-channel": {"shape": (1, 1, 8, 8), "weights": (4, 1, 3, 3), "out": (1, 4, 4, 4), "pads": [1, 1, 1, 1], "strides": [2, 2]},
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_bit_identical(name: str, tmp_path: Path) -> None:
    same(convolution(**CONVOLUTIONS[name]), tmp_path)


@pytest.mark.parametrize("name", ["3x3", "1x1", "depthwise", "signed"])
def test_convolutions_of_any_scale_agree_but_for_ties(name: str, tmp_path: Path) -> None:
    same(convolution(**CONVOLUTIONS[name], real_scales=True), tmp_path, tolerance=0.005)


def test_a_kernel_is_one_group_and_no_more(tmp_path: Path) -> None:
    for name, given in CONVOLUTIONS.items():
        network = convolution(**given)
        program, parts = read_program(network), split(network, "cgen")
        assert [s.workload.id for s in program.steps] == list(parts.order), name
        assert all(step.recipe is not None for step in program.steps), name


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("to_float", [False, True])
def test_gemm(transposed: bool, to_float: bool, tmp_path: Path) -> None:
    rng, graph = np.random.default_rng(2), Qdq()
    x = graph.dequantize(graph.input((1, 24)), STEP, np.uint8(3))
    axis = 0 if transposed else 1
    w = graph.weights(rng, (10, 24) if transposed else (24, 10), rng.integers(-12, -8, 10), axis)
    steps = graph.graph.initializer[-2]
    scale = np.frombuffer(steps.raw_data, np.float32) * np.float32(STEP)
    bias = graph.constant(rng.integers(-2000, 2000, 10).astype(np.int32))
    b = graph.dequantize(bias, scale, np.zeros(10, np.int32), 0)
    y = graph.operator("Gemm", [x, w, b], transB=int(transposed))
    graph.output(
        y if to_float else graph.quantize(y, 2.0**-4, np.uint8(128)), (1, 10), "float32" if to_float else "uint8"
    )
    same(graph.network(), tmp_path)


def test_matmul_of_more_axes(tmp_path: Path) -> None:
    rng, graph = np.random.default_rng(2), Qdq()
    x = graph.dequantize(graph.input((1, 3, 16)), STEP, np.uint8(9))
    w = graph.weights(rng, (16, 5), -10)
    graph.output(graph.quantize(graph.operator("MatMul", [x, w]), 2.0**-4, np.uint8(128)), (1, 3, 5))
    same(graph.network(), tmp_path)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("steps", [(2.0**-5, 2.0**-5, 2.0**-5), (2.0**-7, 2.0**-3, 2.0**-4), (2.0**-4, 2.0**-4, 2.0**-8),
                                   (2.0**-6, 2.0**-7, 2.0**-1)])  # fmt: skip
def test_sums_and_products_of_different_grids(op: str, steps: tuple[float, float, float], tmp_path: Path) -> None:
    graph = Qdq()
    a = graph.dequantize(graph.input((1, 4, 5, 6)), steps[0], np.uint8(7))
    b = graph.dequantize(graph.input((1, 4, 5, 6)), steps[1], np.uint8(130))
    graph.output(graph.quantize(graph.operator(op, [a, b]), steps[2], np.uint8(111)), (1, 4, 5, 6))
    same(graph.network(), tmp_path)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_sums_and_products_of_any_scale_are_identical_too(op: str, tmp_path: Path) -> None:
    graph = Qdq()
    a = graph.dequantize(graph.input((1, 4, 5, 6)), 0.0371, np.uint8(7))
    b = graph.dequantize(graph.input((1, 4, 5, 6)), 0.0113, np.uint8(130))
    graph.output(graph.quantize(graph.operator(op, [a, b]), 0.0519, np.uint8(111)), (1, 4, 5, 6))
    same(graph.network(), tmp_path)


def test_a_gate_is_broadcast_and_a_constant_may_be_an_operand(tmp_path: Path) -> None:
    graph = Qdq()
    x = graph.dequantize(graph.input((1, 4, 5, 6)), 2.0**-5, np.uint8(7))
    gate = graph.dequantize(graph.input((1, 4, 1, 1)), 2.0**-8, np.uint8(0))
    y = graph.quantize(graph.operator("Mul", [gate, x]), 2.0**-5, np.uint8(9))
    stored = graph.constant(np.arange(4, dtype=np.uint8).reshape(4, 1, 1) * 60)
    z = graph.operator(
        "Add", [graph.dequantize(y, 2.0**-5, np.uint8(9)), graph.dequantize(stored, 2.0**-6, np.uint8(90))]
    )
    graph.output(graph.quantize(z, 2.0**-4, np.uint8(30)), (1, 4, 5, 6))
    same(graph.network(), tmp_path)


def test_an_operand_may_come_twice(tmp_path: Path) -> None:
    graph = Qdq()
    x = graph.dequantize(graph.input((1, 4, 5, 6)), 2.0**-5, np.uint8(7))
    graph.output(graph.quantize(graph.operator("Add", [x, x]), 2.0**-4, np.uint8(7)), (1, 4, 5, 6))
    same(graph.network(), tmp_path)


POOLS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "global": ("GlobalAveragePool", (1, 4, 1, 1), {}),
    "mean": ("ReduceMean", (1, 4, 1, 1), {"keepdims": 1}),
    "mean-without-axes": ("ReduceMean", (1, 4), {"keepdims": 0}),
    "average": ("AveragePool", (1, 4, 3, 3), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    "average-of-a-border": ("AveragePool", (1, 4, 7, 7), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "average-with-border": ("AveragePool", (1, 4, 7, 7), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1],
                                                           "count_include_pad": 1}),
    "max": ("MaxPool", (1, 4, 4, 4), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("step", [2.0**-5, 2.0**-7, 2.0**-3])
def test_pools(name: str, step: float, tmp_path: Path) -> None:
    op, out, attributes = POOLS[name]
    graph = Qdq()
    x = graph.dequantize(graph.input((1, 4, 7, 7)), 2.0**-5, np.uint8(13))
    axes = [graph.constant(np.array([2, 3], np.int64))] if op == "ReduceMean" else []
    graph.output(graph.quantize(graph.operator(op, [x, *axes], **attributes), step, np.uint8(17)), out)
    same(graph.network(), tmp_path)


@pytest.mark.parametrize("size", [(28, 28), (56, 56), (5, 3), (100, 100)])
@pytest.mark.parametrize("step", [2.0**-6, 2.0**-13])
def test_means_of_many_elements_are_bit_identical(size: tuple[int, int], step: float, tmp_path: Path) -> None:
    graph = Qdq()
    x = graph.dequantize(graph.input((1, 64, *size)), 2.0**-5, np.uint8(127))
    y = graph.operator("ReduceMean", [x, graph.constant(np.array([-1, -2], np.int64))], keepdims=1)
    graph.output(graph.quantize(y, step, np.uint8(90)), (1, 64, 1, 1))
    same(graph.network(), tmp_path, images=6)


@pytest.mark.parametrize("steps", [(2.0**-5, 2.0**-5), (2.0**-6, 2.0**-3), (0.011, 0.017)])
def test_concat(steps: tuple[float, float], tmp_path: Path) -> None:
    graph = Qdq()
    a = graph.dequantize(graph.input((1, 2, 4, 4)), steps[0], np.uint8(13))
    b = graph.dequantize(graph.input((1, 5, 4, 4)), steps[1], np.uint8(130))
    c = graph.dequantize(graph.input((1, 1, 4, 4)), steps[0], np.uint8(0))
    graph.output(graph.quantize(graph.operator("Concat", [a, b, c], axis=1), steps[1], np.uint8(17)), (1, 8, 4, 4))
    same(graph.network(), tmp_path)


UNARY: dict[str, dict[str, Any]] = {
    "Relu": {}, "Sigmoid": {}, "Tanh": {}, "HardSigmoid": {"alpha": 1 / 6, "beta": 0.5}, "HardSwish": {}, "Erf": {},
    "LeakyRelu": {"alpha": 0.1}, "Elu": {},
}  # fmt: skip


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_unary_operators_are_tables(op: str, dtype: str, tmp_path: Path) -> None:
    graph, kind = Qdq(), np.dtype(dtype).type
    x = graph.dequantize(graph.input((1, 4, 16, 16), dtype), 0.043, kind(100))
    graph.output(graph.quantize(graph.operator(op, [x], **UNARY[op]), 0.011, kind(50)), (1, 4, 16, 16), dtype)
    network = graph.network()
    assert [array.values.nbytes for array in read_program(network).constants] == [256]
    same(network, tmp_path)


@pytest.mark.parametrize("step", [2.0**-5, 0.0271])
def test_both_ends_of_a_quantised_network(step: float, tmp_path: Path) -> None:
    graph = Qdq()
    x = graph.quantize(graph.input((1, 3, 40, 40), "float32"), step, np.uint8(121))
    graph.output(graph.dequantize(x, step, np.uint8(121)), (1, 3, 40, 40), "float32")
    same(graph.network(), tmp_path)


def test_ties_round_to_even_at_the_input(tmp_path: Path) -> None:
    graph = Qdq()
    graph.output(graph.quantize(graph.input((1, 600), "float32"), 1.0, np.uint8(0)), (1, 600))
    network = graph.network()
    x = (np.arange(600, dtype=np.float32) / 2 - 20)[None]
    [ours] = built(network, tmp_path).outputs([x])
    np.testing.assert_array_equal(ours, expected(network, [x])[0])


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38, -3e38, 0.0])
def test_extreme_inputs_saturate(value: float, tmp_path: Path) -> None:
    graph = Qdq()
    graph.output(graph.quantize(graph.input((1, 4), "float32"), 2.0**-5, np.uint8(100)), (1, 4))
    x = np.full((1, 4), value, np.float32)
    [ours] = built(graph.network(), tmp_path).outputs([x])
    assert set(ours.reshape(-1)) == {255 if value > 0 else 0 if value < 0 else 100}


@pytest.mark.parametrize("op", ["Transpose", "Slice", "Softmax", "Softmax-to-float", "DepthToSpace"])
def test_other_operators_within_a_group(op: str, tmp_path: Path) -> None:
    graph = Qdq()
    x = graph.dequantize(graph.input((1, 4, 4, 6)), 2.0**-5, np.uint8(7))
    out: tuple[int, ...] = (1, 4, 4, 6)
    if op == "Transpose":
        y, out = graph.operator("Transpose", [x], perm=[0, 2, 3, 1]), (1, 4, 6, 4)
    elif op == "Slice":
        bounds = [graph.constant(np.array(v, np.int64)) for v in ([1], [3], [1])]
        y, out = graph.operator("Slice", [x, *bounds]), (1, 2, 4, 6)
    elif op == "DepthToSpace":
        y, out = graph.operator("DepthToSpace", [x], blocksize=2), (1, 1, 8, 12)
    else:
        y = graph.operator("Softmax", [x], axis=-1)
    if op == "Softmax-to-float":
        graph.output(y, out, "float32")
        network = graph.network()
        xs = [np.random.default_rng(0).integers(0, 256, (1, 4, 4, 6)).astype(np.uint8)]
        np.testing.assert_allclose(built(network, tmp_path).outputs(xs)[0], expected(network, xs)[0], atol=1e-6)
        return
    step, zero = (2.0**-8, 0) if op == "Softmax" else (2.0**-5, 7)
    graph.output(graph.quantize(y, step, np.uint8(zero)), out)
    network = graph.network()
    [given] = read_program(network).steps
    assert given.recipe is None or given.part is not None
    same(network, tmp_path, tolerance=0.002 if op == "Softmax" else 0.0)


def test_a_scale_that_is_computed_is_refused() -> None:
    graph = Qdq()
    x, scale = graph.input((1, 4), "float32"), graph.input((), "float32")
    y = graph.operator("QuantizeLinear", [x, scale, graph.constant(np.uint8(0))])
    graph.output(y, (1, 4))
    with pytest.raises(UnsupportedOperator, match="computed at run time"):
        read_program(graph.network())


def test_sums_that_may_exceed_32_bits_are_refused() -> None:
    graph = Qdq()
    x = graph.dequantize(graph.input((1, 80_000)), STEP, np.uint8(0))
    w = graph.dequantize(graph.constant(np.full((2, 80_000), 127, np.int8)), np.float32(2**-10), np.int8(0))
    graph.output(graph.quantize(graph.operator("Gemm", [x, w], transB=1), 1.0, np.uint8(0)), (1, 2))
    with pytest.raises(UnsupportedOperator, match="32 bits"):
        read_program(graph.network())


def test_equal_kernels_whose_operands_stand_in_another_order(tmp_path: Path) -> None:
    """Both products are one workload, which sorts its operands; the code of one must not serve the other."""
    graph = Qdq()
    x = graph.input((1, 4, 5, 6))
    gates = graph.input((1, 4, 1, 1)), graph.input((1, 4, 1, 1))
    for k, gate in enumerate(gates):
        operands = [graph.dequantize(x, 2.0**-5, np.uint8(7)), graph.dequantize(gate, 2.0**-8, np.uint8(0))]
        x = graph.quantize(graph.operator("Mul", operands[:: 1 - 2 * k]), 2.0**-5, np.uint8(7))
    graph.output(x, (1, 4, 5, 6))
    assert len(split(graph.network(), "cgen").workloads) == 1
    same(graph.network(), tmp_path)


def test_equal_float_kernels_whose_operands_stand_in_another_order(tmp_path: Path) -> None:
    graph = Qdq()
    x, gates = graph.input((1, 4, 5, 6), "float32"), [graph.input((1, 4, 1, 1), "float32") for _ in range(2)]
    ones = (
        graph.constant(np.full((4, 6, 1, 1), 0.3, np.float32)),
        graph.constant(np.full((6, 4, 1, 1), 0.2, np.float32)),
    )
    x = graph.operator("Mul", [x, gates[0]])
    x = graph.operator("Conv", [graph.operator("Conv", [x, ones[1]]), ones[0]])
    x = graph.operator("Softmax", [x], axis=-1)
    x = graph.operator("Mul", [gates[1], x])
    graph.output(x, (1, 4, 5, 6), "float32")
    network = graph.network()
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((1, 4, 5, 6), (1, 4, 1, 1), (1, 4, 1, 1))]
    np.testing.assert_allclose(built(network, tmp_path).outputs(inputs)[0], expected(network, inputs)[0], atol=1e-5)
