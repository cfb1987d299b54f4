"""Every operator that is written as TFLite gives in LiteRT what onnxruntime gives, to one quantisation step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.graph.lite import agreement
from tests.graph.qdq import Qdq, Step, Stored

IMAGES = 12
Draw = Callable[[st.SearchStrategy], object]
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def steps(draw: Draw, dtype: str | None = None) -> Step:
    kind = dtype or draw(st.sampled_from(["uint8", "int8"]))
    scale = draw(st.sampled_from([2.0**-5, 2.0**-6, 0.0231, 0.0407, 0.011]))
    zero = 2 * draw(st.integers(0, 127))
    return Step(scale, zero - (128 if kind == "int8" else 0), kind)


@st.composite
def images(draw: Draw, channels: int | None = None, smallest: int = 1) -> tuple[Qdq, Stored, np.random.Generator]:
    """A network with one image in it, and the generator for its weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    c = channels or draw(st.integers(1, 9))
    h, w = (draw(st.integers(smallest, 9)) for _ in range(2))
    net = Qdq()
    x = net.input(rng.normal(0, 1.2, (IMAGES, 1, c, h, w)), draw(steps()), stored=draw(st.booleans()))
    return net, x, rng


def check(net: Qdq, result: Stored, max_stride: int | None = None, most: float = 1.0) -> None:
    """Both of LiteRT's implementations: the one it runs by default, and the one that microcontrollers have."""
    network = net.give(result)
    runs = list(zip(*net.images))
    for xnnpack in (True, False):
        found = agreement(network, runs, max_stride, xnnpack)
        assert found.most < most + 0.01, f"{found.most} steps apart (XNNPACK: {xnnpack})"


def finished(data: st.DataObject, net: Qdq, real: str, shape: tuple[int, ...], clamp: bool = True) -> Stored:
    """A float tensor, perhaps clamped, on a grid that covers or clips it."""
    kind = data.draw(st.sampled_from(["none", "relu", "relu6", "clip"])) if clamp else "none"
    if kind == "relu":
        real = net.operator("Relu", [real], shape)
    elif kind != "none":
        low, high = (0.0, 6.0) if kind == "relu6" else (-0.5, 0.75)
        real = net.operator("Clip", [real, *(net.constant(v, np.float32) for v in (low, high))], shape)
    dtype, power = data.draw(st.sampled_from(["uint8", "int8"])), data.draw(st.booleans())
    return net.covered(real, shape, dtype, power, data.draw(st.sampled_from([0.7, 1.0, 1.9])))


def extent(size: int, k: int, s: int, d: int, before: int, after: int) -> int:
    return (size + before + after - (k - 1) * d - 1) // s + 1


