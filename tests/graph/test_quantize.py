from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from hwnas.errors import BuildError, DataError
from hwnas.graph.analysis import analyse, analyse_workload
from hwnas.graph.fusion import RULE_SETS, split
from hwnas.graph.quantize import quantize
from hwnas.graph.view import view
from hwnas.graph.workloads import materialize, parse_workload
from tests.graph.networks import exported, feeds, graph, ones, session

make = helper.make_node


def random_inputs(n: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(n)]


def accuracy(network: ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    running = session(network)
    return float(np.mean([running.run(None, {"input": i})[0].argmax() == k for i, k in zip(images, labels)]))


def test_int8_is_nearly_as_accurate_on_real_data(digits: tuple[ModelProto, np.ndarray, np.ndarray]) -> None:
    network, images, labels = digits
    int8 = quantize(network, list(images[:100]))
    full, small = accuracy(network, images[1200:], labels[1200:]), accuracy(int8, images[1200:], labels[1200:])
    assert full > 0.85
    assert small > full - 0.02
    assert len(onnx.ModelProto.SerializeToString(int8)) < len(network.SerializeToString()) + 20_000


def test_every_convolution_and_product_is_quantised() -> None:
    int8 = quantize(exported("residual"), random_inputs(4, (1, 3, 32, 32)))
    producer = {name: node for node in int8.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in int8.graph.initializer}
    seen = 0
    for node in int8.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert all(producer[name].op_type == "DequantizeLinear" for name in node.input[:2])
            assert weights[producer[node.input[1]].input[0]].data_type == onnx.TensorProto.INT8
            scale = weights[producer[node.input[1]].input[1]]
            assert list(scale.dims) == [weights[producer[node.input[1]].input[0]].dims[0]]
            seen += 1
    assert seen == 7


def test_quantising_is_deterministic_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    data = random_inputs(3, (1, 3, 32, 32))
    first, second = (quantize(exported("depthwise"), data).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""


@pytest.mark.parametrize("rules", RULE_SETS)
@pytest.mark.parametrize("family", ["residual", "depthwise", "excite", "transformer"])
def test_quantised_workloads_are_one_kernel_each_and_run(family: str, rules: str) -> None:
    shape = (1, 3, 16, 16) if family == "transformer" else (1, 3, 32, 32)
    full = exported(family)
    int8 = quantize(full, random_inputs(4, shape))
    found = split(int8, rules)
    convolutions = sum(node.op_type == "Conv" for node in full.graph.node)
    assert sum(count for i, count in found.parts.items() if found.workloads[i].op.startswith("Conv")) == convolutions
    assert (
        sum(analyse_workload(found.workloads[i]).macs for i in found.order) == analyse(full).macs == analyse(int8).macs
    )
    for workload in found.workloads.values():
        network = materialize(workload)
        onnx.checker.check_model(network, full_check=True)
        running = session(network, optimise=False)
        for out in running.run(None, feeds(running)):
            assert np.isfinite(out.astype(np.float64)).all()
        assert parse_workload(workload.onnx, workload.op) == workload


def test_int8_weights_take_one_byte() -> None:
    full = exported("residual")
    int8 = quantize(full, random_inputs(4, (1, 3, 32, 32)))
    facts, before = analyse(int8), analyse(full)
    bias_elements = sum(t.dims[0] for t in full.graph.initializer if t.data_type == 1 and len(t.dims) == 1)
    assert facts.params == before.params
    assert facts.weight_bytes == before.params + 3 * bias_elements
    assert facts.peak_activation_bytes < before.peak_activation_bytes


def test_calibration_does_not_change_ids() -> None:
    full = exported("depthwise")
    first = quantize(full, random_inputs(4, (1, 3, 32, 32)))
    second = quantize(full, [5 * array + 1 for array in random_inputs(2, (1, 3, 32, 32))])
    for rules in RULE_SETS:
        assert split(first, rules).order == split(second, rules).order


def test_calibration_data_that_does_not_fit_is_refused() -> None:
    network = exported("residual")
    with pytest.raises(DataError, match="calibration needs at least one input"):
        quantize(network, [])
    with pytest.raises(DataError, match=r"calibration input 0 of shape \(3, 32, 32\); .* of shape \(1, 3, 32, 32\)"):
        quantize(network, [np.zeros((3, 32, 32), np.float32)])
    with pytest.raises(DataError, match="calibration input 0 with values that are not finite"):
        quantize(network, [np.full((1, 3, 32, 32), np.nan, np.float32)])
    two = graph([helper.make_node("Add", ["x", "z"], ["y"])], {"x": (1, 4), "z": (1, 4)})
    with pytest.raises(DataError, match="a network of one input, this one has 2"):
        quantize(two, [np.zeros((1, 4), np.float32)])


def hostile() -> dict[str, tuple[ModelProto, str]]:
    """Networks that cannot be quantised, with the reason that must be given."""
    image = {"x": (1, 3, 8, 8)}
    unknown = graph([make("Relu", ["x"], ["y"], name="r1")], {"x": (1, 4)})
    unknown.graph.node[0].op_type = "Rleu"
    foreign = graph([make("Relu", ["x"], ["y"], name="r1", domain="org.example")], {"x": (1, 4)})
    for network in (unknown, foreign):
        network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 4)))
    row = {"x": (1, 4)}
    nan = ones(4, 3, 1, 1)
    nan[0, 0] = np.nan
    double = graph([make("Relu", ["x"], ["y"])], row)
    double.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    double.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, (1, 4)))
    valueless = graph([make("Conv", ["x", "w"], ["y"], name="c1")], image, {"w": ones(4, 3, 1, 1)})
    valueless.graph.initializer[0].ClearField("raw_data")
    shapes = "weights must be its second operand and a matrix"
    return {
        "unknown": (unknown, "Rleu 'r1' cannot be quantised: not an operator of ONNX"),
        "foreign": (foreign, "Relu 'r1' cannot be quantised: it is of domain 'org.example'"),
        "twice": (quantize(exported("depthwise"), random_inputs(1, (1, 3, 32, 32))), "QuantizeLinear '.*already"),
        "computed": (
            graph([make("Relu", ["w"], ["v"]), make("Conv", ["x", "v"], ["y"], name="c1")], image, {"w": ones(4, 3, 1, 1)}),
            "Conv 'c1' cannot be quantised: operand 'v' is not a constant",
        ),
        "valueless": (valueless, "Conv 'c1' cannot be quantised: operand 'w' is not a constant with values"),
        "nan": (
            graph([make("Conv", ["x", "w"], ["y"], name="c1")], image, {"w": nan}),
            "Conv 'c1' (cannot be quantised: its weights are not finite|gives values that are not finite)",
        ),
        "huge": (
            graph([make("Conv", ["x", "w"], ["y"], name="c1")], image, {"w": 1e30 * ones(4, 3, 1, 1)}),
            "Conv 'c1' .*too large",
        ),
        "transposed": (
            graph([make("Gemm", ["x", "w"], ["y"], name="g1", transA=1)], {"x": (4, 1)}, {"w": ones(4, 2)}),
            "Gemm 'g1' cannot be quantised: its first operand is transposed",
        ),
        "left": (
            graph([make("MatMul", ["w", "x"], ["y"], name="m1")], {"x": (4, 2)}, {"w": ones(3, 4)}),
            f"MatMul 'm1' cannot be quantised: {shapes}",
        ),
        "bias": (
            graph([make("Gemm", ["x", "w", "b"], ["y"], name="g1")], {"x": (3, 4)}, {"w": ones(4, 2), "b": ones(3, 2)}),
            "Gemm 'g1' cannot be quantised: its bias of shape .3, 2. is not one row",
        ),
        "double": (double, "input 'x' cannot be quantised: it is double"),
    }  # fmt: skip


