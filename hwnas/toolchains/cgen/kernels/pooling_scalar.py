"""Pools and means of images on cores that take one value at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwnas.toolchains.cgen.kernels.contract import Kernel, Request
from hwnas.toolchains.cgen.kernels.products import ends, is_signed, style
from hwnas.toolchains.cgen.recipes import Array


def kernel(request: Request) -> Kernel | None:
    """Channel by channel, the window's loads unrolled."""
    return pool(request, "scalar", "hwnas_pool_scalar", ("scalar.h", "pool_scalar.h"))


def pool(request: Request, core: str, function: str, sources: tuple[str, ...]) -> Kernel | None:
    """The kernel of a pool in the form that all cores share; None for what they do not cover."""
    form, facts, values = request.recipe.form, request.recipe.facts, request.recipe.values
    if form not in ("mean", "maxpool") or facts["kind"] not in ("shift", "multiply"):
        return None
    [source] = request.group.activations
    given: Any = request.group.attributes
    if len(source.shape) != 4 or source.shape[0] != 1:
        return None
    _, channels, height, width = source.shape
    rows, columns, strides, pads, out_height, out_width = height, width, (1, 1), (0, 0, 0, 0), 1, 1
    if request.group.op in ("AveragePool", "MaxPool"):
        rows, columns = given["kernel_shape"]
        strides, pads = given.get("strides", strides), given.get("pads", pads)
        out_height, out_width = request.group.result.shape[2:]
        if any(pads[k] >= (rows, columns)[k % 2] for k in range(4)):
            return None  # a window that sees nothing of the input
    shifts, largest = facts["kind"] == "shift", form == "maxpool"
    table = np.zeros(1, np.int32)
    if largest:
        table = np.array(values["shifts" if shifts else "multipliers"], np.int32)
        zero, lift = values["zeros"][0], values["lifts"][0]
    else:
        zero, lift = values["zero"], values["lift"]
        if not shifts:
            table = np.asarray(values["multipliers"], np.int32).reshape(-1)
    partial = not largest and any(pads) and not given.get("count_include_pad", 0)
    more = [0, 0] if largest or not shifts else [values["divide"], values["base"]]
    scalars = np.array([zero, 1 << lift, *ends(request), *more], np.int32)
    return Kernel(
        name=f"{'maximum' if largest else 'average'}/{core}/NHWC",
        function=function,
        arrays=(Array(table), Array(scalars)),
        integers=(
            height, width, channels, rows, columns, *strides, pads[0], pads[1], out_height, out_width, int(largest), int(partial),
            *style(request), is_signed(source), is_signed(request.group.result),
        ),
        sources=sources,
    )  # fmt: skip
