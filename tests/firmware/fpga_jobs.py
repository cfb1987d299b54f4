"""Jobs at random for the systolic core: every rule of rounding, signs, zero points and clamps, plain and grouped."""

from __future__ import annotations

import numpy as np

from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.job import Job, Requantisation, Shape
from hwnas.firmware.fpga.law import misfit


def random_shape(array: Array, rng: np.random.Generator, longest: int = 80) -> Shape:
    """A shape that fits an array: a third of them grouped, half of them small."""
    while True:
        m, k = (int(rng.integers(1, high + 1)) for high in (6 * array.rows, longest))
        groups = int(rng.integers(2, 10)) if rng.random() < 1 / 3 else 1
        n = int(rng.integers(1, array.columns + 1 if groups > 1 else 6 * array.columns))
        shape = Shape(m, k, n, groups)
        if misfit(shape, array) is None:
            return shape


def random_requantisation(channels: int, rng: np.random.Generator) -> Requantisation:
    """Either rule, of one channel or of all, from hardly any shift to all bits gone."""
    lift, count = int(rng.integers(0, 4)), channels if rng.random() < 0.8 else 1
    if rng.random() < 0.5:
        return Requantisation.by_shift(rng.integers(1, 31, count), lift)
    return Requantisation.by_multiplier((2.0 ** rng.uniform(10, 31, count)).astype(np.int64) - 1, lift)


def random_job(shape: Shape, rng: np.random.Generator) -> Job:
    """A job of a shape. Biases reach where sums nearly leave 32 bits."""
    lead = (shape.groups,) if shape.groups > 1 else ()
    given = np.iinfo(rng.choice(["int8", "uint8"]))
    dtype = "uint8" if rng.random() < 0.5 else "int8"
    made = np.iinfo(dtype)
    low, high = sorted(int(v) for v in rng.integers(made.min, made.max + 1, 2))
    whole = bool(rng.random() < 0.5)
    reach = 2 ** int(rng.integers(4, 32)) - 1
    return Job(
        rng.integers(given.min, given.max + 1, (*lead, shape.m, shape.k)).astype(given.dtype),
        rng.integers(-128, 128, (*lead, shape.k, shape.n)).astype(np.int8),
        rng.integers(-reach - 1, reach + 1, (*lead, shape.n)).astype(np.int32),
        random_requantisation(shape.groups * shape.n, rng),
        zero=int(rng.integers(given.min, given.max + 1)),
        result_zero=int(rng.integers(made.min, made.max + 1)),
        low=int(made.min) if whole else low,
        high=int(made.max) if whole else high,
        dtype=dtype,
    )  # fmt: skip
