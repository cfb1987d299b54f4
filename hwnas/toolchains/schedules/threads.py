"""Loops that several threads share: marked while a kernel is scheduled, made parallel once it is.

TVM's primitive `parallel` refuses a loop whose blocks were split into an initialisation and updates, although threads
that work on different tiles do not meet there. A rule knows which loops are such tiles, and may mark them at any time.
"""

from __future__ import annotations

from typing import Any

MARK = "hw_parallel"


def mark_parallel(schedule: Any, loops: list[Any]) -> None:
    """Mark neighbouring loops, outermost first, whose iterations write different elements each."""
    schedule.annotate(schedule.fuse(*loops) if len(loops) > 1 else loops[0], MARK, 1)


def with_threads(function: Any) -> Any:
    """The PrimFunc with its marked loops parallel."""
    import tvm_ffi
    from tvm import tirx

    def parallel(loop: Any) -> Any:
        if MARK not in loop.annotations:
            return loop
        rest = {key: value for key, value in loop.annotations.items() if key != MARK}
        return tirx.For(
            loop.loop_var, loop.min, loop.extent, tirx.ForKind.PARALLEL, loop.body, loop.thread_binding, rest, loop.step,
            loop.span,
        )  # fmt: skip

    return tvm_ffi.structural_map(function, (tirx.For, parallel))
