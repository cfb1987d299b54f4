"""The rule sets against the compilers they describe: same networks, same kernels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from hwnas.errors import ConfigError, DataError
from hwnas.graph.fusion import RULE_SETS, kernels, split
from hwnas.graph.load import load_onnx
from hwnas.graph.rules_ort import KERNEL_NAMES
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.view import METADATA_OPS, view
from tests.graph.networks import FAMILIES, exported, graph, light_path, ones, session

make = helper.make_node
LAYOUT = {"ReorderInput", "ReorderOutput"} | METADATA_OPS


def network_of(name: str) -> ModelProto:
    return exported(name) if name in FAMILIES else load_onnx(light_path(name))


def fused_by_ort(network: ModelProto, folder: Path) -> Counter[str]:
    """Kernels of the network that onnxruntime saves after optimisation: operator, sum and activation of each."""
    path = folder / "optimised.onnx"
    session(network, path)
    found: Counter[str] = Counter()
    for node in onnx.load(path).graph.node:
        if node.op_type in LAYOUT:
            continue
        name = KERNEL_NAMES.get(node.op_type, node.op_type)
        if node.op_type in ("Conv", "FusedConv") and len(node.input) > 3 and node.input[3]:
            name += "+sum"
        name += "".join("+" + a.s.decode() for a in node.attribute if a.name == "activation")
        found[name] += 1
    return found


def fused_by_rules(network: ModelProto) -> Counter[str]:
    """Our groups in onnxruntime's words."""
    found: Counter[str] = Counter()
    for workload_id, count in split(network, "ort").parts.items():
        op = split(network, "ort").workloads[workload_id].op
        found[in_ort_words(op)] += count
    return found


def in_ort_words(op: str) -> str:
    words = {
        "Sigmoid+Mul": "Gelu", "Div+Erf+Add+Mul+Mul": "Gelu", "MatMul+Add": "Gemm",
        "Add+LayerNormalization": "LayerNormalization", "Slice+Slice+Slice": "Split",
        "BatchNormalization+Relu": "Conv+Relu",  # in blocked layout a normalisation is a depthwise convolution
    }  # fmt: skip
    if op in words:
        return words[op]
    if op.endswith("MatMul"):
        return "MatMul"
    return op.replace("Conv+Add", "Conv+sum")


@pytest.mark.parametrize("name", [*FAMILIES, "squeezenet", "resnet50", "shufflenet", "densenet121", "inception_v2"])
def test_ort_rules_make_the_kernels_that_onnxruntime_makes(name: str, tmp_path: Path) -> None:
    network = network_of(name)
    real, ours = fused_by_ort(network, tmp_path), fused_by_rules(network)
    if name == "transformer":
        # onnxruntime moves a Transpose through a Split and then has one for each part; the rules are local, so
        # transposes are fewer, and every other kind of kernel is the same
        assert 0 < ours.pop("Transpose") <= real.pop("Transpose")
    assert ours == real


def test_hardswish_outside_blocked_layout_is_one_workload(tmp_path: Path) -> None:
    # without a kernel for HardSwish onnxruntime runs its definition, HardSigmoid and Mul: two kernels in one workload
    network = graph(
        [make("Conv", ["x", "w"], ["a"]), make("HardSwish", ["a"], ["y"])], {"x": (1, 4, 16)}, {"w": ones(4, 4, 3)}
    )
    assert fused_by_ort(network, tmp_path) == {"Conv": 1, "HardSigmoid": 1, "Mul": 1}
    assert fused_by_rules(network) == {"Conv": 1, "HardSwish": 1}


