"""Every block an mbconv space can contain, numbered, so that a batch of genotypes becomes numbers by look-up."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import prod

import numpy as np

from hwnas.errors import ConfigError
from hwnas.spaces.mbconv_blocks import Bottleneck, Head, Pair, Spec, Stem, blocks_of, squeeze_width, strided
from hwnas.spaces.mbconv_genes import MbconvGenes
from hwnas.spaces.mbconv_settings import Activation

MAX_ENTRIES = 2_000_000


class SpecFactory:
    """Specs from settings: how resolution, squeeze and one-dimensional kernels follow from the choices."""

    def __init__(self, genes: MbconvGenes) -> None:
        self.settings = genes.settings
        self._flat = genes.settings.resolution[0] == 1

    def window(self, extent: int) -> Pair:
        """A kernel or stride over height and width; of a one-dimensional network over the width alone."""
        return (1, extent) if self._flat else (extent, extent)

    def stem(self, width: int, kernel: int, stride: int, activation: Activation) -> Stem:
        settings = self.settings
        return Stem(
            settings.resolution, settings.channels, width, self.window(kernel), self.window(stride),
            activation,
        )  # fmt: skip

    def bottleneck(
        self,
        size: Pair,
        inputs: int,
        width: int,
        stride: int,
        activation: Activation,
        kernel: int,
        expansion: int,
        squeeze: bool,
        residual: bool,
    ) -> Bottleneck:
        settings = self.settings
        gate = squeeze_width(inputs * expansion, settings.squeeze_ratio, settings.squeeze_grid) if squeeze else 0
        return Bottleneck(
            size, inputs, width, self.window(kernel), self.window(stride), expansion, gate,
            activation,
            residual and stride == 1 and inputs == width,
        )  # fmt: skip

    def head(self, size: Pair, inputs: int, width: int, activation: Activation) -> Head:
        return Head(size, inputs, width, self.settings.classes, activation)


class BlockTable:
    """Numbers of blocks by mixed-radix look-up; `params` and `macs` are b + 1 numbers, the last 0 (for 'no block')."""

    def __init__(self, genes: MbconvGenes) -> None:
        self._genes = genes
        self._factory = SpecFactory(genes)
        self._numbers: dict[Spec, int] = {}
        settings = genes.settings
        stem = settings.stem
        self._stem = self._fill(
            self._factory.stem(*c) for c in product(stem.widths, stem.kernels, stem.strides, stem.activations)
        )
        sizes = [strided(settings.resolution, self._factory.window(s)) for s in stem.strides]
        self._first_sizes = _places(sizes)
        sizes = _unique(sizes)
        widths: tuple[int, ...] = stem.widths
        self._stages: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for number, stage in enumerate(settings.stages, 1):
            own = (stage.kernels, stage.expansions, stage.squeezes, stage.residuals)
            entries = len(sizes) * len(widths) * prod(map(len, (stage.widths, stage.strides, stage.activations, *own)))
            if entries > MAX_ENTRIES:
                raise ConfigError(
                    f"stage {number} has {entries:,} kinds of block, at most {MAX_ENTRIES:,} can be tabulated",
                    key="stages",
                )
            first = self._fill(
                self._factory.bottleneck(*choice)
                for choice in product(sizes, widths, stage.widths, stage.strides, stage.activations, *own)
            )
            after = [strided(size, self._factory.window(s)) for size in sizes for s in stage.strides]
            out = _places(after).reshape(len(sizes), -1)
            sizes, widths = _unique(after), stage.widths
            deep = max(stage.depths) > 1
            rest = self._fill(
                self._factory.bottleneck(size, width, width, 1, activation, *choice)
                for size, width, activation in product(sizes if deep else (), widths, stage.activations)
                for choice in product(*own)
            )
            self._stages.append((first, out, rest))
        head = settings.head
        self._head = self._fill(self._factory.head(*c) for c in product(sizes, widths, head.widths, head.activations))
        self.specs = tuple(self._numbers)
        self.blocks = blocks_of(self.specs)
        self.params = np.array([*(s.params for s in self.specs), 0], np.int64)
        self.macs = np.array([*(s.macs for s in self.specs), 0], np.int64)

    def columns(self, genotypes: np.ndarray) -> np.ndarray:
        """The numbers of each candidate's blocks in order, n x s; -1 where a stage has fewer blocks than slots."""
        genes, sizes = self._genes, self._genes.sizes
        rows = np.ascontiguousarray(genotypes.T)
        columns = [self._stem[self._pack(rows, np.int64(0), (0, 1, 2, 3))]]
        place = self._first_sizes[rows[genes.STEM_STRIDE]]
        inputs = genes.STEM_WIDTH
        for stage, (first, out, rest) in zip(genes.stages, self._stages):
            own = stage.slots[0]
            code = self._pack(rows, place, (inputs, stage.width, stage.stride, stage.activation))
            code = self._pack(rows, code, (own.kernel, own.expansion, own.squeeze, own.residual))
            columns.append(first[code])
            place = out[place, rows[stage.stride]]
            inputs = stage.width
            depth = genes.values(genotypes, stage.depth)
            shared = self._pack(rows, place, (stage.width, stage.activation))
            for number, slot in enumerate(stage.slots[1:], 1):
                code = self._pack(rows, shared, (slot.kernel, slot.expansion, slot.squeeze, slot.residual))
                columns.append(np.where(depth > number, rest[code], -1))
        code = place * sizes[inputs] + rows[inputs]
        columns.append(self._head[self._pack(rows, code, (genes.head_width, genes.head_activation))])
        return np.stack(columns, 1)

    def _pack(self, rows: np.ndarray, code: np.ndarray | np.int64, genes: Iterable[int]) -> np.ndarray:
        packed = np.asarray(code)
        for gene in genes:
            size = self._genes.sizes[gene]
            if size > 1:
                packed = packed * size + rows[gene]
        return np.broadcast_to(packed, rows.shape[1:])

    def _fill(self, specs: Iterable[Spec]) -> np.ndarray:
        return np.array([self._numbers.setdefault(s, len(self._numbers)) for s in specs], np.int32)


def _unique(sizes: list[Pair]) -> list[Pair]:
    return list(dict.fromkeys(sizes))


def _places(sizes: list[Pair]) -> np.ndarray:
    unique = _unique(sizes)
    return np.array([unique.index(size) for size in sizes], np.int64)
