"""Convolutions and matrix products with constant weights for MVE: 4 output channels times 2 pixels (c/mve_conv.h)."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.toolchains.cgen.kernels import sums_mve
from hwnas.toolchains.cgen.kernels.contract import Kernel, Request

PIXELS = 4
"""Pixels of a 1x1 convolution that are made signed at once."""


def kernel(request: Request) -> Kernel | None:
    """2-D convolutions of one image, in groups too unless depthwise, and products of matrices."""
    form, shape = request.recipe.form, request.group.activations[0].shape
    if form not in ("conv", "matmul") or not sums_mve.covers(request):
        return None
    if form == "matmul":
        weights = request.recipe.values["weights"]
        return None if len(shape) == 4 else _pointwise(request, weights, prod(shape[:-1]), "dense")
    return _convolution(request) if len(shape) == 4 and shape[0] == 1 else None


def _convolution(request: Request) -> Kernel | None:
    group = request.group
    [activation] = group.activations
    _, channels, height, width = activation.shape
    weights: np.ndarray = request.recipe.values["weights"]
    outputs, inputs, *window = weights.shape
    groups = channels // inputs
    strides, dilations = (group.attributes.get(name, (1, 1)) for name in ("strides", "dilations"))
    pads = group.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(strides, tuple) and isinstance(dilations, tuple) and isinstance(pads, tuple)
    if groups > 1 and inputs == 1:
        return None
    rows = weights.transpose(0, 2, 3, 1).reshape(outputs, -1)
    if prod(window) == prod(strides) == groups == 1 and not any(pads):
        return _pointwise(request, rows, height * width, "conv1x1")
    arrays = sums_mve.row_arrays(request, rows, groups)
    assert activation.grid is not None
    if arrays is None:
        return None
    integers = (height, width, channels, *group.result.shape[2:], outputs, *window, *strides, *dilations, *pads[:2],
                groups, sums_mve.is_signed(activation.grid), request.recipe.facts["kind"] == "multiply")  # fmt: skip
    # a patch for each of two pixels, and what the last vector of the second one reaches beyond
    scratch = 2 * -(-rows.shape[1] // sums_mve.LANES) * sums_mve.LANES + sums_mve.LANES
    return Kernel(_name(request, "conv4x2"), "hwnas_mve_conv", arrays, tuple(int(v) for v in integers),
                  scratch_bytes=scratch, sources=(*sums_mve.SOURCES, "mve_conv.h"))  # fmt: skip


def _pointwise(request: Request, rows: np.ndarray, pixels: int, kind: str) -> Kernel | None:
    arrays = sums_mve.row_arrays(request, rows, 1)
    source = request.group.activations[0].grid
    assert source is not None
    if arrays is None:
        return None
    outputs, channels = rows.shape
    signed = sums_mve.is_signed(source)
    integers = (pixels, channels, outputs, int(signed), int(request.recipe.facts["kind"] == "multiply"))
    scratch = 16 if signed else min(pixels, PIXELS) * channels
    return Kernel(_name(request, kind), "hwnas_mve_pointwise", arrays, integers,
                  scratch_bytes=scratch, sources=(*sums_mve.SOURCES, "mve_conv.h"))  # fmt: skip


def _name(request: Request, kind: str) -> str:
    return f"{kind}/mve/{request.recipe.facts['kind']}/NHWC"
