"""How a product is best cut into jobs for an array: tried by the law of cycles, so it follows from sizes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import ceil, prod

from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.job import Shape
from hwnas.firmware.fpga.law import cycles, misfit, traffic
from hwnas.firmware.fpga.product import Geometry, Packing, pieces

UNLIMITED = float("inf")


@lru_cache(maxsize=65536)
def best_packing(geometry: Geometry, array: Array, port: float = UNLIMITED) -> Packing | None:
    """The packing of the fewest cycles through a memory port of so many bytes a cycle; None if no job fits.

    Of those that take the same time, the one that moves the fewest bytes, and of those the first tried.
    """
    found: tuple[tuple[int, int], Packing] | None = None
    for packing in _candidates(geometry, array):
        shapes = [piece.shape(geometry) for piece in pieces(geometry, packing)]
        if any(misfit(shape, array) is not None for shape in shapes):
            continue
        spent = (sum(map(sum, (job_cycles(shape, array, port) for shape in shapes))), bytes_moved(shapes, array))
        if found is None or spent < found[0]:
            found = (spent, packing)
    return None if found is None else found[1]


def job_cycles(shape: Shape, array: Array, port: float = UNLIMITED) -> tuple[int, int]:
    """Cycles of a job by the law, whose streams never pause, and how many more its bytes take through a port."""
    computing = cycles(shape, array)
    return computing, max(0, ceil(bytes_moved([shape], array) / port) - computing)


def bytes_moved(shapes: Iterable[Shape], array: Array) -> int:
    """Bytes that jobs stream in and out."""
    return sum(sum(traffic(shape, array).values()) for shape in shapes)


def _candidates(geometry: Geometry, array: Array) -> Iterator[Packing]:
    """Patches of neighbouring results side by side in the columns, and with groups, also groups beside each other."""
    outputs = geometry.group_outputs
    if geometry.groups == 1 or outputs > array.columns:
        # with more results than twice fill the columns, zeros are all that is added
        for patch in _patches(geometry, 2 * max(1, array.columns // outputs)):
            held = _tiles_held(_steps(geometry, patch), array)
            if held * array.columns >= prod(patch):
                yield Packing(*patch, 0, min(outputs, held * array.columns // prod(patch)))
        return
    for side in range(1, min(geometry.groups, array.columns // outputs) + 1):
        for patch in _patches(geometry, array.columns // (side * outputs)):
            held = _tiles_held(side * _steps(geometry, patch), array)
            if held:
                yield Packing(*patch, side, min(held, ceil(geometry.groups / side)))


def _patches(geometry: Geometry, most: int) -> Iterator[tuple[int, int]]:
    """Lines and pixels of neighbouring results, at most so many together."""
    _, rows, columns, _ = geometry.result
    for lines in range(1, min(rows, most) + 1):
        yield from ((lines, pixels) for pixels in range(1, min(columns, most // lines) + 1))


def _steps(geometry: Geometry, patch: tuple[int, int]) -> int:
    """How long the sums of one group are."""
    return geometry.group_inputs * prod(len(geometry.window.reads(axis, n)) for axis, n in enumerate(patch))


def _tiles_held(steps: int, array: Array) -> int:
    """How many tiles of weights, each `columns` wide and so many steps deep, the core holds; 0 for sums too long."""
    return min(array.tiles, array.words // steps) if steps <= array.steps else 0
