"""Google's Edge TPU (Coral): priced by a law with published and calibrated constants, compiled where its compiler is there."""

from hwnas.toolchains.edgetpu.toolchain import EdgeTpuToolchain

__all__ = ["EdgeTpuToolchain"]
