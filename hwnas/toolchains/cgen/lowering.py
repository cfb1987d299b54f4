"""One kernel of a program as calls of PrimFuncs: a micro-kernel, scheduled tensor expressions, or TVM's own operators,
with copies into another order where a tensor does not lie as its code takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from onnx.helper import tensor_dtype_to_np_dtype

from hwnas.graph.quantised import Group
from hwnas.toolchains.cgen.floating import lower_float
from hwnas.toolchains.cgen.integer import lower_integer
from hwnas.toolchains.cgen.kernels import Kernel
from hwnas.toolchains.cgen.layouts import reorder_function
from hwnas.toolchains.cgen.lowered import Argument, Call, Lowered
from hwnas.toolchains.cgen.program import Access, Program, Step
from hwnas.toolchains.cgen.schedule import scheduled


def lower(program: Program, step: Step) -> Lowered:
    """The code of a step. Raises BuildError where Relax does not lower a float part."""
    return _with_reorders(program, step, _plain(program, step))


def _plain(program: Program, step: Step) -> Lowered:
    if step.part is not None:
        floats = lower_float(program.graph, step.part, step.workload.op)
        return floats if step.recipe is None else _quantised(floats, step)
    assert step.group is not None and step.recipe is not None
    arguments = (
        *(Argument("read", k) for k in range(len(step.reads))),
        *(Argument("constant", k) for k in range(len(step.constants))),
        Argument("write"),
    )
    if step.micro is not None:
        return Lowered((Call(_calling(step.group, step.micro), arguments),))
    orders = [access.taken.nhwc for access in (*step.reads, *step.writes)]
    function, covered = scheduled(lower_integer(step.group, step.recipe, orders))
    return Lowered((Call(function, arguments),), (), covered)


def _calling(group: Group, kernel: Kernel) -> Any:
    """A PrimFunc that calls the C function of a micro-kernel."""
    from tvm import tirx

    kinds = [(prod(a.shape), a.grid.dtype if a.grid else "float32") for a in group.activations]
    kinds += [(array.values.size, str(array.values.dtype)) for array in kernel.arrays]
    kinds.append((prod(group.result.shape), group.result.grid.dtype if group.result.grid else "float32"))
    buffers = [tirx.decl_buffer((max(1, size),), dtype, name=f"p{k}") for k, (size, dtype) in enumerate(kinds)]
    pointers = [buffer.access_ptr("r") for buffer in buffers[:-1]] + [buffers[-1].access_ptr("w")]
    literals = [tirx.const(value, "int32") for value in kernel.integers]
    words = -(-kernel.scratch_bytes // 4)
    scratch = tirx.decl_buffer((words,), "uint32", name="scratch") if words else None
    if scratch is not None:
        pointers.append(scratch.access_ptr("rw"))
    body: Any = tirx.Evaluate(tirx.call_extern("int32", kernel.function, *pointers, *literals))
    if scratch is not None:
        body = tirx.SeqStmt([tirx.AllocBuffer(scratch), body])
    return tirx.PrimFunc(buffers, body)


def _quantised(floats: Lowered, step: Step) -> Lowered:
    """A float part whose result stays in the workspace, and the QuantizeLinear that reads it there."""
    assert step.group is not None and step.recipe is not None
    between = Argument("temporary", len(floats.temporaries))
    size = 4 * prod(step.group.result.shape)
    calls = [
        replace(call, arguments=tuple(between if a.role == "write" else a for a in call.arguments))
        for call in floats.calls
    ]
    function, covered = scheduled(lower_integer(step.group, step.recipe, [False, step.writes[0].taken.nhwc]))
    own = len(step.recipe.arrays)
    constants = [Argument("constant", len(step.constants) - own + k) for k in range(own)]
    calls.append(Call(function, (between, *constants, Argument("write"))))
    return Lowered(tuple(calls), (*floats.temporaries, size), floats.covered and covered)


def _with_reorders(program: Program, step: Step, code: Lowered) -> Lowered:
    """The calls, with copies before and behind them for tensors that lie in another order than the code takes."""
    before: list[Call] = []
    behind: list[Call] = []
    moved: dict[tuple[str, int], Argument] = {}
    temporaries = list(code.temporaries)

    def copy(access: Access) -> tuple[Argument, str]:
        kind = program.graph.types[access.storage]
        temporaries.append(kind.bytes)
        return Argument("temporary", len(temporaries) - 1), str(tensor_dtype_to_np_dtype(kind.dtype))

    for k, access in enumerate(step.reads):
        if access.is_reordered:
            moved["read", k], dtype = copy(access)
            function, _ = scheduled(reorder_function(access.stored, access.taken, dtype))
            before.append(Call(function, (Argument("read", k), moved["read", k])))
    for k, access in enumerate(step.writes):
        if access.is_reordered:
            moved["write", k], dtype = copy(access)
            function, _ = scheduled(reorder_function(access.taken, access.stored, dtype))
            behind.append(Call(function, (moved["write", k], Argument("write", k))))
    if not moved:
        return code

    def placed(arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        return tuple(moved.get((a.role, a.index), a) for a in arguments)

    calls = [replace(call, arguments=placed(call.arguments)) for call in code.calls]
    return Lowered((*before, *calls, *behind), tuple(temporaries), code.covered)
