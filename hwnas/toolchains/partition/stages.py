"""A network taken apart: segments for the accelerator, the rest for the CPU, and what crosses between the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwnas.errors import UnsupportedOperator
from hwnas.graph.fusion import in_execution_order, kernel_of
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.view import View, view
from hwnas.toolchains.partition.extract import Cutter
from hwnas.toolchains.partition.kernels import Placed, placed_kernels
from hwnas.toolchains.partition.merging import segments
from hwnas.toolchains.partition.rules import Rule

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Segment:
    """What the accelerator computes in one go: a QDQ network of its own with quantised inputs and outputs."""

    index: int
    kernels: tuple[Placed, ...]
    network: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    """One kernel that stays on the CPU, as a network of its own, and why: messages of the rules.

    There are no reasons where the network turns its float inputs into integers and integers into float outputs.
    """

    kernel: Placed
    network: ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        return self.kernel.reasons


Stage = Segment | Rest
_PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Operators that a network is quantised for."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor that is handed over; one that two segments read is handed over twice."""

    tensor: str
    bytes: int
    to: Literal["accelerator", "cpu"]
    segment: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A network as stages in execution order; every kernel is in exactly one of them.

    `graph` is the view that the operators of kernels index into. `crossings` are tensors that go from the CPU to the
    accelerator and back; `borders` are quantised tensors that the network itself takes or gives at a segment. A whole
    network with float inputs and outputs has no borders; a workload has, as it lies inside one, where nothing crosses.
    """

    network: ModelProto
    graph: View
    stages: tuple[Stage, ...]
    crossings: tuple[Crossing, ...]
    borders: tuple[Crossing, ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(stage for stage in self.stages if isinstance(stage, Segment))

    @property
    def rest(self) -> tuple[Rest, ...]:
        return tuple(stage for stage in self.stages if isinstance(stage, Rest))

    @property
    def kernels(self) -> int:
        """How many there are in all, on either side."""
        return sum(len(segment.kernels) for segment in self.segments) + len(self.rest)


def partition(network: ModelProto, rules: Sequence[Rule], prefix_only: bool = False) -> Partition:
    """Split a network (static shapes, opset 18 or later) into what the rules take and the rest.

    With `prefix_only` there is at most one segment: what comes before the first operator, in execution order, that no
    rule takes. Raises UnsupportedOperator and DataError as `view` does, BuildError where TVM is missing or fails.
    """
    graph = unshare(view(network))
    placed = placed_kernels(graph, rules, prefix_only)
    regions = segments(graph, placed)
    if prefix_only and len(regions) > 1:  # parts of the prefix that do not touch
        regions = [sorted(k for region in regions for k in region)]
    inside = {k for region in regions for k in region}
    members = [*regions, *([k] for k in range(len(placed)) if k not in inside)]
    groups = [sorted(i for k in group for i in placed[k].operators) for group in members]
    found = {group[0]: [placed[k] for k in ks] for group, ks in zip(groups, members)}
    stages = _stages(network, graph, [found[g[0]] for g in in_execution_order(graph, groups)])
    crossings, borders = _crossings(graph, stages)
    return Partition(network, graph, stages, crossings, borders)


def require_whole(divided: Partition) -> None:
    """Raises UnsupportedOperator for the first kernel that would be left to the CPU, with the messages of the rules."""
    left = [rest for rest in divided.rest if rest.reasons]
    if left:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        raise UnsupportedOperator(left[0].kernel.label, "; or ".join(left[0].reasons) + more)


def require_integers(divided: Partition) -> None:
    """Raises UnsupportedOperator for a network that is all floats: that is a mistake, and no work for the CPU."""
    if divided.segments or any(rest.kernel.group is not None for rest in divided.rest):
        return
    for rest in divided.rest:
        if rest.kernel.operator.op in _PRODUCTS and rest.reasons:
            raise UnsupportedOperator(rest.kernel.label, rest.reasons[0])


def _stages(network: ModelProto, graph: View, groups: Sequence[Sequence[Placed]]) -> tuple[Stage, ...]:
    cutter = Cutter(network, graph)
    stages: list[Stage] = []
    index = 0
    for kernels in groups:
        if kernels[0].rule is None:
            [kernel] = kernels
            piece = cutter.piece("rest", kernel.operators, kernel.inputs, kernel.outputs)
            stages.append(Rest(kernel, piece, kernel.inputs, kernel.outputs))
        else:
            whole = kernel_of(graph, sorted(i for kernel in kernels for i in kernel.operators))
            piece = cutter.piece(f"segment{index}", whole.operators, whole.inputs, whole.outputs)
            stages.append(Segment(index, tuple(kernels), piece, whole.inputs, whole.outputs))
            index += 1
    return tuple(stages)


def _crossings(graph: View, stages: Sequence[Stage]) -> tuple[tuple[Crossing, ...], tuple[Crossing, ...]]:
    """What crosses inside the network, and at its own inputs and outputs."""
    inside: list[Crossing] = []
    borders: list[Crossing] = []
    readers = {name for stage in stages for name in stage.inputs}
    for stage in stages:
        if not isinstance(stage, Segment):
            continue
        for name in stage.inputs:
            crossing = Crossing(name, graph.types[name].bytes, "accelerator", stage.index)
            (borders if name in graph.inputs else inside).append(crossing)
        for name in stage.outputs:
            crossing = Crossing(name, graph.types[name].bytes, "cpu", stage.index)
            (inside if name in readers else borders).append(crossing)
    return tuple(inside), tuple(borders)