@FEW
@given(images(), st.data())
def test_convolutions(image: tuple[Qdq, Stored, np.random.Generator], data: st.DataObject) -> None:
    net, x, rng = image
    _, c, h, w = x.shape
    groups = data.draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
    outputs = groups * data.draw(st.integers(1, 4))
    kernel = [data.draw(st.integers(1, 5)) for _ in range(2)]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(2)]
    strides = [data.draw(st.integers(1, 5)) for _ in range(2)] if dilations == [1, 1] else [1, 1]
    pads = [data.draw(st.integers(0, 3)) for _ in range(4)]
    sizes = [extent(n, kernel[k], strides[k], dilations[k], pads[k], pads[k + 2]) for k, n in enumerate((h, w))]
    if min(sizes) < 1:
        return
    values = rng.integers(-127, 128, (outputs, c // groups, *kernel)).astype(np.int8)
    scales = rng.uniform(0.004, 0.01, outputs).astype(np.float32)
    weights = net.weights(values, scales)
    products = (scales * np.float32(x.step.scale)).astype(np.float32)
    bias = (
        [net.weights(rng.integers(-999, 999, outputs).astype(np.int32), products)] if data.draw(st.booleans()) else []
    )
    shape = (1, outputs, *sizes)
    real = net.operator("Conv", [net.real(x), weights, *bias], shape, group=groups, kernel_shape=kernel,
                        strides=strides, dilations=dilations, pads=pads)  # fmt: skip
    check(net, finished(data, net, real, shape), max_stride=data.draw(st.sampled_from([None, 3])))


@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (1, 1, 0, 0), (1, 0, 0, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("size", [6, 7])
def test_pads_to_the_right_and_to_the_left(pads: tuple[int, ...], size: int) -> None:
    net, rng = Qdq(), np.random.default_rng(0)
    x = net.input(rng.normal(0, 1, (IMAGES, 1, 2, size, size)), Step(0.03, 100))
    shape = (1, 2, *(extent(size, 3, 2, 1, pads[k], pads[k + 2]) for k in range(2)))
    weights = net.weights(rng.integers(-127, 128, (2, 2, 3, 3)).astype(np.int8), 0.01)
    real = net.operator("Conv", [net.real(x), weights], shape, kernel_shape=[3, 3], strides=[2, 2], pads=pads)
    check(net, net.covered(real, shape))


@FEW
@given(st.integers(1, 60), st.integers(1, 12), steps(), st.integers(0, 99), st.data())
def test_dense_products(n: int, m: int, step: Step, seed: int, data: st.DataObject) -> None:
    rng, net = np.random.default_rng(seed), Qdq()
    rank3 = data.draw(st.booleans())
    shape = (1, 3, n) if rank3 else (1, n)
    x = net.input(rng.normal(0, 1, (IMAGES, *shape)), step)
    scales = rng.uniform(0.004, 0.01, m).astype(np.float32)
    by_rows = not rank3 and data.draw(st.booleans())
    values = rng.integers(-127, 128, (m, n) if by_rows else (n, m)).astype(np.int8)
    weights = net.weights(values, scales, 0 if by_rows else 1)
    bias = net.weights(rng.integers(-99, 99, m).astype(np.int32), scales * np.float32(step.scale))
    result = (*shape[:-1], m)
    if rank3:
        real = net.operator("MatMul", [net.real(x), weights], result)
    else:
        real = net.operator("Gemm", [net.real(x), weights, bias], result, transB=int(by_rows))
    check(net, finished(data, net, real, result))


@FEW
@given(images(smallest=3), st.data())
def test_pools(image: tuple[Qdq, Stored, np.random.Generator], data: st.DataObject) -> None:
    net, x, _ = image
    _, c, h, w = x.shape
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    k, s = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    counted = data.draw(st.booleans())
    pads = [0] * 4
    if op == "MaxPool" or counted:
        pads = [data.draw(st.integers(0, k - 1)) for _ in range(4)]
    elif k == 3:
        pads = [data.draw(st.integers(0, 1))] * 4
    shape = (1, c, extent(h, k, s, 1, pads[0], pads[2]), extent(w, k, s, 1, pads[1], pads[3]))
    more = {"count_include_pad": int(counted)} if op == "AveragePool" else {}
    real = net.operator(op, [net.real(x)], shape, kernel_shape=[k, k], strides=[s, s], pads=pads, **more)
    if op == "MaxPool" and data.draw(st.booleans()):
        check(net, net.quantised(real, shape, x.step), most=0)
    else:
        check(net, finished(data, net, real, shape))


@FEW
@given(images(), st.sampled_from([(2, 3), (-1, -2), (3,), (1,), ()]), st.booleans(), st.data())
def test_means(
    image: tuple[Qdq, Stored, np.random.Generator], axes: tuple[int, ...], keep: bool, data: st.DataObject
) -> None:
    net, x, _ = image
    reduced = {a % 4 for a in axes}
    if not axes:
        shape = (*x.shape[:2], 1, 1)
        real = net.operator("GlobalAveragePool", [net.real(x)], shape)
    else:
        keep = keep or reduced == {3}  # what is left would be in another order
        shape = tuple(1 if a in reduced else n for a, n in enumerate(x.shape) if keep or a not in reduced)
        real = net.operator("ReduceMean", [net.real(x), net.constant(axes, np.int64)], shape, keepdims=int(keep))
    check(net, finished(data, net, real, shape), most=2.0 if reduced == {1} else 1.0)


@FEW
@given(
    images(),
    st.sampled_from(["Add", "Sub", "Mul"]),
    st.sampled_from(["tensor", "channel", "constant", "scalar"]),
    st.data(),
)
def test_sums_and_products(
    image: tuple[Qdq, Stored, np.random.Generator], op: str, second: str, data: st.DataObject
) -> None:
    net, x, rng = image
    shape = x.shape
    if second == "tensor":
        other = net.real(net.input(rng.normal(0, 1, (IMAGES, *shape)), data.draw(steps())))
    elif second == "channel":
        other = net.real(net.input(rng.normal(0, 1, (IMAGES, 1, shape[1], 1, 1)), data.draw(steps())))
    elif second == "constant":
        other = net.weights(rng.integers(-127, 128, (shape[1], 1, 1)).astype(np.int8), 0.013)
    else:
        other = net.constant(float(rng.choice([-1.7, 0.0, 0.37, 1.0])), np.float32)
    operands = [net.real(x), other]
    real = net.operator(op, operands[::-1] if data.draw(st.booleans()) else operands, shape)
    check(net, finished(data, net, real, shape))


@FEW
@given(images(), st.sampled_from(["HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Clip", "Clip6", "none"]), st.data())
def test_activations(image: tuple[Qdq, Stored, np.random.Generator], op: str, data: st.DataObject) -> None:
    net, x, _ = image
    real = net.real(x)
    if op == "HardSigmoid":
        alpha, beta = data.draw(st.sampled_from([(1 / 6, 0.5), (0.2, 0.5), (0.25, 0.0), (0.3, -0.1)]))
        real = net.operator(op, [real], x.shape, alpha=alpha, beta=beta)
    elif op == "LeakyRelu":
        real = net.operator(op, [real], x.shape, alpha=data.draw(st.sampled_from([0.01, 0.3])))
    elif op.startswith("Clip"):
        bounds = (0.0, 6.0) if op == "Clip6" else (-0.7, 0.4)
        real = net.operator("Clip", [real, *(net.constant(b, np.float32) for b in bounds)], x.shape)
    elif op != "none":
        real = net.operator(op, [real], x.shape)
    check(net, finished(data, net, real, x.shape, clamp=False))


@pytest.mark.parametrize(("alpha", "beta"), [(1 / 6, 0.5), (0.2, 0.5), (0.25, 0.0), (0.3, -0.1)])
@pytest.mark.parametrize(
    "result", [Step(1 / 256, 0), Step(1 / 128, 0), Step(0.0071, -110, "int8"), Step(0.0023, 40)], ids=str
)
def test_hard_sigmoids_are_clamped_at_both_ends(alpha: float, beta: float, result: Step) -> None:
    net = Qdq()
    x = net.input(np.linspace(-6, 6, IMAGES * 20).reshape(IMAGES, 1, 20), Step(0.05, 128))
    real = net.operator("HardSigmoid", [net.real(x)], x.shape, alpha=alpha, beta=beta)
    check(net, net.quantised(real, x.shape, result))


@FEW
@given(images(), st.sampled_from(["Sigmoid", "Tanh", "Softmax"]), st.booleans())
def test_activations_whose_scale_is_prescribed(
    image: tuple[Qdq, Stored, np.random.Generator], op: str, prescribed: bool
) -> None:
    net, x, _ = image
    more = {"axis": 1} if op == "Softmax" else {}
    real = net.operator(op, [net.real(x)], x.shape, **more)
    step = Step(1 / 128, 0, "int8") if op == "Tanh" else Step(1 / 256, 0)
    if not prescribed:
        step = Step(0.011, 91) if op == "Tanh" else Step(0.0041, 0)
    check(net, net.quantised(real, x.shape, step))


@FEW
@given(images(), st.integers(1, 3), st.data())
def test_concatenation(image: tuple[Qdq, Stored, np.random.Generator], axis: int, data: st.DataObject) -> None:
    net, x, rng = image
    shape = list(x.shape)
    shape[axis] = data.draw(st.integers(1, 4))
    other = net.input(rng.normal(0, 1, (IMAGES, *shape)), data.draw(steps()))
    total = tuple(n + shape[axis] if a == axis else n for a, n in enumerate(x.shape))
    real = net.operator("Concat", [net.real(x), net.real(other)], total, axis=axis)
    check(net, finished(data, net, real, total))


@FEW
@given(images(), st.permutations([1, 2, 3]), st.booleans(), st.data())
def test_transpositions(
    image: tuple[Qdq, Stored, np.random.Generator], order: list[int], same: bool, data: st.DataObject
) -> None:
    net, x, _ = image
    shape = tuple(x.shape[a] for a in (0, *order))
    real = net.operator("Transpose", [net.real(x)], shape, perm=[0, *order])
    if same:
        check(net, net.quantised(real, shape, x.step), most=0)
    else:
        check(net, finished(data, net, real, shape, clamp=False))


@FEW
@given(images(smallest=2), st.sampled_from(["flat", "rows", "image", "swapped"]), st.booleans())
def test_new_shapes(image: tuple[Qdq, Stored, np.random.Generator], to: str, dense: bool) -> None:
    net, x, rng = image
    _, c, h, w = x.shape
    shape = {"flat": (1, c * h * w), "rows": (1, c, h * w), "image": (1, c * h, 1, w), "swapped": (1, h, w, c)}[to]
    real = net.operator("Reshape", [net.real(x), net.constant(shape, np.int64)], shape)
    result = net.quantised(real, shape, x.step)
    if to == "flat" and dense:  # whose weights take the order of the image
        values = rng.integers(-127, 128, (5, shape[1])).astype(np.int8)
        weights = net.weights(values, np.full(5, 0.002, np.float32))
        real = net.operator("Gemm", [net.real(result), weights], (1, 5), transB=1)
        check(net, net.covered(real, (1, 5)))
    else:
        check(net, result, most=0)


@FEW
@given(images(smallest=2), st.data())
def test_pads_and_slices(image: tuple[Qdq, Stored, np.random.Generator], data: st.DataObject) -> None:
    net, x, _ = image
    if data.draw(st.booleans()):
        amounts = [
            0,
            *(data.draw(st.integers(0, 2)) for _ in range(3)),
            0,
            *(data.draw(st.integers(0, 2)) for _ in range(3)),
        ]
        shape = tuple(n + amounts[a] + amounts[a + 4] for a, n in enumerate(x.shape))
        value = net.constant(data.draw(st.sampled_from([0.0, 0.6])), np.float32)
        real = net.operator("Pad", [net.real(x), net.constant(amounts, np.int64), value], shape)
    else:
        axes = data.draw(st.sampled_from([[1], [2, 3], [-1]]))
        starts = [data.draw(st.integers(-1, x.shape[a] - 1)) for a in axes]
        shape_ = list(x.shape)
        for a, s in zip(axes, starts):
            shape_[a] -= s % x.shape[a]
        shape = tuple(shape_)
        ends = net.constant([99] * len(axes), np.int64)
        real = net.operator(
            "Slice", [net.real(x), net.constant(starts, np.int64), ends, net.constant(axes, np.int64)], shape
        )
    if data.draw(st.booleans()):
        check(net, net.quantised(real, shape, x.step), most=0)
    else:
        check(net, finished(data, net, real, shape, clamp=False))


WAYS = [
    ("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"),
    ("nearest", "half_pixel", "round_prefer_ceil"), ("nearest", "align_corners", "round_prefer_ceil"),
    ("linear", "half_pixel", "floor"), ("linear", "pytorch_half_pixel", "floor"), ("linear", "asymmetric", "floor"),
    ("linear", "align_corners", "floor"),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("same", [True, False])
def test_resizing(way: tuple[str, str, str], factor: int, same: bool) -> None:
    mode, coordinates, rounding = way
    net, rng = Qdq(), np.random.default_rng(factor)
    x = net.input(rng.normal(0, 1, (IMAGES, 1, 3, 5, 4)), Step(0.031, 120))
    shape = (1, 3, 5 * factor, 4 * factor)
    scales = net.constant([1, 1, factor, factor], np.float32)
    real = net.operator("Resize", [net.real(x), "", scales], shape, mode=mode, nearest_mode=rounding,
                        coordinate_transformation_mode=coordinates)  # fmt: skip
    # LiteRT places pixels to 1/1024, which ninths of a pixel are not
    most = 2.0 if (mode, coordinates) == ("linear", "align_corners") else 1.0
    check(net, net.quantised(real, shape, x.step) if same else net.covered(real, shape, spread=0.8), most=most)
