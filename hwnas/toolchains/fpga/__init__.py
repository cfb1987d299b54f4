"""Quantised networks for the systolic core of firmware/fpga: products as jobs, the rest for the CPU beside it."""

from hwnas.toolchains.fpga.toolchain import FpgaToolchain

__all__ = ["FpgaToolchain"]
