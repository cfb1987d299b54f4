from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from hwnas.graph.analysis import KERNEL_CODE_BYTES, analyse, analyse_workload
from hwnas.graph.fusion import RULE_SETS, split
from hwnas.graph.precision import cast
from tests.graph.networks import FAMILIES, exported, graph, module, ones

make = helper.make_node


def test_a_convolution_by_hand() -> None:
    network = graph(
        [make("Conv", ["x", "w", "b"], ["a"], strides=[2, 2], pads=[1] * 4), make("Relu", ["a"], ["y"])],
        {"x": (1, 3, 8, 8)},
        {"w": ones(16, 3, 3, 3), "b": ones(16)},
    )
    facts = analyse(network)
    assert facts.macs == 16 * 4 * 4 * 27
    assert facts.elementwise == 16 * 4 * 4
    assert facts.params == 16 * 27 + 16
    assert facts.weight_bytes == 4 * facts.params
    assert facts.kernels == 1
    assert facts.moved_bytes == 4 * (3 * 64 + 16 * 16 + facts.params)
    assert facts.peak_activation_bytes == 4 * (3 * 64 + 16 * 16)
    assert facts.flash_bytes == facts.weight_bytes + KERNEL_CODE_BYTES


@pytest.mark.parametrize(("node", "inputs", "weights", "macs"), [
    (make("Conv", ["x", "w"], ["y"], group=8, pads=[1] * 4), {"x": (1, 8, 5, 5)}, {"w": ones(8, 1, 3, 3)}, 8 * 25 * 9),
    (make("Conv", ["x", "w"], ["y"]), {"x": (1, 4, 10)}, {"w": ones(6, 4, 3)}, 6 * 8 * 12),
    (make("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), {"x": (1, 4, 5, 5)}, {"w": ones(4, 3, 2, 2)}, 4 * 25 * 12),
    (make("Gemm", ["x", "w"], ["y"], transB=1), {"x": (1, 8)}, {"w": ones(5, 8)}, 40),
    (make("Gemm", ["x", "w"], ["y"], transA=1), {"x": (8, 1)}, {"w": ones(8, 5)}, 40),
    (make("MatMul", ["x", "z"], ["y"]), {"x": (1, 2, 4, 8), "z": (1, 2, 8, 3)}, {}, 2 * 4 * 8 * 3),
    (make("Einsum", ["x", "z"], ["y"], equation="bij,bjk->bik"), {"x": (2, 4, 8), "z": (2, 8, 3)}, {}, 2 * 4 * 8 * 3),
    (make("LSTM", ["x", "w", "r"], ["y"], hidden_size=4), {"x": (5, 1, 3)}, {"w": ones(1, 16, 3), "r": ones(1, 16, 4)},
     5 * 16 * 7),
    (make("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), {"x": (1, 4, 8, 8)}, {}, 0),
])  # fmt: skip
def test_macs_by_hand(
    node: object, inputs: dict[str, tuple[int, ...]], weights: dict[str, np.ndarray], macs: int
) -> None:
    assert analyse(graph([node], inputs, weights)).macs == macs  # type: ignore[list-item]


@pytest.mark.parametrize(("node", "elements"), [
    (make("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2]), 4 * 16 * 4),
    (make("Softmax", ["x"], ["y"]), 256),
    (make("GlobalAveragePool", ["x"], ["y"]), 256),
    (make("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]), 0),
    (make("Relu", ["x"], ["y"]), 256),
])  # fmt: skip
def test_element_operations_by_hand(node: object, elements: int) -> None:
    assert analyse(graph([node], {"x": (1, 4, 8, 8)})).elementwise == elements  # type: ignore[list-item]


def test_a_residual_keeps_its_skip_alive() -> None:
    # x(4) -> a(16) -> b(4); x + b: while the first product runs x and a live, while the second runs x, a and b
    nodes = [make("MatMul", ["x", "w"], ["a"]), make("MatMul", ["a", "v"], ["b"]), make("Softmax", ["b"], ["c"]),
             make("Concat", ["x", "c"], ["y"], axis=1)]  # fmt: skip
    facts = analyse(graph(nodes, {"x": (1, 4)}, {"w": ones(4, 16), "v": ones(16, 4)}), "ort")
    assert facts.peak_activation_bytes == 4 * (4 + 16 + 4)
    straight = analyse(graph(nodes[:2], {"x": (1, 4)}, {"w": ones(4, 16), "v": ones(16, 4)}, outputs=("b",)), "ort")
    assert straight.peak_activation_bytes == 4 * (16 + 4)


def test_element_operations_reuse_the_operand_that_dies() -> None:
    nodes = [make("Relu", ["x"], ["a"]), make("Softmax", ["a"], ["y"])]
    assert analyse(graph(nodes, {"x": (1, 8)})).peak_activation_bytes == 4 * (8 + 8)
    assert analyse(graph(nodes[:1], {"x": (1, 8)}, outputs=("a",))).peak_activation_bytes == 4 * 8
    kept = [make("Relu", ["x"], ["a"]), make("Softmax", ["a"], ["b"]), make("Concat", ["a", "x", "b"], ["y"], axis=1)]
    assert analyse(graph(kept, {"x": (1, 8)})).peak_activation_bytes == 4 * (8 * 3 + 24)


def test_reshapes_take_no_memory() -> None:
    nodes = [make("Softmax", ["x"], ["a"]), make("Flatten", ["a"], ["b"]), make("Softmax", ["b"], ["y"])]
    assert analyse(graph(nodes, {"x": (1, 2, 4)})).peak_activation_bytes == 4 * 16


@pytest.mark.parametrize("rules", RULE_SETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_workloads_add_up_to_the_network(family: str, rules: str) -> None:
    whole = analyse(exported(family), rules)
    found = split(exported(family), rules)
    parts = [analyse_workload(found.workloads[i]) for i in found.order]
    assert whole.macs == sum(p.macs for p in parts)
    assert whole.elementwise == sum(p.elementwise for p in parts)
    assert whole.moved_bytes == sum(p.moved_bytes for p in parts)
    assert whole.kernels == len(found.order)


@pytest.mark.parametrize("family", ["residual", "depthwise", "excite"])
def test_parameters_are_torch_s_with_normalisation_folded(family: str) -> None:
    from torch import nn

    folded = 0
    for part in module(family).modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            folded += part.weight.numel() + part.weight.shape[0]
    assert analyse(exported(family)).params == folded


def test_an_int8_convolution_by_hand() -> None:
    nodes = [make("Conv", ["x", "w", "b"], ["a"], strides=[2, 2], pads=[1] * 4), make("Relu", ["a"], ["y"])]
    network = graph(nodes, {"x": (1, 3, 8, 8)}, {"w": ones(16, 3, 3, 3), "b": ones(16)})
    network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 16, 4, 4)))
    facts = analyse(cast(network, "int8", quantised_input=True, quantised_output=True), "cgen")
    assert facts.macs == 16 * 4 * 4 * 27
    assert facts.elementwise == 2 * 16 * 4 * 4  # the clamp and the scaling of the result
    assert facts.params == 16 * 27 + 16
    assert facts.weight_bytes == 16 * 27 + 4 * 16  # the bias is int32
    assert facts.kernels == 1
    assert facts.peak_activation_bytes == 3 * 64 + 16 * 16
    stored = facts.weight_bytes + 4 * 16  # and one scale a channel
    assert facts.moved_bytes == 3 * 64 + 16 * 16 + stored
    assert facts.flash_bytes == stored + KERNEL_CODE_BYTES


def test_the_float_border_of_an_int8_network_by_hand() -> None:
    network = graph([make("Relu", ["x"], ["y"])], {"x": (1, 8)})
    network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 8)))
    facts = analyse(cast(network, "int8"), "cgen")
    assert facts.kernels == 3
    assert facts.peak_activation_bytes == 5 * 8
    assert facts.moved_bytes == (4 + 1) * 8 + 2 * 8 + (1 + 4) * 8
    assert facts.flash_bytes == 3 * KERNEL_CODE_BYTES
    assert (facts.params, facts.weight_bytes, facts.macs) == (0, 0, 0)


@pytest.mark.parametrize("family", ["residual", "depthwise", "excite", "cell"])
def test_int8_networks_have_the_work_of_their_fp32_form_and_less_memory(family: str) -> None:
    full, small = analyse(exported(family), "cgen"), analyse(cast(exported(family), "int8"), "cgen")
    assert small.macs >= full.macs  # a batch norm that stands alone becomes a depthwise convolution
    assert small.macs == full.macs or family == "cell"
    assert small.params <= full.params
    assert small.weight_bytes < full.weight_bytes / 2
    assert small.moved_bytes < full.moved_bytes / 2
    found = split(cast(exported(family), "int8"), "cgen")
    parts = [analyse_workload(found.workloads[i]) for i in found.order]
    assert small.moved_bytes == sum(p.moved_bytes for p in parts)
    assert small.weight_bytes == sum(p.weight_bytes for p in parts)
    assert small.kernels == len(parts)
