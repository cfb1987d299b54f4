"""What a NAS-Bench-201 network computes, step by step: the plan of a cell, and the program of a whole network.

A plan holds only live edges and computes nothing twice (one ReLU feeds all convolutions of a node, equal pools are
one), so the torch network that runs it exports to exactly these operators. Free of torch and ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from hwnas.spaces.cell_genes import CONV1, CONV3, EDGES, NONE, POOL, SKIP

Shape: TypeAlias = tuple[int, ...]

_JOINS = frozenset({"relu", "add", "norm", "zero", "mean", "flatten", "linear"})  # the classifier stays in one piece


class Step(NamedTuple):
    """One step of a cell: `kind` is relu, pool, conv3, conv1, add or zero.

    Value 0 is the cell's input and value k the result of step k - 1. `edge` is the position of a convolution's edge.
    """

    kind: str
    args: tuple[int, ...]
    edge: int = -1


class Plan(NamedTuple):
    """The steps of a cell, and which value is its output (0: the input itself)."""

    steps: tuple[Step, ...]
    output: int


@lru_cache(maxsize=16384)
def plan(cell: tuple[int, ...]) -> Plan:
    """The plan of a cell whose dead edges are `none`; one without a live edge takes its input from itself."""
    steps: list[Step] = []
    known: dict[Step, int] = {}

    def value(kind: str, *args: int, edge: int = -1) -> int:
        step = Step(kind, args, edge)
        if step not in known:
            steps.append(step)
            known[step] = len(steps)
        return known[step]

    nodes: list[int | None] = [0]
    for node in (2, 3, 4):
        total: int | None = None
        for edge, (source, sink) in enumerate(EDGES):
            operation = cell[edge]
            if sink != node or operation == NONE:
                continue
            term = nodes[source - 1]
            assert term is not None, "a live edge has a live source"
            if operation in (CONV3, CONV1):
                term = value("conv3" if operation == CONV3 else "conv1", value("relu", term), edge=edge)
            elif operation == POOL:
                term = value("pool", term)
            else:
                assert operation == SKIP
            total = term if total is None else value("add", total, term)
        nodes.append(total)
    output = nodes[-1]
    if output is None:
        output = value("zero", 0)
    return _by_groups(steps, output)


def _by_groups(steps: list[Step], output: int) -> Plan:
    """The same steps, those that may fuse next to each other: tensors then live as long in a network as in its parts."""
    readers = readers_of([tuple(a - 1 for a in step.args) for step in steps])
    ends = group_ends([step.kind for step in steps], readers)
    order = sorted(range(len(steps)), key=lambda i: (ends[i], i))
    number = {0: 0, **{i + 1: place for place, i in enumerate(order, 1)}}
    moved = (Step(steps[i].kind, tuple(number[a] for a in steps[i].args), steps[i].edge) for i in order)
    return Plan(tuple(moved), number[output])


def readers_of(operands: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """For each operator, which operators read its result, in order; `operands` below 0 come from outside."""
    readers: list[list[int]] = [[] for _ in operands]
    for i, args in enumerate(operands):
        for arg in set(args):
            if arg >= 0:
                readers[arg].append(i)
    return readers


def group_ends(kinds: Sequence[str], readers: Sequence[Sequence[int]]) -> list[int]:
    """For each operator the last one of its group: operators that fusion could join, by whatever rules, share a group.

    A result joins those who read it if they are elementwise and come together in one operator before anything else
    reads them; what several kinds of operators read stays between groups. So each group has one result, its last.
    """
    ends = list(range(len(kinds)))
    for i in range(len(kinds) - 1, -1, -1):
        frontier = set(readers[i])
        while frontier and all(kinds[j] in _JOINS for j in frontier):
            first = min(frontier)
            if len(frontier) == 1:
                ends[i] = ends[first]
                break
            frontier.remove(first)
            if not readers[first]:
                break
            frontier.update(readers[first])
    return ends


class Op(NamedTuple):
    """One operator of a network: `args` are numbers of operators before it (-1: the network's input)."""

    kind: str
    args: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The published macro skeleton around the cell: stem, three stages of cells, reductions between, classifier."""

    resolution: int
    channels: int
    cells: int
    classes: int
    in_channels: int

    @property
    def stages(self) -> tuple[Shape, ...]:
        """Shape 1 x c x h x w of each stage's tensors."""
        c, n = self.channels, self.resolution
        shapes = [(1, c, n, n)]
        for _ in range(2):
            n = n // 2
            c *= 2
            shapes.append((1, c, n, n))
        return tuple(shapes)


class Program(NamedTuple):
    """The operators of a network in the order that they run, the last gives the logits; and what each stands for.

    `repeats` says for how many operators of the network each one stands: a short program leaves out equal cells.
    """

    ops: tuple[Op, ...]
    repeats: tuple[int, ...]


_ENDS = 3  # cells of a stage that a short program keeps: the first, one for all between, the last


def short_program(skeleton: Skeleton, cell: tuple[int, ...]) -> Program:
    """The program with at most three cells a stage, if groups of operators do not reach through whole cells.

    A ReLU or pool that reads the cell's input keeps them apart.
    """
    apart = any(step.kind in ("relu", "pool") and 0 in step.args for step in plan(cell).steps)
    return program(skeleton, cell, min(skeleton.cells, _ENDS) if apart else skeleton.cells)


def program(skeleton: Skeleton, cell: tuple[int, ...], cells: int) -> Program:
    """The program with `cells` cells a stage, of which the second stands for those that are missing.

    A batch norm right behind a convolution is not an operator: it becomes part of the weights.
    """
    ops: list[Op] = []
    repeats: list[int] = []
    times = 1

    def emit(kind: str, *args: int, shape: Shape) -> int:
        if kind == "norm" and ops[args[0]].kind.startswith("conv"):
            return args[0]
        ops.append(Op(kind, args, shape))
        repeats.append(times)
        return len(ops) - 1

    steps, output = plan(cell)
    shape = skeleton.stages[0]
    x = emit("conv3", -1, shape=shape)
    for stage, shape in enumerate(skeleton.stages):
        if stage:
            y = emit("relu", x, shape=ops[x].shape)
            y = emit("conv3/2", y, shape=shape)
            y = emit("relu", y, shape=shape)
            x = emit("pool/2", x, shape=(*ops[x].shape[:2], *shape[2:]))
            x = emit("conv1-", x, shape=shape)
            y = emit("conv3", y, shape=shape)
            x = emit("add", x, y, shape=shape)
        for number in range(cells):
            times = skeleton.cells - cells + 1 if number == 1 else 1
            values = [x]
            for step in steps:
                values.append(emit(step.kind, *(values[a] for a in step.args), shape=shape))
            x = values[output]
        times = 1
    x = emit("norm", x, shape=shape)
    x = emit("relu", x, shape=shape)
    x = emit("mean", x, shape=(*shape[:2], 1, 1))
    x = emit("flatten", x, shape=shape[:2])
    emit("linear", x, shape=(1, skeleton.classes))
    return Program(tuple(ops), tuple(repeats))
