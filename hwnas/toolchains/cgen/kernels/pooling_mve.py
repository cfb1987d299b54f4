"""Average and max pooling for MVE, sixteen channels of a window at a time (c/mve_pool.h)."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.reference import rescaled
from hwnas.toolchains.cgen.recipes import Array

_DIVIDE, _MULTIPLY, _SHIFT = 0, 1, 2
MAX_SHIFT = 14
"""The most that sums of 16 bits may be shifted by."""
_SOURCES = ("mve.h", "mve_elementwise.h", "mve_pool.h")


def kernel(request: Request) -> Kernel | None:
    """Means over windows or over height and width, and maxima, of one image."""
    group, recipe = request.group, request.recipe
    if recipe.form not in ("mean", "maxpool") or recipe.facts.get("kind") not in ("shift", "multiply"):
        return None
    [activation] = group.activations
    if len(activation.shape) != 4 or activation.shape[0] != 1 or activation.grid is None:
        return None
    return _maxima(request) if recipe.form == "maxpool" else _means(request)


def _geometry(request: Request, window: tuple[int, ...]) -> tuple[int, ...]:
    """Height, width, channels, height and width of the result, window, strides, padding before, whether any."""
    group = request.group
    _, channels, height, width = group.activations[0].shape
    strides, pads = group.attributes.get("strides", (1, 1)), group.attributes.get("pads", (0, 0, 0, 0))
    assert isinstance(strides, tuple) and isinstance(pads, tuple)
    if len(window) == 2 and window == (height, width) and len(group.result.shape) == 2:
        size: tuple[int, ...] = (1, 1)
    else:
        size = group.result.shape[2:]
    numbers = (height, width, channels, *size, *window, *strides, *pads[:2], any(pads))
    return tuple(int(v) for v in numbers)


def _is_signed(request: Request) -> int:
    grid = request.group.activations[0].grid
    return int(grid is not None and grid.dtype == "int8")


def _maxima(request: Request) -> Kernel | None:
    window = request.group.attributes["kernel_shape"]
    assert isinstance(window, tuple)
    return Kernel(
        f"maxpool16/mve/{request.recipe.facts['kind']}/NHWC", "hwnas_mve_maxpool", (Array(_table(request)),),
        (*_geometry(request, tuple(int(v) for v in window)), _is_signed(request)), sources=_SOURCES,
    )  # fmt: skip


def _table(request: Request) -> np.ndarray:
    """The result for each integer of the activations, from the smallest on."""
    values, result = request.recipe.values, request.group.result.grid
    assert result is not None
    [zero], [lift] = values["zeros"], values["lifts"]
    integers, kind = np.arange(256) - 128 * _is_signed(request), request.recipe.facts["kind"]
    [entry] = values["shifts" if kind == "shift" else "multipliers"]
    ends = (values["out_zero"], values["low"], values["high"])
    return rescaled(integers - zero, kind, entry, lift, *ends).astype(result.dtype)


def _means(request: Request) -> Kernel | None:
    group, recipe = request.group, request.recipe
    values, shape = recipe.values, group.activations[0].shape
    window = tuple(int(size) for size in recipe.facts.get("window", shape[2:]))
    pooled = "window" in recipe.facts
    counts_pads = bool(pooled and group.attributes.get("count_include_pad", 0))
    geometry = _geometry(request, window)
    count, partial = prod(window), bool(geometry[-1]) and not counts_pads
    ends = (values["out_zero"], values["low"], values["high"])
    if recipe.facts["kind"] == "multiply":
        if values["lift"] and not geometry[-1]:
            return None
        mode, numbers = _MULTIPLY, (values["zero"], values["lift"], 0, 0, *ends)
        factors = np.asarray(values["multipliers"], np.uint32).reshape(-1)
    elif not partial and count & (count - 1) == 0:
        shift = count.bit_length() - 1 + values["divide"] - values["lift"]
        if not 1 <= shift <= MAX_SHIFT:
            return None
        mode, numbers, factors = _SHIFT, (values["zero"], 0, shift, 0, *ends), np.zeros(1, np.uint32)
    else:
        mode, numbers = _DIVIDE, (values["zero"], values["lift"], values["divide"], values["base"], *ends)
        counts = range(1, count + 1) if partial else [count]
        factors = np.array([_reciprocal(n << values["divide"]) for n in counts], np.uint32)
    return Kernel(
        f"mean16/mve/{('divide', 'multiply', 'shift')[mode]}/NHWC", "hwnas_mve_avgpool",
        (Array(np.array(numbers, np.int32)), Array(factors)), (*geometry, int(counts_pads), _is_signed(request), mode),
        sources=_SOURCES,
    )  # fmt: skip


def _reciprocal(divisor: int) -> int:
    """2^(32 + k) / divisor rounded up, 2^k the power of two below it: the upper half of a product with it is the

    quotient of any number below 2^31 (Granlund and Montgomery, "Division by Invariant Integers using Multiplication",
    1994, theorem 4.2). 0 for 1, which nothing is divided by.
    """
    if divisor == 1:
        return 0
    power = (divisor - 1).bit_length() - 1
    return -(-(1 << (32 + power)) // divisor)
