"""Matrix products with constant weights on cores with the DSP extension: rows are pixels of a pointwise convolution."""

from __future__ import annotations

from math import prod

from hwnas.toolchains.cgen.kernels import dot_dsp
from hwnas.toolchains.cgen.kernels.contract import Kernel, Request


def kernel(request: Request) -> Kernel | None:
    """Gemm and MatMul of any number of rows."""
    group, recipe = request.group, request.recipe
    if recipe.form != "matmul":
        return None
    [activation] = group.activations
    source, result = activation.grid, group.result.grid
    if len(activation.shape) == 4 or source is None or result is None or not dot_dsp.covers(recipe, source, result):
        return None
    blocks = dot_dsp.stream(recipe.values["weights"], recipe)
    if blocks is None:
        return None
    outputs, size = recipe.values["weights"].shape
    rows = prod(activation.shape[:-1])
    fours = -(-size // 4)
    flags = dot_dsp.flags(recipe, source, result, size)
    return Kernel(
        f"dense{'4x2' if rows > 1 else '4x1'}/dsp/{dot_dsp.style(recipe)}", "hwnas_conv_dsp",
        (blocks, dot_dsp.head(recipe)), (1, 1, rows, size, 1, 1, rows, outputs, 1, 1, 1, 1, 1, 1, 0, 0, *flags),
        scratch_bytes=(16 if rows > 1 else 8) * fours, sources=(*dot_dsp.SOURCES, "conv_dsp.h"),
    )  # fmt: skip
