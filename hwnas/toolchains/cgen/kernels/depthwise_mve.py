"""Depthwise convolutions for MVE: eight channels of two pixels (c/mve_depthwise.h)."""

from __future__ import annotations

import numpy as np

from hwnas.toolchains.cgen.kernels import sums_mve
from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.recipes import Array

GROUP = 8
"""Channels whose weights and parameters stand together."""
ROW_BLOCK = 16
"""Channels that stand together in the scratch memory."""
REACH = 7
"""Columns by which taps may lie apart: an address holds 7 bits of offset."""
MAX_ROWS = 8
SQUARES_FROM = 8
"""Width of the result from which on four results at a time pay."""


def kernel(request: Request) -> Kernel | None:
    """2-D convolutions of one image whose channels each have one kernel."""
    group = request.group
    if request.recipe.form != "conv" or not sums_mve.covers(request):
        return None
    [activation] = group.activations
    weights: np.ndarray = request.recipe.values["weights"]
    outputs, inputs, *window = weights.shape
    if len(activation.shape) != 4 or activation.shape[:2] != (1, outputs) or inputs > 1 or outputs == 1:
        return None
    _, channels, height, width = activation.shape
    strides, dilations = (group.attributes.get(name, (1, 1)) for name in ("strides", "dilations"))
    pads = group.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(strides, tuple) and isinstance(dilations, tuple) and isinstance(pads, tuple)
    if (window[1] - 1) * int(dilations[1]) > REACH or window[0] > MAX_ROWS:
        return None
    out_height, out_width = group.result.shape[2:]
    if window == [3, 3] and (*strides, *dilations) == (1, 1, 1, 1) and out_width >= SQUARES_FROM:
        return _squares(request, weights)
    arrays, source = _arrays(request, weights.reshape(channels, -1)), activation.grid
    assert source is not None
    reached = (-(-out_width // 2) * 2 - 1) * int(strides[1]) + (window[1] - 1) * int(dilations[1]) + 1
    columns = max(reached, int(pads[1]) + width)
    span = (window[0] - 1) * int(dilations[0]) + 1
    integers = (height, width, channels, out_height, out_width, *window, *strides, *dilations, *pads[:2], columns,
                sums_mve.is_signed(source), request.recipe.facts["kind"] == "multiply")  # fmt: skip
    return Kernel(
        f"depthwise8x2/mve/{request.recipe.facts['kind']}/NHWC", "hwnas_mve_depthwise", arrays,
        tuple(int(v) for v in integers), scratch_bytes=span * columns * -(-channels // ROW_BLOCK) * ROW_BLOCK,
        sources=("mve.h", "mve_depthwise.h"),
    )  # fmt: skip


def _squares(request: Request, weights: np.ndarray) -> Kernel | None:
    """3x3 with stride 1: four results of a channel at a time (c/mve_depthwise3.h)."""
    group, kind = request.group, request.recipe.facts["kind"]
    [activation] = group.activations
    assert activation.grid is not None
    signed = sums_mve.is_signed(activation.grid)
    found = sums_mve.bias_and_factors(request, 0 if signed else 128)
    if found is None:
        return None
    _, channels, height, width = activation.shape
    out_height, out_width = group.result.shape[2:]
    pads = group.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(pads, tuple)
    arrays = (Array(np.ascontiguousarray(weights.transpose(0, 1, 3, 2)).astype(np.int8).reshape(-1)),
              Array(np.stack(found, 1).reshape(-1)), sums_mve.ends(request))  # fmt: skip
    integers = (height, width, channels, out_height, out_width, *pads[:2], signed, kind == "multiply")
    pairs = -(-out_width // 2)
    # columns of sixteen channels and four rows, sums of 32 bits, weights with zeros
    scratch = (2 * pairs + 2) * 4 * ROW_BLOCK + 16 * pairs + 24 * ROW_BLOCK
    return Kernel(f"depthwise2x2/mve/{kind}/NHWC", "hwnas_mve_depthwise3", arrays, tuple(int(v) for v in integers),
                  scratch_bytes=scratch, sources=("mve.h", "mve_depthwise3.h"))  # fmt: skip


def _arrays(request: Request, taps: np.ndarray) -> tuple[Array, ...]:
    """Weights by eight channels, tap and channel; parameters likewise: even channels, then odd ones."""
    channels = len(taps)
    found = sums_mve.bias_and_factors(request, 0)
    assert found is not None  # covered
    weights = [taps[c : c + GROUP].T.astype(np.int8).reshape(-1) for c in range(0, channels, GROUP)]
    weights.append(np.zeros(-channels % GROUP, np.int8))  # the last vector reads on
    table = np.zeros((2, -(-channels // GROUP) * GROUP), np.int32)
    table[:, :channels] = found
    lanes = table.reshape(2, -1, GROUP // 2, 2).transpose(1, 0, 3, 2)
    return Array(np.concatenate(weights)), Array(np.ascontiguousarray(lanes).reshape(-1)), sums_mve.ends(request)
