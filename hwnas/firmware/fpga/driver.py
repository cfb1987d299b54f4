"""What the driver of the core does beside it: images into the rows of a job, weights into its columns, and back.

The rows of a job's activations are runs of pixels out of padded lines, which a DMA engine reads without touching a
byte; weights are unfolded once, when a network is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from hwnas.firmware.fpga.job import Job, Requantisation
from hwnas.firmware.fpga.product import Geometry, Piece, Product, pieces


@dataclass(frozen=True, slots=True)
class _Constants:
    """What a job has of its own whatever the image: blocks x K x N weights, blocks x N biases, and its rescaling."""

    piece: Piece
    weights: np.ndarray
    bias: np.ndarray
    requantisation: Requantisation


class Driver:
    """A product that was loaded: its weights unfolded, ready for images."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._loaded = [_constants(product, piece) for piece in pieces(product.geometry, product.packing)]

    def jobs(self, image: np.ndarray) -> list[Job]:
        """The jobs over an image (n x h x w x c)."""
        product, made = self._product, []
        for loaded in self._loaded:
            activations = gathered(product.geometry, loaded.piece, image, product.zero)
            operands = (activations, loaded.weights, loaded.bias)
            a, w, b = (operand[0] for operand in operands) if loaded.piece.blocks == 1 else operands
            made.append(
                Job(
                    a,
                    w,
                    b,
                    loaded.requantisation,
                    zero=product.zero,
                    result_zero=product.result_zero,
                    low=product.low,
                    high=product.high,
                    dtype=product.result_dtype,
                )
            )
        return made

    def collect(self, results: Sequence[np.ndarray]) -> np.ndarray:
        """The result (n x h x w x c) from those of the jobs, in their order."""
        geometry = self._product.geometry
        whole = np.empty(geometry.result, self._product.result_dtype)
        for loaded, values in zip(self._loaded, results, strict=True):
            channels = _outputs(geometry, loaded.piece)
            whole[..., channels[channels >= 0]] = _scattered(geometry, loaded.piece, values)[..., channels >= 0]
        return whole


def gathered(geometry: Geometry, piece: Piece, image: np.ndarray, zero: int) -> np.ndarray:
    """The activations of a job: blocks x M x K, zero points around the image and in groups that a block lacks."""
    window, inputs, steps = geometry.window, geometry.group_inputs, piece.steps(geometry)
    first = piece.group * inputs
    taken = image[..., first : first + piece.blocks * piece.side * inputs]
    lines, columns = (
        np.arange(count)[:, None] * results * stride + np.array(window.reads(axis, results))
        for axis, (count, results, stride) in enumerate(zip(steps, piece.patch, window.strides))
    )
    top, left, bottom, right = window.pads
    # the last patches may read past the lower and right edges, for results that nobody takes
    below = max(bottom, int(lines.max()) + 1 - top - image.shape[1])
    beside = max(right, int(columns.max()) + 1 - left - image.shape[2])
    lacking = piece.blocks * piece.side * inputs - taken.shape[3]
    padded = np.pad(taken, ((0, 0), (top, below), (left, beside), (0, lacking)), constant_values=zero)
    read = padded[:, lines[:, None, :, None], columns[None, :, None, :]]
    split = read.reshape(*read.shape[:5], piece.blocks, piece.side * inputs)
    shape = piece.shape(geometry)
    return np.ascontiguousarray(np.moveaxis(split, 5, 0)).reshape(piece.blocks, shape.m, shape.k)


def unfolded(geometry: Geometry, piece: Piece, weights: np.ndarray) -> np.ndarray:
    """The weights of a job, blocks x K x N: the kernel of each group on the diagonal, once for each result of a patch."""
    window, (first, last), side = geometry.window, piece.outputs, piece.side
    count = piece.blocks * side
    taken = weights[piece.group : piece.group + count, ..., first:last]
    lacking = ((0, count - len(taken)), *((0, 0),) * 4)
    split = np.pad(taken, lacking).reshape(piece.blocks, side, *taken.shape[1:])
    lines, columns = (window.reads(axis, results) for axis, results in enumerate(piece.patch))
    inside = (side, geometry.group_inputs, *piece.patch, side, last - first)
    made = np.zeros((piece.blocks, len(lines), len(columns), *inside), np.int8)
    for row, column, y, x in np.ndindex(*piece.patch, *window.kernel):
        line = lines.index(row * window.strides[0] + y * window.dilations[0])
        place = columns.index(column * window.strides[1] + x * window.dilations[1])
        for group in range(side):
            made[:, line, place, group, :, row, column, group] = split[:, group, y, x]
    shape = piece.shape(geometry)
    return made.reshape(piece.blocks, shape.k, shape.n)


def _outputs(geometry: Geometry, piece: Piece) -> np.ndarray:
    """The channel of the result that each column of a pixel is, block by block; -1 for one that is none."""
    groups = piece.group + np.arange(piece.blocks * piece.side)[:, None]
    channels = groups * geometry.group_outputs + np.arange(*piece.outputs)
    return np.where(groups < geometry.groups, channels, -1).reshape(-1)


def _columns(geometry: Geometry, piece: Piece, values: np.ndarray) -> np.ndarray:
    """One number an output as one for each column of a job: blocks x N."""
    channels = _outputs(geometry, piece).reshape(piece.blocks, -1)
    return np.tile(values[np.maximum(channels, 0)], (1, prod(piece.patch)))


def _scattered(geometry: Geometry, piece: Piece, values: np.ndarray) -> np.ndarray:
    """A job's result as an image of the channels it computed."""
    n, rows, columns, _ = geometry.result
    (down, across), (lines, pixels) = piece.steps(geometry), piece.patch
    split = values.reshape(piece.blocks, n, down, across, lines, pixels, -1)
    moved = split.transpose(1, 2, 4, 3, 5, 0, 6)
    return moved.reshape(n, down * lines, across * pixels, -1)[:, :rows, :columns]


def _constants(product: Product, piece: Piece) -> _Constants:
    geometry = product.geometry
    entries = product.entries if product.entries.size == 1 else _columns(geometry, piece, product.entries).reshape(-1)
    maker = Requantisation.by_shift if product.kind == "shift" else Requantisation.by_multiplier
    requantisation = maker(entries, product.lift)
    weights = unfolded(geometry, piece, product.weights)
    return _Constants(piece, weights, _columns(geometry, piece, product.bias), requantisation)
