"""A network as the list of kernels that run, the tensors they exchange and the constants they need; no TVM here.

This is all that the sizes of a network depend on, so constants and arena are known in milliseconds, before a build.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from hwnas.core.workload import Workload
from hwnas.digest import content_id
from hwnas.errors import UnsupportedOperator
from hwnas.graph.canonical import canonical_workload
from hwnas.graph.fusion import Kernel, kernels
from hwnas.graph.quantised import Group, is_quantised, read_group
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.view import View, view
from hwnas.toolchains.cgen import kernels as micro
from hwnas.toolchains.cgen.floatpart import FloatPart, float_part
from hwnas.toolchains.cgen.layouts import Order, is_channels_last, storage_orders
from hwnas.toolchains.cgen.memory import Layout, Lifetime, place
from hwnas.toolchains.cgen.recipes import Array, Recipe, recipe, reordered

if TYPE_CHECKING:
    from onnx import ModelProto

RULES = "cgen"


@dataclass(frozen=True, slots=True)
class Access:
    """A tensor that a kernel reads or writes: the order its storage has, and the order that the kernel's code takes."""

    storage: str
    stored: Order
    taken: Order

    @property
    def is_reordered(self) -> bool:
        return not self.stored.equals(self.taken)


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel: its workload, the storages it reads and writes, its constants in the order its code takes them.

    It has a recipe and its group (integer code), a float part, or both: the float part first, then a QuantizeLinear.
    A micro-kernel computes the group where there is one for it.
    """

    kernel: Kernel
    workload: Workload
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    constants: tuple[Array, ...]
    part: FloatPart | None = None
    group: Group | None = None
    recipe: Recipe | None = None
    micro: micro.Kernel | None = None

    @property
    def code(self) -> str:
        """Which code computes it, and in which order its result lies."""
        if self.micro is not None:
            return self.micro.name
        return f"{'tir' if self.part is None else 'float'}/{'+'.join(w.taken.name for w in self.writes)}"

    @property
    def reorders(self) -> int:
        """How many of its tensors are copied into another order."""
        return sum(access.is_reordered for access in (*self.reads, *self.writes))

    def key(self, graph: View) -> str:
        """Steps of the same key run the same code.

        A workload's id would not do: it sorts the operands of sums and products, and code takes them as they come.
        """
        parts = [] if self.part is None else [self.part.network(graph).SerializeToString(deterministic=True).hex()]
        if self.group is not None and self.recipe is not None:
            operands = [(type(o).__name__, o.shape, o.grid.dtype if o.grid else "") for o in self.group.operands]
            parts.append(repr((self.group.op, sorted(self.group.attributes.items()), operands)))
            parts.append(repr((self.group.result.shape, self.recipe.form, sorted(self.recipe.facts.items()))))
        if self.micro is not None:
            parts.append(repr((self.micro.name, self.micro.function, self.micro.integers)))
        parts.append(repr([(a.stored, a.taken) for a in (*self.reads, *self.writes)]))
        parts += [f"{array.values.dtype}{array.values.shape}" for array in self.constants]
        return content_id([self.workload.id, *parts])


@dataclass(frozen=True, slots=True)
class Program:
    """A network in execution order. `storage` maps each input and output to the storage that holds it, whose order
    is in `orders`."""

    graph: View
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    storage: dict[str, str]
    orders: dict[str, Order]
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


def read_program(network: ModelProto, core: micro.Core = "portable") -> Program:
    """The program of a network with static shapes on a core.

    Raises UnsupportedOperator for what no kernel can compute, DataError as `hwnas.graph.view` does.
    """
    graph = unshare(view(network))
    found = kernels(graph, RULES)
    storage = _storages(graph, {i for kernel in found for i in kernel.operators})
    for name in graph.outputs:
        if storage[name] in graph.constants:
            raise UnsupportedOperator("graph output", f"{name!r} is a constant; nothing computes it")
    drafts = [_draft(graph, kernel) for kernel in found]
    orders = storage_orders(graph, storage, _held(graph, found), _touched(found, drafts, storage))
    steps = tuple(_step(graph, draft, storage, orders, core) for draft in drafts)
    return Program(graph, steps, graph.inputs, graph.outputs, storage, orders, _plan(graph, found, storage))


def constant_bytes(network: ModelProto, core: micro.Core = "portable") -> int:
    """Bytes of the constants of a network as they are emitted: weights, biases, tables and scalars."""
    return sum(array.values.nbytes for array in read_program(network, core).constants)


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


@dataclass(frozen=True, slots=True)
class _Draft:
    """A kernel that was read: its group and recipe where integers compute it."""

    kernel: Kernel
    group: Group | None
    recipe: Recipe | None


def _draft(graph: View, kernel: Kernel) -> _Draft:
    group = read_group(graph, kernel) if is_quantised(graph, kernel) else None
    return _Draft(kernel, group, recipe(graph, group) if group is not None else None)


def _held(graph: View, found: Sequence[Kernel]) -> list[str]:
    """Every storage: network inputs, and what kernels write."""
    return [*graph.inputs, *(name for kernel in found for name in kernel.outputs)]


def _touched(found: Sequence[Kernel], drafts: Sequence[_Draft], storage: Mapping[str, str]) -> dict[str, bool]:
    """Of each storage whether all kernels that read or write it compute on integers."""
    touched: dict[str, bool] = {}
    for kernel, draft in zip(found, drafts):
        for name in (*kernel.inputs, *kernel.outputs):
            held = storage[name]
            touched[held] = touched.get(held, True) and draft.recipe is not None
    return touched


def _step(graph: View, draft: _Draft, storage: dict[str, str], orders: Mapping[str, Order], core: micro.Core) -> Step:
    kernel, group, chosen = draft.kernel, draft.group, draft.recipe
    workload = canonical_workload(graph, kernel.operators, kernel.outputs)

    def access(name: str, *, as_stored: bool) -> Access:
        """Integer code takes a tensor as it is stored; behind a reshape, images channels last. Float code takes it plain."""
        stored, kind = orders[storage[name]], graph.types[name]
        if as_stored and kind.shape == stored.shape:
            return Access(storage[name], stored, stored)
        return Access(storage[name], stored, Order(kind.shape, as_stored and is_channels_last(kind)))

    if group is not None and chosen is not None:
        sources = _activation_order(graph, kernel, group)
        reads = tuple(access(name, as_stored=True) for name in sources)
        writes = tuple(access(name, as_stored=True) for name in kernel.outputs)
        if chosen.form == "matmul" and reads[0].is_reordered and _one_image(reads[0]):
            chosen = reordered(chosen, reads[0].stored.features())
            reads = (replace(reads[0], stored=reads[0].taken),)
        fast = micro.choose(micro.Request(group, chosen, core)) if _all_channels_last((*reads, *writes)) else None
        constants = chosen.arrays if fast is None else fast.arrays
        return Step(kernel, workload, reads, writes, constants, None, group, chosen, fast)
    part = float_part(graph, kernel, group)
    reads = tuple(access(name, as_stored=False) for name in part.inputs)
    constants = part.arrays(graph)
    if part.outputs == kernel.outputs:
        writes = tuple(access(name, as_stored=False) for name in kernel.outputs)
        return Step(kernel, workload, reads, writes, constants, part)
    writes = tuple(access(name, as_stored=True) for name in kernel.outputs)
    tail = read_group(graph, replace(kernel, operators=kernel.operators[-1:], inputs=part.outputs))
    last = recipe(graph, tail) if tail is not None else None
    if tail is None or last is None:
        raise UnsupportedOperator(
            workload.op, "its result is quantised to a type or per channel, which is not supported"
        )
    return Step(kernel, workload, reads, writes, (*constants, *last.arrays), part, tail, last)


def _one_image(access: Access) -> bool:
    """Whether each row of a matrix holds all elements of one image, so that weights can be reordered instead."""
    rows, features = access.taken.shape[:-1], access.taken.shape[-1]
    return features == prod(access.stored.shape[1:]) and prod(rows) == access.stored.shape[0]


def _all_channels_last(accesses: Sequence[Access]) -> bool:
    """Whether micro-kernels may touch these tensors: those of four axes are NHWC."""
    return all(len(a.taken.shape) != 4 or a.taken.equals(Order(a.taken.shape, True)) for a in accesses)


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
