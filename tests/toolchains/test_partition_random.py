"""Whatever network and whatever rules: the parts of a partition compute together what the network computes."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from hwnas.graph.quantised import Group
from hwnas.graph.scales import ScaleRule
from hwnas.graph.view import View
from hwnas.toolchains.partition import Partition, Rule, Segment, partition, run_partition
from hwnas.toolchains.partition.execute import run_onnx
from tests.toolchains.branching import images, quantised

NAMED = (
    "Conv", "Add", "Mul", "HardSwish", "HardSigmoid", "ReduceMean", "AveragePool", "Concat", "Reshape", "Softmax",
    "DequantizeLinear", "Relu", "Clip",
)  # fmt: skip
QUANTISED = (TensorProto.UINT8, TensorProto.INT8)


def sometimes(seed: int, share: float) -> Callable[[Group, View], str | None]:
    """A condition that refuses a share of the operators, always the same."""

    def chosen(group: Group, _graph: View) -> str | None:
        """it is one of the chosen"""
        return "another" if zlib.crc32(f"{seed} {group.operator.outputs[0]}".encode()) % 1000 < 1000 * share else None

    return chosen


def assert_consistent(divided: Partition, supported: set[str]) -> None:
    """Every operator is in one place, stages come after what they read, and segments hold what they may."""
    placed: list[int] = []
    known = set(divided.graph.inputs) | set(divided.graph.constants)
    for stage in divided.stages:
        kernels = stage.kernels if isinstance(stage, Segment) else (stage.kernel,)
        placed += [i for kernel in kernels for i in kernel.operators]
        assert known.issuperset(stage.inputs)  # hence no two stages wait for each other
        known |= set(stage.outputs)
        if isinstance(stage, Segment):
            assert all(kernel.rule in supported and kernel.operator.op == kernel.rule for kernel in kernels)
            assert all(divided.graph.types[n].dtype in QUANTISED for n in (*stage.inputs, *stage.outputs))
        else:
            assert stage.kernel.rule is None
            if not stage.reasons:  # it turns floats into integers or back at the network's border
                assert stage.kernel.operator.op in ("QuantizeLinear", "DequantizeLinear", "Reshape")
                ends = (*stage.inputs, *stage.outputs)
                assert any(divided.graph.types[name].dtype == TensorProto.FLOAT for name in ends)
    assert sorted(placed) == list(range(len(divided.graph.operators)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    length=st.integers(2, 24),
    supported=st.sets(st.sampled_from(NAMED), min_size=4),
    share=st.sampled_from([0.0, 0.0, 0.1, 0.3]),
    scales=st.sampled_from(["power-of-two", "free"]),
    prefix_only=st.booleans(),
)
def test_the_parts_compute_what_the_network_computes(
    seed: int, length: int, supported: set[str], share: float, scales: ScaleRule, prefix_only: bool
) -> None:
    network = quantised(seed, length, scales)
    condition = sometimes(seed, share)
    divided = partition(network, [Rule(op, (op,), (condition,)) for op in sorted(supported)], prefix_only)
    assert_consistent(divided, supported)
    if prefix_only:
        assert len(divided.segments) <= 1
    # with scales that are powers of two no optimisation of onnxruntime changes a bit; other scales are run unoptimised
    level = "none" if scales == "free" else "all"
    x = images(1, seed + 1)
    for mine, whole in zip(
        run_partition(divided, x, graph_optimization=level), run_onnx(network, x, level), strict=True
    ):
        np.testing.assert_array_equal(mine, whole)


@pytest.mark.parametrize("seed", range(3))
def test_all_is_one_segment_where_everything_is_supported(seed: int) -> None:
    operators = ("conv", "depthwise", "add", "mul", "hardswish", "pool", "concat", "views", "excite")
    divided = partition(quantised(seed, 15, "free", operators), [Rule(op, (op,)) for op in NAMED])
    assert len(divided.segments) == 1
    assert all(rest.reasons == () for rest in divided.rest)
