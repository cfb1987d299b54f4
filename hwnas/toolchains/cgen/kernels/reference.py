"""How integers are rounded, in numpy: every core gives the same bits for a kind of rescaling, and these are they."""

from __future__ import annotations

import numpy as np


def half_even(sums: np.ndarray, shifts: np.ndarray | int) -> np.ndarray:
    """sums / 2^shifts, rounded half to even, as QuantizeLinear rounds; shifts are 1 or more."""
    sums, shifts = np.asarray(sums, np.int64), np.asarray(shifts, np.int64)
    folded = sums + (1 << (shifts - 1)) - 1
    rounded: np.ndarray = (folded + ((folded >> shifts) & 1)) >> shifts
    return rounded


def multiplied(sums: np.ndarray, multipliers: np.ndarray | int) -> np.ndarray:
    """sums * multipliers / 2^32, rounded half up: the high word of a product of 64 bits (SMMLAR, VRMULH)."""
    products: np.ndarray = np.asarray(sums, np.int64) * np.asarray(multipliers, np.int64)
    return (products + 2**31) >> 32


def rescaled(
    sums: np.ndarray, kind: str, entries: np.ndarray | int, lift: int, zero: int, low: int, high: int
) -> np.ndarray:
    """Integers of the result's grid from sums: shifted left by `lift`, rescaled by their kind, `zero` added, bounded."""
    lifted = np.asarray(sums, np.int64) << lift
    integers = half_even(lifted, entries) if kind == "shift" else multiplied(lifted, entries)
    bounded: np.ndarray = np.clip(integers + zero, low, high)
    return bounded
