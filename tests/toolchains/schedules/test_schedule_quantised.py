"""Quantised groups as integer kernels: what onnxruntime computes without optimisation, for every core this host runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from hwnas.graph.export import export
from hwnas.graph.quantize import quantize
from hwnas.graph.scales import ScaleRule
from hwnas.spaces.mbconv import mbconv_micro
from hwnas.toolchains.schedules.pipeline import compile_module, lower
from tests.toolchains.generated import Qdq, expected
from tests.toolchains.schedules.operators import Array, target

few = settings(max_examples=10, deadline=None, derandomize=True)
STEP = 2.0**-5


def cpus() -> list[str]:
    """This host, AVX2 without 8-bit dot products, and AVX2 with them where this host runs it."""
    from tvm.target import codegen

    features = {str(feature) for feature in codegen.llvm_get_cpu_features(target())}
    return ["", "haswell", *(["alderlake"] if "avxvnni" in features else [])]


def build(network: ModelProto, cpu: str = "") -> tuple[Callable[..., list[Array]], tuple[str, ...]]:
    """Our kernels of a network as a function, and their names; every one of them is covered."""
    import tvm
    from tvm import relax

    chosen = target(cpu or None)
    lowered = lower(network, chosen)
    assert lowered.uncovered == ()
    machine = relax.VirtualMachine(compile_module(lowered, chosen), tvm.cpu())

    def run(inputs: Sequence[Array]) -> list[Array]:
        result = machine["main"](*[tvm.runtime.tensor(array) for array in inputs])
        return [result.numpy()] if hasattr(result, "numpy") else [value.numpy() for value in result]

    return run, lowered.kernels


def computed(network: ModelProto, inputs: Sequence[Array], cpu: str = "") -> tuple[list[Array], tuple[str, ...]]:
    """What our kernels compute, and their names."""
    run, kernels = build(network, cpu)
    return run(inputs), kernels


def drawn(network: ModelProto, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    found: list[Array] = []
    for value in network.graph.input:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        kind = {1: np.float32, 2: np.uint8, 3: np.int8}[value.type.tensor_type.elem_type]
        if kind is np.float32:
            found.append((rng.standard_normal(shape) * 3).astype(np.float32))
        else:
            found.append(rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, endpoint=True).astype(kind))
    return found


def steps_off(network: ModelProto, cpu: str = "", seed: int = 0, step: float = 1.0) -> tuple[int, float]:
    """The most quantisation steps that an output is off onnxruntime's, and the share of outputs that are off."""
    inputs = drawn(network, seed)
    ours, _ = computed(network, inputs, cpu)
    most, off, total = 0, 0, 0
    for mine, theirs in zip(ours, expected(network, inputs), strict=True):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        apart = np.abs(mine.astype(np.float64) - theirs.astype(np.float64)) / (step if mine.dtype == np.float32 else 1)
        most, off, total = max(most, round(float(apart.max()))), off + int((apart > 1e-3).sum()), total + apart.size
    return most, off / total


def convolution(
    image: Sequence[int], weights: Sequence[int], *, zero: int = 117, dtype: str = "uint8", scale: float = STEP,
    channels_differ: bool = True, clamp: str = "", to_float: bool = False, zero_out: int = 96, seed: int = 1,
    **attributes: Any,
) -> ModelProto:  # fmt: skip
    """A convolution of 8-bit images with a bias; scales are powers of two where `scale` is one."""
    rng, made, kind = np.random.default_rng(seed), Qdq(), np.dtype(dtype).type
    x = made.dequantize(made.input(image, dtype), scale, kind(zero))
    exponents = rng.integers(-9, -6, weights[0]) if channels_differ else np.int64(-8)
    w = made.weights(rng, weights, exponents)
    products = np.broadcast_to(scale * np.exp2(exponents.astype(np.float32)), weights[0]).astype(np.float32)
    b = made.dequantize(made.constant(rng.integers(-4000, 4000, weights[0]).astype(np.int32)), products,
                        np.zeros(weights[0], np.int32), 0)  # fmt: skip
    y = made.operator("Conv", [x, w, b], **attributes)
    if clamp == "Relu":
        y = made.operator("Relu", [y])
    if clamp == "Clip":
        y = made.operator("Clip", [y, made.constant(np.float32(0)), made.constant(np.float32(2.2))])
    if not to_float:
        y = made.quantize(y, scale * 4, kind(zero_out))
    made.output(y, output_shape(image, weights, attributes), "float32" if to_float else dtype)
    return made.network()


