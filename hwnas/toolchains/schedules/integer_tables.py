"""Functions of one 8-bit tensor, element by element, as tables of 256 bytes: an activation, or a chain of operators.

What stands between a DequantizeLinear and a QuantizeLinear and reads nothing else (the five operators of a GELU, say)
is computed by onnxruntime for each of the 256 integers when a network is built. Where the core has room for the table
in its registers, a look-up is an instruction or two for a whole vector.
"""

from __future__ import annotations

# TVMScript writes shapes and types of buffers as annotations, from values of the enclosing function.
# mypy: disable-error-code="valid-type, untyped-decorator"
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hwnas.graph.canonical import declare, empty_network
from hwnas.graph.session import open_session
from hwnas.graph.view import Operator, TensorType, View
from hwnas.toolchains.schedules.integer import Kernel
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.microkernel import PARALLEL_WORK

if TYPE_CHECKING:
    from hwnas.graph.quantised import Grid

UNARY = frozenset(
    [
        "Relu",
        "Clip",
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Gelu",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Abs",
        "Neg",
        "Softplus",
        "Softsign",
        "Mish",
        "Celu",
        "ThresholdedRelu",
        "Reciprocal",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Swish",
    ]
)
_BINARY = frozenset(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean"])
HEAVY = frozenset(
    ["Sigmoid", "Tanh", "Elu", "Selu", "Gelu", "Erf", "Exp", "Log", "Softplus", "Mish", "Celu", "HardSwish", "Swish"]
)
"""Operators that take more time than a look-up in memory."""
LONGEST = 32
"""Operators that a chain holds at most."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Operators by number in topological order, from the DequantizeLinears of tensor `source` to a QuantizeLinear."""

    operators: tuple[int, ...]
    source: str
    result: str


def chain_to(graph: View, sink: int) -> Chain | None:
    """The chain of elementwise operators that a QuantizeLinear ends; None where it reads more than one tensor."""
    last = graph.operators[sink]
    shape = graph.types[last.outputs[0]].shape
    members, pending = {sink}, [last.inputs[0]]
    sources: dict[tuple[str, ...], None] = {}
    while pending:
        name = pending.pop()
        i = graph.producer.get(name)
        if i is None or len(members) > LONGEST or graph.types[name].shape != shape or name in graph.outputs:
            return None
        operator = graph.operators[i]
        members.add(i)
        if operator.op == "DequantizeLinear" and not operator.domain:
            sources[operator.inputs] = None
            continue
        if operator.domain or operator.op not in UNARY | _BINARY or len(operator.outputs) != 1:
            return None
        for operand in operator.inputs:
            if operand in graph.constants:
                if graph.types[operand].elements != 1 or graph.array(operand) is None:
                    return None
            elif operand and graph.producer.get(operand) not in members:
                pending.append(operand)
    inner = [i for i in members if i != sink]
    closed = all(
        reader in members for i in inner for name in graph.operators[i].outputs for reader in graph.readers[name]
    )
    if len(sources) != 1 or not closed or len(inner) < 2:
        return None
    return Chain(tuple(sorted(members)), next(iter(sources))[0], last.outputs[0])


def table_of(graph: View, chain: Chain, source: Grid, result: Grid) -> np.ndarray:
    """The chain's result for each stored byte, taken as unsigned, as onnxruntime computes it."""
    kinds = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
    network = empty_network(graph.opset)
    declare(network.graph.input.add(), chain.source, TensorType(kinds[source.dtype], (256,)))
    declare(network.graph.output.add(), chain.result, TensorType(kinds[result.dtype], (256,)))
    kept: dict[str, None] = {}
    for i in chain.operators:
        operator = graph.operators[i]
        network.graph.node.append(written(operator))
        kept |= dict.fromkeys(name for name in operator.inputs if name in graph.constants)
    for name in kept:
        values = graph.array(name)
        if values is None:  # scales and zero points of a network without values
            values = np.ones((), np.float32) if graph.types[name].dtype == TensorProto.FLOAT else np.zeros((), np.uint8)
        network.graph.initializer.append(
            numpy_helper.from_array(values.reshape(values.shape if values.ndim == 0 else -1), name)
        )
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"})
    stored = np.arange(256).astype(np.uint8).view(source.dtype)
    found: np.ndarray = session.run(None, {chain.source: stored})[0]
    return found


def written(operator: Operator) -> NodeProto:
    """An operator as a node of ONNX."""
    node = NodeProto(op_type=operator.op, domain=operator.domain, name=operator.name)
    node.input.extend(operator.inputs)
    node.output.extend(operator.outputs)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in operator.attributes.items())
    return node


