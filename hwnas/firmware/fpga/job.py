"""What the systolic core computes at a time: a matrix product with its requantisation, all integers checked.

A convolution becomes jobs by its driver, which gathers the pixels of each result (im2col). Here is nothing of ONNX,
and nothing of how a core is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwnas.errors import DataError

MAX_ROWS = 2**24 - 1
MAX_MULTIPLIER = 2**31 - 1
MAX_SHIFT = 32
Dtype = Literal["int8", "uint8"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a job: `groups` products of m x k with k x n, each with activations of its own."""

    m: int
    k: int
    n: int
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the products, with whatever zeros the driver packed into them."""
        return self.groups * self.m * self.k * self.n


@dataclass(frozen=True, slots=True, eq=False)
class Requantisation:
    """From sums to the result's grid: round(sum * multiplier / 2^shift), one of each for every channel or for all.

    even: halves go to the even neighbour, else upwards. Made by `by_shift` and `by_multiplier`.
    """

    multipliers: np.ndarray
    shifts: np.ndarray
    even: bool

    @classmethod
    def by_shift(cls, shifts: np.ndarray | int, lift: int = 0) -> Requantisation:
        """(sum << lift) / 2^shifts, rounded half to even; shifts 1 to 32, lift 0 to 30. For scales of powers of two."""
        found = np.atleast_1d(np.asarray(shifts, np.int64))
        _within("lift", lift, 0, 30)
        return cls(np.full(found.shape, 1 << lift, np.int64), found, True)

    @classmethod
    def by_multiplier(cls, multipliers: np.ndarray | int, lift: int = 0) -> Requantisation:
        """The high word of (sum << lift) * multipliers, rounded half up; multipliers below 2^31, lift 0 to 31."""
        found = np.atleast_1d(np.asarray(multipliers, np.int64))
        _within("lift", lift, 0, 31)
        return cls(found, np.full(found.shape, 32 - lift, np.int64), False)

    def __post_init__(self) -> None:
        for name, values, low, high in (
            ("multipliers", self.multipliers, 0, MAX_MULTIPLIER),
            ("shifts", self.shifts, 1, MAX_SHIFT),
        ):
            if values.ndim != 1 or not values.size or values.dtype != np.int64:
                raise DataError(f"{name} must be a vector of integers, not {values.dtype} {values.shape}")
            if values.min() < low or values.max() > high:
                raise DataError(f"{name} must be from {low} to {high}, not {values.min()} to {values.max()}")
        if self.multipliers.shape != self.shifts.shape:
            raise DataError(f"{self.multipliers.size} multipliers do not match {self.shifts.size} shifts")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """result = clip(requantise((activations - zero) x weights + bias) + result_zero, low, high), as `dtype`.

    activations: m x k, uint8 or int8. weights: k x n, int8. bias: n, int32. The result is m x n.
    Grouped (depthwise): groups x m x k, groups x k x n, groups x n and groups x m x n; each group has activations of
    its own, and n is at most the array's columns. requantisation: of all groups * n channels in this order, or of one.
    Sums wrap at 32 bits, as accumulators do. Raises DataError for arrays that are not what this says.
    """

    activations: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    requantisation: Requantisation
    zero: int = 0
    result_zero: int = 0
    low: int = -128
    high: int = 127
    dtype: Dtype = "int8"

    def __post_init__(self) -> None:
        a, w, b = self.activations, self.weights, self.bias
        if a.dtype not in (np.uint8, np.int8) or a.ndim not in (2, 3) or not a.size:
            raise DataError(f"activations must be an m x k or groups x m x k array of 8 bit, not {a.dtype} {a.shape}")
        if w.dtype != np.int8 or w.ndim != a.ndim or w.shape[-2] != a.shape[-1] or not w.size:
            raise DataError(f"weights must be int8, {_x(*a.shape[:-2], a.shape[-1], 'n')}, not {w.dtype} {w.shape}")
        if a.ndim == 3 and w.shape[0] != a.shape[0]:
            raise DataError(f"{a.shape[0]} groups of activations do not match {w.shape[0]} groups of weights")
        if b.dtype != np.int32 or b.shape != (*w.shape[:-2], w.shape[-1]):
            raise DataError(f"bias must be int32, {_x(*w.shape[:-2], w.shape[-1])}, not {b.dtype} {b.shape}")
        if self.requantisation.shifts.size not in (1, b.size):
            raise DataError(f"requantisation of {self.requantisation.shifts.size} channels does not match {b.size}")
        if a.shape[-2] > MAX_ROWS:
            raise DataError(f"m is {a.shape[-2]}, and a job has at most {MAX_ROWS} rows")
        if self.dtype not in ("int8", "uint8"):
            raise DataError(f"results are int8 or uint8, not {self.dtype!r}")
        info = np.iinfo(a.dtype)
        _within("zero", self.zero, int(info.min), int(info.max))
        kind = np.iinfo(self.dtype)
        _within("result_zero", self.result_zero, int(kind.min), int(kind.max))
        _within("high", self.high, int(kind.min), int(kind.max))
        _within("low", self.low, int(kind.min), self.high)

    @property
    def shape(self) -> Shape:
        """The sizes that decide how many cycles the job takes."""
        m, k = self.activations.shape[-2:]
        return Shape(m, k, self.weights.shape[-1], self.groups)

    @property
    def grouped(self) -> bool:
        """Whether each tile of channels has activations of its own."""
        return self.activations.ndim == 3

    @property
    def groups(self) -> int:
        """How many products there are."""
        return self.activations.shape[0] if self.grouped else 1


def _within(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise DataError(f"{name} must be an integer from {low} to {high}, not {value!r}")


def _x(*sizes: object) -> str:
    return " x ".join(map(str, sizes))
