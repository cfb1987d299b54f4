"""Scales, zero points and integer weights: how float values become uint8 activations, int8 weights, int32 biases.

With power-of-two scales every value, product and sum of a quantised network is a float32 without rounding, as long as
sums stay below `SUM_LIMIT` steps: then float arithmetic in any order, integer arithmetic with shifts, and so every
runtime, agree bit for bit. Scales of any value ("free") are finer by up to a factor of two, and give that up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

import numpy as np

from hwnas.errors import BuildError

ScaleRule = Literal["power-of-two", "free"]

SUM_LIMIT = 2**24
"""Integers up to here are float32 without rounding."""

MAX_EXPONENT = 40
"""Scales lie within 2^-40..2^40, so that no product of two leaves the range of normal float32."""

MAX_APART = 15
"""Exponents of two summands may differ by so much: a sum of two 9-bit integers, one shifted, then has 24 bits."""

LEVELS = 255
_CLIPPED = 4
_ZERO_POINTS = 9
_NO_SPREAD = -7  # the exponent of a tensor that is zero throughout


@dataclass(frozen=True, slots=True)
class Step:
    """Scale and zero point of a uint8 tensor: value = scale * (stored - zero_point)."""

    scale: float
    zero_point: int

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """What values become when they are quantised and dequantised."""
        stored = np.clip(np.rint(values / self.scale) + self.zero_point, 0, LEVELS)
        restored: np.ndarray = (stored - self.zero_point) * self.scale
        return restored


@dataclass(frozen=True, slots=True)
class IntegerWeights:
    """int8 `values` in the shape of the weights, float32 `scales` of each output channel, int32 `bias` (c) or None.

    A bias has the scale of its products, input scale x `scales`: `bias_scales` (c).
    """

    values: np.ndarray
    scales: np.ndarray
    bias: np.ndarray | None
    bias_scales: np.ndarray


def activation_step(
    values: np.ndarray, low: float, high: float, rule: ScaleRule, clip: bool = True, least: int = -MAX_EXPONENT
) -> Step:
    """The step of an activation seen in low..high, of which `values` (n) are a sample.

    Free: the range and zero, covered. Power of two: of the exponents that cover or clip the range, and of the zero
    points, the pair with the least squared error over the sample; without `clip` the range is covered. `least` is
    the smallest exponent allowed. Raises BuildError for a range that no scale covers.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if rule == "free":
        scale = float(np.float32((high - low) / LEVELS)) or 2.0**_NO_SPREAD
        return Step(scale, int(np.clip(round(-low / scale), 0, LEVELS)))
    covering = max(least, _covering_exponent(low, high))
    best, least_error = Step(2.0**covering, _zero_points(low, high, covering)[0]), np.inf
    for exponent in range(covering, max(least, covering - _CLIPPED) - 1, -1) if clip else (covering,):
        for zero_point in _zero_points(low, high, exponent):
            step = Step(2.0**exponent, zero_point)
            error = float(np.square(step.rounded(values) - values).sum())
            if error < least_error:
                best, least_error = step, error
    return best


def exponent_of(scale: float) -> int:
    """The exponent of a power of two."""
    return round(log2(scale))


def _covering_exponent(low: float, high: float) -> int:
    """The smallest exponent at which zero and both ends of a range have a stored value."""
    if high == low:
        return _NO_SPREAD
    exponent = max(-MAX_EXPONENT, ceil(log2((high - low) / LEVELS)))
    while _even_up(-low / 2.0**exponent) + round(high / 2.0**exponent) > LEVELS:
        exponent += 1
    if exponent > MAX_EXPONENT:
        raise BuildError("quantize", f"activations of {low:g} to {high:g} are too large for int8")
    return exponent


