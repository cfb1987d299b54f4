from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from hwnas.graph.analysis import KERNEL_CODE_BYTES, analyse, analyse_workload
from hwnas.graph.fusion import RULE_SETS, split
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
