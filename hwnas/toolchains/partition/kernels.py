"""The kernels of a quantised network as an accelerator meets them: each read as integer arithmetic and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx import TensorProto

from hwnas.core.workload import Workload
from hwnas.errors import UnsupportedOperator
from hwnas.graph.canonical import canonical_workload
from hwnas.graph.fusion import Kernel, in_execution_order, kernel_of, kernels
from hwnas.graph.quantised import Group, read_group
from hwnas.graph.view import METADATA_OPS, Operator, View
from hwnas.toolchains.partition.rules import Rule, judge

RULES = "cgen"
"""The fusion rule set of all accelerators: one kernel for each quantised operator."""

_BORDER_OPS = METADATA_OPS | {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, slots=True)
class Placed:
    """A kernel with its place: the rule that takes it to the accelerator, or why it stays on the CPU.

    `operators` index into the partition's graph; `operator` is the one it is named by, `group` what it computes as
    integers (None: it does not). `workload` is None where no code runs: the kernel only reshapes. A kernel of the
    border between the floats of the network's inputs and outputs and its integers has no rule, and no reasons.
    """

    operators: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operator: Operator
    group: Group | None
    workload: Workload | None
    rule: str | None = None
    reasons: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Operator and name; the tensor it makes where it has no name."""
        return str(self.operator) if self.operator.name else f"{self.operator.op} of {self.outputs[0]!r}"


def placed_kernels(graph: View, rules: Sequence[Rule], prefix_only: bool) -> list[Placed]:
    """Every kernel of a network in execution order, those that only reshape among them, each judged by the rules."""
    found = [_read(graph, kernel, code) for kernel, code in _all_kernels(graph)]
    border = _border(graph, found)
    judged: list[Placed] = []
    stop: Placed | None = None
    for k, kernel in enumerate(found):
        if k in border:
            judged.append(replace(kernel, reasons=()))
            continue
        if kernel.group is not None:
            rule, reasons = judge(rules, kernel.group, graph)
            kernel = replace(kernel, rule=rule, reasons=reasons)
        if stop is not None:
            after = f"it comes after {stop.label}, where the accelerator's part of a network ends"
            kernel = replace(kernel, rule=None, reasons=kernel.reasons or (after,))
        elif prefix_only and kernel.rule is None:
            stop = kernel
        judged.append(kernel)
    return judged


def _all_kernels(graph: View) -> list[tuple[Kernel, bool]]:
    """The kernels and, with False, what belongs to none because no code runs for it."""
    with_code = kernels(graph, RULES)
    taken = {i for kernel in with_code for i in kernel.operators}
    views = _views(graph, [i for i in range(len(graph.operators)) if i not in taken])
    code = {kernel.operators[0]: True for kernel in with_code} | {view[0]: False for view in views}
    groups = in_execution_order(graph, [*(list(kernel.operators) for kernel in with_code), *views])
    return [(kernel_of(graph, group), code[group[0]]) for group in groups]


def _views(graph: View, loose: Sequence[int]) -> list[list[int]]:
    """Operators without code in groups: those that hand each other floats belong together."""
    group_of: dict[int, list[int]] = {}
    for i in loose:
        group = [i]
        for name in graph.operators[i].inputs:
            source = graph.producer.get(name)
            if source in group_of and graph.types[name].dtype == TensorProto.FLOAT:
                group = [*group_of[source], *group]
        for j in group:
            group_of[j] = group
    return list({id(group): sorted(group) for group in group_of.values()}.values())


def _read(graph: View, kernel: Kernel, code: bool) -> Placed:
    """A kernel as integer arithmetic, with the reasons why it is none."""
    group, reasons = None, tuple[str, ...]()
    try:
        group = read_group(graph, kernel)
        if group is None or group.result.grid is None or any(a.grid is None for a in group.activations):
            group, reasons = None, (_why_not_integers(graph, kernel),)
    except UnsupportedOperator as error:
        reasons = (error.reason,)
    members = [graph.operators[i] for i in kernel.operators]
    named = [o for o in members if o.op not in ("QuantizeLinear", "DequantizeLinear")] or members
    if not kernel.outputs:  # nobody reads what it makes
        kernel = replace(kernel, outputs=tuple(name for name in members[-1].outputs if name))
    workload = canonical_workload(graph, kernel.operators, kernel.outputs) if code else None
    return Placed(kernel.operators, kernel.inputs, kernel.outputs, named[0], group, workload, None, reasons)


def _why_not_integers(graph: View, kernel: Kernel) -> str:
    members = [graph.operators[i] for i in kernel.operators]
    if not kernel.outputs:
        return "nothing reads its result"
    if not any(o.op in ("QuantizeLinear", "DequantizeLinear") for o in members):
        return "it computes on floats, and the accelerator on int8: quantise the network (precision: int8 in a run, --nominal for a price alone)"
    if len(kernel.outputs) > 1:
        return "results inside it are read elsewhere, so that it is no operator between quantised tensors"
    if members[-1].op != "QuantizeLinear":
        return "its result is not quantised"
    if members[0].op == "QuantizeLinear":
        return "what it quantises is computed in floats"
    return "it is not one operator between quantised tensors of one scale each, with constant bounds"


def _border(graph: View, found: Sequence[Placed]) -> set[int]:
    """What only quantises the network's inputs and dequantises its outputs, and reshapes the floats beside that."""
    plain = {
        k
        for k, kernel in enumerate(found)
        if kernel.group is None and all(graph.operators[i].op in _BORDER_OPS for i in kernel.operators)
    }
    entered, left = set(graph.inputs), set(graph.outputs)
    border: set[int] = set()
    for k in sorted(plain):
        if all(name in entered for name in found[k].inputs) and _is_float(graph, found[k].inputs):
            border.add(k)
            entered |= set(found[k].outputs)
    reader_of = {i: k for k, kernel in enumerate(found) for i in kernel.operators}
    leaving: set[int] = set()
    for k in sorted(plain, reverse=True):
        outputs = found[k].outputs
        readers = {reader_of[i] for name in outputs for i in graph.readers.get(name, ())} - {k}
        if readers <= leaving and (readers or set(outputs) <= left) and _is_float(graph, outputs):
            leaving.add(k)
    return border | leaving


def _is_float(graph: View, names: Sequence[str]) -> bool:
    return all(graph.types[name].dtype == TensorProto.FLOAT for name in names)
