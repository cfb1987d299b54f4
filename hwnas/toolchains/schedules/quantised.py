"""The integer form of a quantised network: every QDQ group becomes one node, and each such node one integer kernel.

Networks arrive with float operators between DequantizeLinear and QuantizeLinear. Here such a group is read as
arithmetic on the stored integers (`hwnas.graph.quantised`), given a kernel of the core at hand, and replaced
by one node that the importer turns into a call of it. Tensors stay 8 bit between kernels, images have their channels
last. A group that has no integer kernel keeps its float operators; its borders are kernels like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from hwnas.errors import UnsupportedOperator
from hwnas.graph.canonical import declare, empty_network
from hwnas.graph.fusion import kernel_of
from hwnas.graph.rules_qdq import only_renames, quantised_groups, unshare
from hwnas.graph.view import METADATA_OPS, Operator, View, view
from hwnas.graph.workloads import is_channels_last
from hwnas.toolchains.schedules.integer import Kernel, channels_last, constant
from hwnas.toolchains.schedules.integer_kernels import kernel_for
from hwnas.toolchains.schedules.integer_tables import HEAVY, Chain, chain_to, table_kernel, table_of, written
from hwnas.toolchains.schedules.isa import Isa

if TYPE_CHECKING:
    from onnx import ModelProto

Converter = Callable[[Any, list[Any]], Any]
"""(Relax block builder, operands) to the result of a node."""

DOMAIN = "hwnas"
_BORDERS = ("QuantizeLinear", "DequantizeLinear")
_IMAGES = frozenset(
    ["Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "ConvTranspose", "DepthToSpace", "SpaceToDepth"]
)
_MOVES = METADATA_OPS | {
    "Transpose",
    "Slice",
    "DepthToSpace",
    "SpaceToDepth",
    "Expand",
    "Tile",
    "Concat",
    "Gather",
    "Pad",
}


def integrate(network: ModelProto, isa: Isa) -> tuple[ModelProto, Mapping[str, Converter]]:
    """A network whose QDQ groups are nodes of domain "hwnas", and by operator type what each of these becomes.

    A network without QuantizeLinear and DequantizeLinear is handed back as it is, with no converters.
    """
    if not any(node.op_type in _BORDERS and node.domain in ("", "ai.onnx") for node in network.graph.node):
        return network, {}
    writer = _Writer(unshare(view(network)), isa, is_channels_last(network))
    return writer.write(), writer.converters


class _Writer:
    """Writes the network group by group; `converters` fills meanwhile."""

    def __init__(self, graph: View, isa: Isa, images: bool) -> None:
        self._view, self._isa, self._all_images = graph, isa, images
        self._axes = _Axes()
        self.converters: dict[str, Converter] = {}
        self._network = empty_network(graph.opset)
        self._proto = self._network.graph
        self._images = {
            graph.producer[name]
            for operator in graph.operators
            if operator.op in _IMAGES
            for name in operator.inputs[:1]
            if name in graph.producer
        }

    def write(self) -> ModelProto:
        graph = self._view
        for name in graph.inputs:
            declare(self._proto.input.add(), name, graph.types[name])
        for name in graph.outputs:
            declare(self._proto.output.add(), name, graph.types[name])
        instead: dict[int, NodeProto | None] = {}
        for i, operator in enumerate(graph.operators):
            chain = chain_to(graph, i) if operator.op == "QuantizeLinear" else None
            if chain is not None and (found := self._chain(chain, operator)) is not None:
                instead |= dict.fromkeys(chain.operators) | {i: found}
        groups = [group for group in quantised_groups(graph) if instead.keys().isdisjoint(group)]
        grouped = {i for group in groups for i in group}
        bare = [[i] for i, o in enumerate(graph.operators) if o.op in _BORDERS and i not in grouped | instead.keys()]
        for group in groups:
            node = self._node(group)
            if node is None:  # float operators stay; what stands around them is on its own
                bare += [[i] for i in group if graph.operators[i].op in _BORDERS]
            else:
                instead |= dict.fromkeys(group) | {group[-1]: node}
        for group in bare:
            node = self._node(group)
            if node is not None:
                instead |= {group[0]: node}
            elif (values := self._dequantised(graph.operators[group[0]])) is not None:
                instead |= dict.fromkeys(group)
                self._proto.initializer.append(numpy_helper.from_array(values, graph.operators[group[0]].outputs[0]))
        used: dict[str, None] = {}
        for i, operator in enumerate(graph.operators):
            node = instead[i] if i in instead else written(operator)
            if node is not None:
                self._proto.node.append(node)
                used |= dict.fromkeys(node.input)
        for name in (name for name in used if name in graph.constants):
            tensor = self._proto.initializer.add()
            tensor.CopyFrom(graph.constants[name])
            tensor.name = name
        return self._network

    def _node(self, group: list[int]) -> NodeProto | None:
        """The node that stands for a group; None where its float operators have to stay."""
        from hwnas.graph.quantised import read_group

        graph = self._view
        operators = [graph.operators[i] for i in group]
        if (moved := self._moved(group, operators)) is not None:
            return moved
        try:
            found = read_group(graph, kernel_of(graph, group))
        except UnsupportedOperator:
            return None
        if found is None or (make := kernel_for(graph, found, self._isa)) is None:
            return None
        sources = {o.outputs[0]: o.inputs[0] for o in operators if o.op == "DequantizeLinear"}
        core = found.operator
        names = [core.inputs[0]] if core.op in _BORDERS else [sources[n] for n in core.inputs if n in sources]
        names = [name for name in names if name not in graph.constants]
        result = operators[-1].outputs[0]
        images = self._read_as_image(result)
        return self._add(names, result, self._axes.converter(make, graph.types[result].shape, images))

    def _chain(self, chain: Chain, sink: Operator) -> NodeProto | None:
        """The node that looks a chain's results up; None where its grids are not those of one tensor each."""
        from hwnas.graph.quantised import grid_of

        graph = self._view
        if self._isa.lookup is None and not any(graph.operators[i].op in HEAVY for i in chain.operators):
            return None  # arithmetic on whole vectors is faster than one look-up after the other
        try:
            before, after = grid_of(graph, graph.operators[chain.operators[0]]), grid_of(graph, sink)
        except UnsupportedOperator:
            return None
        if before.scale.size > 1 or after.scale.size > 1 or "int32" in (before.dtype, after.dtype):
            return None
        table, shape = table_of(graph, chain, before, after), graph.types[chain.result].shape
        last = channels_last(shape) if len(shape) == 4 else shape

        def make(images: bool) -> Kernel:
            return table_kernel(table, before.dtype, last if images else shape, images, self._isa)

        images = self._read_as_image(chain.result)
        return self._add([chain.source], chain.result, self._axes.converter(make, shape, images))

    def _read_as_image(self, name: str) -> bool:
        return self._all_images or not self._images.isdisjoint(self._view.readers.get(name, ()))

    def _moved(self, group: list[int], operators: Sequence[Operator]) -> NodeProto | None:
        """The operator alone, on the stored integers, where it only moves them and their grid stays."""
        cores = [o for o in operators if o.op not in _BORDERS]
        if len(cores) != 1 or cores[0].op not in _MOVES or operators[-1].op != "QuantizeLinear":
            return None
        graph, [core], sink = self._view, cores, operators[-1]
        sources = {o.outputs[0]: o for o in operators if o.op == "DequantizeLinear"}
        if core.op == "Pad" or len(core.outputs) != 1 or sink.inputs[0] != core.outputs[0]:
            return None
        if not (only_renames(graph, group) or all(_same_grid(graph, source, sink) for source in sources.values())):
            return None
        names = [sources[name].inputs[0] if name in sources else name for name in core.inputs]
        if core.op in METADATA_OPS or (core.op == "Transpose" and len(names) == 1):
            shape = graph.types[sink.outputs[0]].shape
            axes = core.attributes.get("perm", tuple(reversed(range(len(shape))))) if core.op == "Transpose" else None
            return self._add(names[:1], sink.outputs[0], self._axes.mover(shape, axes))
        if core.op == "Concat":
            if not sources.keys() >= {*core.inputs}:  # it joins floats to integers
                return None
            axis = core.attributes["axis"]
            assert isinstance(axis, int)
            return self._add(names, sink.outputs[0], self._axes.joiner(axis, graph.types[sink.outputs[0]].shape))
        node = written(core)
        node.input[:], node.output[:] = names, [sink.outputs[0]]
        return node

    def _add(self, names: Sequence[str], result: str, converter: Converter) -> NodeProto:
        kind = f"Integer{len(self.converters)}"
        self.converters[kind] = converter
        return helper.make_node(kind, list(names), [result], domain=DOMAIN)

    def _dequantised(self, operator: Operator) -> np.ndarray | None:
        """The reals of a stored constant; None for what is computed."""
        values = self._view.array(operator.inputs[0])
        if operator.op != "DequantizeLinear" or values is None:
            return None
        from hwnas.graph.quantised import grid_of

        try:
            grid = grid_of(self._view, operator)
        except UnsupportedOperator:
            return None
        shape = [1] * values.ndim
        if grid.scale.size > 1:
            axis = operator.attributes.get("axis", 1)
            assert isinstance(axis, int)
            shape[axis] = -1
        centred = (values.astype(np.int64) - grid.zero.reshape(shape)).astype(np.float32)
        reals: np.ndarray = centred * grid.scale.reshape(shape)
        return reals


