"""Code generation ahead of time: ONNX through TVM to C that needs no runtime, for microcontrollers and any C compiler."""

from hwnas.toolchains.cgen.program import arena_bytes, constant_bytes
from hwnas.toolchains.cgen.toolchain import CgenToolchain

__all__ = ["CgenToolchain", "arena_bytes", "constant_bytes"]
