"""Micro-kernels: C of our own for what costs most on a Cortex-M, chosen by shape and core."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from hwnas.toolchains.cgen.kernels.contract import CORES, Core, Kernel, Request, core_of

__all__ = ["CORES", "FAMILIES", "Core", "Kernel", "Request", "c_source", "choose", "core_of"]

FAMILIES: Mapping[Core, tuple[str, ...]] = {
    "portable": (),
    "scalar": (
        "depthwise_scalar",
        "convolution_scalar",
        "dense_scalar",
        "pooling_scalar",
        "sums_scalar",
        "gates_scalar",
        "quantize_scalar",
    ),
    "dsp": ("depthwise_dsp", "pooling_dsp", "convolution_dsp", "dense_dsp"),
    "mve": ("depthwise_mve", "convolution_mve", "pooling_mve", "elementwise_mve"),
}
"""The family modules written for each core, in the order they are asked: the special ones first."""

_CONTAINED: Mapping[Core, tuple[Core, ...]] = {
    "portable": (),
    "scalar": ("scalar",),
    "dsp": ("dsp", "scalar"),
    "mve": ("mve", "dsp", "scalar"),
}
"""The cores whose kernels run on a core, its own first."""


def choose(request: Request) -> Kernel | None:
    """The micro-kernel of a group; None where no family covers it."""
    for core in _CONTAINED[request.core]:
        for name in FAMILIES[core]:
            found: Kernel | None = import_module(f"{__name__}.{name}").kernel(request)
            if found is not None:
                return found
    return None


@lru_cache(maxsize=64)
def c_source(name: str) -> str:
    """The text of a C file of this package."""
    return (Path(__file__).parent / "c" / name).read_text()
