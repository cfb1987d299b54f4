"""Products of two tensors, and of a tensor with a gate of its channels, on cores that take one value at a time."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.products import ends, is_signed, style
from hwnas.toolchains.cgen.recipes import Array


def kernel(request: Request) -> Kernel | None:
    """Operands of one shape, or one of them with a value for each channel."""
    recipe, group = request.recipe, request.group
    if recipe.form != "mul" or recipe.facts["kind"] not in ("shift", "multiply") or len(group.activations) != 2:
        return None
    a, b = group.activations
    values = recipe.values
    shifts = recipe.facts["kind"] == "shift"
    entry = int(values["shift" if shifts else "multiplier"])
    added = (1 << (entry - 1)) - 1 if shifts else 0
    scalars = Array(np.array([*values["zeros"], values["lift"], added, entry, *ends(request)], np.int32))
    kinds = (*style(request), is_signed(a), is_signed(b), is_signed(group.result))
    if a.shape == b.shape:
        return Kernel("multiply/scalar", "hwnas_multiply_scalar", (scalars,), (prod(a.shape), *kinds),
                      sources=("scalar.h", "gate_scalar.h"))  # fmt: skip
    shape = group.result.shape
    gate_first = b.shape == shape
    full, gate = (b, a) if gate_first else (a, b)
    if len(shape) != 4 or full.shape != shape or gate.shape not in ((shape[0], shape[1], 1, 1), (1, shape[1], 1, 1)):
        return None
    integers = (shape[0], prod(shape[2:]), shape[1], gate.shape[0], int(gate_first), *style(request))
    return Kernel(
        "gate/scalar/NHWC", "hwnas_gate_scalar", (scalars,),
        (*integers, is_signed(full), is_signed(gate), is_signed(group.result)), sources=("scalar.h", "gate_scalar.h"),
    )  # fmt: skip
