"""What the families of sums of products read off a request: geometry, and per-channel constants in the kernels' form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwnas.graph.quantised import Activation
from hwnas.toolchains.cgen.kernels.contract import Request


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution or pool over one image: sizes of input, window and result, steps, and the border before the input.

    `pads` are top, left, bottom, right.
    """

    height: int
    width: int
    channels: int
    rows: int
    columns: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    out_height: int
    out_width: int
    outputs: int
    groups: int


def geometry(request: Request, window: tuple[int, int] | None = None) -> Geometry | None:
    """The geometry of a request on one image of two axes; None for anything else.

    window: of a pool, whose channels are its inputs'; a convolution's is that of its weights.
    """
    group = request.group
    [source] = group.activations
    if len(source.shape) != 4 or len(group.result.shape) != 4 or source.shape[0] != 1:
        return None
    if window is None:
        shape = request.recipe.facts["weights"]
        window = (int(shape[2]), int(shape[3]))
    given: Any = group.attributes
    strides, dilations = given.get("strides", (1, 1)), given.get("dilations", (1, 1))
    pads = given.get("pads", (0, 0, 0, 0))
    _, channels, height, width = source.shape
    _, outputs, out_height, out_width = group.result.shape
    return Geometry(height, width, channels, *window, tuple(strides), tuple(dilations), tuple(pads), out_height, out_width,
                    outputs, int(given.get("group", 1)))  # fmt: skip


def is_signed(activation: Activation) -> int:
    """1 where the integers of an activation are signed, else 0."""
    assert activation.grid is not None
    return int(activation.grid.dtype == "int8")


def is_plain(request: Request) -> bool:
    """Whether weights are stored in 8 bits and sums become integers of 8 bits without a shift left."""
    facts = request.recipe.facts
    return facts["kind"] in ("shift", "multiply") and facts["stored"] == "int8" and not facts["lifted"]


def rounding(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Bias and multiplier, or bias and shift, of each output channel.

    The bias of a shift s holds 2^(s - 1) - 1 more, all that rounding half to even adds but for the odd bit.
    """
    values = request.recipe.values
    bias = np.asarray(values["bias"], np.int64)
    if request.recipe.facts["kind"] == "multiply":
        return bias, np.asarray(values["multipliers"], np.int64)
    shifts = np.asarray(values["shifts"], np.int64)
    return bias + (1 << (shifts - 1)) - 1, shifts


def ends(request: Request) -> list[int]:
    """Zero point, smallest and largest integer of the result."""
    values = request.recipe.values
    return [int(values[name]) for name in ("out_zero", "low", "high")]


def style(request: Request) -> tuple[int, int]:
    """Whether rescaling is a shift, and whether the result is clamped more tightly than its type does."""
    facts = request.recipe.facts
    return int(facts["kind"] == "shift"), int(bool(facts["clamped"]))


def blocked(table: np.ndarray, block: int) -> np.ndarray:
    """Rows in blocks, each block transposed: o x k becomes, block by block, k x block; the last block may be narrower."""
    parts = [table[o : o + block].T.reshape(-1) for o in range(0, len(table), block)]
    return np.concatenate(parts) if parts else table.reshape(-1)


def block_params(bias: np.ndarray, entries: np.ndarray, block: int) -> np.ndarray:
    """Block by block the biases, then the multipliers or shifts."""
    parts = [part[o : o + block] for o in range(0, len(bias), block) for part in (bias, entries)]
    return np.concatenate(parts).astype(np.int32)
