"""The calls of a network as one function: kernels run one after the other on a single workspace.

For each kernel that it calls, the Relax virtual machine makes a tensor and drops another: .3 us, more than many a
kernel of a small network takes. Here main is left with one call. What it calls holds every other call as machine code,
the addresses of intermediate results as offsets into one tensor, and those of constants as offsets into another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from hwnas.toolchains.cgen.memory import Lifetime, place

NAME = "hw_network"
PREFIX = "__tvm_ffi_"
"""How TVM names the symbol of a kernel."""
ALIGNMENT = 64
"""Bytes that tensors are aligned to, as kernels expect it."""
SAMPLE_BYTES = 256
_VIEWS = ("relax.reshape",)


@dataclass(frozen=True, slots=True)
class Driven:
    """A module whose main makes one call, and symbols that have to stand for others: (new, what it is)."""

    module: Any
    aliases: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """A call of a kernel: its name, its operands (Relax variables and constants), and the variables it makes."""

    kernel: str
    operands: tuple[Any, ...]
    results: tuple[Any, ...]


def driven(module: Any) -> Driven | None:
    """The module with one function that calls its kernels, and a main that calls this one.

    None where main does anything but call kernels and reshape, and where what it returns is not made by kernels.
    """
    import tvm
    from tvm import relax

    main = module["main"]
    plan = _Plan.of(main)
    if plan is None:
        return None
    workspace, constants = plan.workspace(), _Constants(plan.steps)
    function, aliases = _function(plan, workspace, constants)
    builder = relax.BlockBuilder()
    with builder.function("main", list(main.params), attrs=dict(main.attrs or {})):
        with builder.dataflow():
            variable = builder.add_func(function, NAME)
            types = [relax.TensorType((workspace.bytes,), "uint8"), *(value.ty for value in plan.results)]
            made = builder.emit(relax.call_tir(variable, [*main.params, relax.const(constants.packed())], types))
            fields = [builder.emit(relax.TupleGetItem(made, k + 1)) for k in range(len(plan.results))]
            result = builder.emit_output(relax.Tuple(fields) if plan.several else fields[0])
        builder.emit_func_output(result)
    functions = dict(builder.get().functions)
    functions |= {name: kernel for name, kernel in module.functions.items() if name.name_hint != "main"}
    return Driven(tvm.IRModule(functions, attrs=module.attrs), aliases)


@dataclass(frozen=True, slots=True)
class _Workspace:
    """Where the intermediate results of steps lie, and how large it is."""

    offsets: dict[Any, int]
    bytes: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """The steps of a main; `origins` says for each variable the parameter, or the result of a step, that it shows."""

    parameters: tuple[Any, ...]
    steps: tuple[_Step, ...]
    origins: dict[Any, Any]
    results: tuple[Any, ...]
    several: bool

    @classmethod
    def of(cls, main: Any) -> _Plan | None:
        from tvm import relax

        origins: dict[Any, Any] = {parameter: parameter for parameter in main.params}
        fields: dict[Any, tuple[Any, ...]] = {}
        steps: list[_Step] = []
        body = main.body.body
        for block in main.body.blocks:
            for binding in block.bindings:
                if not isinstance(binding, relax.VarBinding):
                    return None
                variable, value = binding.var, binding.value
                if isinstance(value, relax.Tuple) and variable.same_as(body):
                    body = value
                    continue
                name = getattr(value.op, "name", "") if isinstance(value, relax.Call) else ""
                if isinstance(value, relax.Var) and value in origins:
                    origins[variable] = origins[value]
                elif name in _VIEWS and value.args[0] in origins:
                    origins[variable] = origins[value.args[0]]
                elif isinstance(value, relax.TupleGetItem) and value.tuple_value in fields:
                    origins[variable] = fields[value.tuple_value][value.index]
                elif name == "relax.call_tir" and len(value.args) == 2:
                    operands = tuple(value.args[1].fields)
                    if any(isinstance(o, relax.Var) and o not in origins for o in operands):
                        return None
                    fields[variable] = _made(variable)
                    steps.append(_Step(value.args[0].name_hint, operands, fields[variable]))
                    origins |= {result: result for result in fields[variable]}
                else:
                    return None
        several = isinstance(body, relax.Tuple)
        results = tuple(body.fields) if several else (body,)
        made = {result for step in steps for result in step.results}
        ends = [origins.get(value) for value in results if isinstance(value, relax.Var)]
        met = {*main.params, *origins, *(o for step in steps for o in step.operands)}
        if len(set(ends)) != len(results) or not made.issuperset(ends) or not all(_is_plain(v) for v in met):
            return None
        return cls(tuple(main.params), tuple(steps), origins, results, several)

    def workspace(self) -> _Workspace:
        """Intermediate results that are not needed at the same time share memory."""
        last: dict[Any, int] = {}
        for k, step in enumerate(self.steps):
            last |= {self.origins[o]: k for o in step.operands if o in self.origins}
        ends = {self.origins[value] for value in self.results}
        made = [(result, k) for k, step in enumerate(self.steps) for result in step.results if result not in ends]
        lives = [Lifetime(str(n), _room(_bytes(r)), k, last.get(r, k)) for n, (r, k) in enumerate(made)]
        layout = place(lives)
        return _Workspace({made[int(n)][0]: at for n, at in layout.offsets.items()}, max(layout.bytes, ALIGNMENT))


class _Constants:
    """The constants of all steps in one block of bytes, equal ones once."""

    def __init__(self, steps: Sequence[_Step]) -> None:
        from tvm import relax

        self._arrays: list[tuple[int, np.ndarray]] = []
        self._known: dict[Any, list[tuple[int, np.ndarray]]] = {}
        self._offsets: dict[Any, int] = {}
        self.bytes = 0
        for step in steps:
            for operand in step.operands:
                if not isinstance(operand, relax.Var) and operand not in self._offsets:
                    self._offsets[operand] = self._place(operand.value.numpy())
        self.bytes = max(self.bytes, ALIGNMENT)

    def _place(self, array: np.ndarray) -> int:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        known = self._known.setdefault((content.size, content[:SAMPLE_BYTES].tobytes()), [])
        for offset, other in known:
            if np.array_equal(content, other):
                return offset
        known.append((self.bytes, content))
        self._arrays.append((self.bytes, content))
        self.bytes += _room(content.size)
        return known[-1][0]

    def offset(self, constant: Any) -> int:
        return self._offsets[constant]

    def packed(self) -> np.ndarray:
        """The block itself: uint8 x n."""
        found = np.zeros(self.bytes, np.uint8)
        for offset, content in self._arrays:
            found[offset : offset + content.size] = content
        return found


def _function(plan: _Plan, workspace: _Workspace, constants: _Constants) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """The PrimFunc of (parameters, block of constants, workspace, results) that makes every call, and its aliases."""
    from tvm import s_tir, tirx

    named = {parameter: _buffer(parameter, f"p{k}") for k, parameter in enumerate(plan.parameters)}
    results = {plan.origins[value]: _buffer(value, f"r{k}") for k, value in enumerate(plan.results)}
    block, room = (tirx.decl_buffer((size,), "uint8", name)
                   for size, name in ((constants.bytes, "constants"), (workspace.bytes, "workspace")))  # fmt: skip

    def address(value: Any) -> Any:
        origin = plan.origins.get(value)
        if origin is None:
            return tirx.address_of(block[constants.offset(value)])
        whole = named.get(origin, results.get(origin))
        return tirx.address_of(room[workspace.offsets[origin]]) if whole is None else tirx.buffer_data(whole)

    seen: set[str] = set()
    aliases: list[tuple[str, str]] = []
    calls = []
    for step in plan.steps:
        symbol = PREFIX + step.kernel
        if symbol in seen:  # LLVM's module knows each callee once; a second call would get a name of LLVM's making
            aliases.append((f"hw_{len(aliases)}", symbol))
            symbol = aliases[-1][0]
        seen.add(symbol)
        arrays = [_array(address(value), value) for value in (*step.operands, *step.results)]
        calls.append(tirx.Evaluate(tirx.call_cpacked(symbol, *arrays)))
    parameters = [*named.values(), block, room, *results.values()]
    root = s_tir.SBlock([], [], [], "root", tirx.SeqStmt(calls) if len(calls) > 1 else calls[0])
    function = tirx.PrimFunc(parameters, s_tir.SBlockRealize([], True, root))  # some of Relax's passes look for a block
    attributes = {"global_symbol": NAME, "tirx.is_scheduled": True, "s_tir": True}
    return function.with_attrs(attributes), tuple(aliases)


def _made(variable: Any) -> tuple[Any, ...]:
    """The tensors that a call makes of which a variable is all: itself, or one for each field of a tuple."""
    from tvm import relax

    if not isinstance(variable.ty, relax.TupleType):
        return (variable,)
    return tuple(relax.Var(f"field{k}", field) for k, field in enumerate(variable.ty.fields))


def _array(address: Any, value: Any) -> Any:
    """What describes a tensor at an address to a kernel."""
    from tvm import ir, tirx

    sizes = [tirx.const(size, "int64") for size in _shape(value)]
    shape = ir.Call("tirx.tvm_stack_make_shape", sizes, ret_ty=ir.PointerType(ir.PrimType("int64")))
    zero = tirx.const(0, "int32")
    fields = [address, shape, zero, tirx.const(len(sizes), "int32"), tirx.const(0, str(value.ty.dtype)), zero]
    return ir.Call("tirx.tvm_stack_make_array", fields, ret_ty="handle")


def _buffer(value: Any, name: str) -> Any:
    from tvm import tirx

    return tirx.decl_buffer(_shape(value), str(value.ty.dtype), name)


def _is_plain(value: Any) -> bool:
    """Whether a value is one tensor whose sizes are known, and not empty."""
    from tvm import relax, tirx

    kind = value.ty
    if not isinstance(kind, relax.TensorType) or kind.shape is None or not isinstance(kind.shape, relax.ShapeExpr):
        return False
    return all(isinstance(size, tirx.IntImm) and int(size) > 0 for size in kind.shape)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in value.ty.shape)


def _bytes(value: Any) -> int:
    return prod(_shape(value)) * np.dtype(str(value.ty.dtype)).itemsize


def _room(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
