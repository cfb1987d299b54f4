"""Run as a script: what the tvm toolchain computes for an ONNX file on the arrays of an .npz file, written to another."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from hwnas.config import load_device
from hwnas.core.artifact import LIBRARY
from hwnas.toolchains.tvm import TvmToolchain


def run(network: str, inputs: str, outputs: str) -> None:
    import tvm
    from tvm import relax

    with TemporaryDirectory() as folder:
        TvmToolchain().build(onnx.load(network), load_device("host"), Path(folder))
        machine: Any = relax.VirtualMachine(tvm.runtime.load_module(str(Path(folder) / LIBRARY)), tvm.cpu())
    made = [machine["main"](tvm.runtime.tensor(x)) for x in np.load(inputs)["x"]]
    np.savez(outputs, y=np.stack([(y if hasattr(y, "numpy") else y[0]).numpy() for y in made]))


if __name__ == "__main__":
    run(*sys.argv[1:])