def table_kernel(table: np.ndarray, source: str, shape: tuple[int, ...], images: bool, isa: Isa) -> Kernel:
    """The kernel that looks every element (stored as `source`) up in a table in the order of unsigned bytes."""
    make = partial(_function, prod(shape), source, str(table.dtype), isa.lookup or "", isa.threads)
    return Kernel("hwq_table", make, (table,), (prod(shape),), images, flat=True)


def _function(size: int, source: str, result: str, lookup: str, threads: int) -> Any:
    """The PrimFunc that looks `size` bytes up."""
    wide = {"vbmi": 64, "tbl": 16}.get(lookup, 0)
    spread = threads > 1 and size >= 16 * PARALLEL_WORK
    if wide and size >= wide:
        return _in_vectors(size, source, result, _vbmi if lookup == "vbmi" else _tbl, wide, spread)
    return _one_by_one(size, source, result, spread)


def _in_vectors(size: int, source: str, result: str, look_up: Callable[..., Any], wide: int, spread: bool) -> Any:
    """Whole vectors of `wide` bytes, and single bytes behind."""
    from tvm.script import tirx as T

    whole = size // wide
    start, rest = whole * wide, size % wide
    outer = T.parallel if spread else T.serial

    @T.prim_func(s_tir=True)
    def table(X: T.Buffer((size,), source), L: T.Buffer((256,), result), Y: T.Buffer((size,), result)) -> None:
        T.func_attr({"tirx.noalias": True})
        for i in outer(0, whole):
            with T.sblock("hw_qtable"):
                v = T.axis.spatial(whole, i)
                T.reads(X[v * wide : v * wide + wide], L[0:256])
                T.writes(Y[v * wide : v * wide + wide])
                Y[T.ramp(v * wide, 1, wide)] = look_up(X, L, v * wide)
        for i in T.serial(0, rest):
            with T.sblock("rest"):
                v = T.axis.spatial(rest, i)
                T.reads(X[start + v], L[0:256])
                T.writes(Y[start + v])
                Y[start + v] = L[T.cast(T.cast(X[start + v], "uint8"), "int32")]

    return table


def _one_by_one(size: int, source: str, result: str, spread: bool) -> Any:
    from tvm.script import tirx as T

    outer = T.parallel if spread else T.serial

    @T.prim_func(s_tir=True)
    def table(X: T.Buffer((size,), source), L: T.Buffer((256,), result), Y: T.Buffer((size,), result)) -> None:
        T.func_attr({"tirx.noalias": True})
        for i in outer(0, size):
            with T.sblock("hw_qtable"):
                v = T.axis.spatial(size, i)
                T.reads(X[v], L[0:256])
                T.writes(Y[v])
                Y[v] = L[T.cast(T.cast(X[v], "uint8"), "int32")]

    return table


def _vbmi(data: Any, table: Any, start: Any) -> Any:
    """VPERMI2B looks 7 bits up in two registers; the eighth chooses between two of them."""
    from tvm.script import tirx as T

    def half(first: int) -> Any:
        name = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpermi2var.qi.512")
        low, high = (_bytes(table, first + part, 64, str(table.dtype)) for part in (0, 64))
        return T.call_llvm_pure_intrin(name, low, places, high, dtype="uint8x64")

    places = _bytes(data, start, 64, str(data.dtype))
    found = T.Select(places < T.broadcast(T.uint8(128), 64), half(0), half(128))
    return found if str(table.dtype) == "uint8" else T.reinterpret(found, dtype="int8x64")


def _tbl(data: Any, table: Any, start: Any) -> Any:
    """TBL looks 6 bits up in four registers and gives 0 for what is beyond: the four quarters are joined."""
    from tvm.script import tirx as T

    name = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.tbl4")
    places = _bytes(data, start, 16, str(data.dtype))
    found: Any = None
    for quarter in range(4):
        parts = [_bytes(table, 64 * quarter + 16 * part, 16, str(table.dtype)) for part in range(4)]
        index = places - T.broadcast(T.uint8(64 * quarter), 16) if quarter else places
        value = T.call_llvm_pure_intrin(name, *parts, index, dtype="uint8x16")
        found = value if found is None else found | value
    return found if str(table.dtype) == "uint8" else T.reinterpret(found, dtype="int8x16")


def _bytes(buffer: Any, start: Any, count: int, dtype: str) -> Any:
    from tvm.script import tirx as T

    vector = buffer.vload([start], dtype=f"{dtype}x{count}")
    return vector if dtype == "uint8" else T.reinterpret(vector, dtype=f"uint8x{count}")


def schedule_table(schedule: Any, isa: Isa, anchor: Any) -> None:
    """Nothing is left to do: a table's function is written as it runs."""


RULES: Mapping[str, Callable[[Any, Isa, Any], None]] = {"hw_qtable": schedule_table}
