"""Run as a script: the kernels that the tvm toolchain makes of each ONNX file, one JSON line a file."""

from __future__ import annotations

import json
import sys


def called_kernels(path: str) -> tuple[list[str], int]:
    """The name of each kernel that is called, in order, and how many of them the layout at the edges costs."""
    import onnx
    import tvm
    from tvm import relax

    from hwnas.toolchains.schedules.objects import without_reshapes
    from hwnas.toolchains.schedules.pipeline import lower

    lowered = lower(onnx.load(path), tvm.target.Target({"kind": "llvm"}))
    module = without_reshapes(lowered.module)
    values = [binding.value for block in module["main"].body.blocks for binding in block.bindings]
    call = tvm.ir.Op.get("relax.call_tir")
    names = [value.args[0].name_hint for value in values if isinstance(value, relax.Call) and value.op == call]
    return names, lowered.layout_transforms


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(called_kernels(name)))
