"""What a job costs, as a closed law: cycles, bytes that move, and room on chip. The cycles are those Verilator counts.

Counting starts with the cycle in which the job is announced (0) and ends with that in which its last result is taken;
no stream pauses. The first words are taken in cycle 1 and work from cycle 2 on; so many steps later, tile after tile,
the last step enters the array. Derivation: firmware/fpga/README.md.
"""

from __future__ import annotations

from typing import Final

from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.job import MAX_ROWS, Shape

PARAMETER_BYTES: Final = 9
FIRST_STEP: Final = 2
"""The cycle of a job's first step."""
BEHIND: Final = 18
"""Cycles from the last step to the first result of its tile, besides one for each row and column of the array."""


def tiling(shape: Shape, array: Array) -> tuple[int, int]:
    """Panels of `rows` pixels, and tiles of `columns` channels."""
    return -(-shape.m // array.rows), shape.groups * -(-shape.n // array.columns)


def misfit(shape: Shape, array: Array) -> str | None:
    """Why a job does not fit an array; None if it does."""
    tiles = tiling(shape, array)[1]
    if shape.groups > 1 and shape.n > array.columns:
        return f"a group of {shape.n} channels is more than {array.columns} columns"
    if shape.k > array.steps:
        return f"sums of {shape.k} products are longer than {array.steps} steps"
    if tiles > array.tiles:
        return f"{tiles} tiles of {array.columns} channels are more than {array.tiles}"
    if shape.k * tiles > array.words:
        return f"{shape.k * tiles} words of weights are more than {array.words}"
    if shape.m > MAX_ROWS:
        return f"{shape.m} rows are more than {MAX_ROWS}"
    return None


def cycles(shape: Shape, array: Array) -> int:
    """Cycles of a job that fits, streams and all.

    A tile takes a step for each product of a sum, and no less than a cycle for each row, so that its sums are out of
    the next tile's way. The tiles of the first panel also wait for their parameters, a channel a cycle.
    """
    panels, tiles = tiling(shape, array)
    period = max(shape.k, array.rows)
    last_step = FIRST_STEP - 1 + max(shape.k, array.columns)
    last_step += (tiles - 1) * max(period, array.columns) + (panels - 1) * tiles * period
    last_rows = shape.m - (panels - 1) * array.rows
    return last_step + array.rows + array.columns + BEHIND + last_rows + 1


def traffic(shape: Shape, array: Array) -> dict[str, int]:
    """Bytes that move in and out of the core for a job, by stream, padding to whole words included."""
    panels, tiles = tiling(shape, array)
    return {
        "activations": panels * shape.groups * shape.k * array.rows,
        "weights": tiles * shape.k * array.columns,
        "parameters": tiles * array.columns * PARAMETER_BYTES,
        "results": shape.m * tiles * array.columns,
    }


def buffer_bytes(shape: Shape, array: Array) -> int:
    """Bytes on chip that a job fills: two panels of activations, all its weights and all its parameters."""
    panels = tiling(shape, array)[0]
    held = min(2, panels * shape.groups) * shape.k * array.rows
    moved = traffic(shape, array)
    return held + moved["weights"] + moved["parameters"]


def utilisation(shape: Shape, array: Array) -> float:
    """The share of the array's multiply-accumulates that a job uses, 0 to 1."""
    return shape.macs / (cycles(shape, array) * array.rows * array.columns)
