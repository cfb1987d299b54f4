"""What the core computes for a network: a convolution or matrix product over bytes, and how it is cut into jobs.

Tensors lie channels last; the rows of a matrix are images of one pixel. Shapes of jobs follow from the geometry
alone, so that a price needs no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

import numpy as np

from hwnas.firmware.fpga.job import Shape

Byte = Literal["uint8", "int8"]
Size = tuple[int, int, int, int]
"""Images, height, width, channels."""


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel walks an image: (height, width) each; pads are top, left, bottom, right."""

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    def steps(self, height: int, width: int) -> tuple[int, int]:
        """How many places the kernel takes, downwards and to the right; below 1 where the image is too small."""
        top, left, bottom, right = self.pads
        sizes = (height + top + bottom, width + left + right)
        rows, columns = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(sizes, self.kernel, self.strides, self.dilations)
        )
        return rows, columns

    def reads(self, axis: int, results: int) -> tuple[int, ...]:
        """The lines (axis 0) or columns (1) of the image that so many neighbouring results read, from the first on."""
        taps = range(0, self.kernel[axis] * self.dilations[axis], self.dilations[axis])
        return tuple(sorted({result * self.strides[axis] + tap for result in range(results) for tap in taps}))


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of a product: its image, its window, channels of the result, and groups that do not mix."""

    image: Size
    window: Window
    outputs: int
    groups: int = 1

    @property
    def result(self) -> Size:
        return (self.image[0], *self.window.steps(self.image[1], self.image[2]), self.outputs)

    @property
    def group_inputs(self) -> int:
        return self.image[3] // self.groups

    @property
    def group_outputs(self) -> int:
        return self.outputs // self.groups

    @property
    def weights(self) -> tuple[int, int, int, int, int]:
        """Shape of the weights: groups, kernel height, kernel width, inputs and outputs of a group."""
        return (self.groups, *self.window.kernel, self.group_inputs, self.group_outputs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the operator asks for; padding counts, as in `hwnas.graph.analysis`."""
        return prod(self.result) * prod(self.window.kernel) * self.group_inputs


@dataclass(frozen=True, slots=True)
class Packing:
    """How a product is cut into jobs.

    A row of a job's activations is what a patch of `lines` x `pixels` neighbouring results reads, so its weights are
    the kernel once for each of them, moved by the strides. `side` groups lie side by side in the columns, their weights
    on the diagonal of a block, and a job takes at most `most` blocks. Where `side` is 0, every group is a job of its
    own, or several, of at most `most` outputs.
    """

    lines: int = 1
    pixels: int = 1
    side: int = 0
    most: int = 1

    @property
    def patch(self) -> tuple[int, int]:
        return self.lines, self.pixels


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a product that one job computes: blocks of channels, each of activations and weights of its own.

    group: the first group of the product that it takes; blocks: how many blocks; side: groups a block (the last block
    may lack some); patch: lines and pixels of results a row; outputs: the range of each group's outputs.
    """

    group: int
    blocks: int
    side: int
    patch: tuple[int, int]
    outputs: tuple[int, int]

    def steps(self, geometry: Geometry) -> tuple[int, int]:
        """How many patches cover the lines and the pixels of a result."""
        _, rows, columns, _ = geometry.result
        return ceil(rows / self.patch[0]), ceil(columns / self.patch[1])

    def shape(self, geometry: Geometry) -> Shape:
        """The shape of the job."""
        read = (len(geometry.window.reads(axis, results)) for axis, results in enumerate(self.patch))
        first, last = self.outputs
        return Shape(
            geometry.image[0] * prod(self.steps(geometry)),
            prod(read) * self.side * geometry.group_inputs,
            prod(self.patch) * self.side * (last - first),
            self.blocks,
        )


def pieces(geometry: Geometry, packing: Packing) -> Iterator[Piece]:
    """The jobs of a product."""
    groups, outputs = geometry.groups, geometry.group_outputs
    if packing.side:
        blocks = ceil(groups / packing.side)
        for first in range(0, blocks, packing.most):
            count = min(packing.most, blocks - first)
            yield Piece(first * packing.side, count, packing.side, packing.patch, (0, outputs))
        return
    for group in range(groups):
        for first in range(0, outputs, packing.most):
            yield Piece(group, 1, 1, packing.patch, (first, min(first + packing.most, outputs)))


@dataclass(frozen=True, slots=True)
class Product:
    """A product with its integers, as a driver holds it.

    weights: int8 in the shape of `geometry.weights`; bias: int32 (outputs), in steps of the products. Sums are shifted
    left by `lift` and rescaled by `entries` (one, or one an output) as `hwnas.graph.quantised.Rescale` of that kind;
    zero, result_zero: zero points of image and result; low, high: bounds of the result.
    """

    geometry: Geometry
    packing: Packing
    weights: np.ndarray
    bias: np.ndarray
    kind: Literal["shift", "multiply"]
    entries: np.ndarray
    lift: int
    dtype: Byte
    zero: int
    result_dtype: Byte
    result_zero: int
    low: int
    high: int
