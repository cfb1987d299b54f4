"""Networks into fused kernels: which operators a toolchain runs as one kernel, and the workloads that makes.

A rule set maps a view to groups of operators. Operators that only rename or reshape a tensor belong to the kernel
they sit in; at the border of a kernel they vanish, because no code runs for them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from hwnas.core.workload import Workload
from hwnas.errors import ConfigError
from hwnas.graph import rules_ort, rules_tvm, rules_views
from hwnas.graph.canonical import canonical_workload
from hwnas.graph.rules_qdq import only_renames, unshare
from hwnas.graph.view import METADATA_OPS, View, view

if TYPE_CHECKING:
    from onnx import ModelProto

Rules = Callable[[View], list[list[int]]]
"""Groups of operator indices; every operator is in exactly one group."""
Free = Callable[[View], Collection[int]]
"""The operators for which no code runs, besides those that rename or reshape a tensor."""

RULE_SETS: Mapping[str, Rules] = MappingProxyType(
    # code generation lowers float operators as Relax does; every quantised group is one kernel of its own. At the
    # borders of a quantised network, QuantizeLinear and DequantizeLinear are kernels too.
    {"cgen": rules_tvm.groups, "ort": rules_ort.groups, "tvm": rules_views.groups}
)
FREE: Mapping[str, Free] = MappingProxyType({"tvm": rules_views.read_in_place})


@dataclass(frozen=True, slots=True)
class Split:
    """A network as workloads: ids in execution order, the workload of each id, and how often each occurs."""

    order: tuple[str, ...]
    workloads: Mapping[str, Workload]
    parts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A fused group in a network: operator indices in topological order, the tensors it reads and gives out."""

    operators: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def split(network: ModelProto, rules: str) -> Split:
    """Split a network (static shapes, opset 18 or later) into workloads, as the rule set named `rules` fuses it.

    Raises ConfigError for an unknown rule set, UnsupportedOperator and DataError as `view` does.
    """
    graph = unshare(view(network))
    workloads: dict[str, Workload] = {}
    order: list[str] = []
    for kernel in kernels(graph, rules):
        workload = canonical_workload(graph, kernel.operators, kernel.outputs)
        workloads.setdefault(workload.id, workload)
        order.append(workload.id)
    return Split(tuple(order), MappingProxyType(workloads), MappingProxyType(dict(Counter(order))))


def kernels(graph: View, rules: str) -> list[Kernel]:
    """The fused kernels of a network in execution order; pass quantised networks through `unshare` first.

    Raises ConfigError for an unknown rule set.
    """
    if rules not in RULE_SETS:
        raise ConfigError(f"no fusion rule set {rules!r}", given=rules, allowed=RULE_SETS)
    free = {i for i, operator in enumerate(graph.operators) if operator.op in METADATA_OPS}
    free |= set(FREE[rules](graph)) if rules in FREE else set()
    found = [sorted(group) for group in RULE_SETS[rules](graph)]
    groups = [g for group in found if not only_renames(graph, group) and (g := _without_borders(graph, group, free))]
    return [kernel_of(graph, group) for group in in_execution_order(graph, groups)]


def _without_borders(graph: View, group: list[int], free: Collection[int]) -> list[int]:
    """Drop operators without code that read from outside the group or are read only outside it."""
    members = set(group)
    changed = any(i in free for i in group)
    while changed:
        changed = False
        for i in sorted(members):
            operator = graph.operators[i]
            if i not in free:
                continue
            source = graph.producer.get(operator.inputs[0])
            readers = graph.readers.get(operator.outputs[0], ())
            if source not in members or not any(r in members for r in readers):
                members.discard(i)
                changed = True
    return sorted(members)


def in_execution_order(graph: View, groups: Sequence[list[int]]) -> list[list[int]]:
    """Groups in topological order; of those that could run next, the one whose last operator comes first."""
    owner = {i: g for g, group in enumerate(groups) for i in group}
    waits: list[set[int]] = [set() for _ in groups]
    feeds: list[set[int]] = [set() for _ in groups]
    for g, group in enumerate(groups):
        for i in group:
            for source in _sources(graph, i, owner):
                if source != g:
                    waits[g].add(source)
                    feeds[source].add(g)
    ready = [(group[-1], g) for g, group in enumerate(groups) if not waits[g]]
    heapq.heapify(ready)
    result = []
    while ready:
        _, g = heapq.heappop(ready)
        result.append(groups[g])
        for after in feeds[g]:
            waits[after].discard(g)
            if not waits[after]:
                heapq.heappush(ready, (groups[after][-1], after))
    assert len(result) == len(groups), "a rule set made groups that wait for each other"
    return result


def _sources(graph: View, i: int, owner: Mapping[int, int]) -> list[int]:
    """The groups that an operator reads from, seen through metadata operators that belong to no group."""
    found, pending = [], [i]
    while pending:
        for name in graph.operators[pending.pop()].inputs:
            source = graph.producer.get(name)
            if source is not None:
                if source in owner:
                    found.append(owner[source])
                else:
                    pending.append(source)
    return found


def kernel_of(graph: View, group: Sequence[int]) -> Kernel:
    """The kernel of a group of operators, given in topological order."""
    members = set(group)
    inputs: dict[str, None] = {}
    outputs: list[str] = []
    for i in group:
        operator = graph.operators[i]
        for name in operator.inputs:
            if name and name not in graph.constants and graph.producer.get(name) not in members:
                inputs[name] = None
        for name in operator.outputs:
            outside = any(r not in members for r in graph.readers.get(name, ()))
            if name and (outside or name in graph.outputs):
                outputs.append(name)
    return Kernel(tuple(group), tuple(inputs), tuple(outputs))
