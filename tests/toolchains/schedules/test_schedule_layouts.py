"""Channels last through whole networks: the results stay onnxruntime's, and no transpose stays inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper, numpy_helper, shape_inference

from hwnas.toolchains.schedules.layouts import Held, channels_last, inverse, reshaped
from tests.toolchains.schedules.test_schedule_convolution import check


def image_network(
    nodes: list[NodeProto], constants: dict[str, Any], shape: tuple[int, ...] = (1, 3, 12, 10)
) -> ModelProto:
    """x -> Conv to 8 channels -> `nodes` (from a to b) -> Conv to 6 channels -> y."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((8, shape[1], 3, 3)).astype("float32") / 5,
        **{name: np.asarray(value) for name, value in constants.items()},
    }
    first = helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [first, *nodes],
        "g",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    )


def last_convolution(source: str, channels: int = 8) -> tuple[NodeProto, dict[str, Any]]:
    weights = np.random.default_rng(1).standard_normal((6, channels, 1, 1)).astype("float32")
    return helper.make_node("Conv", [source, "w1"], ["y"]), {"w1": weights}


def ints(*values: int) -> np.ndarray:
    return np.array(values, "int64")


N = helper.make_node
MIDDLES: dict[str, tuple[list[NodeProto], dict[str, Any], int]] = {
    "shuffle": (
        [N("Reshape", ["a", "s5"], ["r"]), N("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]), N("Reshape", ["t", "s4"], ["b"])],
        {"s5": ints(1, 2, 4, 12, 10), "s4": ints(1, 8, 12, 10)},
        8,
    ),
    "split and concat": (
        [N("Split", ["a"], ["p", "q"], axis=1, num_outputs=2), N("Relu", ["q"], ["r"]), N("Concat", ["r", "p", "a"], ["b"], axis=1)],
        {},
        16,
    ),
    "squeeze and excite": (
        [
            N("GlobalAveragePool", ["a"], ["g"]), N("Conv", ["g", "wg"], ["h"]), N("HardSigmoid", ["h"], ["i"]),
            N("Mul", ["a", "i"], ["b"]),
        ],
        {"wg": np.eye(8, dtype="float32").reshape(8, 8, 1, 1)},
        8,
    ),
    "pad": ([N("Pad", ["a", "pads"], ["b"])], {"pads": ints(0, 0, 1, 0, 0, 0, 2, 3)}, 8),
    "slice": ([N("Slice", ["a", "from", "to", "axes", "by"], ["b"])], {"from": ints(1, 2), "to": ints(7, 9), "axes": ints(1, 3), "by": ints(1, 2)}, 6),
    "resize": ([N("Resize", ["a", "", "scales"], ["b"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")], {"scales": np.array([1, 1, 2, 2], "float32")}, 8),
    "pools": ([N("MaxPool", ["a"], ["m"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), N("AveragePool", ["m"], ["b"], kernel_shape=[2, 2], strides=[2, 2])], {}, 8),
    "softmax of channels": ([N("Softmax", ["a"], ["b"], axis=1)], {}, 8),
    "prelu": ([N("PRelu", ["a", "slope"], ["b"])], {"slope": np.linspace(-1, 1, 8, dtype="float32").reshape(8, 1, 1)}, 8),
    "batch norm": ([N("BatchNormalization", ["a", "v", "m", "m", "v"], ["b"])], {"v": np.linspace(1, 2, 8, dtype="float32"), "m": np.linspace(-1, 1, 8, dtype="float32")}, 8),
    "constants": ([N("Add", ["a", "map"], ["s"]), N("Mul", ["s", "row"], ["b"])], {"map": np.random.default_rng(3).standard_normal((8, 12, 10)).astype("float32"), "row": np.linspace(0, 1, 10, dtype="float32")}, 8),
    "there and back": ([N("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]), N("Relu", ["t"], ["u"]), N("Transpose", ["u"], ["b"], perm=[0, 3, 1, 2])], {}, 8),
    "reductions": ([N("ReduceMax", ["a", "ax"], ["m"], keepdims=1), N("Sub", ["a", "m"], ["b"])], {"ax": ints(1)}, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", MIDDLES)
def test_a_network_stays_channels_last(name: str) -> None:
    nodes, constants, channels = MIDDLES[name]
    last, weights = last_convolution("b", channels)
    network = image_network([*nodes, last], {**constants, **weights})
    inside = 1 if name == "shuffle" else 0  # the shuffle itself permutes channels
    assert check(network, "NHWC").layout_transforms <= inside
    check(network, "NCHW")


@pytest.mark.parametrize(
    "nodes, constants",
    [
        ([N("Flatten", ["a"], ["f"]), N("MatMul", ["f", "wf"], ["y"])], {"wf": np.ones((960, 5), "float32")}),
        ([N("GlobalAveragePool", ["a"], ["g"]), N("Flatten", ["g"], ["f"]), N("MatMul", ["f", "wf"], ["y"])], {"wf": np.ones((8, 5), "float32")}),
        ([N("Reshape", ["a", "to"], ["r"]), N("Transpose", ["r"], ["y"], perm=[0, 2, 1])], {"to": ints(1, 8, 120)}),
        ([N("ReduceMean", ["a", "ax"], ["y"], keepdims=0)], {"ax": ints(2, 3)}),
        ([N("Softmax", ["a"], ["y"], axis=-1)], {}),
    ],
    ids=["flatten", "pooled", "tokens", "mean", "softmax over columns"],
)  # fmt: skip
def test_the_end_of_a_network(nodes: list[NodeProto], constants: dict[str, Any]) -> None:
    check(image_network(nodes, constants))


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=3, max_size=5), st.data())
def test_a_reshape_in_place_holds_the_same_elements(shape: list[int], data: st.DataObject) -> None:
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    cuts = data.draw(st.lists(st.integers(0, len(shape)), max_size=2))
    merged = [int(np.prod(part)) for part in np.split(np.array(shape), sorted(cuts))]  # joins neighbouring axes

    class Stored:
        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape = array, array.shape

    network = np.arange(int(np.prod(shape))).reshape(shape)
    stored = network.transpose(order)
    found = reshaped(Held(Stored(stored), order), tuple(merged))
    if found is None:
        return
    stored_shape, stored_order = found
    again = np.ascontiguousarray(stored).reshape(stored_shape).transpose(inverse(stored_order))
    np.testing.assert_array_equal(again, network.reshape(merged))


def test_orders() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert channels_last(5) == (0, 3, 4, 1, 2)
    assert channels_last(3, 1) == (0, 2, 1)
    assert inverse((0, 2, 3, 1)) == (0, 3, 1, 2)
