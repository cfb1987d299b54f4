"""What the tvm toolchain's kernels read where it lies, so that no code runs to move it.

A tensor is stored in any order of its axes: a Transpose changes how it is indexed, unless what follows needs the new
order in memory. Matrix products also read slices in place, and merged axes whose order in memory is another.
"""

from __future__ import annotations

from hwnas.graph import rules_tvm
from hwnas.graph.view import METADATA_OPS, Operator, View

PRODUCTS = frozenset({"MatMul", "Gemm"})
_MERGES = frozenset({"Reshape", "Flatten"})


def groups(graph: View) -> list[list[int]]:
    """Groups of operators as FuseOps fuses them where transposes run no code and products read slices in place."""
    found = rules_tvm.groups(graph, read_in_place(graph))
    owner = {i: k for k, group in enumerate(found) for i in group}
    for k, group in enumerate(found):
        reader = _sole_product(graph, group)
        if reader is not None:
            found[owner[reader]] += group
            owner.update(dict.fromkeys(group, owner[reader]))
            found[k] = []
    return [sorted(group) for group in found if group]


def read_in_place(graph: View) -> frozenset[int]:
    """The transposes for which no code runs, wherever they stand."""
    return frozenset(
        i
        for i, operator in enumerate(graph.operators)
        if operator.op == "Transpose" and _read_everywhere(graph, operator, merged=False)
    )


def _read_everywhere(graph: View, operator: Operator, merged: bool) -> bool:
    """Whether every reader of an operator's result takes it in another order of axes; `merged`: after a reshape."""
    name = operator.outputs[0]
    if name in graph.outputs:
        return False
    for j in graph.readers.get(name, ()):
        reader = graph.operators[j]
        if reader.op in _MERGES and not _keeps_axes(graph, reader):
            if merged or not _read_everywhere(graph, reader, merged=True):
                return False
        elif reader.op in METADATA_OPS or reader.op == "Transpose":
            if not _read_everywhere(graph, reader, merged):
                return False
        elif merged and reader.op not in PRODUCTS:
            return False
    return True


def _keeps_axes(graph: View, operator: Operator) -> bool:
    """Whether a reshape only adds or drops axes of one element."""
    before, after = (graph.types[name].shape for name in (operator.inputs[0], operator.outputs[0]))
    return [n for n in before if n != 1] == [n for n in after if n != 1]


def _sole_product(graph: View, group: list[int]) -> int | None:
    """The matrix product that alone reads a group which only slices and renames; None for any other group."""
    operators = [graph.operators[i] for i in group]
    if not any(o.op == "Slice" for o in operators):
        return None
    if not all(o.op in METADATA_OPS or o.op in ("Slice", "Transpose") for o in operators):
        return None
    members = set(group)
    made = [name for o in operators for name in o.outputs]
    readers = {j for name in made for j in graph.readers.get(name, ())} - members
    if len(readers) != 1 or not set(graph.outputs).isdisjoint(made):
        return None
    [reader] = readers
    return reader if graph.operators[reader].op in PRODUCTS else None
