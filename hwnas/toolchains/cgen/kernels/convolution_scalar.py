"""Convolutions on cores that multiply one value at a time: any window, stride, dilation, border and groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.products import (
    block_params,
    blocked,
    ends,
    geometry,
    is_plain,
    is_signed,
    rounding,
    style,
)
from hwnas.toolchains.cgen.recipes import Array

BLOCK = 4
"""Output channels of a block; with two pixels its sums, two values, a weight and two addresses fill 13 registers."""


def kernel(request: Request) -> Kernel | None:
    """Blocks of four channels and two pixels (Cortex-M3: one multiply-accumulate a product, one load for four)."""
    if request.recipe.form != "conv" or not is_plain(request):
        return None
    g = geometry(request)
    if g is None:
        return None
    if (g.rows, g.columns, *g.strides) == (1, 1, 1, 1) and not any(g.pads):  # an image of one row: no pair is parted
        g = replace(g, height=1, width=g.height * g.width, out_height=1, out_width=g.height * g.width)
    weights = np.asarray(request.recipe.values["weights"]).transpose(0, 2, 3, 1).reshape(g.outputs, -1)
    bias, entries = rounding(request)
    share = g.outputs // g.groups
    each = [slice(o, o + share) for o in range(0, g.outputs, share)]
    scalars = np.array([request.recipe.values["zero"], *ends(request)], np.int32)
    [source] = request.group.activations
    return Kernel(
        name="conv4x2/scalar/NHWC",
        function="hwnas_conv_scalar",
        arrays=(
            Array(np.concatenate([blocked(weights[own], BLOCK) for own in each]).astype(np.int8)),
            Array(np.concatenate([block_params(bias[own], entries[own], BLOCK) for own in each])),
            Array(scalars),
        ),
        integers=(
            g.height, g.width, g.channels, g.groups, g.rows, g.columns, *g.strides, *g.dilations, g.pads[0], g.pads[1],
            g.out_height, g.out_width, g.outputs, *style(request), is_signed(source), is_signed(request.group.result),
        ),
        scratch_bytes=8 * weights.shape[1],
        sources=("scalar.h", "conv_scalar.h"),
    )  # fmt: skip
