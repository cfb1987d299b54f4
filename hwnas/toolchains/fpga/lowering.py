"""A divided network as the program of a core: products in jobs, the rest as networks for the CPU, and their prices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx.helper import tensor_dtype_to_np_dtype

from hwnas.core.accelerator import Accelerator
from hwnas.core.price import Price
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.program import CoreStep, HostStep, Layout, Program, Step, Tensor
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.view import View, view
from hwnas.toolchains.fpga.pricing import core_price, cpu_price, packing_of
from hwnas.toolchains.fpga.reading import geometry_of, read_product
from hwnas.toolchains.fpga.rules import rules
from hwnas.toolchains.partition import Partition, Placed, Segment, require_integers
from hwnas.toolchains.partition.extract import Cutter
from hwnas.toolchains.partition.kernels import placed_kernels

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Part:
    """A kernel with what computes it: the core, or the CPU, which takes the kernel as a network of its own."""

    kernel: Placed
    network: ModelProto | None


def parts_of(divided: Partition) -> list[Part]:
    """The kernels of a partition in execution order. Raises UnsupportedOperator for a network that is all floats."""
    require_integers(divided)
    found: list[Part] = []
    for stage in divided.stages:
        if isinstance(stage, Segment):
            found += (Part(kernel, None) for kernel in stage.kernels)
        else:
            found.append(Part(stage.kernel, stage.network))
    return found


def undivided(onnx: ModelProto, array: Array) -> tuple[View, list[Part]]:
    """A network's graph and kernels without dividing it, in milliseconds: to estimate what it will take."""
    graph = unshare(view(onnx))
    cutter = Cutter(onnx, graph)
    return graph, [
        Part(k, None if k.rule else cutter.piece("kernel", k.operators, k.inputs, k.outputs))
        for k in placed_kernels(graph, rules(array), prefix_only=False)
    ]


def kernel_prices(onnx: ModelProto, array: Array, clock: Accelerator) -> list[Price]:
    """The price of each kernel of a network that costs something, in execution order, without building it."""
    return list(prices_of(undivided(onnx, array)[1], array, clock))


def prices_of(parts: Iterable[Part], array: Array, clock: Accelerator) -> Iterator[Price]:
    """The price of each kernel that costs something: what only reshapes does not."""
    for part in parts:
        kernel = part.kernel
        if part.network is None:
            assert kernel.group is not None
            yield core_price(kernel.label, kernel.operator.op, geometry_of(kernel.group), array, clock)
        elif kernel.workload is not None:
            yield cpu_price(kernel.label, kernel.workload, clock, "; ".join(kernel.reasons))


def program_of(graph: View, parts: Iterable[Part], array: Array, port: float) -> Program:
    """The program of kernels of a graph; `port` is the bytes a cycle that packings are chosen for."""
    inputs, outputs = (tuple(_tensor(graph, name) for name in names) for names in (graph.inputs, graph.outputs))
    return Program(array, inputs, outputs, tuple(_step(graph, part, array, port) for part in parts))


def _tensor(graph: View, name: str) -> Tensor:
    kind = graph.types[name]
    return Tensor(name, name, str(tensor_dtype_to_np_dtype(kind.dtype)), kind.shape)


def _step(graph: View, part: Part, array: Array, port: float) -> Step:
    kernel = part.kernel
    if part.network is not None:
        return HostStep(kernel.label, part.network.SerializeToString(deterministic=True), kernel.inputs, kernel.outputs)
    assert kernel.group is not None
    packing = packing_of(geometry_of(kernel.group), array, port)
    [source], [target] = kernel.inputs, kernel.outputs
    shape = graph.types[target].shape
    layout: Layout = "matrix" if kernel.group.op != "Conv" else "image" if len(shape) == 4 else "line"
    return CoreStep(kernel.label, source, target, layout, shape, read_product(kernel.group, packing))
