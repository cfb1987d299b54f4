"""The TFLite file itself: its tensors, its names, what is refused and why."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hwnas.errors import BuildError, UnsupportedOperator
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.precision import cast
from hwnas.graph.tflite import tflite_bytes
from hwnas.graph.tflite.emit import emission
from hwnas.graph.tflite.flat import VERSIONS, WIDE_VERSIONS, Scale, Tensor, TfliteFile
from hwnas.profiling.subjects import untrained
from hwnas.registry import spaces
from tests.graph.lite import agreement, in_litert, in_onnxruntime
from tests.graph.qdq import Qdq, Step, Stored

PLAIN = Step(0.05, 128)


def image(net: Qdq, shape: tuple[int, ...] = (1, 4, 6, 6), step: Step = PLAIN, stored: bool = False) -> Stored:
    return net.input(np.random.default_rng(0).normal(0, 1, (5, *shape)), step, stored)


def details(data: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from ai_edge_litert.interpreter import Interpreter

    litert = Interpreter(model_content=data)
    litert.allocate_tensors()
    return litert.get_input_details(), litert.get_output_details()


def micro() -> ModelProto:
    space = spaces.load("mbconv-micro")()
    return untrained(space, space.sample(np.random.default_rng(0)), "int8")


def test_inputs_and_outputs_are_int8_channels_last_and_keep_their_names_and_scales() -> None:
    network = micro()
    [given], [result] = details(tflite_bytes(network))
    assert given["name"] == network.graph.input[0].name and result["name"] == network.graph.output[0].name
    assert tuple(given["shape"]) == (1, 28, 28, 1) and tuple(result["shape"]) == (1, 10)
    assert given["dtype"] == result["dtype"] == np.int8
    assert given["quantization"] == (2.0**-5, 0)  # uint8 with its zero point at 128


def test_the_same_network_gives_the_same_bytes_and_every_name_once() -> None:
    assert tflite_bytes(micro()) == tflite_bytes(micro())
    names = Counter(tensor.name for tensor in emission(micro()).file.tensors)
    assert max(names.values()) == 1
    assert all("#" not in name for name in names), "names of ours show"


def test_stored_inputs_and_outputs() -> None:
    net = Qdq()
    a, b = image(net, stored=True), image(net, step=Step(0.03, 4, "int8"), stored=True)
    total = net.covered(net.operator("Add", [net.real(a), net.real(b)], a.shape), a.shape)
    network = net.give(total, as_stored=True)
    ours, [scale] = in_litert(tflite_bytes(network), list(zip(*net.images)))
    assert scale == np.float32(total.step.scale)
    for [mine], [other] in zip(ours, in_onnxruntime(network, list(zip(*net.images)))):
        assert np.abs(mine / scale - (other.astype(int) - total.step.zero)).max() < 1.01


def test_outputs_stand_in_the_order_of_the_network() -> None:
    net = Qdq()
    x = image(net)
    relu = net.covered(net.operator("Relu", [net.real(x)], x.shape), x.shape)
    mean = net.covered(net.operator("GlobalAveragePool", [net.real(relu)], (1, 4, 1, 1)), (1, 4, 1, 1))
    network = net.give(mean, relu)
    assert [tuple(d["shape"]) for d in details(tflite_bytes(network))[1]] == [(1, 1, 1, 4), (1, 6, 6, 4)]
    assert agreement(network, list(zip(*net.images))).most < 1.01


def test_an_input_that_is_given_out_and_one_quantised_twice() -> None:
    net = Qdq()
    x = image(net)
    again = net.quantised("in0", x.shape, PLAIN)
    total = net.covered(net.operator("Add", [net.real(x), net.real(again)], x.shape), x.shape)
    assert agreement(net.give(total, x), list(zip(*net.images))).most < 1.01
    net = Qdq()
    x = image(net)
    other = net.quantised("in0", x.shape, Step(0.1, 100))
    total = net.covered(net.operator("Add", [net.real(x), net.real(other)], x.shape), x.shape)
    assert "the network quantises its input 'in0' to another grid as well" in refused(net.give(total))


@pytest.mark.parametrize("op", ["Softmax", "Sigmoid", "Tanh"])
def test_a_network_may_end_in_what_tflite_has_a_scale_for(op: str) -> None:
    net = Qdq()
    x = image(net, (1, 9))
    last = net.operator(op, [net.real(x)], x.shape)
    net.outputs.append(helper.make_tensor_value_info(last, 1, x.shape))
    network = net.give()
    [result] = details(tflite_bytes(network))[1]
    assert result["name"] == last and result["quantization"] == ((1 / 128, 0) if op == "Tanh" else (1 / 256, -128))
    ours, [scale] = in_litert(tflite_bytes(network), list(zip(*net.images)))
    for [mine], [other] in zip(ours, in_onnxruntime(network, list(zip(*net.images)))):
        assert np.abs(mine - np.clip(other, None, 1 - scale)).max() < 1.01 * scale


@pytest.mark.parametrize(
    ("finer", "types"), [(1.0, ["int8"]), (0.6, ["int8"]), (1.9, ["int8"]), (2.0, ["int16", "int8"])]
)
def test_means_that_leave_pads_out_are_wide_only_where_the_result_is_much_finer(finer: float, types: list[str]) -> None:
    net = Qdq()
    x = image(net)
    pool = net.operator("AveragePool", [net.real(x)], x.shape, kernel_shape=[3, 3], pads=[1] * 4)
    network = net.give(net.quantised(pool, x.shape, Step(PLAIN.scale / finer, 128)))
    written = emission(network).file
    assert sorted({written.tensors[call.outputs[0]].dtype for call in written.calls}) == sorted(types)
    assert agreement(network, list(zip(*net.images))).most < 1.01


def test_windows_beyond_what_accelerators_know_are_written_as_pools() -> None:
    net = Qdq()
    x = image(net, (1, 2, 70, 3))
    mean = net.covered(net.operator("GlobalAveragePool", [net.real(x)], (1, 2, 1, 1)), (1, 2, 1, 1))
    pool = net.operator("AveragePool", [net.real(x)], (1, 2, 1, 1), kernel_shape=[70, 3])
    pooled = net.covered(pool, (1, 2, 1, 1))
    network = net.give(mean, pooled)
    written = [call.operator for call in emission(network).file.calls]
    assert "MEAN" in written and "AVERAGE_POOL_2D" in written
    assert agreement(network, list(zip(*net.images))).most < 2.01  # MEAN rounds twice


def test_a_stride_above_the_limit_is_written_in_two() -> None:
    net = Qdq()
    x = image(net, (1, 2, 21, 13))
    weights = net.weights(np.random.default_rng(1).integers(-99, 99, (3, 2, 5, 5)).astype(np.int8), 0.01)
    real = net.operator(
        "Conv", [net.real(x), weights], (1, 3, 6, 2), strides=[4, 10], pads=[2, 2, 2, 2], kernel_shape=[5, 5]
    )
    network = net.give(net.covered(real, (1, 3, 6, 2)))

    def operators(limit: int | None) -> list[str]:
        return [call.operator for call in emission(network, limit).file.calls]

    assert operators(None) == operators(10) == ["PAD", "CONV_2D"]
    assert operators(3) == ["CONV_2D", "MAX_POOL_2D"]
    strides = [(c.fields["StrideH"], c.fields["StrideW"]) for c in emission(network, 3).file.calls]
    assert strides == [(2, 2), (2, 5)]
    images = list(zip(*net.images))
    assert np.array_equal(agreement(network, images).ours, agreement(network, images, 3).ours)


def test_what_is_written_does_not_depend_on_scales() -> None:
    def calls(scale: float, zero: int) -> list[tuple[str, tuple[int, ...]]]:
        net = Qdq()
        x = image(net, step=Step(scale, zero))
        pool = net.operator("AveragePool", [net.real(x)], (1, 4, 3, 3), kernel_shape=[2, 2], strides=[2, 2])
        y = net.quantised(pool, (1, 4, 3, 3), PLAIN)
        mean = net.operator("ReduceMean", [net.real(y), net.constant([2, 3], np.int64)], (1, 4, 1, 1))
        gate = net.operator("HardSigmoid", [net.real(net.quantised(mean, (1, 4, 1, 1), Step(scale, 3)))], (1, 4, 1, 1),
                            alpha=float(np.float32(1 / 6)))  # fmt: skip
        z = net.quantised(gate, (1, 4, 1, 1), Step(1 / 256, 0))
        written = emission(net.give(z)).file
        return [(call.operator, written.tensors[call.outputs[0]].shape) for call in written.calls]

    assert calls(0.05, 128) == calls(2.0**-5, 128) == calls(0.013, 0)


def test_a_bias_in_other_steps_than_its_products_is_rescaled() -> None:
    net = Qdq()
    x = image(net)
    weights = net.weights(np.ones((4, 4, 1, 1), np.int8), 0.01)
    bias = net.weights(np.array([100, -50, 7, 0], np.int32), 0.002)
    real = net.operator("Conv", [net.real(x), weights, bias], x.shape, kernel_shape=[1, 1])
    assert agreement(net.give(net.covered(real, x.shape)), list(zip(*net.images))).most < 1.01


def refused(network: ModelProto) -> str:
    with pytest.raises(UnsupportedOperator) as error:
        tflite_bytes(network)
    return str(error.value)


def one(
    op: str, shape: tuple[int, ...] = (1, 4, 6, 6), after: tuple[int, ...] | None = None, *more: Any, **attributes: Any
) -> str:
    """What is said of a network of one operator on an image; `more` are its constant operands."""
    net = Qdq()
    x = image(net, shape)
    sources = [net.real(x), *(net.constant(v) if v is not None else "" for v in more)]
    real = net.operator(op, sources, after or shape, **attributes)
    return refused(net.give(net.quantised(real, after or shape, PLAIN)))


I64, F32 = np.int64, np.float32


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (lambda: one("Erf"), "Erf 'n2': no int8 operator of TFLite is written for Erf"),
        (lambda: one("Softmax", axis=2), "Softmax 'n2': its axis 2 is not the last one in TFLite"),
        (lambda: one("HardSigmoid", alpha=-0.1), r"its slope \(alpha\) is -0.1; only positive ones"),
        (lambda: one("AveragePool", (1, 4, 6, 6), (1, 4, 6, 6), kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
         "its pads are not those of TFLite's SAME or VALID, and it does not count them"),
        (lambda: one("MaxPool", (1, 4, 6, 6), (1, 4, 3, 3), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
         r"its size is rounded up \(ceil_mode\)"),
        (lambda: one("MaxPool", (1, 4, 6, 6), (1, 4, 4, 4), kernel_shape=[2, 2], dilations=[2, 2]), "pools without dilations"),
        (lambda: one("MaxPool", (1, 4, 6), (1, 4, 5), kernel_shape=[2]), "a tensor of rank 3; only images of rank 4"),
        (lambda: one("ReduceMean", (1, 4, 6, 6), (1, 4, 6), I64([3]), keepdims=0),
         r"mean over axes \[3\] leaves TFLite's axes in another order"),
        (lambda: one("ReduceMean", (1, 4, 6, 6), None, noop_with_empty_axes=1), "it reduces nothing"),
        (lambda: one("Pad", (1, 4, 6, 6), (1, 4, 8, 6), I64([0, 0, 1, 0, 0, 0, 1, 0]), mode="reflect"), "only pads of a constant value"),
        (lambda: one("Pad", (1, 4, 6, 6), (1, 4, 5, 6), I64([0, 0, -1, 0, 0, 0, 0, 0])), r"it cuts \(negative pads\)"),
        (lambda: one("Slice", (1, 4, 6, 6), (1, 4, 3, 6), I64([0]), I64([6]), I64([2]), I64([2])), r"slices of neighbours \(steps of 1\)"),
        (lambda: one("Resize", (1, 4, 6, 6), (1, 4, 12, 12), None, F32([1, 1, 2, 2]), mode="cubic"), "by nearest or linear interpolation"),
        (lambda: one("Resize", (1, 4, 6, 6), (1, 4, 12, 12), None, F32([1, 1, 2, 2]), mode="linear", antialias=1), "antialias"),
        (lambda: one("Resize", (1, 4, 6, 6), (1, 4, 9, 9), None, F32([1, 1, 1.5, 1.5]), coordinate_transformation_mode="asymmetric",
                     nearest_mode="ceil"), "takes its pixels from other places"),
        (lambda: one("Resize", (1, 4, 6, 6), (1, 4, 12, 12), None, F32([1, 1, 2, 2]), mode="linear",
                     coordinate_transformation_mode="tf_half_pixel_for_nn"), "takes its pixels from other places|not"),
    ],
)  # fmt: skip
def test_operators_that_have_no_counterpart_are_named(message: Any, expected: str) -> None:
    import re

    text = message()
    assert re.search(expected, text), text


def product(op: str, shape: tuple[int, ...], values: np.ndarray, after: tuple[int, ...], scales: Any = 0.01,
            bias: np.ndarray | None = None, axis: int = 0, **attributes: Any) -> str:  # fmt: skip
    net = Qdq()
    x = image(net, shape)
    more = [] if bias is None else [net.weights(bias, 0.0005)]
    real = net.operator(op, [net.real(x), net.weights(values, scales, axis), *more], after, **attributes)
    return refused(net.give(net.quantised(real, after, PLAIN)))


def test_products_that_have_no_counterpart_are_named() -> None:
    ones = np.ones((4, 4, 1, 1), np.int8)
    along_inputs = np.full(4, 0.01, np.float32)
    assert "along another axis than that of its 3 outputs" in product(
        "Conv", (1, 4, 6, 6), ones[:3], (1, 3, 6, 6), along_inputs, axis=1, kernel_shape=[1, 1]
    )
    assert "rank 4 by a matrix" in product("MatMul", (1, 4, 6, 6), np.ones((6, 3), np.int8), (1, 4, 6, 3))
    assert "transposed (transA)" in product("Gemm", (4, 2), np.ones((4, 3), np.int8), (2, 3), transA=1)
    assert "scales its operands (alpha, beta)" in product("Gemm", (1, 4), np.ones((4, 3), np.int8), (1, 3), alpha=2.0)
    assert "do not fit into int8 around a zero point of 0" in product(
        "Conv", (1, 4, 6, 6), np.full((4, 4, 1, 1), 200, np.uint8), (1, 4, 6, 6), kernel_shape=[1, 1]
    )
    assert "its bias does not fit into int32" in product(
        "Gemm", (1, 4), np.ones((4, 3), np.int8), (1, 3), 1e-9, np.full(3, 2**30, np.int32)
    )
    assert "are not a matrix or a filter" in product("MatMul", (1, 4), np.ones(4, np.int8), (1,))
    net = Qdq()
    a, b = image(net, (1, 4)), image(net, (4, 3))
    real = net.operator("MatMul", [net.real(a), net.real(b)], (1, 3))
    assert "its weights are not constants with values" in refused(net.give(net.quantised(real, (1, 3), PLAIN)))


def test_weights_of_uint8_around_128_are_taken() -> None:
    net = Qdq()
    x = image(net)
    values = np.random.default_rng(0).integers(1, 256, (4, 4, 1, 1)).astype(np.uint8)
    weights = net.operator(
        "DequantizeLinear",
        [net.constant(values), net.constant(0.01, np.float32), net.constant(128, np.uint8)],
        values.shape,
    )
    real = net.operator("Conv", [net.real(x), weights], x.shape, kernel_shape=[1, 1])
    assert agreement(net.give(net.covered(real, x.shape)), list(zip(*net.images))).most < 1.01


def test_what_computes_on_floats_is_named() -> None:
    graph = GraphBuilder("float")
    x = graph.input((1, 3, 8, 8))
    assert "input 'x0': it is read by Conv 'n0', which computes on floats" in refused(
        graph.build(graph.conv(x, 4, (3, 3)))
    )
    net = Qdq()
    x = image(net)
    loose = net.operator("Erf", [net.real(x)], x.shape)
    net.outputs.append(helper.make_tensor_value_info(loose, 1, x.shape))
    assert "its result is not quantised" in refused(net.give()) or "no int8 operator" in refused(net.give())
    net = Qdq()
    x = image(net)
    twice = net.operator("Sigmoid", [net.operator("HardSwish", [net.real(x)], x.shape)], x.shape)
    text = refused(net.give(net.quantised(twice, x.shape, PLAIN)))
    assert "it is not one operator of one result that reads and gives 8-bit tensors" in text or "not quantised" in text
    net = Qdq()
    x = image(net)
    net.inputs.append(helper.make_tensor_value_info("spare", 1, (1, 2)))
    assert "input 'spare': nothing reads it" in refused(net.give(x))


def test_grids_that_do_not_belong_together_are_named() -> None:
    net = Qdq()
    x = image(net)
    other = Stored(x.name, x.shape, Step(0.07, 128))
    real = net.operator("Relu", [net.real(other)], x.shape)
    assert "another scale than it was quantised with" in refused(net.give(net.covered(real, x.shape)))
    net = Qdq()
    x = image(net)
    constant = net.weights(np.ones((4, 1, 1), np.int8), np.full(4, 0.01, np.float32))
    real = net.operator("Add", [net.real(x), constant], x.shape)
    assert "is not of 8 bits with one scale" in refused(net.give(net.quantised(real, x.shape, PLAIN)))


def valueless(net: Qdq, kind: int, shape: tuple[int, ...]) -> str:
    """A constant that holds no data, as the weights of a workload in a table."""
    name = f"k{len(net.constants)}"
    net.constants.append(TensorProto(name=name, data_type=kind, dims=shape))
    return name


def test_constants_without_values_are_named() -> None:
    net = Qdq()
    x = image(net)
    axes = valueless(net, TensorProto.INT64, (2,))
    real = net.operator("ReduceMean", [net.real(x), axes], (1, 4, 1, 1))
    assert "its axes are not constant" in refused(net.give(net.quantised(real, (1, 4, 1, 1), PLAIN)))
    net = Qdq()
    x = image(net)
    real = net.operator("Pad", [net.real(x), valueless(net, TensorProto.INT64, (8,))], x.shape)
    assert "its pads are not constant" in refused(net.give(net.quantised(real, x.shape, PLAIN)))
    net = Qdq()
    x = image(net)
    real = net.operator("Clip", [net.real(x), valueless(net, TensorProto.FLOAT, ())], x.shape)
    assert "its bounds are not constant" in refused(net.give(net.quantised(real, x.shape, PLAIN)))
    net = Qdq()
    x = image(net)
    stored = valueless(net, TensorProto.INT8, (4, 1, 1))
    other = net.operator("DequantizeLinear", [stored, net.constant(0.1, np.float32)], (4, 1, 1))
    real = net.operator("Mul", [net.real(x), other], x.shape)
    assert f"its operand {stored!r} has no values" in refused(net.give(net.quantised(real, x.shape, PLAIN)))
    net = Qdq()
    x = image(net)
    weights = net.weights(np.ones((4, 4, 1, 1), np.int8), 0.01)
    stored = valueless(net, TensorProto.INT32, (4,))
    bias = net.operator("DequantizeLinear", [stored, net.constant(0.0005, np.float32)], (4,))
    real = net.operator("Conv", [net.real(x), weights, bias], x.shape, kernel_shape=[1, 1])
    assert "its bias is not a constant with values" in refused(net.give(net.quantised(real, x.shape, PLAIN)))


def test_floats_between_quantised_tensors_are_named() -> None:
    net = Qdq()
    x = image(net)
    flat = net.operator("Reshape", ["in0", net.constant([1, 144], np.int64)], (1, 144))
    other = net.quantised(flat, (1, 144), PLAIN)
    weights = net.weights(np.ones((2, 144), np.int8), 0.001)
    dense = net.covered(net.operator("Gemm", [net.real(other), weights], (1, 2), transB=1), (1, 2))
    assert "it quantises floats that the network computes" in refused(net.give(x, dense))
    net = Qdq()
    x = image(net)
    flat = net.operator("Reshape", [net.real(x), net.constant([1, 144], np.int64)], (1, 144))
    net.outputs.append(helper.make_tensor_value_info(flat, 1, (1, 144)))
    assert f"the network's output {flat!r} is computed on floats" in refused(net.give())
    net = Qdq()
    x = image(net)
    constant = net.quantised(net.constant(np.ones(x.shape), np.float32), x.shape, PLAIN)
    total = net.operator("Add", [net.real(x), net.real(constant)], x.shape)
    assert f"its operand {constant.name!r} is not made by a quantised operator" in refused(
        net.give(net.quantised(total, x.shape, PLAIN))
    )


def test_an_input_with_a_scale_for_each_channel_is_named() -> None:
    net = Qdq()
    net.input(np.zeros((5, 1, 4, 6, 6)), PLAIN)
    scales, zeros = net.constant(np.full(4, 0.1), np.float32), net.constant(np.zeros(4), np.uint8)
    net.nodes[0].input[1:] = [scales, zeros]
    x = Stored(net.nodes[0].output[0], (1, 4, 6, 6), PLAIN)
    relu = net.operator("Relu", [net.real(x)], x.shape)
    assert "only tensors of 8 bits with one scale are written" in refused(net.give(net.quantised(relu, x.shape, PLAIN)))


def test_broadcast_to_another_rank_is_named() -> None:
    net = Qdq()
    x, y = image(net), net.input(np.ones((5, 4, 1, 1)), PLAIN)
    real = net.operator("Mul", [net.real(x), net.real(y)], x.shape)
    assert "it broadcasts a computed tensor to another rank" in refused(net.give(net.quantised(real, x.shape, PLAIN)))


def test_operators_that_no_output_needs_are_left_out() -> None:
    net = Qdq()
    x = image(net)
    net.operator("Erf", [net.real(x)], x.shape)
    net.quantised(net.operator("Relu", [net.real(x)], x.shape), x.shape, PLAIN)
    kept = net.covered(net.operator("HardSwish", [net.real(x)], x.shape), x.shape)
    assert [call.operator for call in emission(net.give(kept)).file.calls] == ["HARD_SWISH"]


def test_weights_without_values_are_named() -> None:
    from hwnas.core.workload import Workload
    from hwnas.graph.fusion import split

    workloads: list[Workload] = list(split(micro(), "cgen").workloads.values())
    conv = next(w for w in workloads if "Conv" in w.op)
    bare = ModelProto()
    bare.ParseFromString(conv.onnx)
    assert "its weights are not constants with values" in refused(bare)


@pytest.mark.parametrize("package", ["tflite", "flatbuffers"])
def test_a_missing_package_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BuildError, match=rf'{package} is not installed: pip install "hwnas\[npu\]"') as error:
        tflite_bytes(micro())
    assert error.value.exit_code == 4


def test_constants_beyond_the_format_are_refused() -> None:
    written = TfliteFile()
    huge = np.broadcast_to(np.int8(1), (2**30 + 1,))
    written.add(Tensor("huge", huge.shape, "int8", Scale.of(1.0, 0), huge))
    with pytest.raises(BuildError, match="more than 1 GiB"):
        written.serialised()


def test_versions_are_of_operators_that_the_schema_knows() -> None:
    import tflite

    assert all(hasattr(tflite.BuiltinOperator, name) for name in {**VERSIONS, **WIDE_VERSIONS})


def test_every_int8_network_of_a_space_is_written() -> None:
    for name in ("mbconv-micro", "mbconv", "cell"):
        space = spaces.load(name)()
        rng = np.random.default_rng(1)
        for _ in range(4):
            data = tflite_bytes(untrained(space, space.sample(rng), "int8"), max_stride=3)
            assert data[4:8] == b"TFL3"


def test_blocks_with_stored_ends_are_written() -> None:
    graph = GraphBuilder("block")
    x = graph.input((1, 8, 12, 12))
    block = cast(
        graph.build(graph.add(x, graph.conv(x, 8, (3, 3)))), "int8", quantised_input=True, quantised_output=True
    )
    [given], [result] = details(tflite_bytes(block))
    assert tuple(given["shape"]) == tuple(result["shape"]) == (1, 12, 12, 8)


def test_numbers_of_the_graph_are_read_as_constants() -> None:
    net = Qdq()
    x = image(net)
    net.constants.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    real = net.operator("Mul", ["half", net.real(x)], x.shape)
    assert agreement(net.give(net.covered(real, x.shape)), list(zip(*net.images))).most < 1.01