@pytest.mark.parametrize(("inputs", "outputs", "groups"), [
    (3, 16, 1), (16, 16, 1), (17, 16, 1), (18, 18, 1), (20, 7, 1), (16, 16, 16), (6, 6, 6), (12, 12, 12), (32, 32, 2),
    (64, 64, 4), (24, 48, 24), (18, 18, 18),
])  # fmt: skip
@pytest.mark.parametrize(
    "activation", ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip", "HardSwish", "Elu"]
)
def test_residual_sums_and_activations_by_channels(
    inputs: int, outputs: int, groups: int, activation: str, tmp_path: Path
) -> None:
    """Which convolutions run in blocked layout decides what they take in."""
    nodes = [
        make("Conv", ["x", "u", "ub"], ["a"], pads=[1] * 4),
        make("Conv", ["a", "w", "wb"], ["b"], pads=[1] * 4, group=groups),
        make("Conv", ["a", "v", "vb"], ["c"], pads=[1] * 4),
        make("MaxPool", ["c"], ["m"], kernel_shape=[3, 3], pads=[1] * 4),
        make("Add", ["b", "m"], ["s"]),
        make(activation, ["s", "low", "high"] if activation == "Clip" else ["s"], ["t"]),
        make("Conv", ["t", "z"], ["y"]),
    ]
    shapes = {
        "u": (inputs, 16, 3, 3),
        "w": (outputs, inputs // groups, 3, 3),
        "v": (outputs, inputs, 3, 3),
        "z": (16, outputs, 1, 1),
    }
    shapes |= {f"{name}b": shape[:1] for name, shape in shapes.items()}
    rng = np.random.default_rng(0)  # equal weights would be merged
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    if activation == "Clip":
        weights |= {"low": np.float32(0), "high": np.float32(6)}
    network = graph(nodes, {"x": (1, 16, 8, 8)}, weights)
    real, ours = fused_by_ort(network, tmp_path), fused_by_rules(network)
    if activation == "HardSwish" and "HardSigmoid" in real:
        real = real - Counter({"HardSigmoid": 1, "Mul": 1}) + Counter({"HardSwish": 1})
    assert ours == real


def test_tvm_rules_make_the_kernels_that_the_toolchain_makes(tmp_path: Path) -> None:
    names = [*FAMILIES, "squeezenet", "shufflenet"]
    for name in names:
        onnx.save(network_of(name), tmp_path / f"{name}.onnx")
    script = Path(__file__).with_name("fused_by_tvm.py")
    paths = [str(tmp_path / f"{name}.onnx") for name in names]
    done = subprocess.run(
        [sys.executable, str(script), *paths], capture_output=True, text=True, timeout=300, check=True
    )
    for name, line in zip(names, done.stdout.splitlines(), strict=True):
        called, layout_transforms = json.loads(line)
        real = Counter(in_anchor(kernel) for kernel in called)
        del real["rename"]
        found = split(network_of(name), "tvm")
        ours = Counter(anchor(found.workloads[workload_id].op) for workload_id in found.order)
        # a transpose is an operator of the network, or what the layout costs at its edges, which is no workload
        edges = real["other"] - ours["other"]
        assert 0 <= edges <= layout_transforms, name
        real["other"] -= edges
        assert ours == +real, name


ANCHORS = {
    "conv": "Conv", "depthwise": "Conv", "grouped": "Conv", "dense": "MatMul", "matmul": "MatMul", "batched": "MatMul",
    "softmax": "Softmax", "norm": "LayerNormalization", "max_pool": "MaxPool", "avg_pool": "AveragePool",
    "mean": "Reduce",
}  # fmt: skip
"""What stands in the name of a fused PrimFunc -> the operator that it is made for."""


def in_anchor(kernel: str) -> str:
    """The heaviest operator in the name of a fused PrimFunc, with whether anything more was fused into it."""
    parts = re.sub(r"(?<=[a-z])\d+(?=_|$)", "", re.sub(r"^fused_", "", kernel).replace("1d", "Xd").replace("2d", "Yd"))
    text = parts.replace("Xd", "1d").replace("Yd", "2d")
    found = next((ours for theirs, ours in ANCHORS.items() if theirs in text), None)
    if found is not None:
        return found
    names = re.sub(
        r"\b(reshape|squeeze|expand_dims|flatten)\b", "", text.replace("expand_dims", "squeeze").replace("_", " ")
    ).split()
    return "other" if names else "rename"


def anchor(op: str) -> str:
    for name in ("Conv", "Gemm", "MatMul", "Softmax", "LayerNormalization", "MaxPool", "AveragePool", "Reduce"):
        if name in op.replace("GlobalAveragePool", "ReduceMean"):
            return {"Gemm": "MatMul"}.get(name, name)
    return "other"


@pytest.mark.parametrize("rules", RULE_SETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_operator_is_in_one_kernel_and_kernels_run_in_order(name: str, rules: str) -> None:
    read = unshare(view(exported(name)))
    found = kernels(read, rules)
    inside = [i for kernel in found for i in kernel.operators]
    assert len(inside) == len(set(inside))
    without_code = METADATA_OPS | ({"Transpose"} if rules == "tvm" else set())
    assert {read.operators[i].op for i in set(range(len(read.operators))) - set(inside)} <= without_code
    ready = set(read.inputs)
    for kernel in found:
        assert all(storage(read, name, set(inside)) in ready for name in kernel.inputs)
        ready |= set(kernel.outputs)


def storage(read: object, name: str, inside: set[int]) -> str:
    from hwnas.graph.view import View

    assert isinstance(read, View)
    while (source := read.producer.get(name)) is not None and source not in inside:
        name = read.operators[source].inputs[0]
    return name


def test_metadata_operators_at_a_border_do_not_change_a_workload() -> None:
    shape = {"s": helper.make_tensor("s", 7, [2], [1, 64])}
    plain = graph([make("Relu", ["x"], ["y"])], {"x": (1, 64)})
    nodes = [make("Reshape", ["x", "s"], ["a"]), make("Relu", ["a"], ["b"]), make("Flatten", ["b"], ["y"])]
    wrapped = graph(nodes, {"x": (1, 4, 4, 4)})
    wrapped.graph.initializer.append(shape["s"])
    for rules in RULE_SETS:
        assert split(plain, rules).order == split(wrapped, rules).order


def test_an_unknown_rule_set_and_an_old_opset_are_named() -> None:
    network = graph([make("Relu", ["x"], ["y"])], {"x": (1, 4)})
    with pytest.raises(ConfigError, match="no fusion rule set 'otr'.*did you mean ort"):
        split(network, "otr")
    network.opset_import[0].version = 13
    with pytest.raises(DataError, match="opset 13, at least 18 is needed; load it with load_onnx"):
        split(network, "ort")


def quantised_twice_read(both: bool) -> ModelProto:
    """A sum of dequantised tensors where one DequantizeLinear is read twice, as other tools write it."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Add", ["d", "d"] if both else ["d", "k"], ["a"]), helper.make_node("QuantizeLinear", ["a", "s", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]  # fmt: skip
    weights = {"s": np.float32(0.5), "z": np.uint8(3), "k": np.float32(2)}
    outputs = ("y", "d") if not both else ("y",)
    network = graph(nodes, {"x": (1, 4)}, weights, outputs)
    for value in network.graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, 1, (1, 4)))
    return network


@pytest.mark.parametrize("both", [True, False])
def test_a_dequantised_tensor_read_twice_is_dequantised_in_each_kernel(both: bool) -> None:
    found = split(quantised_twice_read(both), "cgen")
    ops = [found.workloads[i].op for i in found.order]
    assert sorted(ops) == sorted(
        ["QuantizeLinear", "Add:int8", "DequantizeLinear", *(["DequantizeLinear"] * (not both))]
    )


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "transformer"])
def test_code_generation_fuses_floats_as_tvm_does(family: str) -> None:
    assert split(exported(family), "cgen").order == split(exported(family), "tvm").order


def ops(network: ModelProto, rules: str = "tvm") -> list[str]:
    found = split(network, rules)
    return [found.workloads[i].op for i in found.order]


def test_a_transpose_runs_no_code_unless_its_order_is_needed_in_memory() -> None:
    def network(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None) -> ModelProto:
        return graph([make("Relu", ["x"], ["a"]), *nodes], {"x": (2, 4, 8)}, weights or {})

    turned = make("Transpose", ["a"], ["b"], perm=[1, 0, 2])
    merged = {"s": np.array([4, 16])}
    assert ops(network(turned, make("Softmax", ["b"], ["y"]))) == ["Relu", "Softmax"]
    assert ops(network(turned, make("Exp", ["b"], ["y"]))) == ["Relu+Transpose+Exp"]
    assert ops(network(make("Transpose", ["a"], ["y"], perm=[1, 0, 2]))) == ["Relu+Transpose"]
    given = network(turned, make("Reshape", ["b", "s"], ["c"]), make("Softmax", ["c"], ["y"]), weights=merged)
    assert ops(given) == ["Relu+Transpose", "Softmax"]
    product = make("MatMul", ["c", "w"], ["y"])
    given = network(turned, make("Reshape", ["b", "s"], ["c"]), product, weights={**merged, "w": ones(16, 3)})
    assert ops(given) == ["Relu", "MatMul"]
    assert ops(given, "cgen") == ["Relu+Transpose", "MatMul"]


def test_a_product_reads_a_slice_in_place_if_nobody_else_reads_it() -> None:
    def network(*nodes: onnx.NodeProto) -> ModelProto:
        cut = make("Slice", ["a", "from", "to", "axes"], ["b"])
        indices = {"from": np.array([0]), "to": np.array([4]), "axes": np.array([2])}
        return graph([make("Softmax", ["x"], ["a"]), cut, *nodes], {"x": (2, 4, 8)}, {**indices, "w": ones(4, 3)})

    product = make("MatMul", ["b", "w"], ["c"])
    assert ops(network(product, make("Softmax", ["c"], ["y"]))) == ["Softmax", "Slice+MatMul", "Softmax"]
    shared = make("Add", ["c", "d"], ["y"])
    assert "Slice" in ops(network(product, make("ReduceSum", ["b"], ["d"]), shared))
