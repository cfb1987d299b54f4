"""The configurable space of inverted-bottleneck and depthwise-separable networks, with its two presets.

After MobileNetV2 and V3 (Sandler et al. 2018, Howard et al. 2019): a stem, stages of blocks with choices of kernel,
expansion, squeeze-excite and residual, an optional head convolution, a classifier.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.config import validate
from hwnas.core.workload import Block, BlockCounts, Candidate
from hwnas.digest import content_id
from hwnas.errors import CandidateError
from hwnas.graph.chain import chain
from hwnas.spaces import mbconv_text
from hwnas.spaces.genes import change_one, checked_genotype, checked_genotypes, draw
from hwnas.spaces.mbconv_blocks import Spec, blocks_of, strided
from hwnas.spaces.mbconv_features import feature_names, features
from hwnas.spaces.mbconv_genes import MbconvGenes
from hwnas.spaces.mbconv_settings import MOBILE, MbconvSettings
from hwnas.spaces.mbconv_table import BlockTable, SpecFactory
from hwnas.spaces.tally import tally

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn


class MbconvSpace:
    """A search space of mbconv networks; `settings` are the keys of MbconvSettings (defaults: mbconv-micro's).

    Genotypes are indices into the choices of the settings, canonical: genes without effect are 0. Raises ConfigError
    for settings that are unknown or out of bounds.
    """

    def __init__(self, name: str = "mbconv", /, **settings: Any) -> None:
        self.name = name
        self.settings = validate(MbconvSettings, settings)
        self.id = f"{name}-{content_id(self.settings.model_dump(mode='json'))[:8]}"
        self.input_shape = (1, self.settings.channels, *self.settings.resolution)
        self.classes = self.settings.classes
        self._genes = MbconvGenes(self.settings)
        self._factory = SpecFactory(self._genes)

    def __repr__(self) -> str:
        return f"MbconvSpace({self.id})"

    @cached_property
    def _table(self) -> BlockTable:
        return BlockTable(self._genes)

    def sample(self, rng: np.random.Generator) -> Candidate:
        """One candidate, every gene uniform."""
        return self._candidate(self.sample_batch(1, rng))

    def sample_batch(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n canonical genotypes, n x g."""
        return self._genes.canonical(draw(n, self._genes.sizes, rng))

    def mutate(self, parent: Candidate, rng: np.random.Generator) -> Candidate:
        """A candidate that differs in one active gene; genes that this activates are drawn."""
        row = self._row(parent)
        active = self._genes.active(row)
        child = change_one(np.where(active, row, draw(1, self._genes.sizes, rng)), active[0], self._genes.sizes, rng)
        return self._candidate(child)

    def crossover(self, a: Candidate, b: Candidate, rng: np.random.Generator) -> Candidate:
        """A candidate whose genes each come from one of the parents, where it is active if it can be."""
        rows = np.concatenate([self._row(a), self._row(b)])
        active = self._genes.active(rows)
        rows = np.where(active, rows, np.where(active[::-1], rows[::-1], draw(2, self._genes.sizes, rng)))
        return self._candidate(np.where(rng.random(rows.shape[1]) < 0.5, rows[:1], rows[1:]))

    def encode(self, candidate: Candidate) -> str:
        """Text such as ``s16k3d2R|24d1R:k5e4,k3e1q+|64R``, explained in `mbconv_text`."""
        return mbconv_text.encode(self._genes, self._row(candidate)[0])

    def parse(self, text: str) -> Candidate:
        """The candidate of a text. Raises CandidateError that names the part and what is allowed there."""
        return self._candidate(mbconv_text.parse(self._genes, text)[None])

    def decode(self, candidate: Candidate) -> nn.Module:
        """The network, initialised from torch's global generator."""
        from hwnas.spaces.mbconv_network import MbconvNetwork

        return MbconvNetwork(self.specs(candidate))

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        """Stem, one block for each bottleneck, head."""
        return blocks_of(self.specs(candidate))

    def specs(self, candidate: Candidate) -> tuple[Spec, ...]:
        """The blocks as values: sizes, widths, kernels and the rest."""
        genes, factory = self._genes, self._factory
        row = self._row(candidate)[0]

        def chosen(*positions: int) -> list[Any]:
            return [genes.choices[p][row[p]] for p in positions]

        stem = factory.stem(*chosen(0, 1, 2, 3))
        specs: list[Spec] = [stem]
        size, inputs = strided(stem.size, stem.stride), stem.width
        for stage in genes.stages:
            width, depth, stride, activation = chosen(stage.width, stage.depth, stage.stride, stage.activation)
            for slot in stage.slots[:depth]:
                own = chosen(slot.kernel, slot.expansion, slot.squeeze, slot.residual)
                spec = factory.bottleneck(size, inputs, width, stride, activation, *own)
                specs.append(spec)
                size, inputs, stride = strided(size, spec.stride), width, 1
        specs.append(factory.head(size, inputs, *chosen(genes.head_width, genes.head_activation)))
        return tuple(specs)

    def graph(self, candidate: Candidate) -> ModelProto:
        """The untrained network as ONNX: its blocks joined end to end, which takes milliseconds."""
        return chain([block.build() for block in self.blocks(candidate)])

    def enumerate_blocks(self) -> tuple[Block, ...]:
        """Every distinct block that a candidate of this space can contain."""
        return self._table.blocks

    def block_counts(self, genotypes: np.ndarray) -> BlockCounts:
        """Block counts of n x g genotypes; only blocks that occur are columns."""
        return tally(self._table.columns(self._checked(genotypes)), self._table.blocks)

    def params(self, genotypes: np.ndarray) -> np.ndarray:
        """Parameters of the torch networks, batch norms included, n integers."""
        total: np.ndarray = self._table.params[self._table.columns(self._checked(genotypes))].sum(1)
        return total

    def macs(self, genotypes: np.ndarray) -> np.ndarray:
        """Multiply-accumulates of the convolutions and the classifier for one input, n integers."""
        total: np.ndarray = self._table.macs[self._table.columns(self._checked(genotypes))].sum(1)
        return total

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """What the columns of `features` are."""
        return feature_names(self._genes)

    def features(self, genotypes: np.ndarray) -> np.ndarray:
        """Features for accuracy predictors, n x f: shape of each stage, log2 parameters and MACs, depth."""
        rows = self._genes.canonical(self._checked(genotypes))
        columns = self._table.columns(rows)
        return features(self._genes, rows, self._table.params[columns].sum(1), self._table.macs[columns].sum(1))

    def _candidate(self, row: np.ndarray) -> Candidate:
        return Candidate(self.id, tuple(self._genes.canonical(row)[0].tolist()))

    def _checked(self, genotypes: np.ndarray) -> np.ndarray:
        return checked_genotypes(genotypes, self.id, self._genes.sizes)

    def _row(self, candidate: Candidate) -> np.ndarray:
        row = checked_genotype(candidate, self.id, self._genes.sizes)
        stray = np.flatnonzero((row[0] != 0) & ~self._genes.active(row)[0])
        if len(stray):
            name = self._genes.names[stray[0]]
            raise CandidateError(f"gene {name} of {self.id!r} has no effect here and must be 0, got {row[0, stray[0]]}")
        return row


def mbconv_micro(resolution: Any = 28, channels: int = 1, classes: int = 10, **overrides: Any) -> MbconvSpace:
    """Networks for microcontrollers: 8 to 64 channels, a few thousand to some 200,000 parameters at 28 x 28."""
    return MbconvSpace("mbconv-micro", resolution=resolution, channels=channels, classes=classes, **overrides)


def mbconv_mobile(resolution: Any = 224, channels: int = 3, classes: int = 1000, **overrides: Any) -> MbconvSpace:
    """Networks like MobileNetV3 for a Raspberry Pi, a Jetson or a phone."""
    settings = {**MOBILE, "resolution": resolution, "channels": channels, "classes": classes, **overrides}
    return MbconvSpace("mbconv-mobile", **settings)
