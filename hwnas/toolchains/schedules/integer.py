"""What every integer kernel ends with: from sums to the integers of the result's grid, rounded half to even.

All that calibration decides (factors, bounds, zero points) reaches a kernel as constant operands, so that the code of
a kernel follows from its workload alone and is compiled once, whatever the scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hwnas.graph.quantised import Group

ROUNDING = 12582912.0
"""1.5 * 2^23: added to a float32 of less than 2^22, it leaves the nearest integer, ties to even, in the low bits."""

OPAQUE, BROADCAST = 8, 1
"""Patterns of Relax's FuseOps: a kernel that nothing is fused with, and one that runs within its neighbours."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """The code of a group: `compute` is the tensor expression of its sources and then of `constants`.

    With `images`, sources and result of rank 4 have their channels last. `shape` is the result's as computed, which
    differs from its shape in the network in how axes are split; `pattern` says what Relax may fuse it with.
    `source` is the shape in which it takes its operand, None for the network's own. A `flat` kernel takes its one source as a row of bytes, and `compute` makes its PrimFunc with no schedule to come.
    """

    name: str
    compute: Callable[..., Any]
    constants: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    images: bool
    pattern: int = OPAQUE
    flat: bool = False
    source: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The result of a kernel: its type, `ends` (2) the smallest and largest integer less the zero point, above
    ROUNDING, and the zero point, `zero` (1).

    A result of floats has type float32, and the rest is not used.
    """

    dtype: str
    ends: np.ndarray
    zero: np.ndarray


def finish_of(group: Group) -> Finish:
    """How a group's result is rounded and bounded."""
    grid = group.result.grid
    if grid is None:
        return Finish("float32", np.zeros(2, np.float32), np.zeros(1, np.int32))
    zero = int(grid.zero[0])
    low, high = group.bounds
    ends = np.array([ROUNDING + low - zero, ROUNDING + high - zero], np.float32)
    return Finish(grid.dtype, ends, np.array([zero], np.int32))


def step_of(group: Group) -> float:
    """The scale of a group's result; 1 where it holds floats."""
    return 1.0 if group.result.grid is None else float(group.result.grid.scale[0])


def settled(real: Any, dtype: str, ends: Any, zero: Any) -> Any:
    """The stored value of a float32 in units of the result's step: bounded, rounded half to even, on its zero point."""
    from tvm import tirx

    if dtype == "float32":
        return real
    # Bounded after rounding, so that the sum may be one operation with a product before it. What is too large to be
    # rounded right is out of bounds anyway. The bits of ROUNDING end in eight zeros: the low byte is the integer's.
    rounded = real + tirx.const(ROUNDING, "float32")
    bits = tirx.reinterpret("int32", tirx.max(tirx.min(rounded, ends[1]), ends[0]))
    return (bits + zero[0]).astype(dtype)


def constant(values: np.ndarray) -> Any:
    """A Relax constant of an array."""
    from tvm import relax

    return relax.const(np.ascontiguousarray(values))


def reals(value: Any, zero: Any) -> Any:
    """An 8-bit value less its zero point, as float32: exact."""
    return (value.astype("int32") - zero).astype("float32")


def channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape whose second axis holds the channels, with that axis last."""
    return (shape[0], *shape[2:], shape[1])


def padded_to(values: np.ndarray, size: int, axis: int = 0) -> np.ndarray:
    """An array with zeros behind its end along an axis, `size` long there."""
    widths: Sequence[tuple[int, int]] = [
        (0, size - length if k == axis else 0) for k, length in enumerate(values.shape)
    ]
    return np.pad(values, widths)
