"""What products on packed halves of words take from flash: a stream of blocks of four channels (see c/dot_dsp.h)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwnas.graph.quantised import Grid
from hwnas.toolchains.cgen.recipes import Array, Recipe

CHUNK_FOURS = 64
LARGEST_SUM = 2**23
SOURCES = ("dsp.h", "dot_dsp.h", "pack_dsp.h")
MULTIPLY, SHIFT, SHIFT_ODD = 0, 1, 2


def covers(recipe: Recipe, source: Grid, result: Grid | None) -> bool:
    """Whether products of a recipe have this form: 8-bit weights, and no exotic rescaling."""
    if result is None or recipe.facts["stored"] != "int8" or recipe.facts["lifted"]:
        return False
    if recipe.facts["kind"] not in ("shift", "multiply"):
        return False
    if recipe.facts["kind"] == "shift" and int(recipe.values["shifts"].min()) < 2:
        return False
    low, high = source.limits
    assert max(-low, high) * 128 * CHUNK_FOURS * 4 < LARGEST_SUM
    return True


def stream(rows: np.ndarray, recipe: Recipe, groups: int = 1) -> Array | None:
    """The blocks of `rows`, the weights of each output channel (O x K) in the order of packed activations.

    None where two weights do not share 16 bits: -128 beside a negative one.
    """
    bias, multipliers = rescaling(recipe)
    data = b""
    for own in np.array_split(np.arange(rows.shape[0]), groups):
        blocks = _blocks(rows[own], bias[own], multipliers[own])
        if blocks is None:
            return None
        data += blocks
    return Array(np.frombuffer(data, np.int8))


def _blocks(rows: np.ndarray, bias: np.ndarray, multipliers: np.ndarray) -> bytes | None:
    """The stream of one group: c/dot_dsp.h says how a block lies."""
    outputs, size = rows.shape
    odd = outputs % 2
    rows = np.pad(rows, ((0, odd), (0, -size % 4)))
    bias, multipliers = np.pad(bias, (0, odd)), np.pad(multipliers, (0, odd))
    pairs = rows[1::2] * 256 + rows[0::2]
    if pairs.size and pairs.min() < -(2**15):
        return None
    parts: list[np.ndarray] = []
    for begin in range(0, outputs + odd, 4):
        here = slice(begin, min(begin + 4, outputs + odd))
        lower, upper = bias[here][0::2], bias[here][1::2]
        # for each four of K: elements 0 and 2 of each pair of channels, then 1 and 3
        words = pairs[begin // 2 : here.stop // 2].reshape(lower.size, -1, 2, 2).transpose(1, 3, 0, 2)
        parts += [lower, words.astype(np.int16), upper, multipliers[here]]
    return b"".join(part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts)


def rescaling(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Bias and multiplier of each channel (int32): sums are rounded half to even by a shift, or multiplied."""
    values = recipe.values
    bias = np.asarray(values["bias"], np.int64)
    if recipe.facts["kind"] == "multiply":
        return bias.astype(np.int32), np.asarray(values["multipliers"], np.int32)
    shifts = np.asarray(values["shifts"], np.int64)
    folded = bias + (1 << (shifts - 1)) - 1
    if holds_zero(recipe):
        folded += values["out_zero"] << shifts
    return folded.astype(np.int32), (1 << (32 - shifts)).astype(np.int32)


def holds_zero(recipe: Recipe) -> bool:
    """Whether the bias of a shift holds the result's zero point too, which spares an instruction for each result.

    An odd one would change the quotient's last bit, which says where a tie goes, and shifted far to the left (a channel
    of tiny weights) any may exceed 32 bits.
    """
    values = recipe.values
    weights: np.ndarray = values["weights"]
    shifts, zero = np.asarray(values["shifts"], np.int64), int(values["out_zero"])
    reach = np.abs(weights.reshape(weights.shape[0], -1)).sum(1) * 255 + np.abs(np.asarray(values["bias"], np.int64))
    largest = (reach + (1 << (shifts - 1)) + (abs(zero) << shifts)).max(initial=0)
    return zero % 2 == 0 and int(largest) < 2**31


def style(recipe: Recipe) -> str:
    """How sums are rescaled, as a kernel's name says it: the third form takes one instruction more for each result."""
    if recipe.facts["kind"] == "multiply":
        return "multiply"
    return "shift" if holds_zero(recipe) else "shift+zero"


def head(recipe: Recipe) -> Array:
    """Numbers of calibration that all channels share: zero points and bounds, as c/conv_dsp.h takes them."""
    values: Mapping[str, Any] = recipe.values
    ends = [_four(values["zero"]), values["out_zero"], _four(values["low"]), _four(values["high"])]
    return Array(np.array(ends, np.int64).astype(np.uint32).view(np.int32))


def flags(recipe: Recipe, source: Grid, result: Grid, size: int) -> tuple[int, int, int, int, int]:
    """kind, takes_signed, gives_signed, clamped, chunked: which of the kernels in c/dot_dsp.h is called."""
    kind = MULTIPLY if recipe.facts["kind"] == "multiply" else SHIFT if holds_zero(recipe) else SHIFT_ODD
    chunked = -(-size // 4) > CHUNK_FOURS
    return kind, int(source.dtype == "int8"), int(result.dtype == "int8"), int(recipe.facts["clamped"]), int(chunked)


def _four(value: int) -> int:
    return (value & 0xFF) * 0x01010101