class _Axes:
    """Which tensors of the imported network are also there with their channels last, as kernels make and want them."""

    def __init__(self) -> None:
        self._last: dict[Any, Any] = {}

    def converter(self, make: Callable[[bool], Kernel | None], shape: tuple[int, ...], images: bool) -> Converter:
        """What calls a kernel; one that may have its channels last or not has them where an operand has.

        `images` says that the result is read as an image.
        """

        def convert(builder: Any, operands: list[Any]) -> Any:
            known = images or any(operand in self._last for operand in operands)
            kernel = make(known and len(shape) == 4)
            assert kernel is not None
            if kernel.images:
                operands = [self.last(builder, o) if len(o.ty.shape) == 4 else o for o in operands]
            if kernel.source is not None:
                operands = [self._shaped(builder, operand, kernel.source) for operand in operands]
            if kernel.flat:
                operands = [self._shaped(builder, operand, kernel.shape) for operand in operands]
                result = builder.emit(_direct(builder, kernel, operands))
                if kernel.images and len(shape) == 4:
                    return self.first(builder, self._shaped(builder, result, channels_last(shape)))
                return self._shaped(builder, result, shape)
            call = builder.call_te(
                kernel.compute, *operands, *(constant(c) for c in kernel.constants),
                primfunc_name_hint=kernel.name, primfunc_attrs={"op_pattern": kernel.pattern},
            )  # fmt: skip
            result = builder.emit(call)
            if not kernel.images or len(shape) != 4:
                return self._shaped(builder, result, shape)
            return self.first(builder, self._shaped(builder, result, channels_last(shape)))

        return convert

    def mover(self, shape: tuple[int, ...], axes: Any) -> Converter:
        """What reshapes a tensor to `shape`, or permutes its axes; no data moves where its channels are last already."""
        from tvm import relax

        def convert(builder: Any, operands: list[Any]) -> Any:
            [source] = operands
            before = [int(size) for size in source.ty.shape]
            last = self._last.get(source)
            rank = len(before)
            if axes is not None:
                if last is not None and tuple(axes) == (0, *range(2, rank), 1):
                    return last
                return builder.emit(relax.op.permute_dims(source, list(axes)))
            if last is not None and len(shape) >= 2:
                if prod(before[2:]) == 1 and prod(shape) == prod(before):
                    return self._shaped(builder, last, shape)
                if tuple(before[:2]) == shape[:2]:  # places are joined or split, channels stay
                    return self.first(builder, self._shaped(builder, last, channels_last(shape)), shape)
            return self._shaped(builder, source, shape)

        return convert

    def joiner(self, axis: int, shape: tuple[int, ...]) -> Converter:
        """What concatenates tensors of one grid along an axis."""
        from tvm import relax

        def convert(builder: Any, operands: list[Any]) -> Any:
            rank = len(shape)
            if rank != 4:
                return builder.emit(relax.op.concat(operands, axis % rank))
            lasts = [self.last(builder, operand) for operand in operands]
            return self.first(builder, builder.emit(relax.op.concat(lasts, (0, 3, 1, 2)[axis % rank])))

        return convert

    def last(self, builder: Any, value: Any) -> Any:
        """The tensor with its channels last."""
        from tvm import relax

        if value not in self._last:
            shape = [int(size) for size in value.ty.shape]
            if shape[1] == 1 or prod(shape[2:]) == 1:
                self._last[value] = self._shaped(builder, value, channels_last(shape))
            else:
                self._last[value] = builder.emit(relax.op.permute_dims(value, [0, *range(2, len(shape)), 1]))
        return self._last[value]

    def first(self, builder: Any, last: Any, shape: tuple[int, ...] | None = None) -> Any:
        """The tensor as the network has it, channels second; what only reads it with channels last never runs this."""
        from tvm import relax

        sizes = [int(size) for size in last.ty.shape]
        if sizes[-1] == 1 or prod(sizes[1:-1]) == 1:
            value = builder.emit(relax.op.reshape(last, [sizes[0], sizes[-1], *sizes[1:-1]]))
        else:
            value = builder.emit(relax.op.permute_dims(last, [0, len(sizes) - 1, *range(1, len(sizes) - 1)]))
        self._last[value] = last
        return value

    @staticmethod
    def _shaped(builder: Any, value: Any, shape: Sequence[int]) -> Any:
        from tvm import relax

        if [int(size) for size in value.ty.shape] == list(shape):
            return value
        return builder.emit(relax.op.reshape(value, list(shape)))


def _direct(builder: Any, kernel: Kernel, operands: list[Any]) -> Any:
    """The call of a kernel that is a PrimFunc as it stands."""
    from tvm import relax

    function = kernel.compute().with_attr("op_pattern", kernel.pattern)
    name = builder.add_func(function, kernel.name)
    constants = [constant(values) for values in kernel.constants]
    return relax.call_tir(name, [*operands, *constants], relax.TensorType(kernel.shape, str(kernel.constants[0].dtype)))


def _same_grid(graph: View, source: Operator, sink: Operator) -> bool:
    from hwnas.graph.quantised import grid_of

    try:
        before, after = grid_of(graph, source), grid_of(graph, sink)
    except UnsupportedOperator:
        return False
    one = before.dtype == after.dtype and before.scale.size == after.scale.size == 1
    return one and before.scale[0] == after.scale[0] and before.zero[0] == after.zero[0]
