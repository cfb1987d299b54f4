"""A network as a Relax module made for pattern matching: it is partitioned, and never compiled.

A quantised kernel becomes dequantize, operator, clamp and quantize; anything else is one opaque call. Operators are
registered in Relax under their ONNX names and state their types: Relax's own convolution takes longer to infer its
type than all else here together, and has variants that ONNX does not. Weights are parameters, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from hwnas.graph.quantised import Activation, Group
from hwnas.graph.view import TensorType, View

if TYPE_CHECKING:
    from hwnas.toolchains.partition.kernels import Placed

MAIN = "main"
NAMESPACE = "hwnas.onnx."
OPAQUE = NAMESPACE + "Kernel"
"""The operator that stands for a kernel that is no quantised operator."""
CLAMP = NAMESPACE + "Clamp"
"""The operator that stands for the Relu or Clip of a kernel."""
QUANTIZE, DEQUANTIZE = "relax.quantize", "relax.dequantize"
MARK = "k"
"""The scale of kernel 7's result is the parameter `k7`, by which the kernel is known after any rewriting."""

Form = tuple[str, tuple[Any, ...]] | None
"""The shape of an expression: operator and forms of its operands; None for whatever comes from outside."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A network in Relax; for each quantised kernel, by its place in the list: the form of its expression and how many
    bindings it takes."""

    module: Any
    forms: Mapping[int, Form]
    bindings: Mapping[int, int]


def lower(graph: View, placed: Sequence[Placed]) -> Lowered:
    """Lower kernels, given in execution order, to one Relax function of the network's inputs."""
    writer = _Writer(graph)
    forms: dict[int, Form] = {}
    bindings: dict[int, int] = {}
    for k, kernel in enumerate(placed):
        before = len(writer.bindings)
        if kernel.group is None:
            writer.opaque(kernel)
        else:
            forms[k] = writer.quantised(f"{MARK}{k}", kernel, kernel.group)
            bindings[k] = len(writer.bindings) - before
    unread = [name for kernel in placed for name in kernel.outputs if name not in graph.readers]
    return Lowered(writer.module(list(dict.fromkeys([*graph.outputs, *unread]))), forms, bindings)


@cache
def operator(name: str) -> Any:
    """The pure Relax operator of that name whose calls state their type; TVM knows it for the rest of the process."""
    import tvm

    tvm.ir.register_op_attr(name, "FPurity", True)
    tvm.ir.register_op_attr(name, "FInferType", lambda call, _builder: call.ty_args[0])
    return tvm.ir.Op.get(name)


