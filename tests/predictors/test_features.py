"""Features of workloads, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwnas.core.workload import Workload
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.fusion import split
from hwnas.graph.precision import cast
from hwnas.graph.workloads import materialize
from hwnas.predictors.features import CLASSES, NAMES, features, kernel_class, work


def only(graph: GraphBuilder, value: object) -> Workload:
    parts = split(graph.build(value), "ort")  # type: ignore[arg-type]
    (workload,) = parts.workloads.values()
    return workload


def conv(channels: int = 16, groups: int = 1, kernel: int = 3, stride: int = 1) -> Workload:
    graph = GraphBuilder("c")
    x = graph.input((1, 4, 8, 8))
    return only(graph, graph.relu6(graph.conv(x, channels, (kernel, kernel), (stride, stride), groups)))


def linear() -> Workload:
    graph = GraphBuilder("l")
    return only(graph, graph.linear(graph.input((1, 32)), 10))


def named(workload: Workload) -> dict[str, float]:
    return dict(zip(NAMES, features([workload])[0]))


def test_a_convolution_by_hand() -> None:
    found = named(conv())
    macs, weights, out = 16 * 8 * 8 * 4 * 9, 16 * 4 * 9 + 16, 16 * 8 * 8
    moved = 4 * (4 * 8 * 8 + out + weights) + 2 * 4  # input, output, weights, the two bounds of the clip
    sizes = {
        "macs": macs, "elementwise": out, "weights": weights, "moved_bytes": moved, "out_elements": out,
        "depth_of_sum": 36, "channels_in": 4, "channels_out": 16, "height": 8, "width": 8, "kernel": 9, "stride": 1,
        "group_width": 4,
    }  # fmt: skip
    assert {k: found[f"log_{k}"] for k in sizes} == pytest.approx({k: math.log2(1 + v) for k, v in sizes.items()})
    rest = {"operators": 2, "residual": 0, "fills_8": 1, "fills_16": 1, "in_fills_16": 0.25, "padded": 1}
    assert {k: found[k] for k in rest} == rest
    assert found["intensity"] == pytest.approx(macs / moved)
    assert work([conv()])[0].tolist() == [macs]
    assert work([conv()])[1].tolist() == [moved]


def test_a_classifier_by_hand() -> None:
    found = named(linear())
    sizes = {
        "macs": 320, "elementwise": 0, "weights": 330, "moved_bytes": 4 * (32 + 10 + 330), "out_elements": 10,
        "depth_of_sum": 32, "channels_in": 32, "channels_out": 10, "height": 1, "width": 1, "kernel": 1, "stride": 1,
        "group_width": 32,
    }  # fmt: skip
    assert {k: found[f"log_{k}"] for k in sizes} == pytest.approx({k: math.log2(1 + v) for k, v in sizes.items()})
    assert (found["is_matmul"], found["padded"], found["fills_8"], found["in_fills_16"]) == (1, 0, 10 / 16, 1)


def test_stride_and_group_width_are_seen() -> None:
    assert named(conv(stride=2))["log_stride"] == pytest.approx(math.log2(3))
    assert named(conv(channels=4, groups=4))["log_group_width"] == 1.0


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (conv(), "dense conv"),
        (conv(kernel=1), "pointwise conv"),
        (conv(channels=4, groups=4), "depthwise conv"),
        (conv(channels=4, groups=2), "grouped conv"),
        (linear(), "matmul"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_kinds_of_kernels(workload: Workload, expected: str) -> None:
    assert kernel_class(workload) == expected
    row = named(workload)
    assert [c for c in CLASSES if row[f"is_{c.replace(' ', '_')}"]] == [expected]


def test_pools_sums_and_the_rest_have_their_kinds() -> None:
    pool = GraphBuilder("p")
    assert kernel_class(only(pool, pool.average_pool(pool.input((1, 4, 8, 8)), 3, 1, 1, False))) == "pool"
    total = GraphBuilder("s")
    assert kernel_class(only(total, total.spatial_mean(total.input((1, 4, 8, 8))))) == "reduce"
    other = GraphBuilder("r")
    assert kernel_class(only(other, other.relu(other.input((1, 4, 8, 8))))) == "elementwise"


def test_no_workloads_have_an_empty_table() -> None:
    assert features([]).shape == (0, len(NAMES))
    assert np.isfinite(features([conv(), linear()])).all()


def quantised(workload: Workload) -> Workload:
    """The int8 form of a workload in the midst of a network."""
    network = cast(materialize(workload), "int8", quantised_input=True, quantised_output=True)
    (found,) = split(network, "cgen").workloads.values()
    return found


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (conv(), "dense conv"),
        (conv(kernel=1), "pointwise conv"),
        (conv(channels=4, groups=4), "depthwise conv"),
        (conv(channels=4, groups=2), "grouped conv"),
        (linear(), "matmul"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_int8_kernels_are_of_the_same_kind_and_shape(workload: Workload, expected: str) -> None:
    small = quantised(workload)
    assert kernel_class(small) == expected
    row, full = named(small), named(workload)
    same = (
        "macs",
        "weights",
        "out_elements",
        "depth_of_sum",
        "channels_in",
        "channels_out",
        "height",
        "kernel",
        "stride",
    )
    assert {k: row[f"log_{k}"] for k in same} == {k: full[f"log_{k}"] for k in same}
    assert [row[k] for k in ("residual", "fills_16", "padded")] == [full[k] for k in ("residual", "fills_16", "padded")]
    assert (row["quantised"], full["quantised"]) == (1, 0)
    assert row["log_moved_bytes"] < full["log_moved_bytes"] - 1


def test_int8_pools_sums_and_borders_have_their_kinds() -> None:
    def kinds(network: GraphBuilder, value: object) -> list[str]:
        parts = split(cast(network.build(value), "int8"), "cgen")  # type: ignore[arg-type]
        return [kernel_class(parts.workloads[i]) for i in parts.order]

    pool = GraphBuilder("p")
    pooled = pool.average_pool(pool.input((1, 4, 8, 8)), 3, 1, 1, False)
    assert kinds(pool, pooled) == ["elementwise", "pool", "elementwise"]
    total = GraphBuilder("s")
    x = total.input((1, 4, 8, 8))
    added = total.spatial_mean(total.add(x, x))
    assert kinds(total, added) == ["elementwise", "elementwise", "reduce", "elementwise"]
