"""Pools and means of images with packed arithmetic, four channels at a time."""

from __future__ import annotations

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.pooling_scalar import pool

LANES = 4
WIDEST = 256
"""A row of a window that is wider may exceed a sum of 16 bits."""


def kernel(request: Request) -> Kernel | None:
    """The pools whose channels come in fours; others are left to the scalar kernel."""
    found = pool(
        request,
        "dsp",
        "hwnas_pool_dsp",
        ("scalar.h", "dsp.h", "rescale_dsp.h", "clamp_dsp.h", "pool_scalar.h", "pool_dsp.h"),
    )
    if found is None or found.integers[2] % LANES or found.integers[4] > WIDEST:
        return None
    return found