@pytest.mark.parametrize("name", [
    "unknown", "foreign", "twice", "computed", "valueless", "nan", "huge", "transposed", "left", "bias", "double",
])  # fmt: skip
def test_what_cannot_be_quantised_is_named(name: str) -> None:
    network, reason = hostile()[name]
    shape = tuple(d.dim_value for d in network.graph.input[0].type.tensor_type.shape.dim)
    with pytest.raises(BuildError, match=f"build failed in quantize: .*{reason}"):
        quantize(network, [np.ones(shape, np.float32)])


def test_tiny_summands_are_kept_within_reach_of_float32() -> None:
    nodes = [make("Conv", ["x", "u"], ["a"]), make("Conv", ["x", "v"], ["b"]), make("Add", ["a", "b"], ["c"]),
             make("Relu", ["c"], ["y"])]  # fmt: skip
    weights = {"u": 1e6 * ones(2, 3, 1, 1), "v": 1e-6 * ones(2, 3, 1, 1)}
    int8 = quantize(graph(nodes, {"x": (1, 3, 4, 4)}, weights), random_inputs(4, (1, 3, 4, 4)))
    found = view(int8)
    for operator in found.operators:
        if operator.op == "Add":
            sources = [found.operators[found.producer[name]] for name in operator.inputs]
            scales = [found.scalar(source.inputs[1]) or 0.0 for source in sources]
            assert max(scales) / min(scales) <= 2.0**15


