"""What TVM's Relax FuseOps makes one kernel, on the level of ONNX operators.

Each operator has a pattern, from `element` (one output element needs one element of each operand) to `opaque`. Every
operator is merged into its immediate post-dominator, if the patterns on all paths between the two allow it; this is
the algorithm of TVM's graph partitioner (Chen et al., TVM, OSDI 2018, section 3; patterns as AnnotateTIROpPattern
assigns them to the legalised operators). Phase 0 merges what follows convolutions and matrix products, phase 1
merges what only moves elements.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import IntEnum

from hwnas.graph.rules_qdq import quantised_groups
from hwnas.graph.view import Operator, View

Edges = list[tuple[int, "Pattern"]] | None
"""Who reads an operator's result, with the reader's pattern; None where the network gives it out."""


class Pattern(IntEnum):
    """How outputs depend on operands; a higher pattern is harder to fuse."""

    ELEMENT = 0
    BROADCAST = 1
    INJECTIVE = 2
    REDUCE = 3
    ANCHOR = 4
    OPAQUE = 8


_ELEMENT = (
    "Abs Acos Asin Atan BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity "
    "IsNaN LeakyRelu Log Mish Neg Not PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign "
    "Sqrt Swish Tan Tanh ThresholdedRelu Dropout"
)
_BROADCAST = (
    "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or "
    "Pow Sub Sum Where Xor QuantizeLinear DequantizeLinear BatchNormalization"
)
_INJECTIVE = (
    "Concat DepthToSpace Expand Flatten Gather GatherElements Pad Reshape Resize Slice SpaceToDepth Split Squeeze Tile "
    "Transpose Trilu Unsqueeze Upsample"
)
_REDUCE = "GlobalAveragePool ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
_ANCHOR = "AveragePool Conv ConvTranspose Einsum Gemm GlobalMaxPool LpPool MatMul MaxPool"

PATTERNS: Mapping[str, Pattern] = {
    op: pattern
    for pattern, names in (
        (Pattern.ELEMENT, _ELEMENT),
        (Pattern.BROADCAST, _BROADCAST),
        (Pattern.INJECTIVE, _INJECTIVE),
        (Pattern.REDUCE, _REDUCE),
        (Pattern.ANCHOR, _ANCHOR),
    )
    for op in names.split()
}
"""Operators that are not named are opaque: a kernel of their own."""

MAX_FUSED = 256
"""FuseOps stops growing a group at this many operators (its option fuse_opt_level's default depth)."""


class _Groups:
    """Disjoint groups with the pattern of each: a union-find whose root is the later operator."""

    def __init__(self, patterns: list[Pattern]) -> None:
        self.patterns = patterns
        self._parent = list(range(len(patterns)))
        self.size = [1] * len(patterns)
        self._anchored = [p == Pattern.ANCHOR for p in patterns]

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def merge(self, child: int, into: int) -> None:
        child, into = self.root(child), self.root(into)
        if child == into:
            return
        self._parent[child] = into
        self.size[into] += self.size[child]
        if self._anchored[child]:
            self._anchored[into] = True
            self.patterns[into] = max(self.patterns[into], self.patterns[child])

    def members(self) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for i in range(len(self._parent)):
            found.setdefault(self.root(i), []).append(i)
        return list(found.values())


def groups(graph: View, free: Collection[int] = ()) -> list[list[int]]:
    """Groups of operators as FuseOps fuses them; those in `free` only rename what they read."""
    patterns = [_pattern(graph, operator) for operator in graph.operators]
    for i in free:
        patterns[i] = Pattern.ELEMENT
    quantised = quantised_groups(graph)
    for i in (i for group in quantised for i in group):
        patterns[i] = Pattern.OPAQUE
    edges = _edges(graph, patterns)
    parents, paths = _post_dominators(edges)
    fused = _Groups(list(patterns))
    for phase in (0, 1):
        for i, pattern in enumerate(patterns):
            parent = parents[i]
            if parent is None or pattern == Pattern.OPAQUE or fused.root(i) == fused.root(parent):
                continue
            if fused.size[fused.root(i)] + fused.size[fused.root(parent)] > MAX_FUSED:
                continue
            kind = fused.patterns[i]
            if kind == Pattern.ANCHOR:
                allowed = phase == 0 and paths[i] == Pattern.ELEMENT
                between, sink = _up_to(Pattern.BROADCAST), _up_to(Pattern.BROADCAST)
            elif kind <= Pattern.BROADCAST:
                allowed = paths[i] <= Pattern.REDUCE
                between, sink = _up_to(Pattern.INJECTIVE), _up_to(Pattern.ANCHOR)
            elif kind == Pattern.INJECTIVE:
                allowed = phase == 1
                between, sink = _up_to(Pattern.INJECTIVE), _up_to(Pattern.INJECTIVE)
            else:
                continue
            region = _region(edges, i, parent) if allowed else None
            if (
                region is not None
                and all(between(fused.patterns[fused.root(j)]) for j in region)
                and sink(fused.patterns[fused.root(parent)])
            ):
                for j in (i, *region):
                    fused.merge(j, parent)
    for group in quantised:
        for i in group:
            fused.merge(i, group[-1])
    return fused.members()


def _up_to(limit: Pattern) -> Callable[[Pattern], bool]:
    return lambda pattern: pattern <= limit


def _pattern(graph: View, operator: Operator) -> Pattern:
    """The pattern of an operator; broadcasting is element by element where one operand has the result's shape."""
    if operator.domain:
        return Pattern.OPAQUE
    pattern = PATTERNS.get(operator.op, Pattern.OPAQUE)
    if pattern == Pattern.BROADCAST:
        shape = graph.types[operator.outputs[0]].shape
        if any(name and graph.types[name].shape == shape for name in operator.inputs):
            return Pattern.ELEMENT
    return pattern


def _edges(graph: View, patterns: list[Pattern]) -> list[Edges]:
    """For each operator its readers with their patterns; None where the network gives its result out."""
    given_out = set(graph.outputs)
    edges: list[Edges] = []
    for operator in graph.operators:
        if given_out.isdisjoint(operator.outputs):
            edges.append([(j, patterns[j]) for name in operator.outputs for j in graph.readers.get(name, ())])
        else:
            edges.append(None)
    return edges


def _post_dominators(
    edges: list[Edges],
) -> tuple[list[int | None], list[Pattern]]:
    """The immediate post-dominator of each operator, and the highest pattern on the way there."""
    parents: list[int | None] = [None] * len(edges)
    paths = [Pattern.OPAQUE] * len(edges)
    depth = [1] * len(edges)
    for i in range(len(edges) - 1, -1, -1):
        readers = edges[i]
        if not readers:
            continue
        meet: int | None = readers[0][0]
        highest = readers[0][1]
        for j, pattern in readers[1:]:
            other: int | None = j
            highest = max(highest, pattern)
            while meet != other:
                if meet is None or other is None:
                    meet = other = None
                    break
                step_meet, step_other = depth[meet] >= depth[other], depth[other] >= depth[meet]
                if step_meet:
                    highest, meet = max(highest, paths[meet]), parents[meet]
                if step_other:
                    highest, other = max(highest, paths[other]), parents[other]
            if meet is None:
                break
        parents[i] = meet
        paths[i] = highest
        depth[i] = 1 if meet is None else depth[meet] + 1
    return parents, paths


def _region(edges: list[Edges], start: int, end: int) -> list[int]:
    """The operators on all paths from start to its post-dominator, both excluded."""
    seen: set[int] = set()
    pending = [start]
    while pending:
        for j, _ in edges[pending.pop()] or ():
            if j != end and j not in seen:
                seen.add(j)
                pending.append(j)
    return sorted(seen)
