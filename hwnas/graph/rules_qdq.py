"""Quantised kernels: an operator between DequantizeLinear and QuantizeLinear computes on integers, as one kernel."""

from __future__ import annotations

from hwnas.graph.view import METADATA_OPS, Operator, View

_CLAMPS = frozenset({"Relu", "Clip"})


def unshare(graph: View) -> View:
    """The same graph where every DequantizeLinear has one reader, because each kernel dequantises for itself."""
    shared = [
        i
        for i, o in enumerate(graph.operators)
        if o.op == "DequantizeLinear" and len(graph.readers.get(o.outputs[0], ())) > 1
    ]
    if not shared:
        return graph
    copies: dict[tuple[str, int], str] = {}
    operators: list[Operator] = []
    types = dict(graph.types)
    for i, operator in enumerate(graph.operators):
        operators.append(operator)
        if i in shared:
            name = operator.outputs[0]
            for k, reader in enumerate(graph.readers[name][1:], 1):
                fresh = f"{name}#{k}"
                types[fresh] = types[name]
                copies[name, reader] = fresh
                operators.append(Operator(operator.op, operator.inputs, (fresh,), operator.attributes, operator.domain))
    position = {id(operator): i for i, operator in enumerate(graph.operators)}
    renamed = [
        Operator(
            o.op,
            tuple(copies.get((name, position.get(id(o), -1)), name) for name in o.inputs),
            o.outputs,
            o.attributes,
            o.domain,
            o.name,
        )
        for o in operators
    ]
    return View(renamed, graph.inputs, graph.outputs, types, graph.constants, graph.opset)


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
        if after is not None and graph.operators[after].op in _CLAMPS and operator.op not in METADATA_OPS:
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
