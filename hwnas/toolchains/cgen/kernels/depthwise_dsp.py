"""Depthwise convolutions with packed arithmetic: windows of up to 7 x 7, any stride and border.

Larger windows and dilated ones are left to the kernel of the scalar cores, which beats that of grouped convolutions.
"""

from __future__ import annotations

from dataclasses import replace

from hwnas.toolchains.cgen.kernels import depthwise_scalar
from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.products import geometry

LARGEST_WINDOW = 7


def kernel(request: Request) -> Kernel | None:
    """A plane of 16-bit values for each channel; two products in one instruction, two pixels at a time."""
    found = depthwise_scalar.kernel(request)
    if found is None:
        return None
    g = geometry(request)
    assert g is not None
    if g.dilations != (1, 1) or max(g.rows, g.columns, *g.strides) > LARGEST_WINDOW:
        return found
    return replace(
        found,
        name="depthwise/dsp/NHWC",
        function="hwnas_depthwise_dsp",
        integers=(*found.integers[:7], *found.integers[9:]),
        sources=("scalar.h", "dsp.h", "rescale_dsp.h", "clamp_dsp.h", "plane.h", "depthwise_dsp.h"),
    )