@pytest.mark.parametrize("constant", [1e-9, 1e7])
def test_constant_summands_stay_within_reach_too(constant: float) -> None:
    nodes = [make("Conv", ["x", "w"], ["a"]), make("Relu", ["a"], ["b"]), make("Add", ["b", "k"], ["y"])]
    network = graph(nodes, {"x": (1, 3, 4, 4)}, {"w": ones(2, 3, 1, 1), "k": constant * ones(1, 2, 1, 1)})
    found = view(quantize(network, random_inputs(4, (1, 3, 4, 4))))
    (total,) = (operator for operator in found.operators if operator.op == "Add")
    sources = [found.operators[found.producer[name]] for name in total.inputs]
    scales = [found.scalar(source.inputs[1]) or 0.0 for source in sources]
    assert max(scales) / min(scales) == 2.0**15


def test_moves_share_their_scale_and_run_no_kernel() -> None:
    nodes = [make("MaxPool", ["x"], ["a"], kernel_shape=[2, 2]), make("Flatten", ["a"], ["b"]), make("Relu", ["b"], ["c"]),
             make("Concat", ["b", "c"], ["y"], axis=1)]  # fmt: skip
    network = graph(nodes, {"x": (1, 3, 4, 4)})
    network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 54)))
    int8 = quantize(network, random_inputs(4, (1, 3, 4, 4)))
    assert len({node.input[1] for node in int8.graph.node if node.op_type == "QuantizeLinear"}) == 1
    found = split(int8, "cgen")
    assert [found.workloads[i].op for i in found.order] == [
        "QuantizeLinear", "MaxPool:int8", "Relu:int8", "Concat:int8", "DequantizeLinear",
    ]  # fmt: skip


def test_clamps_stay_with_their_operator() -> None:
    int8 = quantize(exported("depthwise"), random_inputs(4, (1, 3, 32, 32)))
    found = split(int8, "cgen")
    ops = [found.workloads[i].op for i in found.order]
    assert ops[0] == "QuantizeLinear" and ops[-1] == "DequantizeLinear"
    assert set(ops[1:-1]) == {"Conv+Clip:int8", "Conv:int8", "Add:int8", "ReduceMean:int8", "Gemm:int8"}
    assert ops.count("Conv+Clip:int8") == 5


def test_a_lonely_batch_norm_becomes_a_depthwise_convolution() -> None:
    int8 = quantize(exported("cell"), random_inputs(4, (1, 3, 16, 16)))
    assert "BatchNormalization" not in {node.op_type for node in int8.graph.node}
    full = session(exported("cell")).run(None, {"input": (x := random_inputs(1, (1, 3, 16, 16))[0])})[0]
    small = session(int8).run(None, {"input": x})[0]
    assert np.abs(full - small).max() < 0.1 * np.abs(full).max()


def test_factors_of_a_gemm_are_part_of_its_weights() -> None:
    weights = {"w": np.eye(4, dtype=np.float32), "b": np.array([1.0], np.float32)}
    network = graph([make("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0)], {"x": (1, 4)}, weights)
    network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 4)))
    x = np.array([[0.5, -1.0, 1.5, 2.0]], np.float32)
    np.testing.assert_array_equal(session(quantize(network, [x])).run(None, {"x": x})[0], 0.5 * x + 2)


def test_power_of_two_scales_cost_little(digits: tuple[ModelProto, np.ndarray, np.ndarray]) -> None:
    network, images, labels = digits
    full = session(network)
    logits = np.concatenate([full.run(None, {"input": i})[0] for i in images[1200:]])
    for scales, decibels in (("free", 28), ("power-of-two", 23)):
        running = session(quantize(network, list(images[:100]), scales))  # type: ignore[arg-type]
        made = np.concatenate([running.run(None, {"input": i})[0] for i in images[1200:]])
        assert 10 * np.log10(np.square(logits).sum() / np.square(made - logits).sum()) > decibels
        assert np.mean(made.argmax(1) == labels[1200:]) > np.mean(logits.argmax(1) == labels[1200:]) - 0.01
