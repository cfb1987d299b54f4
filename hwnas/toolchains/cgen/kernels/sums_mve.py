"""What the MVE kernels of products share: constants in the order of c/mve_sums.h, and what they cover."""

from __future__ import annotations

import numpy as np

from hwnas.graph.quantised import Grid
from hwnas.toolchains.cgen.kernels.contract import Request
from hwnas.toolchains.cgen.recipes import Array

SOURCES = ("mve.h", "mve_sums.h")
LANES = 16
BLOCK = 4
"""Output channels that are summed at once."""


def covers(request: Request) -> bool:
    """Whether a product of one image with weights of 8 bits ends in 8 bits without a shift to the left."""
    facts, result = request.recipe.facts, request.group.result.grid
    return (
        facts.get("stored") == "int8"
        and facts.get("kind") in ("shift", "multiply")
        and not facts.get("lifted")
        and result is not None
        and bias_and_factors(request, 0) is not None
    )


def bias_and_factors(request: Request, moved: int) -> tuple[np.ndarray, np.ndarray] | None:
    """int32 bias and factor (a multiplier, or minus a shift) of each output channel; None where 32 bits do not hold it.

    moved: what the kernel subtracts from each activation. A shift's bias holds the 2^(s-1) - 1 that rounds.
    """
    values = request.recipe.values
    weights: np.ndarray = values["weights"]
    sums = weights.reshape(weights.shape[0], -1).sum(1)
    bias = values["bias"].astype(np.int64) + moved * sums
    if request.recipe.facts["kind"] == "shift":
        shifts = values["shifts"].astype(np.int64)
        bias, factors = bias + (1 << (shifts - 1)) - 1, -shifts
    else:
        factors = values["multipliers"].astype(np.int64)
    if np.abs(bias).max(initial=0) + 2.0**15 * weights[0].size >= 2.0**31:
        return None
    return bias.astype(np.int32), factors.astype(np.int32)


def is_signed(grid: Grid) -> bool:
    return grid.dtype == "int8"


def ends(request: Request) -> Array:
    """The byte that pads, then zero point, smallest and largest integer of the result."""
    values = request.recipe.values
    return Array(np.array([values["zero"] & 0xFF, values["out_zero"], values["low"], values["high"]], np.int32))


def row_arrays(request: Request, rows: np.ndarray, groups: int) -> tuple[Array, ...] | None:
    """Weights, parameters and ends of c/mve_sums.h for `rows` (outputs x depth) in groups of output channels.

    None where 32 bits do not hold a bias. The weights take outputs * depth bytes and, where a row is shorter than a
    vector, what a vector reads behind the last one.
    """
    source = request.group.activations[0].grid
    assert source is not None
    found = bias_and_factors(request, 0 if is_signed(source) else 128)
    if found is None:
        return None
    weights, parameters = [], []
    for part, bias, factors in zip(np.split(rows, groups), *(np.split(values, groups) for values in found)):
        weights.append(_blocks(part))
        whole = len(part) // BLOCK * BLOCK
        fours = np.stack([values[:whole].reshape(-1, BLOCK) for values in (bias, factors)], 1)
        parameters += [fours.reshape(-1), np.stack([bias[whole:], factors[whole:]], 1).reshape(-1)]
    weights.append(np.zeros(max(0, LANES - rows.shape[1]), np.int8))
    return Array(np.concatenate(weights)), Array(np.concatenate(parameters)), ends(request)


def _blocks(rows: np.ndarray) -> np.ndarray:
    """Blocks of four rows: the first depth % 16 weights of each row, then 16 of each in turn; last the rows left over."""
    whole, depth = len(rows) // BLOCK, rows.shape[1]
    steps, rest = divmod(depth, LANES)
    fours = rows[: whole * BLOCK].astype(np.int8).reshape(whole, BLOCK, depth)
    first = fours[:, :, :rest].reshape(whole, BLOCK * rest)
    then = fours[:, :, rest:].reshape(whole, BLOCK, steps, LANES).transpose(0, 2, 1, 3)
    blocks = np.concatenate([first, then.reshape(whole, BLOCK * steps * LANES)], 1)
    return np.concatenate([blocks.reshape(-1), rows[whole * BLOCK :].astype(np.int8).reshape(-1)])
