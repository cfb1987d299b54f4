"""Run as a script: what TVM computes for an ONNX file on the arrays of an .npz file, written to another."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx

from hwnas.toolchains.tvm import lower


def run(network: str, inputs: str, outputs: str) -> None:
    import tvm
    from tvm import relax

    target = tvm.target.Target({"kind": "llvm"})
    machine: Any = relax.VirtualMachine(tvm.compile(lower(onnx.load(network), target), target), tvm.cpu())
    made = [machine["main"](tvm.runtime.tensor(x)) for x in np.load(inputs)["x"]]
    np.savez(outputs, y=np.stack([(y if hasattr(y, "numpy") else y[0]).numpy() for y in made]))


if __name__ == "__main__":
    run(*sys.argv[1:])
