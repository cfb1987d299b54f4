"""Depthwise convolutions on cores that multiply one value at a time: any window, stride, dilation and border."""

from __future__ import annotations

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.planes import strips
from hwnas.toolchains.cgen.kernels.products import ends, geometry, is_plain, is_signed, rounding, style
from hwnas.toolchains.cgen.recipes import Array


def kernel(request: Request) -> Kernel | None:
    """A plane of 16-bit values for each channel, two neighbouring pixels at a time."""
    if request.recipe.form != "conv" or not is_plain(request):
        return None
    g = geometry(request)
    if g is None or not g.channels == g.outputs == g.groups or g.groups == 1:
        return None
    weights = np.asarray(request.recipe.values["weights"]).reshape(g.channels, -1)
    cut = strips(g)
    scalars = np.array([request.recipe.values["zero"], *ends(request)], np.int32)
    [source] = request.group.activations
    return Kernel(
        name="depthwise/scalar/NHWC",
        function="hwnas_depthwise_scalar",
        arrays=(
            Array(weights.reshape(-1).astype(np.int8)),
            Array(np.stack(rounding(request), 1).reshape(-1).astype(np.int32)),
            Array(scalars),
        ),
        integers=(
            g.height, g.width, g.channels, g.rows, g.columns, *g.strides, *g.dilations, g.pads[0], g.pads[1], g.out_height,
            g.out_width, cut.pitch, cut.used, cut.lines, *style(request), is_signed(source),
            is_signed(request.group.result),
        ),
        scratch_bytes=cut.scratch_bytes,
        sources=("scalar.h", "plane.h", "depthwise_scalar.h"),
    )  # fmt: skip
