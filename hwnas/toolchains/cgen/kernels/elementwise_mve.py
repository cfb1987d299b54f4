"""Sums and products of two tensors, functions of one, and floats to integers, for MVE."""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.recipes import Array

_SOURCES = ("mve.h", "mve_elementwise.h")


def kernel(request: Request) -> Kernel | None:
    """Add and Sub of activations of one shape, Mul also with a row of channels, tables, and QuantizeLinear."""
    form, kind = request.recipe.form, request.recipe.facts.get("kind")
    if form == "table":
        return _looked_up(request)
    if form == "quantize" and kind == "shift":
        return _quantized(request)
    if form not in ("add", "mul") or kind not in ("shift", "multiply") or len(request.group.activations) != 2:
        return None
    return _sum(request) if form == "add" else _product(request)


def _signed(request: Request) -> list[int]:
    return [int(a.grid is not None and a.grid.dtype == "int8") for a in request.group.activations]


def _looked_up(request: Request) -> Kernel:
    count = prod(request.group.result.shape)
    return Kernel("table16/mve", "hwnas_mve_table", request.recipe.arrays, (count, *_signed(request)), sources=_SOURCES)


def _sum(request: Request) -> Kernel | None:
    group, values, kind = request.group, request.recipe.values, request.recipe.facts["kind"]
    shapes = {activation.shape for activation in group.activations}
    if shapes != {group.result.shape}:
        return None
    even, offset, shift = kind == "shift", values["offset"], values["shift"]
    offset += (1 << (shift - 1)) - 1 if even else 0
    ends = (values["out_zero"], values["low"], values["high"])
    numbers = np.array([*values["multipliers"], offset, shift, *ends], np.int32)
    integers = (prod(group.result.shape), *_signed(request), int(even))
    return Kernel(f"add4/mve/{kind}", "hwnas_mve_add", (Array(numbers),), integers, sources=_SOURCES)


def _product(request: Request) -> Kernel | None:
    """Of one shape, or of an image with one number for each of its channels, as in squeeze and excitation."""
    group, values, kind = request.group, request.recipe.values, request.recipe.facts["kind"]
    result, shapes = group.result.shape, [activation.shape for activation in group.activations]
    if values["lift"]:
        return None
    if shapes[0] == shapes[1]:
        pixels, channels, swapped = 1, prod(result), False
    elif len(result) == 4 and result[0] == 1 and result in shapes and (1, result[1], 1, 1) in shapes:
        pixels, channels, swapped = prod(result[2:]), result[1], shapes[1] == result
    else:
        return None
    order = (1, 0) if swapped else (0, 1)
    factor = -values["shift"] if kind == "shift" else values["multiplier"]
    zeros = [values["zeros"][k] for k in order]
    numbers = np.array([*zeros, factor, values["out_zero"], values["low"], values["high"]], np.int32)
    signed = [_signed(request)[k] for k in order]
    integers = (pixels, channels, int(swapped), *signed, int(kind == "shift"))
    return Kernel(
        f"mul8/mve/{kind}", "hwnas_mve_multiply", (Array(numbers),), integers, sources=("mve.h", "mve_multiply.h")
    )


def _quantized(request: Request) -> Kernel:
    count = prod(request.group.result.shape)
    return Kernel(
        "quantize4/mve", "hwnas_mve_quantize", request.recipe.arrays, (count,), sources=("mve.h", "mve_quantize.h")
    )
