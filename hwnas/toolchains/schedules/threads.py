"""Loops that several threads share: marked while a kernel is scheduled, made parallel once it is.

TVM's primitive `parallel` refuses a loop whose blocks were split into an initialisation and updates, although threads
that work on different tiles do not meet there. A rule knows which loops are such tiles, and may mark them at any time.
"""

from __future__ import annotations

from typing import Any

MARK = "hw_parallel"
SHARE = "hw_share"
"""The function that a thread's share of a loop becomes."""


def mark_parallel(schedule: Any, loops: list[Any]) -> None:
    """Mark neighbouring loops, outermost first, whose iterations write different elements each."""
    schedule.annotate(schedule.fuse(*loops) if len(loops) > 1 else loops[0], MARK, 1)


def with_threads(function: Any) -> Any:
    """The PrimFunc with its marked loops parallel, the body of each a function of its own.

    TVM hands the arrays to a thread in a structure, and LLVM then takes each for a possible alias of the others: sums
    no longer stay in registers. As arguments of a function they are told apart again (`compute_scope`). Behind it LLVM
    wants an instruction of the function outside, or it finds that one's debug information at fault.
    """
    import tvm_ffi
    from tvm import tirx

    def parallel(loop: Any) -> Any:
        if MARK not in loop.annotations:
            return loop
        rest = {key: value for key, value in loop.annotations.items() if key != MARK}
        body = tirx.AttrStmt(loop.loop_var, "compute_scope", SHARE, loop.body)
        shared = tirx.For(
            loop.loop_var, loop.min, loop.extent, tirx.ForKind.PARALLEL, body, loop.thread_binding, rest, loop.step,
            loop.span,
        )  # fmt: skip
        return tirx.SeqStmt([shared, tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.donothing"))])

    return tvm_ffi.structural_map(function, (tirx.For, parallel))
