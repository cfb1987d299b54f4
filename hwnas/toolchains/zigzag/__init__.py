"""Generic NPUs through ZigZag, a cost model that searches how a kernel is mapped onto an array and its memories."""

from hwnas.toolchains.zigzag.toolchain import ZigzagToolchain

__all__ = ["ZigzagToolchain"]