class _Writer:
    """Writes the bindings of one dataflow block."""

    def __init__(self, graph: View) -> None:
        from tvm import relax

        self._relax, self._graph = relax, graph
        self._types: dict[tuple[tuple[int, ...], str], Any] = {}
        self._parameters: list[Any] = []
        self._shared: dict[str, Any] = {}
        self.bindings: list[Any] = []
        self._values = {name: self._parameter(f"x{k}", graph.types[name]) for k, name in enumerate(graph.inputs)}

    def quantised(self, mark: str, kernel: Placed, group: Group) -> Form:
        """Write a quantised kernel; returns its form."""
        sources = iter(self._sources(kernel, group))
        operands: list[Any] = []
        forms: list[Form] = []
        for operand in group.operands:
            real = TensorType(TensorProto.FLOAT, operand.shape)
            if isinstance(operand, Activation):
                operands.append(self._dequantised(next(sources), real))
                forms.append((DEQUANTIZE, (None, None, None)))
            else:
                operands.append(self._parameter(f"w{len(self._parameters)}", real))
                forms.append(None)
        result = self._graph.types[kernel.outputs[0]]
        real = TensorType(TensorProto.FLOAT, result.shape)
        value, form = operands[0], forms[0]
        if group.op != "DequantizeLinear":  # which stands for a change of grid
            value, form = self._call(NAMESPACE + group.op, operands, real), (NAMESPACE + group.op, tuple(forms))
        if group.clamp is not None:
            value, form = self._call(CLAMP, [value], real), (CLAMP, (form,))
        scale = self._parameter(mark, TensorType(TensorProto.FLOAT, ()))
        call = self._relax.op.quantize(value, scale, self._zero(result.dtype), 0, _dtype(result.dtype))
        self._values[kernel.outputs[0]] = self._bind(call, self._type(result))
        return QUANTIZE, (form, None, None)

    def opaque(self, kernel: Placed) -> None:
        """Write a kernel as one call that no pattern matches."""
        kinds = [self._type(self._graph.types[name]) for name in kernel.outputs]
        made = kinds[0] if len(kinds) == 1 else self._relax.TupleType(kinds)
        operands = [self._value(name) for name in kernel.inputs]
        call = self._bind(self._relax.Call(operator(OPAQUE), operands, ty_args=[made]), made)
        for j, name in enumerate(kernel.outputs):
            self._values[name] = call if len(kinds) == 1 else self._bind(self._relax.TupleGetItem(call, j), kinds[j])

    def module(self, outputs: Sequence[str]) -> Any:
        """The module whose `main` gives out the named tensors."""
        import tvm

        relax = self._relax
        results = []
        for j, name in enumerate(outputs):
            given = self._value(name)
            results.append(relax.Var(f"y{j}", given.ty))
            self.bindings.append(relax.VarBinding(results[-1], given))
        gathered = relax.Tuple(results)
        body = relax.SeqExpr([relax.DataflowBlock(self.bindings)], gathered)
        relax.expr._update_type(body, gathered.ty)
        main = relax.Function(self._parameters, body, gathered.ty)
        return tvm.IRModule({MAIN: main.with_attr("global_symbol", MAIN)})

    def _sources(self, kernel: Placed, group: Group) -> list[str]:
        """The stored tensors of a kernel's activations, in the order of its operands."""
        makers = {o.outputs[0]: o for i in kernel.operators if (o := self._graph.operators[i]).op == "DequantizeLinear"}
        names = group.operator.outputs[:1] if group.op == "DequantizeLinear" else group.operator.inputs
        stored = [makers[name].inputs[0] for name in names if name in makers]
        return [name for name in stored if name not in self._graph.constants]

    def _dequantised(self, name: str, real: TensorType) -> Any:
        scale = self._common("scale", TensorType(TensorProto.FLOAT, ()))
        zero = self._zero(self._graph.types[name].dtype)
        return self._bind(self._relax.op.dequantize(self._value(name), scale, zero, 0, "float32"), self._type(real))

    def _call(self, name: str, operands: Sequence[Any], result: TensorType) -> Any:
        kind = self._type(result)
        return self._bind(self._relax.Call(operator(name), operands, ty_args=[kind]), kind)

    def _bind(self, value: Any, kind: Any) -> Any:
        if value.ty.is_missing():
            self._relax.expr._update_type(value, kind)
        variable = self._relax.DataflowVar(f"v{len(self.bindings)}", kind)
        self.bindings.append(self._relax.VarBinding(variable, value))
        return variable

    def _value(self, name: str) -> Any:
        if name not in self._values:  # a constant that a kernel reads as it is, or that the network gives out
            self._values[name] = self._parameter(f"c{len(self._parameters)}", self._graph.types[name])
        return self._values[name]

    def _zero(self, dtype: int) -> Any:
        return self._common(f"zero{dtype}", TensorType(dtype, ()))

    def _common(self, name: str, kind: TensorType) -> Any:
        if name not in self._shared:
            self._shared[name] = self._parameter(name, kind)
        return self._shared[name]

    def _parameter(self, name: str, kind: TensorType) -> Any:
        variable = self._relax.Var(name, self._type(kind))
        self._parameters.append(variable)
        return variable

    def _type(self, kind: TensorType) -> Any:
        key = (kind.shape, _dtype(kind.dtype))
        if key not in self._types:
            self._types[key] = self._relax.TensorType(*key)
        return self._types[key]


@cache
def _dtype(dtype: int) -> str:
    return str(tensor_dtype_to_np_dtype(dtype))
