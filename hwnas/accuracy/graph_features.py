"""Features of a candidate's graph for accuracy prediction: the space's own, or a summary of its blocks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hwnas.core.interfaces import SearchSpace
from hwnas.core.workload import Block, Candidate

OPERATORS = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Gelu", "Softmax",
    "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Concat", "BatchNormalization", "LayerNormalization",
)  # fmt: skip
KERNELS = (1, 3, 5, 7, 9)
SUMS = (
    "params", "macs", "elements", "depthwise", "strided", "operators", "other operators",
    *(f"op {name}" for name in OPERATORS), *(f"kernel {size}" for size in KERNELS),
)  # fmt: skip
COLUMNS = len(SUMS) + 3
LARGE = frozenset({"params", "macs", "elements"})
"""Sums that span decades, kept as log(1 + x)."""


class GraphFeatures:
    """Maps candidates of a space to n x f; the columns are the same for every batch.

    A space that has `features` of its own (BatchSpace) is asked; for any other, what its blocks hold is summed, each
    distinct block looked at once.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._known: dict[str, Counter[str]] = {}

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Features of n candidates, n x f (float64)."""
        own = getattr(self.space, "features", None)
        if own is not None:
            return np.asarray(own(np.array([c.genotype for c in candidates])), dtype=np.float64)
        return np.array([self._summary(c) for c in candidates], dtype=np.float64).reshape(len(candidates), COLUMNS)

    def _summary(self, candidate: Candidate) -> list[float]:
        blocks = self.space.blocks(candidate)
        facts = [self._facts(block) for block in blocks]
        total: Counter[str] = Counter()
        for fact in facts:
            total.update(fact)
        sums = [math.log1p(total[name]) if name in LARGE else float(total[name]) for name in SUMS]
        widest = max((fact["elements"] for fact in facts), default=0)
        return [*sums, math.log1p(widest), float(len(blocks)), float(len({block.key for block in blocks}))]

    def _facts(self, block: Block) -> Counter[str]:
        if block.key not in self._known:
            self._known[block.key] = block_facts(block)
        return self._known[block.key]


def block_facts(block: Block) -> Counter[str]:
    """What a block holds, by the names in SUMS; multiply-accumulates are those of convolutions and dense layers."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(block.build()).graph
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    # scalars and vectors are biases and limits, small beside the weights and there or not by the exporter's choice
    facts: Counter[str] = Counter(params=sum(math.prod(s) for s in shapes.values() if len(s) > 1))
    for info in (*graph.value_info, *graph.output, *graph.input):
        shapes[info.name] = tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
    for node in graph.node:
        facts["operators"] += 1
        facts[f"op {node.op_type}" if node.op_type in OPERATORS else "other operators"] += 1
        produced = math.prod(shapes.get(node.output[0], (0,)))
        facts["elements"] += produced
        weight = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
        if node.op_type == "Conv" and len(weight) > 2:
            attributes = {a.name: a for a in node.attribute}
            facts["macs"] += produced * math.prod(weight[1:])
            facts["depthwise"] += int("group" in attributes and attributes["group"].i > 1 == weight[1])
            facts["strided"] += int("strides" in attributes and max(attributes["strides"].ints) > 1)
            facts[f"kernel {min(KERNELS, key=lambda size: abs(size - max(weight[2:])))}"] += 1
        elif node.op_type in ("Gemm", "MatMul") and len(weight) > 1:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            facts["macs"] += produced * weight[-1 if transposed else -2]
    return facts
