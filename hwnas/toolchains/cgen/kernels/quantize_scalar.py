"""Floats to integers of 8 bits on a Cortex-M, with a floating-point unit or without one."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.products import is_signed
from hwnas.toolchains.cgen.recipes import Array


def kernel(request: Request) -> Kernel | None:
    """A QuantizeLinear alone."""
    recipe, result = request.recipe, request.group.result
    if recipe.form != "quantize":
        return None
    step, power = recipe.values["scale"], recipe.values["exponent"]
    factor = Array(np.array([1 / step if power is not None else step], np.float32))
    scalars = Array(np.array([recipe.values["zero"], -power if power is not None else 0], np.int32))
    return Kernel(
        "quantize/scalar", "hwnas_quantize_scalar", (factor, scalars),
        (prod(result.shape), int(power is not None), is_signed(result)), sources=("scalar.h", "quantize_scalar.h"),
    )  # fmt: skip