def output_shape(image: Sequence[int], weights: Sequence[int], attributes: dict[str, Any]) -> list[int]:
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    pads = attributes.get("pads", (0, 0, 0, 0))
    sizes = [
        (size + pads[k] + pads[k + 2] - (weights[2 + k] - 1) * dilations[k] - 1) // strides[k] + 1
        for k, size in enumerate(image[2:])
    ]
    return [image[0], weights[0], *sizes]


@few
@given(
    cpu=st.sampled_from(cpus()),
    channels=st.integers(1, 37),
    outputs=st.integers(1, 70),
    height=st.integers(3, 13),
    width=st.integers(3, 23),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 5), (5, 1)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 3)]),
    dilation=st.sampled_from([(1, 1), (1, 2), (2, 1)]),
    padded=st.booleans(),
    zero=st.integers(0, 255),
    zero_out=st.integers(0, 255),
    clamp=st.sampled_from(["", "Relu", "Clip"]),
)
def test_convolutions_of_any_shape_are_bit_identical(
    cpu: str, channels: int, outputs: int, height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int],
    dilation: tuple[int, int], padded: bool, zero: int, zero_out: int, clamp: str,
) -> None:  # fmt: skip
    reach = [(k - 1) * d for k, d in zip(kernel, dilation)]
    pads = [reach[0] // 2, reach[1], reach[0], reach[1] // 2] if padded else [0, 0, 0, 0]
    network = convolution(
        (1, channels, max(height, reach[0] + 1), max(width, reach[1] + 1)), (outputs, channels, *kernel), zero=zero,
        zero_out=zero_out, clamp=clamp, strides=stride, dilations=dilation, pads=pads,
    )  # fmt: skip
    assert steps_off(network, cpu) == (0, 0)


@few
@given(
    cpu=st.sampled_from(cpus()),
    groups=st.integers(2, 9),
    depth=st.sampled_from([1, 2, 3, 4, 8]),
    width=st.sampled_from([1, 2, 5, 16, 24]),
    size=st.integers(4, 15),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    zero=st.integers(-128, 127),
)
def test_grouped_and_depthwise_convolutions_of_signed_images_are_bit_identical(
    cpu: str, groups: int, depth: int, width: int, size: int, kernel: int, stride: int, dilation: int, zero: int
) -> None:
    channels, pad = groups * depth, (kernel - 1) * dilation // 2
    network = convolution(
        (1, channels, size, size + 1), (groups * width, depth, kernel, kernel), zero=zero, zero_out=-7, dtype="int8",
        group=groups, strides=(stride, stride), dilations=(dilation, dilation), pads=[pad] * 4,
    )  # fmt: skip
    assert steps_off(network, cpu) == (0, 0)


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("channels", [16, 24, 7])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_depthwise_convolutions_of_images_are_bit_identical(cpu: str, channels: int, kernel: int) -> None:
    network = convolution(
        (1, channels, 17, 13), (channels, 1, kernel, kernel), group=channels, pads=[kernel // 2] * 4, clamp="Clip"
    )
    assert steps_off(network, cpu) == (0, 0)
    _, kernels = computed(network, drawn(network, 0), cpu)
    assert any("hwq_depthwise" in name for name in kernels)


@pytest.mark.parametrize("cpu", cpus())
def test_a_window_whose_sums_no_float_holds_is_exact(cpu: str) -> None:
    made, size = Qdq(), 29
    x = made.dequantize(made.input((1, 16, size, size)), 1.0, np.uint8(0))
    w = np.full((16, 1, size, size), -127, np.int8)
    w[:, :, 0, :8] = np.arange(16, dtype=np.int8).reshape(16, 1, 1)
    y = made.operator("Conv", [x, made.dequantize(made.constant(w), 1.0, np.int8(0))], group=16)
    made.output(y, (1, 16, 1, 1), "float32")
    image = np.random.default_rng(0).integers(250, 256, (1, 16, size, size)).astype(np.uint8)
    [ours], _ = computed(made.network(), [image], cpu)
    exact = (image.astype(np.int64) * w[:, 0]).sum((2, 3), keepdims=True)
    assert (ours == exact.astype(np.float32)).all()


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("to_float", [False, True])
def test_scales_of_any_value_are_within_a_step(cpu: str, to_float: bool) -> None:
    network = convolution((1, 40, 14, 14), (48, 40, 3, 3), scale=0.0173, to_float=to_float)
    most, share = steps_off(network, cpu, step=0.0173)
    assert most <= (0 if to_float else 1) and (to_float or share < 1e-3)


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize(("stored", "weight"), [(255, -128), (255, 127), (0, -128)])
@pytest.mark.parametrize("zero", [0, 255])
def test_the_largest_sums_do_not_saturate(cpu: str, stored: int, weight: int, zero: int) -> None:
    depth, outputs = 4096, 33
    made, exponent = Qdq(), 20
    x = made.dequantize(made.input((2, depth)), 1.0, np.uint8(zero))
    w = made.dequantize(made.constant(np.full((depth, outputs), weight, np.int8)), 1.0, np.int8(0))
    made.output(made.quantize(made.operator("MatMul", [x, w]), 2.0**exponent, np.uint8(128)), (2, outputs))
    [ours], _ = computed(made.network(), [np.full((2, depth), stored, np.uint8)], cpu)
    exact = np.clip(np.rint((stored - zero) * weight * depth / 2.0**exponent) + 128, 0, 255)
    assert (ours == exact).all()


@few
@given(
    cpu=st.sampled_from(cpus()),
    lead=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    depth=st.integers(1, 70),
    outputs=st.integers(1, 90),
    zero=st.integers(0, 255),
    gemm=st.booleans(),
)
@example(cpu="", lead=[5, 2, 7], depth=50, outputs=3, zero=162, gemm=False)  # batches of batches
@example(cpu="", lead=[5, 1, 7], depth=8, outputs=24, zero=162, gemm=False)
def test_products_with_constants_are_bit_identical(
    cpu: str, lead: list[int], depth: int, outputs: int, zero: int, gemm: bool
) -> None:
    rng, made = np.random.default_rng(3), Qdq()
    shape = (lead[0], depth) if gemm else (*lead, depth)
    x = made.dequantize(made.input(shape), STEP, np.uint8(zero))
    exponents = rng.integers(-9, -6, outputs)
    if gemm:
        w = made.weights(rng, (outputs, depth), exponents)
        b = made.dequantize(made.constant(rng.integers(-900, 900, outputs).astype(np.int32)),
                            (STEP * np.exp2(exponents.astype(np.float32))), np.zeros(outputs, np.int32), 0)  # fmt: skip
        y = made.operator("Gemm", [x, w, b], transB=1)
    else:
        y = made.operator("MatMul", [x, made.weights(rng, (depth, outputs), exponents, axis=1)])
    made.output(made.quantize(y, 4 * STEP, np.uint8(101)), (*shape[:-1], outputs))
    assert steps_off(made.network(), cpu) == (0, 0)


@few
@given(
    cpu=st.sampled_from(cpus()),
    heads=st.integers(1, 4),
    rows=st.integers(1, 19),
    depth=st.integers(1, 40),
    columns=st.integers(1, 37),
    zeros=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_products_of_two_activations_are_bit_identical(
    cpu: str, heads: int, rows: int, depth: int, columns: int, zeros: tuple[int, int]
) -> None:
    made = Qdq()
    a = made.dequantize(made.input((1, heads, rows, depth)), STEP, np.uint8(zeros[0]))
    b = made.dequantize(made.input((1, heads, depth, columns)), STEP / 2, np.uint8(zeros[1]))
    made.output(made.quantize(made.operator("MatMul", [a, b]), 1.0, np.uint8(128)), (1, heads, rows, columns))
    assert steps_off(made.network(), cpu) == (0, 0)


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize(
    "shapes", [((1, 24, 7, 9),) * 2, ((1, 24, 7, 9), (1, 24, 1, 1)), ((3, 13), (13,)), ((1, 5), (1, 1))]
)
def test_sums_and_products_of_two_grids(cpu: str, op: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    made = Qdq()
    a = made.dequantize(made.input(shapes[0]), STEP, np.uint8(117))
    b = made.dequantize(made.input(shapes[1]), STEP * 4, np.uint8(3))
    made.output(made.quantize(made.operator(op, [a, b]), STEP * 8, np.uint8(77)), shapes[0])
    assert steps_off(made.network(), cpu) == (0, 0)


@pytest.mark.parametrize("scale", [STEP, 0.0219])
def test_a_constant_is_added_to_every_channel(scale: float) -> None:
    made, rng = Qdq(), np.random.default_rng(5)
    a = made.dequantize(made.input((1, 12, 5, 6)), scale, np.uint8(90))
    b = made.dequantize(made.constant(rng.integers(-127, 127, (12, 1, 1)).astype(np.int8)), scale / 2, np.int8(0))
    made.output(made.quantize(made.operator("Add", [a, b]), scale, np.uint8(88)), (1, 12, 5, 6))
    assert steps_off(made.network())[0] <= (0 if scale == STEP else 1)


POOLS = {
    "max": ("MaxPool", {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}, (1, 20, 6, 7)),
    "ceiled max": ("MaxPool", {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}, (1, 20, 6, 6)),
    "lopsided max": ("MaxPool", {"kernel_shape": (4, 3), "strides": (3, 2), "pads": (3, 0, 2, 2)}, (1, 20, 5, 7)),
    "dilated max": (
        "MaxPool", {"kernel_shape": (3, 3), "dilations": (2, 2), "pads": (1, 2, 1, 2)}, (1, 20, 10, 13),
    ),
    "average": ("AveragePool", {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}, (1, 20, 12, 13)),
    "with its border": (
        "AveragePool", {"kernel_shape": (2, 3), "pads": (1, 1, 0, 1), "count_include_pad": 1}, (1, 20, 12, 13),
    ),
    "whole": ("GlobalAveragePool", {}, (1, 20, 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("coarser", [1, 2])
def test_pools(cpu: str, name: str, coarser: int) -> None:
    op, attributes, shape = POOLS[name]
    made = Qdq()
    x = made.dequantize(made.input((1, 20, 12, 13)), STEP, np.uint8(38))
    out = made.quantize(made.operator(op, [x], **attributes), STEP * coarser, np.uint8(38 if coarser == 1 else 50))
    made.output(out, shape)
    assert steps_off(made.network(), cpu) == (0, 0)


@pytest.mark.parametrize("op", ["Sigmoid", "HardSwish", "Tanh", "Relu", "Elu"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("cpu", cpus())
def test_unary_operators(op: str, dtype: str, cpu: str) -> None:
    made, kind = Qdq(), np.dtype(dtype).type
    x = made.dequantize(made.input((1, 7, 9, 5), dtype), STEP, kind(60))
    made.output(made.quantize(made.operator(op, [x]), STEP, kind(20)), (1, 7, 9, 5), dtype)
    assert steps_off(made.network(), cpu) == (0, 0)


def test_a_chain_of_operators_on_one_tensor_is_one_table() -> None:
    made = Qdq()
    stored = made.input((1, 16, 40))
    x = made.dequantize(stored, STEP, np.uint8(120))
    scaled = made.operator("Div", [x, made.constant(np.float32(1.41421356))])
    gate = made.operator("Add", [made.operator("Erf", [scaled]), made.constant(np.float32(1))])
    whole = made.operator("Mul", [made.operator("Mul", [x, gate]), made.constant(np.float32(0.5))])
    made.output(made.quantize(whole, STEP, np.uint8(9)), (1, 16, 40))
    network = made.network()
    assert steps_off(network) == (0, 0)
    _, kernels = computed(network, drawn(network, 0))
    assert [name for name in kernels if name.startswith("hwq")] == ["hwq_table"]


@pytest.mark.parametrize("value", [0.5, 1.5, -0.5, 1e30, -1e30, float("inf"), 2.0**23])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("cpu", cpus())
def test_the_border_rounds_ties_to_even_and_saturates(value: float, scale: float, cpu: str) -> None:
    made = Qdq()
    made.output(made.quantize(made.input((1, 33), "float32"), scale, np.uint8(101)), (1, 33))
    network, given_values = made.network(), np.full((1, 33), value, np.float32)
    [ours], _ = computed(network, [given_values], cpu)
    assert (ours == expected(network, [given_values])[0]).all()


def test_moves_of_one_grid_run_on_the_stored_bytes() -> None:
    made = Qdq()
    grid = (STEP, np.uint8(40))

    def through(op: str, inputs: list[str], **attributes: Any) -> str:
        operands = [made.dequantize(name, *grid) for name in inputs[:1]]
        return made.quantize(made.operator(op, [*operands, *inputs[1:]], **attributes), *grid)

    x = made.input((1, 6, 4, 10))
    x = through("Reshape", [x, made.constant(np.array([1, 6, 40]))])
    x = through("Transpose", [x], perm=[0, 2, 1])
    made.output(through("Slice", [x, made.constant(np.array([3])), made.constant(np.array([31])),
                                  made.constant(np.array([1]))]), (1, 28, 6))  # fmt: skip
    network = made.network()
    assert steps_off(network) == (0, 0)
    _, kernels = computed(network, drawn(network, 0))
    assert not any("quantize" in name for name in kernels)


@pytest.mark.parametrize("steps", [(1, 1), (1, 4)])
def test_concat_of_one_grid_or_two(steps: tuple[int, int]) -> None:
    made = Qdq()
    parts = [made.dequantize(made.input((1, n, 5, 6)), STEP * k, np.uint8(9)) for n, k in zip((8, 12), steps)]
    made.output(made.quantize(made.operator("Concat", parts, axis=1), STEP, np.uint8(9)), (1, 20, 5, 6))
    assert steps_off(made.network()) == (0, 0)


def test_a_concat_of_integers_and_floats_is_done_in_floats() -> None:
    made = Qdq()
    parts = [made.dequantize(made.input((1, 8, 5, 6)), STEP, np.uint8(9)), made.input((1, 12, 5, 6), "float32")]
    made.output(made.quantize(made.operator("Concat", parts, axis=1), STEP, np.uint8(9)), (1, 20, 5, 6))
    assert steps_off(made.network()) == (0, 0)


def test_float_operators_between_quantised_ones_stay_float_and_are_covered() -> None:
    made, rng = Qdq(), np.random.default_rng(2)
    x = made.dequantize(made.input((1, 11, 48)), STEP, np.uint8(117))
    scale, shift = (made.constant(rng.standard_normal(48).astype(np.float32)) for _ in range(2))
    y = made.quantize(made.operator("LayerNormalization", [x, scale, shift], axis=-1), STEP, np.uint8(128))
    z = made.operator("Softmax", [made.dequantize(y, STEP, np.uint8(128))], axis=-1)
    made.output(made.quantize(z, 2.0**-8, np.uint8(0)), (1, 11, 48))
    most, share = steps_off(made.network())
    assert most <= 1 and share < 0.01


def test_weights_with_a_zero_point_are_widened() -> None:
    made, rng = Qdq(), np.random.default_rng(4)
    x = made.dequantize(made.input((1, 9, 8, 8)), STEP, np.uint8(117))
    w = made.dequantize(made.constant(rng.integers(0, 256, (20, 9, 3, 3)).astype(np.uint8)), 2.0**-8, np.uint8(20))
    made.output(made.quantize(made.operator("Conv", [x, w]), STEP * 8, np.uint8(128)), (1, 20, 6, 6))
    assert steps_off(made.network()) == (0, 0)


@pytest.mark.parametrize("scales", ["power-of-two", "free"])
@pytest.mark.parametrize("cpu", ["", "haswell"])
def test_a_whole_network_of_a_space(scales: ScaleRule, cpu: str) -> None:
    space = mbconv_micro(resolution=28, channels=1, classes=10)
    network = export(space.decode(space.sample(np.random.default_rng(7))), (1, 1, 28, 28))
    rng = np.random.default_rng(8)
    made = quantize(network, [rng.standard_normal((1, 1, 28, 28)).astype(np.float32) for _ in range(4)], scales)
    run, kernels = build(made, cpu)
    assert not any(name.startswith(("hw_conv", "hw_dense", "hw_depthwise", "hw_grouped")) for name in kernels)
    for seed in range(6):
        given_values = drawn(made, seed)
        [ours], [theirs] = run(given_values), expected(made, given_values)
        off = np.abs(ours - theirs)
        if scales == "power-of-two":
            assert not off.any()
        else:
            assert off.max() <= 1.01 * np.min(np.diff(np.unique(np.concatenate([ours, theirs]))))
