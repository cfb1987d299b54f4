"""Convolutions of every family against onnxruntime, on drawn shapes; and what happens when a rule fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

from hwnas.toolchains.schedules import convolution as family
from hwnas.toolchains.schedules.pipeline import Lowered, compile_module, lower

DRAWN = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def host(threads: int = 1) -> Any:
    import tvm
    from tvm.target import codegen

    return tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(), "num-cores": threads})


def convolution(
    image: tuple[int, ...],
    outputs: int,
    kernel: tuple[int, ...],
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: tuple[int, ...] | None = None,
    groups: int = 1,
    constant: bool = True,
    transposed: bool = False,
    **attributes: Any,
) -> ModelProto:
    """Conv (or ConvTranspose) -> Relu, with a bias; weights are an input unless `constant`."""
    rng = np.random.default_rng(0)
    inputs = image[1]
    shape = (inputs, outputs // groups, *kernel) if transposed else (outputs, inputs // groups, *kernel)
    weights = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")
    bias = rng.standard_normal(outputs).astype("float32")
    pads = padding if padding is not None else tuple(dilation * (size // 2) for size in kernel) * 2
    rank = len(kernel)
    node = helper.make_node(
        "ConvTranspose" if transposed else "Conv", ["x", "w", "b"], ["c"],
        kernel_shape=kernel, strides=[stride] * rank, dilations=[dilation] * rank, pads=pads, group=groups, **attributes,
    )  # fmt: skip
    given_inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)]
    constants = [numpy_helper.from_array(bias, "b")]
    if constant:
        constants.append(numpy_helper.from_array(weights, "w"))
    else:
        given_inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, shape))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node, helper.make_node("Relu", ["c"], ["y"])], "g", given_inputs, [output], constants)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return shape_inference.infer_shapes(network, strict_mode=True)


def arrays(network: ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    known = {constant.name for constant in network.graph.initializer}
    return {
        value.name: rng.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype("float32")
        for value in network.graph.input
        if value.name not in known
    }


def expected(network: ModelProto, given_arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, given_arrays))


def run(lowered: Lowered, target: Any, given_arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(compile_module(lowered, target), tvm.cpu())
    stored = [
        np.ascontiguousarray(array if axes is None else array.transpose(axes))
        for array, axes in zip(given_arrays.values(), lowered.input_axes)
    ]
    result = machine["main"](*(tvm.runtime.tensor(array) for array in stored))
    results = [result] if hasattr(result, "numpy") else list(result)
    return [
        value.numpy() if axes is None else value.numpy().transpose(np.argsort(axes))
        for value, axes in zip(results, lowered.output_axes)
    ]


def check(network: ModelProto, interface: Any = "NCHW", threads: int = 1) -> Lowered:
    """Every kernel is covered, and the results are onnxruntime's to 1e-5 of their scale."""
    target = host(threads)
    lowered = lower(network, target, interface)
    assert lowered.uncovered == ()
    inputs = arrays(network)
    for got, want in zip(run(lowered, target, inputs), expected(network, inputs), strict=True):
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    return lowered


small = st.integers(1, 17)
channels = st.integers(1, 40)


