"""Sums and differences of two tensors of one shape on cores that take one value at a time."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.products import ends, is_signed, style
from hwnas.toolchains.cgen.recipes import Array


def kernel(request: Request) -> Kernel | None:
    """Two multiply-accumulates and a shift for each element."""
    recipe = request.recipe
    if recipe.form != "add" or recipe.facts["kind"] not in ("shift", "multiply"):
        return None
    operands = request.group.activations
    result = request.group.result
    if len(operands) != 2 or any(operand.shape != result.shape for operand in operands):
        return None
    offset, shift = int(recipe.values["offset"]), int(recipe.values["shift"])
    if recipe.facts["kind"] == "shift":
        offset += (1 << (shift - 1)) - 1
    return Kernel(
        name="add/scalar",
        function="hwnas_add_scalar",
        arrays=(Array(np.array([*recipe.values["multipliers"], offset, shift, *ends(request)], np.int32)),),
        integers=(
            prod(result.shape),
            *style(request),
            *(is_signed(operand) for operand in operands),
            is_signed(result),
        ),
        sources=("scalar.h", "add_scalar.h"),
    )
