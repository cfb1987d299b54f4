"""Partitions: which rule takes what, why a kernel stays on the CPU, and what crosses in between."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from hwnas import registry
from hwnas.errors import BuildError, ConfigError, DataError, UnsupportedOperator
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.fusion import split
from hwnas.graph.precision import cast
from hwnas.graph.quantised import Group
from hwnas.graph.view import View
from hwnas.graph.workloads import materialize
from hwnas.profiling.subjects import untrained
from hwnas.toolchains.partition import (
    Crossing,
    Partition,
    Rule,
    Segment,
    Supported,
    partition,
    require_whole,
    run_partition,
    support_table,
)
from hwnas.toolchains.partition.execute import run_onnx


def strides_fit(group: Group, _graph: View) -> str | None:
    """Strides are 1
    or 2."""
    strides = group.attributes.get("strides", (1, 1))
    assert isinstance(strides, tuple)
    return None if max(map(int, strides)) <= 2 else f"strides {strides[0]} x {strides[1]}"


def is_pointwise(group: Group, _graph: View) -> str | None:
    """the kernel is 1 x 1"""
    return None if group.operands[1].shape[2:] == (1, 1) else "kernel {} x {}".format(*group.operands[1].shape[2:])


EVERYTHING = (
    Rule("conv", ("Conv",)),
    Rule("sums", ("Add", "Mul")),
    Rule("rest", ("Gemm", "ReduceMean", "Reshape", "HardSigmoid", "HardSwish", "Concat", "AveragePool")),
)


def micro(seed: int = 0) -> ModelProto:
    space = registry.spaces.load("mbconv-micro")()
    return untrained(space, space.sample(np.random.default_rng(seed)), "int8")


def chain(*operators: str, kernel: int = 3, stride: int = 1) -> ModelProto:
    """An int8 network of operators on 1 x 4 x 8 x 8 in a row."""
    graph = GraphBuilder("chain")
    value = graph.input((1, 4, 8, 8))
    for op in operators:
        if op == "conv":
            value = graph.conv(value, 4, (kernel, kernel), (stride, stride))
        elif op == "flatten":
            value = graph.flatten(value)
        elif op == "linear":
            value = graph.linear(value, 5)
        else:
            value = getattr(graph, op)(value)
    return cast(graph.build(value), "int8")


def labels(divided: Partition) -> list[str]:
    """What every stage is: the operators of a segment, or the one of a kernel on the CPU in brackets."""
    return [
        "+".join(k.operator.op for k in stage.kernels)
        if isinstance(stage, Segment)
        else f"({stage.kernel.operator.op})"
        for stage in divided.stages
    ]


def test_the_support_table_has_a_line_for_every_operator() -> None:
    rules = (Rule("conv", ("Conv",), (strides_fit, is_pointwise)), Rule("sums", ("Mul", "Add")))
    assert support_table(rules) == (
        Supported("Add", "sums", ()),
        Supported("Conv", "conv", ("Strides are 1 or 2", "the kernel is 1 x 1")),
        Supported("Mul", "sums", ()),
    )


def test_a_condition_without_a_docstring_is_refused() -> None:
    def mute(_group: Group, _graph: View) -> str | None:
        return None

    with pytest.raises(ConfigError, match="condition mute: has no docstring, which is what users are told"):
        Rule("conv", ("Conv",), (mute,))
    with pytest.raises(ConfigError, match="names no operator"):
        Rule("conv", ())


def test_a_rule_tells_the_first_condition_that_does_not_hold() -> None:
    rules = (Rule("conv", ("Conv",), (strides_fit, is_pointwise)),)
    assert labels(partition(chain("conv", kernel=1), rules)) == ["(QuantizeLinear)", "Conv", "(DequantizeLinear)"]
    [_, first, _] = partition(chain("conv", kernel=3, stride=4), rules).rest
    assert first.reasons == ("conv: Strides are 1 or 2; given strides 4 x 4",)
    [_, first, _] = partition(chain("conv", kernel=3), rules).rest
    assert first.reasons == ("conv: the kernel is 1 x 1; given kernel 3 x 3",)


def test_either_of_two_rules_will_do_and_both_tell_why_not() -> None:
    rules = (Rule("small", ("Conv",), (is_pointwise,)), Rule("large", ("Conv",), (strides_fit,)))
    assert [s.kernels[0].rule for s in partition(chain("conv", kernel=1, stride=4), rules).segments] == ["small"]
    assert [s.kernels[0].rule for s in partition(chain("conv", kernel=3), rules).segments] == ["large"]
    with pytest.raises(UnsupportedOperator, match=r"small: .* given kernel 3 x 3; or large: .* given strides 4 x 4"):
        require_whole(partition(chain("conv", kernel=3, stride=4), rules))


def test_a_whole_network_is_one_segment_between_two_crossings() -> None:
    network = micro()
    divided = partition(network, EVERYTHING)
    assert [type(stage).__name__ for stage in divided.stages] == ["Rest", "Segment", "Rest"]
    require_whole(divided)
    [segment] = divided.segments
    size = divided.graph.types[segment.inputs[0]]
    assert size.dtype == TensorProto.UINT8
    assert divided.crossings == (
        Crossing(segment.inputs[0], size.bytes, "accelerator", 0),
        Crossing(segment.outputs[0], 10, "cpu", 0),
    )
    assert divided.borders == ()
    parts = [k.workload.id for k in segment.kernels if k.workload] + [r.kernel.workload.id for r in divided.rest]  # type: ignore[union-attr]
    assert sorted(parts) == sorted(split(network, "cgen").order)


def test_an_operator_that_no_rule_names_is_named() -> None:
    divided = partition(micro(), EVERYTHING[:2])
    with pytest.raises(UnsupportedOperator) as caught:
        require_whole(divided)
    left = sum(bool(rest.reasons) for rest in divided.rest)
    assert str(caught.value).startswith("unsupported operator ReduceMean 'ReduceMean_")
    assert str(caught.value).endswith(
        f"no rule computes ReduceMean; supported are Add, Conv, Mul (and {left - 1} more)"
    )


def test_a_float_network_is_told_to_be_quantised() -> None:
    space = registry.spaces.load("mbconv-micro")()
    divided = partition(untrained(space, space.sample(np.random.default_rng(0)), "fp32"), EVERYTHING)
    assert divided.segments == () and divided.crossings == ()
    with pytest.raises(UnsupportedOperator, match=r"computes on floats, .*precision: int8"):
        require_whole(divided)


def test_a_prefix_ends_at_the_first_operator_that_no_rule_takes() -> None:
    network = chain("conv", "hardswish", "conv", "conv")
    rules = (Rule("conv", ("Conv",)),)
    everywhere, prefix = partition(network, rules), partition(network, rules, prefix_only=True)
    assert labels(everywhere) == ["(QuantizeLinear)", "Conv", "(HardSwish)", "Conv+Conv", "(DequantizeLinear)"]
    assert labels(prefix) == ["(QuantizeLinear)", "Conv", "(HardSwish)", "(Conv)", "(Conv)", "(DequantizeLinear)"]
    stop, after = (rest for rest in prefix.rest if rest.reasons and rest.kernel.operator.op == "Conv")
    assert stop.reasons == (
        f"it comes after {prefix.rest[1].kernel.label}, where the accelerator's part of a network ends",
    )
    assert [rest.reasons for rest in (prefix.rest[0], prefix.rest[-1])] == [(), ()] and after.reasons == stop.reasons


def test_parts_of_a_prefix_that_do_not_touch_are_one_segment() -> None:
    graph = GraphBuilder("two branches")
    x = graph.input((1, 4, 8, 8))
    branches = [graph.conv(x, 4, (3, 3)) for _ in range(2)]
    network = cast(graph.build(*(graph.hardswish(branch) for branch in branches)), "int8")
    rules = (Rule("conv", ("Conv",)),)
    assert len(partition(network, rules).segments) == 2
    divided = partition(network, rules, prefix_only=True)
    assert labels(divided)[:2] == ["(QuantizeLinear)", "Conv+Conv"] and len(divided.segments) == 1


def test_a_workload_has_borders_where_a_network_has_crossings() -> None:
    for workload in split(micro(), "cgen").workloads.values():
        divided = partition(materialize(workload), EVERYTHING)
        if workload.op in ("QuantizeLinear", "DequantizeLinear"):
            assert divided.segments == () and [rest.reasons for rest in divided.rest] == [()]
        else:
            assert len(divided.segments) == 1 and divided.rest == () and divided.crossings == ()
            require_whole(divided)
            [segment] = divided.segments
            assert [c.tensor for c in divided.borders] == [*segment.inputs, *segment.outputs]
            assert [k.workload for k in segment.kernels] == [workload]


def test_a_tensor_that_two_segments_read_crosses_twice() -> None:
    graph = GraphBuilder("twice")
    gate = graph.hardswish(graph.input((1, 4, 8, 8)))
    ends = [graph.conv(gate, 4, (3, 3)) for _ in range(2)]
    divided = partition(cast(graph.build(*ends), "int8"), (Rule("conv", ("Conv",)),))
    there = [c for c in divided.crossings if c.to == "accelerator"]
    assert [c.tensor for c in there] == [there[0].tensor] * 2 and {c.segment for c in there} == {0, 1}


def test_a_reshape_that_no_rule_names_cuts_a_segment_and_costs_no_kernel() -> None:
    network = chain("conv", "flatten", "linear")
    whole = (Rule("products", ("Conv", "Gemm")), Rule("views", ("Reshape",)))
    assert labels(partition(network, whole)) == ["(QuantizeLinear)", "Conv+Reshape+Gemm", "(DequantizeLinear)"]
    cut = partition(network, whole[:1])
    assert labels(cut) == ["(QuantizeLinear)", "Conv", "(Reshape)", "Gemm", "(DequantizeLinear)"]
    assert cut.rest[1].kernel.workload is None
    with pytest.raises(UnsupportedOperator, match="no rule computes Reshape"):
        require_whole(cut)


def quantised_by_hand(*nodes: onnx.NodeProto, outputs: tuple[str, ...]) -> ModelProto:
    """A network of nodes after `x` (1 x 4 x 4 x 4) was quantised to `q`; every grid is scale `s`, zero point `z`."""
    scales = [
        helper.make_tensor("s", TensorProto.FLOAT, [], [0.0625]),
        helper.make_tensor("z", TensorProto.UINT8, [], [128]),
        helper.make_tensor("w", TensorProto.INT8, [4, 4, 1, 1], list(range(-8, 8))),
        helper.make_tensor("ws", TensorProto.FLOAT, [], [0.125]),
    ]
    entry = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 4])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([entry, *nodes], "by hand", inputs, made, scales)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(network)


def requantised(name: str) -> list[onnx.NodeProto]:
    """`name` quantised, and dequantised as `name_d`."""
    return [
        helper.make_node("QuantizeLinear", [name, "s", "z"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [f"{name}_d"]),
    ]


def assert_same(network: ModelProto, divided: Partition) -> None:
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    for mine, whole in zip(run_partition(divided, [x]), run_onnx(network, [x]), strict=True):
        np.testing.assert_array_equal(mine, whole)


def test_an_operator_whose_float_result_is_read_twice_stays_on_the_cpu() -> None:
    network = quantised_by_hand(
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"]),
        helper.make_node("Conv", ["d", "wd"], ["y"], name="leaks"),
        *requantised("y"),
        helper.make_node("Relu", ["y"], ["r"]),
        *requantised("r"),
        helper.make_node("Add", ["y_d", "r_d"], ["sum"]),
        *requantised("sum"),
        outputs=("sum_d",),
    )
    divided = partition(network, (*EVERYTHING, Rule("relu", ("Relu",))))
    assert [s.kernels[0].operator.op for s in divided.segments] == ["Add"]
    reasons = {rest.kernel.label: rest.reasons for rest in divided.rest}
    assert reasons["Conv 'leaks'"] == ("its result is not quantised",)
    assert_same(network, divided)


def test_a_kernel_of_several_results_stays_on_the_cpu() -> None:
    network = quantised_by_hand(
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Split", ["d"], ["a", "b"], name="halves", axis=1, num_outputs=2),
        *requantised("a"),
        *requantised("b"),
        helper.make_node("Add", ["a_d", "b_d"], ["sum"]),
        *requantised("sum"),
        outputs=("sum_d",),
    )
    divided = partition(network, (*EVERYTHING, Rule("split", ("Split",))))
    assert [s.kernels[0].operator.op for s in divided.segments] == ["Add"]
    with pytest.raises(UnsupportedOperator, match="Split 'halves'"):
        require_whole(divided)
    assert_same(network, divided)


def test_what_nobody_reads_stays_on_the_cpu() -> None:
    network = quantised_by_hand(
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Add", ["d", "d"], ["twice"]),
        *requantised("twice"),
        helper.make_node("Mul", ["twice_d", "twice_d"], ["dead"], name="dead"),
        helper.make_node("QuantizeLinear", ["dead", "s", "z"], ["dead_q"]),
        outputs=("twice_d",),
    )
    divided = partition(network, EVERYTHING)
    assert {r.kernel.label: r.reasons for r in divided.rest}["Mul 'dead'"] == ("nothing reads its result",)
    assert_same(network, divided)


def test_what_tvm_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm import relax

    def fail() -> None:
        raise ValueError("no\n  such pass")

    monkeypatch.setattr(relax.transform, "MergeCompositeFunctions", fail)
    with pytest.raises(BuildError, match="build failed in partition: ValueError: no such pass"):
        partition(chain("conv"), EVERYTHING)


def test_segments_may_be_computed_by_somebody_else() -> None:
    network = chain("conv", "hardswish", "conv")
    divided = partition(network, (Rule("conv", ("Conv",)),))
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    seen: list[int] = []

    def compute(segment: Segment, inputs: list[np.ndarray]) -> list[np.ndarray]:
        seen.append(segment.index)
        return run_onnx(segment.network, inputs)

    [mine] = run_partition(divided, [x], compute)
    np.testing.assert_array_equal(mine, run_onnx(network, [x])[0])
    assert seen == [0, 1]
    with pytest.raises(DataError, match=r"segment 0 gives \[\(1, 4, 8, 8\)\], and \[\(1, 2\)\] was computed for it"):
        run_partition(divided, [x], lambda _segment, _inputs: [np.zeros((1, 2), np.uint8)])
    with pytest.raises(DataError, match="takes 1 inputs, and 2 were given"):
        run_partition(divided, [x, x])