@DRAWN
@given(
    small,
    small,
    channels,
    st.integers(1, 70),
    st.sampled_from([1, 2, 3, 5]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 2),
)
def test_dense_convolutions(
    height: int, width: int, inputs: int, outputs: int, size: int, stride: int, dilation: int, batch: int
) -> None:
    padding = (dilation * (size // 2),) * 4
    assume(min(height, width) + 2 * padding[0] > (size - 1) * dilation)
    check(
        convolution(
            (batch, inputs, height, width), outputs, (size, size), stride=stride, dilation=dilation, padding=padding
        )
    )


@DRAWN
@given(
    small, small, st.integers(2, 40), st.sampled_from([3, 5]), st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)
)
def test_depthwise_convolutions(
    height: int, width: int, count: int, size: int, stride: int, dilation: int, multiplier: int
) -> None:
    check(
        convolution(
            (1, count, height, width), count * multiplier, (size, size), stride=stride, dilation=dilation, groups=count
        )
    )


@DRAWN
@given(
    small, small, st.integers(2, 5), st.integers(1, 12), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(1, 2)
)
def test_grouped_convolutions(
    height: int, width: int, groups: int, inputs: int, outputs: int, size: int, stride: int
) -> None:
    check(
        convolution((1, groups * inputs, height, width), groups * outputs, (size, size), stride=stride, groups=groups)
    )


@DRAWN
@given(st.integers(3, 40), channels, channels, st.sampled_from([1, 3, 8]), st.integers(1, 2), st.booleans())
def test_convolutions_over_one_axis(
    length: int, inputs: int, outputs: int, size: int, stride: int, depthwise: bool
) -> None:
    if depthwise:
        outputs = inputs
    check(
        convolution(
            (1, inputs, length),
            outputs,
            (size,),
            stride=stride,
            groups=inputs if depthwise else 1,
            padding=(size // 2,) * 2,
        )
    )


@DRAWN
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    channels,
    st.integers(1, 20),
    st.integers(2, 4),
    st.integers(1, 2),
    st.integers(0, 1),
)
def test_transposed_convolutions(
    height: int, width: int, inputs: int, outputs: int, size: int, stride: int, extra: int
) -> None:
    extra = min(extra, stride - 1)
    check(
        convolution(
            (1, inputs, height, width), outputs, (size, size), stride=stride, padding=((size - 1) // 2,) * 4,
            transposed=True, output_padding=[extra, extra],
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"image": (1, 3, 15, 9), "outputs": 20, "kernel": (3, 3), "padding": (2, 0, 0, 1)},  # asymmetric
        {"image": (1, 3, 15, 9), "outputs": 20, "kernel": (1, 7), "padding": (0, 3, 0, 3)},
        {"image": (1, 3, 15, 9), "outputs": 20, "kernel": (3, 3), "padding": (0, 0, 0, 0)},
        {"image": (1, 256, 7, 7), "outputs": 96, "kernel": (3, 3)},  # blocks of input channels, streamed weights
        {"image": (1, 320, 4, 4), "outputs": 640, "kernel": (1, 1)},
        {"image": (1, 20, 7, 5), "outputs": 20, "kernel": (1, 1), "groups": 20},  # a factor for each channel
        {"image": (1, 12, 9, 9), "outputs": 300, "kernel": (3, 3), "groups": 2},  # more than one block a group
        {"image": (2, 32, 6, 6), "outputs": 64, "kernel": (1, 1), "groups": 8},  # merged groups
        {"image": (1, 6, 8, 8), "outputs": 20, "kernel": (3, 3), "constant": False},
        {"image": (1, 6, 8), "outputs": 20, "kernel": (3,), "constant": False},
    ],
)
def test_particular_convolutions(options: dict[str, Any]) -> None:
    check(convolution(**options))


@pytest.mark.parametrize("groups, outputs", [(1, 40), (24, 24), (3, 48)])
def test_images_may_enter_and_leave_channels_last(groups: int, outputs: int) -> None:
    lowered = check(convolution((1, 24, 10, 10), outputs, (3, 3), groups=groups), "NHWC")
    assert lowered.input_axes == lowered.output_axes == ((0, 2, 3, 1),)
    assert lowered.layout_transforms == 0


@pytest.mark.parametrize("groups, outputs, size", [(1, 128, 3), (1, 128, 1), (32, 32, 5), (4, 64, 3)])
def test_two_threads_give_the_same_result(groups: int, outputs: int, size: int) -> None:
    network = convolution((1, 32, 48, 48), outputs, (size, size), groups=groups)
    lowered = check(network, threads=2)
    assert "T.parallel" in lowered.module.script()
    assert "T.parallel" not in lower(network, host(1)).module.script()


def test_a_rule_that_raises_is_reported_and_the_result_is_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(schedule: Any, isa: Any, anchor: Any) -> None:
        schedule.fuse(*schedule.get_loops(anchor)[:2])  # half a schedule, then
        raise ValueError("no such tile")

    monkeypatch.setitem(family.RULES, "hw_conv", broken)
    network = convolution((1, 8, 9, 9), 16, (3, 3))
    target = host()
    lowered = lower(network, target)
    assert len(lowered.uncovered) == 1
    assert "rule hw_conv raised ValueError: no such tile" in lowered.uncovered[0]
    inputs = arrays(network)
    np.testing.assert_allclose(run(lowered, target, inputs)[0], expected(network, inputs)[0], rtol=1e-4, atol=1e-5)


def test_a_legalisation_that_raises_is_reported_and_the_result_is_still_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(isa: Any) -> Any:
        def broken(builder: Any, call: Any) -> None:
            builder.emit(call.args[0])  # half a legalisation, then
            raise ValueError("no such window")

        return broken

    monkeypatch.setitem(family.LEGAL, "relax.nn.conv2d", make)
    network = convolution((1, 8, 9, 9), 16, (3, 3))
    target = host()
    lowered = lower(network, target)
    assert lowered.uncovered == ("relax.nn.conv2d: legalisation raised ValueError: no such window",)
    inputs = arrays(network)
    np.testing.assert_allclose(run(lowered, target, inputs)[0], expected(network, inputs)[0], rtol=1e-4, atol=1e-5)
