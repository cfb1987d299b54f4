"""A network as the list of kernels that run, the tensors they exchange and the constants they need; no TVM here.

This is all that the sizes of a network depend on, so constants and arena are known in milliseconds, before a build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hwnas.core.workload import Workload
from hwnas.digest import content_id
from hwnas.errors import UnsupportedOperator
from hwnas.graph.canonical import canonical_workload
from hwnas.graph.fusion import Kernel, kernels
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.view import View, view
from hwnas.toolchains.cgen.floatpart import FloatPart, float_part
from hwnas.toolchains.cgen.memory import Layout, Lifetime, place
from hwnas.toolchains.cgen.quantised import Group, is_quantised, read_group
from hwnas.toolchains.cgen.recipes import Array, Recipe, recipe

if TYPE_CHECKING:
    from onnx import ModelProto

RULES = "cgen"


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel: its workload, the storages it reads and writes, its constants in the order its code takes them.

    It has a recipe and its group (integer code), a float part, or both: the float part first, then a QuantizeLinear.
    """

    kernel: Kernel
    workload: Workload
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    constants: tuple[Array, ...]
    part: FloatPart | None = None
    group: Group | None = None
    recipe: Recipe | None = None

    def key(self, graph: View) -> str:
        """Steps of the same key run the same code.

        A workload's id would not do: it sorts the operands of sums and products, and code takes them as they come.
        """
        parts = [] if self.part is None else [self.part.network(graph).SerializeToString(deterministic=True).hex()]
        if self.group is not None and self.recipe is not None:
            operands = [(type(o).__name__, o.shape, o.grid.dtype if o.grid else "") for o in self.group.operands]
            parts.append(repr((self.group.op, sorted(self.group.attributes.items()), operands)))
            parts.append(repr((self.group.result.shape, self.recipe.form, sorted(self.recipe.facts.items()))))
        parts += [f"{array.values.dtype}{array.values.shape}" for array in self.constants]
        return content_id([self.workload.id, *parts])


@dataclass(frozen=True, slots=True)
class Program:
    """A network in execution order. `storage` maps each input and output to the storage that holds it."""

    graph: View
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    storage: dict[str, str]
    layout: Layout

    @property
    def keys(self) -> list[str]:
        """The key of each step."""
        return [step.key(self.graph) for step in self.steps]

    @property
    def constants(self) -> list[Array]:
        """Every constant once, in the order of first use."""
        seen: set[str] = set()
        found = []
        for array in (array for step in self.steps for array in step.constants):
            if array.key is None or array.key not in seen:
                found.append(array)
                seen.add(array.key or "")
        return found


def read_program(network: ModelProto) -> Program:
    """The program of a network with static shapes.

    Raises UnsupportedOperator for what no kernel can compute, DataError as `hwnas.graph.view` does.
    """
    graph = unshare(view(network))
    found = kernels(graph, RULES)
    inside = {i for kernel in found for i in kernel.operators}
    storage = _storages(graph, inside)
    steps = tuple(_step(graph, kernel, storage) for kernel in found)
    for name in graph.outputs:
        if storage[name] in graph.constants:
            raise UnsupportedOperator("graph output", f"{name!r} is a constant; nothing computes it")
    return Program(graph, steps, graph.inputs, graph.outputs, storage, _plan(graph, found, storage))


def constant_bytes(network: ModelProto) -> int:
    """Bytes of the constants of a network as they are emitted: weights, biases, tables and scalars."""
    return sum(array.values.nbytes for array in read_program(network).constants)


def arena_bytes(network: ModelProto) -> int:
    """Bytes of the arena that holds all activations of a network, or of a block, its inputs and outputs included."""
    graph = unshare(view(network))
    found = kernels(graph, RULES)
    return _plan(graph, found, _storages(graph, {i for kernel in found for i in kernel.operators})).bytes


def _storages(graph: View, inside: set[int]) -> dict[str, str]:
    """For each tensor the one whose memory it shares: itself, unless an operator without a kernel only renamed it."""
    storage: dict[str, str] = {name: name for name in (*graph.inputs, *graph.constants)}
    for i, operator in enumerate(graph.operators):
        for name in operator.outputs:
            if name:
                storage[name] = name if i in inside else storage[operator.inputs[0]]
    return storage


def _step(graph: View, kernel: Kernel, storage: dict[str, str]) -> Step:
    workload = canonical_workload(graph, kernel.operators, kernel.outputs)
    group = None
    if is_quantised(graph, kernel):
        group = read_group(graph, kernel)
        chosen = recipe(graph, group) if group is not None else None
        if group is not None and chosen is not None:
            sources = tuple(storage[name] for name in _activation_order(graph, kernel, group))
            return Step(kernel, workload, sources, kernel.outputs, chosen.arrays, None, group, chosen)
    part = float_part(graph, kernel, group)
    reads = tuple(storage[name] for name in part.inputs)
    constants = part.arrays(graph)
    if part.outputs == kernel.outputs:
        return Step(kernel, workload, reads, kernel.outputs, constants, part)
    tail = read_group(graph, replace(kernel, operators=kernel.operators[-1:], inputs=part.outputs))
    last = recipe(graph, tail) if tail is not None else None
    if tail is None or last is None:
        raise UnsupportedOperator(
            workload.op, "its result is quantised to a type or per channel, which is not supported"
        )
    return Step(kernel, workload, reads, kernel.outputs, (*constants, *last.arrays), part, tail, last)


def _activation_order(graph: View, kernel: Kernel, group: Group) -> list[str]:
    """The stored tensors that a group reads, in the order of its operands (one may come twice)."""
    sources = {
        graph.operators[i].outputs[0]: graph.operators[i].inputs[0]
        for i in kernel.operators
        if graph.operators[i].op == "DequantizeLinear"
    }
    if group.operator.op in ("QuantizeLinear", "DequantizeLinear"):
        return [group.operator.inputs[0]]
    names = [sources[name] for name in group.operator.inputs if name in sources]
    return [name for name in names if name not in graph.constants]


def _plan(graph: View, found: Sequence[Kernel], storage: dict[str, str]) -> Layout:
    """Lifetimes of all storages: network inputs live from the start, network outputs to the end."""
    first: dict[str, int] = {storage[name]: 0 for name in graph.inputs}
    last: dict[str, int] = dict(first)
    for k, kernel in enumerate(found):
        for name in kernel.inputs:
            last[storage[name]] = k
        for name in kernel.outputs:
            first.setdefault(name, k)
            last[name] = k
    last |= {storage[name]: len(found) for name in graph.outputs}
    lives = [Lifetime(name, graph.types[name].bytes, first[name], last[name]) for name in first]
    return place(lives)
