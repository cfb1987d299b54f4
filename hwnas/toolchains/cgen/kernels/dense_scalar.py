"""Matrix products on cores that multiply one value at a time."""

from __future__ import annotations

from math import ceil, prod

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.products import block_params, blocked, ends, is_plain, is_signed, rounding, style
from hwnas.toolchains.cgen.recipes import Array

LARGEST_BLOCK = 8
"""Outputs whose sums stay in registers beside a value, a weight and two addresses."""


def kernel(request: Request) -> Kernel | None:
    """Up to eight outputs at a time (Cortex-M3: one load and one multiply-accumulate a product)."""
    if request.recipe.form != "matmul" or not is_plain(request):
        return None
    [source] = request.group.activations
    if not source.shape:
        return None
    weights = np.asarray(request.recipe.values["weights"])
    outputs, depth = weights.shape
    block = ceil(outputs / ceil(outputs / LARGEST_BLOCK))
    bias, entries = rounding(request)
    return Kernel(
        name=f"dense{block}/scalar",
        function="hwnas_dense_scalar",
        arrays=(
            Array(blocked(weights, block).astype(np.int8)),
            Array(block_params(bias, entries, block)),
            Array(np.array(ends(request), np.int32)),
        ),
        integers=(prod(source.shape[:-1]), depth, outputs, block, *style(request), is_signed(source),
                  is_signed(request.group.result)),
        sources=("scalar.h", "dense_scalar.h"),
    )  # fmt: skip
