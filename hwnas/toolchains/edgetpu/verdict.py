"""From the compiler's table of operators to kernels: which of ours it mapped.

Its table counts operators by kind and fate and names none. The compiler goes through a network in order and maps a
prefix, so of a kind that is partly mapped the first ones are; with several subgraphs those that no rule takes are left
out first, then the last ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwnas.graph.quantised import Group
from hwnas.graph.tflite.emit import emission
from hwnas.graph.view import View
from hwnas.toolchains.edgetpu.compiler import Report
from hwnas.toolchains.partition import Placed, Rule

if TYPE_CHECKING:
    from onnx import ModelProto


def rules_of_compiler(network: ModelProto, graph: View, kernels: Sequence[Placed], report: Report) -> tuple[Rule, ...]:
    """Support rules that take exactly the kernels that the compiler mapped, in the network that it was given."""
    refused = refused_kernels(network, graph, kernels, report)
    known = {kernel.operator.outputs[0] for kernel in kernels}

    def mapped(group: Group, graph: View) -> str | None:
        """edgetpu_compiler maps it to the Edge TPU"""
        made = group.operator.outputs[0]
        return refused.get(made) if made in known else "it comes after what was compiled"

    operators = sorted({kernel.group.op for kernel in kernels if kernel.group is not None})
    return (Rule("compiler", tuple(operators), (mapped,)),)


def refused_kernels(network: ModelProto, graph: View, kernels: Sequence[Placed], report: Report) -> dict[str, str]:
    """What the operator makes that a kernel is named by -> why the compiler left it to the CPU."""
    file = emission(network).file
    calls = [(call.operator, file.tensors[call.outputs[0]].name) for call in file.calls]
    owners = _owners(graph, kernels, [name for _, name in calls])
    left = {row.operator: row for row in report.operators if not row.mapped}
    spare = Counter({row.operator: 0 for row in report.operators})
    spare.update({row.operator: row.count for row in report.operators if row.mapped})
    order = range(len(calls))
    if report.subgraphs > 1:
        order = sorted(order, key=lambda i: (owner := owners[i]) is None or kernels[owner].rule is None)  # type: ignore[assignment]
    refused: dict[str, str] = {}
    for i in order:
        operator, owner = calls[i][0], owners[i]
        if spare[operator] > 0:
            spare[operator] -= 1
        elif owner is not None:
            why = left[operator].status if operator in left else f"its report counts fewer {operator}"
            refused.setdefault(kernels[owner].operator.outputs[0], why)
    return refused


def _owners(graph: View, kernels: Sequence[Placed], names: Sequence[str]) -> list[int | None]:
    """The kernel that each of the file's operators belongs to: the next one whose result is written."""
    made: dict[str, int] = {}
    for k, kernel in enumerate(kernels):
        last = graph.operators[kernel.operators[-1]]
        for name in (*kernel.outputs, *last.inputs[:1], *_read_as(graph, kernel)):
            made.setdefault(name, k)
    owners: list[int | None] = [None] * len(names)
    owner: int | None = None
    for i in range(len(names) - 1, -1, -1):
        owner = made.get(names[i], owner)
        owners[i] = owner
    return owners


def _read_as(graph: View, kernel: Placed) -> list[str]:
    """Outputs of the network that a kernel's result becomes."""
    readers = [i for name in kernel.outputs for i in graph.readers.get(name, ())]
    return [name for i in readers for name in graph.operators[i].outputs if name in graph.outputs]
