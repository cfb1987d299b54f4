"""Tile sizes in closed form: a register block of rows (pixels) by vectors (output channels), chosen from an `Isa`.

The time of one step of the reduction is the largest of what the FMA pipes, the load ports, the front end and the
latency of a dependent FMA ask for; the block with the least total over the whole output wins. Nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from hwnas.toolchains.schedules.isa import Isa

VECTORS = 6
"""Vectors of a block at most: beyond, nothing is gained, and the code that LLVM unrolls grows."""
TAIL = 1.04
"""Relative time of a width that the block does not divide: its epilogue is predicated."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A register block: `rows` x `columns` pixels by `vectors` of output channels."""

    rows: int
    columns: int
    vectors: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


def divisors(number: int) -> tuple[int, ...]:
    """All divisors of a positive number, ascending."""
    return tuple(d for d in range(1, number + 1) if number % d == 0)


def blocks(size: int, block: int) -> int:
    """How many blocks of that size cover `size`."""
    return -(-size // block)


def step_cycles(isa: Isa, pixels: int, vectors: int) -> float | None:
    """Cycles of one reduction step of a block of `pixels` x `vectors`, None where its registers do not suffice."""
    if vectors == 1 and isa.broadcast:
        registers = pixels + 1  # the vector of weights stays, the pixels are operands in memory
    else:
        registers = pixels * vectors + vectors + (1 if isa.broadcast else min(pixels, 4))
    if registers > isa.registers:
        return None
    bound = max(pixels * vectors / isa.fma, (pixels + vectors) / isa.loads, float(isa.latency))
    # Without broadcasts from memory the front end pays for each load and the loop beside the FMAs.
    return bound if isa.broadcast else bound + 0.15 * (pixels + vectors / 2 + 4)


@lru_cache(maxsize=4096)
def flat_tile(isa: Isa, width: int, height: int, channels: int) -> Tile:
    """The block for a product over `height` rows of `width` pixels each.

    Its pixels divide a row or are whole rows: only then is a pixel's place an affine function of the loops.
    """
    wanted = blocks(channels, isa.lanes)
    best: tuple[tuple[float, int], Tile] | None = None
    for vectors in range(1, min(wanted, VECTORS) + 1):
        for pixels in divisors(width * height):
            cycles = step_cycles(isa, pixels, vectors)
            if cycles is None or not (width % pixels == 0 or (pixels % width == 0 and height % (pixels // width) == 0)):
                continue
            total = cycles * (width * height // pixels) * blocks(wanted, vectors)
            key = (total, -pixels * vectors)
            if best is None or key < best[0]:
                best = (key, Tile(1, pixels, vectors))
    assert best is not None  # one pixel by one vector fits every core
    return best[1]


@lru_cache(maxsize=4096)
def window_tile(
    isa: Isa, height: int, width: int, channels: int, steps: int = 1, copy: float = 0.0, exact: bool = False
) -> Tile:
    """The block for a convolution of `height` x `width` outputs: rows divide the height, columns may overhang.

    `steps` of the reduction each; `copy` cycles are due once if the columns overhang. With `exact`, the vectors hold
    all channels or divide them.
    """
    wanted = blocks(channels, isa.lanes)
    best: tuple[tuple[float, int, int], Tile] | None = None
    for vectors in range(1, (wanted if exact else min(wanted, VECTORS)) + 1):
        if exact and vectors < wanted and channels % (vectors * isa.lanes):
            continue
        for rows in divisors(height):
            for columns in range(1, min(width, isa.registers) + 1):
                cycles = step_cycles(isa, rows * columns, vectors)
                if cycles is None:
                    break
                tail = TAIL if width % columns else 1.0
                total = cycles * steps * (height // rows) * blocks(width, columns) * blocks(wanted, vectors) * tail
                total += copy if width % columns else 0.0
                key = (total, -rows * columns * vectors, rows)
                if best is None or key < best[0]:
                    best = (key, Tile(rows, columns, vectors))
    if best is None:  # one pixel by one vector fits every core; all channels of a group may not
        raise ValueError(f"{channels} channels do not fit the {isa.registers} registers of {isa.name}")
    return best[1]
