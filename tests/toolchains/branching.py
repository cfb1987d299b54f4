"""Random networks that branch and meet again, for tests of what takes networks apart."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from hwnas.graph.builder import GraphBuilder, Value
from hwnas.graph.quantize import quantize
from hwnas.graph.scales import ScaleRule

OPERATORS = ("conv", "depthwise", "add", "mul", "hardswish", "pool", "concat", "views", "softmax", "excite")
BINARY = ("add", "mul", "concat")
SHAPE = (1, 4, 4, 4)


def branching(seed: int, length: int, operators: tuple[str, ...] = OPERATORS) -> ModelProto:
    """A float network of `length` random operators on 1 x 4 x 4 x 4 tensors; it gives out all that no other reads, and
    up to two more."""
    rng = np.random.default_rng(seed)
    graph = GraphBuilder(f"branching{seed}")
    known = [graph.conv(graph.input(SHAPE), SHAPE[1], (3, 3))]
    read: set[str] = set()
    for _ in range(length):
        # mostly the latest tensors, sometimes one from far back
        a, b = (known[-1 - min(int(rng.geometric(0.4)) - 1, len(known) - 1)] for _ in range(2))
        op = str(rng.choice(operators))
        read |= {a.name, b.name} if op in BINARY else {a.name}
        known.append(_operator(graph, op, a, b, rng))
    more = {known[k].name for k in rng.integers(0, len(known), int(rng.integers(0, 3)))}
    return graph.build(*(value for value in known if value.name in more or value.name not in read))


def quantised(seed: int, length: int, scales: ScaleRule, operators: tuple[str, ...] = OPERATORS) -> ModelProto:
    """The same network in int8, calibrated on its own random inputs."""
    return quantize(branching(seed, length, operators), images(6, seed), scales)


def images(n: int, seed: int = 0) -> list[np.ndarray]:
    """n random inputs."""
    return list(np.random.default_rng(seed).standard_normal((n, *SHAPE)).astype(np.float32))


def _operator(graph: GraphBuilder, op: str, a: Value, b: Value, rng: np.random.Generator) -> Value:
    if op in ("conv", "depthwise"):
        groups = SHAPE[1] if op == "depthwise" else 1
        made = graph.conv(a, SHAPE[1], (3, 3) if rng.random() < 0.5 else (1, 1), groups=groups)
        return made if rng.random() < 0.4 else graph.relu6(made) if rng.random() < 0.5 else graph.relu(made)
    if op == "add":
        made = graph.add(a, b)
        return graph.relu(made) if rng.random() < 0.3 else made
    if op == "mul":
        return graph.mul(a, b)
    if op == "hardswish":
        return graph.hardswish(a)
    if op == "pool":
        return graph.average_pool(a, 3, 1, 1, count_pad=False)
    if op == "concat":
        joined = graph.operator("Concat", (a.name, b.name), (1, 8, 4, 4), axis=1)
        return graph.conv(joined, SHAPE[1], (1, 1))
    if op == "views":
        flat = graph.flatten(a)
        return graph.operator("Reshape", (flat.name, graph.constant(np.array(SHAPE, np.int64))), SHAPE, allowzero=1)
    if op == "softmax":
        return graph.operator("Softmax", (a.name,), SHAPE, axis=1)
    gate = graph.hardsigmoid(graph.conv(graph.spatial_mean(a), SHAPE[1], (1, 1)))
    return graph.mul(a, gate)
