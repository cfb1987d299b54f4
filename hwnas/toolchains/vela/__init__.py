"""Arm Ethos-U NPUs through Vela, Arm's compiler for them."""

from hwnas.toolchains.vela.toolchain import VelaToolchain

__all__ = ["VelaToolchain"]
