"""Convolutions on cores with the DSP extension: 4 output channels times 2 pixels (c/conv_dsp.h)."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.toolchains.cgen.kernels import dot_dsp
from hwnas.toolchains.cgen.kernels.contract import Kernel, Request


def kernel(request: Request) -> Kernel | None:
    """2-D convolutions; a group of channels after the other."""
    group, recipe = request.group, request.recipe
    if recipe.form != "conv":
        return None
    [activation] = group.activations
    source, result = activation.grid, group.result.grid
    if len(activation.shape) != 4 or source is None or result is None or not dot_dsp.covers(recipe, source, result):
        return None
    weights: np.ndarray = recipe.values["weights"]
    outputs, channels, *window = weights.shape
    groups = group.attributes.get("group", 1)
    strides, dilations = (group.attributes.get(name, (1, 1)) for name in ("strides", "dilations"))
    pads = group.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(groups, int)
    assert isinstance(strides, tuple) and isinstance(dilations, tuple) and isinstance(pads, tuple)
    blocks = dot_dsp.stream(weights.transpose(0, 2, 3, 1).reshape(outputs, -1), recipe, groups)
    if blocks is None:
        return None
    images, _, height, width = activation.shape
    size = prod(window) * channels
    fours = -(-size // 4)
    beside = channels if channels % 4 == 0 else 8 * fours
    integers = (images, height, width, channels, groups, *group.result.shape[2:], outputs // groups, *window, *strides,
                *dilations, *pads[:2], *dot_dsp.flags(recipe, source, result, size))  # fmt: skip
    return Kernel(
        f"conv4x2/dsp/{dot_dsp.style(recipe)}/NHWC", "hwnas_conv_dsp", (blocks, dot_dsp.head(recipe)),
        tuple(int(v) for v in integers), scratch_bytes=16 * fours + (beside if prod(window) > 1 or any(pads) else 0),
        sources=(*dot_dsp.SOURCES, "conv_dsp.h"),
    )  # fmt: skip
