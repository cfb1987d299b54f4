"""Pieces of cell networks that no fusion crosses: the blocks of the cell space.

A convolution or pool never fuses with what computes its input, and elementwise operators never fuse across a tensor
that both an elementwise and another operator read. Cutting the program of a network there leaves regions with one
output each; equal regions are one block, wherever they stand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwnas.core.workload import Block
from hwnas.graph.builder import GraphBuilder, Value
from hwnas.spaces.cell_program import Op, Program, Shape, group_ends, readers_of

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Region:
    """Operators with one output, the last; in `ops`, args >= 0 are operators of the region, -1 - i is input i.

    `kept` says which inputs are read again later, and `held` are the shapes of other tensors that wait meanwhile:
    both occupy memory while the region runs, so the largest peak of a network's regions is its peak.
    """

    ops: tuple[Op, ...]
    inputs: tuple[Shape, ...]
    kept: tuple[bool, ...]
    held: tuple[Shape, ...]

    @property
    def key(self) -> str:
        def name(arg: int) -> str:
            return f"t{arg}" if arg >= 0 else f"x{-1 - arg}"

        inputs = ",".join(_size(s) + ("!" if k else "") for s, k in zip(self.inputs, self.kept))
        steps = ";".join(f"{op.kind}({','.join(map(name, op.args))}){_size(op.shape)}" for op in self.ops)
        return f"{inputs}:{steps}" + "".join(f"+{_size(s)}" for s in self.held)

    def build(self) -> ModelProto:
        graph = GraphBuilder(self.key)
        inputs = [graph.input(shape) for shape in self.inputs]
        values: list[Value] = []
        for op in self.ops:
            values.append(lower(graph, op, [values[a] if a >= 0 else inputs[-1 - a] for a in op.args]))
        waiting = [x for x, kept in zip(inputs, self.kept) if kept] + [graph.input(shape) for shape in self.held]
        return graph.build(values[-1], *waiting)


def lower(graph: GraphBuilder, op: Op, args: list[Value]) -> Value:
    """The ONNX operators of one operator of a program."""
    x, channels = args[0], op.shape[1]
    match op.kind:
        case "conv3":
            return graph.conv(x, channels, (3, 3))
        case "conv3/2":
            return graph.conv(x, channels, (3, 3), (2, 2))
        case "conv1":
            return graph.conv(x, channels, (1, 1))
        case "conv1-":
            return graph.conv(x, channels, (1, 1), bias=False)
        case "pool":
            return graph.average_pool(x, 3, 1, 1, count_pad=False)
        case "pool/2":
            return graph.average_pool(x, 2, 2, 0, count_pad=True)
        case "relu":
            return graph.relu(x)
        case "add":
            return graph.add(x, args[1])
        case "zero":
            return graph.operator("Sub", (x.name, x.name), x.shape)
        case "norm":
            return graph.batch_norm(x)
        case "mean":
            return graph.spatial_mean(x)
        case "flatten":
            return graph.flatten(x)
        case "linear":
            return graph.linear(x, channels)
    raise AssertionError(op.kind)


def regions(program: Program, image: Shape) -> Counter[Region]:
    """The regions of a program with how often each occurs; `image` is the shape of the network's input."""
    ops, repeats = program
    readers = readers_of([op.args for op in ops])
    root = group_ends([op.kind for op in ops], readers)
    members: dict[int, list[int]] = {}
    for i, r in enumerate(root):
        members.setdefault(r, []).append(i)
    order = sorted(members)  # a region ends with its only output, so they can run in the order of their ends
    time = {r: k for k, r in enumerate(order)}
    last_use = {r: max((time[root[j]] for j in readers[r]), default=-1) for r in order}
    live: list[int] = []
    found: Counter[Region] = Counter()
    for k, r in enumerate(order):
        region, inputs = _region(ops, members[r], image)
        kept = tuple(x >= 0 and last_use[x] > k for x in inputs)
        held = tuple(sorted(ops[x].shape for x in live if last_use[x] > k and x not in inputs))
        shapes = tuple(ops[x].shape if x >= 0 else image for x in inputs)
        found[Region(region, shapes, kept, held)] += repeats[r]
        live = [x for x in live if last_use[x] > k]
        live.append(r)
    return found


def _region(ops: tuple[Op, ...], members: list[int], image: Shape) -> tuple[tuple[Op, ...], list[int]]:
    place = {i: k for k, i in enumerate(members)}
    inputs: list[int] = []
    local = []
    for i in members:
        args = []
        for arg in ops[i].args:
            if arg in place:
                args.append(place[arg])
            else:
                if arg not in inputs:
                    inputs.append(arg)
                args.append(-1 - inputs.index(arg))
        local.append(Op(ops[i].kind, tuple(args), ops[i].shape))
    return tuple(local), inputs


def whole(ops: tuple[Op, ...], image: Shape, key: str) -> ModelProto:
    """The network of a program, untrained, without torch and its exporter."""
    graph = GraphBuilder(key)
    x = graph.input(image)
    values: list[Value] = []
    for op in ops:
        values.append(lower(graph, op, [values[a] if a >= 0 else x for a in op.args]))
    return graph.build(values[-1])


def blocks_of(found: Counter[Region]) -> tuple[Block, ...]:
    """The regions as blocks, each as often as it occurs."""
    return tuple(Block(region.key, region.build) for region in found.elements())


def _size(shape: Shape) -> str:
    return "x".join(map(str, shape[1:]))
