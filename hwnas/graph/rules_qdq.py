"""Quantised kernels: an operator between DequantizeLinear and QuantizeLinear computes on integers, as one kernel."""

from __future__ import annotations

from dataclasses import replace

from hwnas.graph.view import METADATA_OPS, Operator, View

CLAMPS = frozenset({"Relu", "Clip"})
"""What runs within the kernel of the operator before it: two bounds on its integers."""


def unshare(graph: View) -> View:
    """The same graph where every DequantizeLinear has one reader, because each kernel dequantises for itself."""
    makers = {operator.outputs[0]: operator for operator in graph.operators if operator.op == "DequantizeLinear"}
    if all(len(graph.readers.get(name, ())) + (name in graph.outputs) < 2 for name in makers):
        return graph
    types = dict(graph.types)
    used = set(graph.outputs)
    copies = 0
    operators: list[Operator] = []
    for operator in graph.operators:
        inputs: list[str] = []
        for name in operator.inputs:
            if name in used and name in makers:
                maker = makers[name]
                copies += 1
                types[fresh := f"{name}#{copies}"] = types[name]
                operators.append(Operator(maker.op, maker.inputs, (fresh,), maker.attributes, maker.domain))
                name = fresh
            elif name in makers:
                used.add(name)
            inputs.append(name)
        operators.append(replace(operator, inputs=tuple(inputs)))
    return View(operators, graph.inputs, graph.outputs, types, graph.constants, graph.opset)


def quantised_groups(graph: View) -> list[list[int]]:
    """One group for each operator that reads dequantised tensors: its DequantizeLinear, clamp and QuantizeLinear."""
    found: list[list[int]] = []
    for i, operator in enumerate(graph.operators):
        if operator.op in ("QuantizeLinear", "DequantizeLinear"):
            continue
        sources = [graph.producer.get(name) for name in operator.inputs]
        dequantised = [s for s in sources if s is not None and graph.operators[s].op == "DequantizeLinear"]
        if not dequantised or any(graph.sole_reader(graph.operators[s].outputs[0]) is None for s in dequantised):
            continue
        group = [*dequantised, i]
        after = graph.sole_reader(operator.outputs[0])
        if after is not None and graph.operators[after].op in CLAMPS and operator.op not in METADATA_OPS:
            clamp = after
            after = graph.sole_reader(graph.operators[clamp].outputs[0])
            if after is not None and graph.operators[after].op == "QuantizeLinear":
                group.append(clamp)
            else:
                after = None
        if after is not None and graph.operators[after].op == "QuantizeLinear":
            group.append(after)
        found.append(sorted(group))
    return found


def only_renames(graph: View, group: list[int]) -> bool:
    """Whether a group reshapes a quantised tensor and leaves scale and zero point as they are: no kernel runs."""
    kinds = [graph.operators[i].op for i in group]
    moves = [kind for kind in kinds if kind in METADATA_OPS]
    if len(moves) != 1 or sorted(k for k in kinds if k not in METADATA_OPS) != ["DequantizeLinear", "QuantizeLinear"]:
        return False
    before, after = graph.operators[group[0]], graph.operators[group[-1]]
    pairs = zip(before.inputs[1:], after.inputs[1:])
    return all(a == b or graph.scalar(a) == graph.scalar(b) is not None for a, b in pairs)