def _zero_points(low: float, high: float, exponent: int) -> Sequence[int]:
    """Zero points worth trying: from the one that keeps the lower end to the one that keeps the upper.

    They are even: then a tie rounds to the same side whether the zero point is added before or after rounding, on
    which runtimes differ.
    """
    bottom = min(LEVELS - 1, _even_up(-low / 2.0**exponent))
    top = max(0, LEVELS - 1 - _even_up(high / 2.0**exponent - 1))
    if bottom <= top:
        return (bottom,)
    return sorted({2 * round(z / 2) for z in np.linspace(top, bottom, _ZERO_POINTS)})


def _even_up(value: float) -> int:
    """The integer of a value, raised to an even one."""
    return (round(value) + 1) // 2 * 2


def integer_weights(
    weights: np.ndarray, bias: np.ndarray | None, axis: int, step: Step, rule: ScaleRule, fit: bool = True
) -> IntegerWeights:
    """The integers of weights (c output channels along `axis`) that multiply activations of a step.

    Power of two: each channel has the exponent with the least squared error (without `fit`: that covers its largest
    weight), and a larger one where its sums could reach SUM_LIMIT: a bit of precision less, and still exact.
    """
    rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.float64)
    offset = np.zeros(len(rows)) if bias is None else bias.astype(np.float64)
    largest = np.abs(rows).max(1, initial=0)
    if rule == "free":
        # a channel that is much smaller than its bias would need a bias beyond int32
        smallest = np.abs(offset) / (step.scale * 2**30)
        scales = np.maximum(np.where(largest > 0, largest / 127, 2.0**_NO_SPREAD), smallest).astype(np.float32)
    else:
        scales = _channel_powers(rows, largest, fit)
        scales = _within_limit(rows, offset, scales, step)
    stored = _stored(rows, scales)
    products = (np.float32(step.scale) * scales.astype(np.float32)).astype(np.float32)
    shape = np.moveaxis(weights, axis, 0).shape
    return IntegerWeights(
        np.ascontiguousarray(np.moveaxis(stored.reshape(shape), 0, axis), np.int8),
        scales.astype(np.float32),
        None if bias is None else np.rint(offset / products.astype(np.float64)).astype(np.int32),
        products,
    )


def _stored(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    stored: np.ndarray = np.clip(np.rint(rows / scales.astype(np.float64)[:, None]), -127, 127)
    return stored


def _channel_powers(rows: np.ndarray, largest: np.ndarray, fit: bool) -> np.ndarray:
    used = np.where(largest > 0, largest, 127 * 2.0**_NO_SPREAD)
    exponents = np.ceil(np.log2(used / 127))
    if (exponents > MAX_EXPONENT).any():
        raise BuildError("quantize", f"weights up to {largest.max():g} are too large for int8")
    exponents = np.maximum(exponents, -MAX_EXPONENT)
    best, least = 2.0**exponents, np.full(len(rows), np.inf)
    for less in range(3 if fit else 0):
        scales = 2.0 ** np.maximum(exponents - less, -MAX_EXPONENT)
        errors = np.square(_stored(rows, scales) * scales[:, None] - rows).sum(1)
        best, least = np.where(errors < least, scales, best), np.minimum(errors, least)
    return best


def _within_limit(rows: np.ndarray, offset: np.ndarray, scales: np.ndarray, step: Step) -> np.ndarray:
    """Scales at which no sum of products and bias, in whatever order, reaches SUM_LIMIT."""
    reach = max(step.zero_point, LEVELS - step.zero_point)
    while True:
        sums = np.abs(_stored(rows, scales)).sum(1) * reach + np.abs(np.rint(offset / (scales * step.scale)))
        over = sums >= SUM_LIMIT
        if not over.any():
            return scales
        scales = np.where(over, scales * 2, scales)


def symmetric_scale(values: np.ndarray, rule: ScaleRule, least: int = -MAX_EXPONENT) -> float:
    """The one scale of a constant operand that is stored as int8; a power of two has at least the exponent `least`."""
    largest = float(np.abs(values).max(initial=0)) or 127 * 2.0**_NO_SPREAD
    if rule == "free":
        return float(np.float32(largest / 127))
    return 2.0 ** max(least, ceil(log2(largest / 127)))
