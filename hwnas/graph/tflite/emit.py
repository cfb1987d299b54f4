"""A QDQ network as int8 TFLite: every quantised kernel becomes the operator that computes the same integers.

The file's inputs and outputs are int8 and channels last, whether the network's own are float (their QuantizeLinear and
DequantizeLinear are left to whoever runs the file) or quantised already. Scales and zero points are the network's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwnas.errors import UnsupportedOperator
from hwnas.graph.fusion import Kernel, kernels
from hwnas.graph.quantised import Activation, Grid, Group, grid_of, read_group
from hwnas.graph.rules_qdq import unshare
from hwnas.graph.tflite import elementwise, pools, products, resizing, shapes
from hwnas.graph.tflite.emission import Emission, Step, signed, stored_shape
from hwnas.graph.tflite.flat import Scale
from hwnas.graph.tflite.normal import normal_form
from hwnas.graph.view import METADATA_OPS, Operator, View, view

if TYPE_CHECKING:
    from onnx import ModelProto

RULES = "cgen"
"""The fusion rules by which a network is taken apart."""

EMIT: Mapping[str, Callable[[Emission, Step], None]] = {
    "Add": elementwise.binary("ADD"),
    "AveragePool": pools.average_pool,
    "Clip": elementwise.clamp,
    "Concat": shapes.concat,
    "Conv": products.convolution,
    "Gemm": products.dense,
    "GlobalAveragePool": pools.mean,
    "HardSigmoid": elementwise.hard_sigmoid,
    "HardSwish": elementwise.hard_swish,
    "LeakyRelu": elementwise.leaky_relu,
    "MatMul": products.dense,
    "MaxPool": pools.max_pool,
    "Mul": elementwise.binary("MUL"),
    "Pad": shapes.pad,
    "ReduceMean": pools.mean,
    "Relu": elementwise.clamp,
    "Resize": resizing.resize,
    "Sigmoid": elementwise.bounded("LOGISTIC", elementwise.UNIT),
    "Slice": shapes.cut,
    "Softmax": elementwise.bounded("SOFTMAX", elementwise.UNIT, "SoftmaxOptions"),
    "Sub": elementwise.binary("SUB"),
    "Tanh": elementwise.bounded("TANH", elementwise.BOTH_SIDES),
    "Transpose": shapes.transpose,
    **dict.fromkeys(METADATA_OPS, shapes.reshape),
    "Identity": elementwise.change_of_grid,
}
"""What is written for each ONNX operator between DequantizeLinear and QuantizeLinear."""

FLOAT_RESULTS: Mapping[str, Scale] = {
    "Sigmoid": elementwise.UNIT, "Softmax": elementwise.UNIT, "Tanh": elementwise.BOTH_SIDES
}  # fmt: skip
"""Operators whose scale TFLite prescribes, so that they may stand at the end without a QuantizeLinear."""


def tflite_bytes(network: ModelProto, max_stride: int | None = None) -> bytes:
    """The file of a QDQ network with static shapes.

    Convolutions of a stride above `max_stride` are written with a divisor of it, and the pixels picked behind them:
    there are compilers that refuse larger ones. Raises UnsupportedOperator that names the node and says why it cannot
    be written, BuildError where the packages of the extra `npu` are missing, DataError as `view` does.
    """
    return emission(network, max_stride).file.serialised()


def tflite_if_possible(network: ModelProto) -> bytes | None:
    """The file of a network; None where TFLite has no form of one of its operators. Raises otherwise as `tflite_bytes`."""
    try:
        return tflite_bytes(network)
    except UnsupportedOperator:
        return None


def emission(network: ModelProto, max_stride: int | None = None) -> Emission:
    """What `tflite_bytes` writes, before it is serialised. Raises UnsupportedOperator and DataError as that does."""
    return _Walk(unshare(normal_form(view(network))), max_stride).run()


class _Walk:
    """Goes through a network's kernels; `index` is the file's tensor for each integer tensor of the network."""

    def __init__(self, graph: View, max_stride: int | None) -> None:
        self._graph = graph
        self._to = Emission(graph, max_stride)
        self._index: dict[str, int] = {}
        self._grids: dict[str, Grid] = {}
        self._floats: dict[str, int] = {}

    def run(self) -> Emission:
        graph = self._graph
        found = {kernel.operators[-1]: kernel for kernel in kernels(graph, RULES)}
        inside = {i for kernel in found.values() for i in kernel.operators}
        self._take_inputs()
        for i, operator in enumerate(graph.operators):
            if i in found and found[i].inputs:  # a kernel of constants is dequantised where it is an operand
                self._kernel(found[i])
            elif i not in inside and operator.op == "QuantizeLinear":
                self._renamed(operator)
        self._to.file.outputs = [self._output(name) for name in graph.outputs]
        return self._to

    def _take_inputs(self) -> None:
        """One tensor of the file for each input: its grid stands in the operators that read it."""
        for name in self._graph.inputs:
            readers = [self._graph.operators[i] for i in self._graph.readers.get(name, ())]
            reader = next((r for r in readers if r.op in ("QuantizeLinear", "DequantizeLinear")), None)
            if reader is None or reader.inputs[0] != name:
                reason = f"it is read by {readers[0]}, which computes on floats" if readers else "nothing reads it"
                raise UnsupportedOperator(f"input {name!r}", f"{reason}; only quantised networks are written")
            stored = name if reader.op == "DequantizeLinear" else reader.outputs[0]
            grid = self._grid(reader)
            at = self._new(stored, self._graph.types[name].shape, grid, name)
            self._to.file.inputs.append(at)
            if stored != name:
                self._floats[name] = at

    def _new(self, stored: str, shape: tuple[int, ...], grid: Grid, name: str) -> int:
        self._grids[stored] = grid
        self._index[stored] = self._to.tensor(name, stored_shape(shape), signed(grid))
        return self._index[stored]

    def _grid(self, operator: Operator) -> Grid:
        grid = grid_of(self._graph, operator)
        if grid.scale.size != 1 or grid.zero.size != 1 or grid.dtype not in ("int8", "uint8"):
            raise UnsupportedOperator(str(operator), "only tensors of 8 bits with one scale are written")
        return grid

    def _kernel(self, kernel: Kernel) -> None:
        graph = self._graph
        operators = [graph.operators[i] for i in kernel.operators]
        last = operators[-1]
        group = read_group(graph, kernel)
        if group is None:
            core = [o for o in operators if o.op not in ("DequantizeLinear", "QuantizeLinear")]
            raise UnsupportedOperator(
                str(core[0] if core else last),
                "it is not one operator of one result that reads and gives 8-bit tensors of one scale each",
            )
        if group.op == "QuantizeLinear":
            self._entry(last)
            return
        sources = self._sources(operators, group)
        if group.op == "DequantizeLinear" and group.result.grid is None:
            [at] = [s for s in sources if s is not None]
            self._floats[last.outputs[0]] = at
            return
        emit = EMIT.get(group.op)
        if emit is None:
            raise UnsupportedOperator(str(group.operator), f"no int8 operator of TFLite is written for {group.op}")
        if group.result.grid is None:
            if group.op not in FLOAT_RESULTS:
                raise UnsupportedOperator(str(group.operator), "its result is not quantised")
            group = replace(group, result=Activation(group.result.shape, _grid_of_int8(FLOAT_RESULTS[group.op])))
        grid = group.result.grid
        assert grid is not None
        result = self._new(last.outputs[0], group.result.shape, grid, self._name(last))
        if last.op != "QuantizeLinear":
            self._floats[last.outputs[0]] = result
        emit(self._to, Step(group, tuple(sources), result))

    def _sources(self, operators: list[Operator], group: Group) -> list[int | None]:
        """The file's tensor of each operand of a group, None for a constant."""
        made = {o.outputs[0]: o for o in operators if o.op == "DequantizeLinear"}
        core = next((o for o in operators if o.op not in ("DequantizeLinear", "QuantizeLinear")), None)
        readers = list(made.values()) if core is None else [made[name] for name in core.inputs if name in made]
        pairs = zip(readers, group.operands, strict=True)
        return [self._stored(reader) if isinstance(operand, Activation) else None for reader, operand in pairs]

    def _stored(self, reader: Operator) -> int:
        """The file's tensor of what a DequantizeLinear reads. Raises UnsupportedOperator where its grid is another."""
        name = reader.inputs[0]
        grid, known = self._grid(reader), self._grids.get(name)
        if known is None:
            raise UnsupportedOperator(str(reader), f"its operand {name!r} is not made by a quantised operator")
        if not _same(grid, known):
            raise UnsupportedOperator(str(reader), f"it gives {name!r} another scale than it was quantised with")
        return self._index[name]

    def _entry(self, operator: Operator) -> None:
        """A QuantizeLinear of floats: at the entry of the network, or nowhere."""
        name, stored = operator.inputs[0], operator.outputs[0]
        if stored in self._index:
            return
        if name not in self._floats or name not in self._graph.inputs:
            raise UnsupportedOperator(str(operator), "it quantises floats that the network computes")
        first = next(known for known, at in self._index.items() if at == self._floats[name])
        if not _same(self._grids[first], grid := self._grid(operator)):
            raise UnsupportedOperator(
                str(operator), f"the network quantises its input {name!r} to another grid as well"
            )
        self._index[stored], self._grids[stored] = self._floats[name], grid

    def _renamed(self, last: Operator) -> None:
        """A quantised tensor under another shape: DequantizeLinear, an operator that only renames, QuantizeLinear."""
        graph = self._graph
        rename = graph.operators[graph.producer[last.inputs[0]]]
        reader = graph.operators[graph.producer[rename.inputs[0]]]
        before, after = graph.types[reader.inputs[0]].shape, graph.types[last.outputs[0]].shape
        source = self._stored(reader)
        result = self._new(last.outputs[0], after, self._grid(last), self._name(last))
        as_it_lies = (
            shapes.differs(before) and len(after) == 2 and after[0] == before[0] and self._is_dense(last.outputs[0])
        )
        shapes.reshaped(self._to, source, result, before, after, as_it_lies)
        if as_it_lies:
            self._to.flattened[result] = before

    def _is_dense(self, stored: str) -> bool:
        """Whether only products with constant weights read a tensor: those can take its values in any order."""
        graph = self._graph
        if stored in graph.outputs:
            return False
        for i in graph.readers.get(stored, ()):
            reader = graph.sole_reader(graph.operators[i].outputs[0])
            if reader is None or graph.operators[reader].op not in ("Gemm", "MatMul"):
                return False
            first, second, *_ = graph.operators[reader].inputs
            weight = graph.producer.get(second)
            if first != graph.operators[i].outputs[0] or weight is None:
                return False
            if graph.operators[weight].inputs[0] not in graph.constants:
                return False
        return True

    def _name(self, last: Operator) -> str:
        """What people know a tensor by: the network's output that it becomes, or the float tensor that it was."""
        graph, stored = self._graph, last.outputs[0]
        becomes = [name for i in graph.readers.get(stored, ()) for name in graph.operators[i].outputs]
        given_out = [name for name in (stored, *becomes) if name in graph.outputs]
        return [*given_out, last.inputs[0] if last.op == "QuantizeLinear" else stored][0]

    def _output(self, name: str) -> int:
        """The file's tensor of an output of the network, which is a stored tensor or one that was dequantised."""
        at = self._index.get(name, self._floats.get(name))
        if at is None:
            maker = self._graph.producer.get(name)
            label = f"output {name!r}" if maker is None else str(self._graph.operators[maker])
            raise UnsupportedOperator(label, f"the network's output {name!r} is computed on floats")
        return at


def _same(a: Grid, b: Grid) -> bool:
    return a.dtype == b.dtype and np.array_equal(a.scale, b.scale) and np.array_equal(a.zero, b.zero)


def _grid_of_int8(scale: Scale) -> Grid:
    return Grid("int8", scale.scales, scale.zeros)
