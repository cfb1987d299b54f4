"""Post-training static int8 quantisation: the QDQ form of a trained network, with scales from calibration data.

Where rounding happens is decided by `qdq_plan`, how it is written by `qdq_insert`; here every activation gets its
step from what it holds on the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import BuildError
from hwnas.graph.calibration import Seen, check_calibration, observe
from hwnas.graph.qdq_insert import Insertion
from hwnas.graph.qdq_plan import SUMS, Plan, plan_of
from hwnas.graph.scales import MAX_APART, MAX_EXPONENT, ScaleRule, Step, activation_step, exponent_of, symmetric_scale
from hwnas.graph.view import View, view

if TYPE_CHECKING:
    from onnx import ModelProto


def quantize(network: ModelProto, calibration: Sequence[np.ndarray], scales: ScaleRule = "power-of-two") -> ModelProto:
    """The int8 form of an fp32 network of one input: unsigned activations, signed weights per output channel.

    `calibration` holds inputs of the network's own shape (1 x ...). The network keeps its float inputs and outputs.
    With power-of-two scales, onnxruntime at any optimisation level computes what integers with shifts compute, bit
    for bit; "free" scales cover the ranges seen with the finest steps. Deterministic. Raises DataError for
    calibration data that does not fit, BuildError that names the node where the network cannot be quantised.
    """
    graph = view(network)
    check_calibration(graph, calibration)
    plan = plan_of(graph)
    seen: dict[str, Seen] = {}
    for name, values in observe(network, graph, plan.roots, calibration).items():
        if name in plan.roots:
            root = plan.roots[name]
            seen[root] = seen[root].merged(values) if root in seen else values
    steps = _steps(graph, plan, seen, scales)
    return Insertion(network, graph, plan, steps, scales).write(False, False)


def _steps(graph: View, plan: Plan, seen: Mapping[str, Seen], rule: ScaleRule) -> dict[str, Step]:
    """The step of every root; what the network gives out is covered, all else may be clipped."""
    covered = {plan.roots[name] for name in graph.outputs if name in plan.roots}

    def choose(root: str, least: int = -MAX_EXPONENT) -> Step:
        s = seen[root]
        try:
            return activation_step(s.values, s.low, s.high, rule, clip=root not in covered, least=least)
        except BuildError as error:
            maker = str(graph.operators[graph.producer[root]]) if root in graph.producer else f"input {root!r}"
            raise BuildError("quantize", f"{maker} cannot be quantised: {error.log}") from None

    steps = {root: choose(root) for root in seen}
    while rule == "power-of-two" and (coarser := _too_fine(graph, plan, steps)):
        steps.update({root: choose(root, least) for root, least in coarser.items()})
    return steps


def _too_fine(graph: View, plan: Plan, steps: Mapping[str, Step]) -> dict[str, int]:
    """The roots whose exponents lie too far below that of another summand, and the least they may have."""
    coarser: dict[str, int] = {}
    for i in sorted(plan.operators):
        operator = graph.operators[i]
        if operator.op not in SUMS:
            continue
        exponents = {r: exponent_of(steps[r].scale) for n in operator.inputs if (r := plan.roots.get(n, ""))}
        stored = [array for name in operator.inputs if (array := graph.array(name)) is not None and array.size > 1]
        others = [exponent_of(symmetric_scale(array, "power-of-two")) for array in stored]
        least = max([*exponents.values(), *others]) - MAX_APART
        for root, exponent in exponents.items():
            if exponent < least:
                coarser[root] = max(least, coarser.get(root, least))
    return coarser
