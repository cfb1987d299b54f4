"""Run as a script: what TVM's Relax pipeline fuses in each ONNX file, one JSON line a file."""

from __future__ import annotations

import json
import sys
from typing import Any


def called_kernels(path: str) -> list[str]:
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    steps = relax.transform
    pipeline = tvm.transform.Sequential(
        [steps.DecomposeOpsForInference(), steps.CanonicalizeBindings(), steps.FoldConstant(), steps.LegalizeOps(),
         steps.AnnotateTIROpPattern(), steps.FoldConstant(), steps.FuseOps(), steps.FuseTIR()]
    )  # fmt: skip
    module: Any = from_onnx(onnx.load(path))
    with tvm.target.Target("llvm"):
        fused = pipeline(module)
    values = [binding.value for block in fused["main"].body.blocks for binding in block.bindings]
    call = tvm.ir.Op.get("relax.call_tir")
    return [value.args[0].name_hint for value in values if isinstance(value, relax.Call) and value.op == call]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps(called_kernels(name)))
