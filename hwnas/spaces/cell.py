"""The NAS-Bench-201 cell space (Dong & Yang 2020): 15,625 networks that differ in the operations of one cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hwnas.config import validate
from hwnas.core.workload import Block, BlockCounts, Candidate
from hwnas.digest import content_id
from hwnas.spaces import cell_genes, cell_size
from hwnas.spaces.cell_features import feature_table
from hwnas.spaces.cell_operators import hazard_table, operator_table
from hwnas.spaces.cell_program import Skeleton, plan, program, short_program
from hwnas.spaces.cell_regions import Region, blocks_of, regions, whole
from hwnas.spaces.cell_table import CellTable
from hwnas.spaces.genes import change_one, checked_genotype, checked_genotypes, draw

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

_SIZES = np.full(len(cell_genes.EDGES), len(cell_genes.OPERATIONS))


class CellSettings(BaseModel):
    """The macro skeleton; the defaults are those of the benchmark on CIFAR-10."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    resolution: int = Field(default=32, ge=4, le=1024, multiple_of=4)
    channels: int = Field(default=16, ge=1, le=1024)
    cells: int = Field(default=5, ge=1, le=32)
    classes: int = Field(default=10, ge=1, le=100_000)
    in_channels: int = Field(default=3, ge=1, le=1024)


class CellSpace:
    """A genotype is the operation of each edge, in the order and numbering of `cell_genes`.

    Dead edges (on no live path from input to output) belong to a candidate and to its parameters, as in the
    benchmark, and to nothing that runs: they are in neither blocks, MACs nor the exported network.

    Under the `ort` rules, blocks are the network's kernels exactly where `channels` is a multiple of 16, as in the
    benchmark; onnxruntime keeps narrower pools out of its blocked layout, which a block on its own cannot know.
    """

    name = "cell"

    def __init__(self, **settings: int) -> None:
        """`settings` are the keys of CellSettings. Raises ConfigError for others, and for values out of bounds."""
        self.settings = validate(CellSettings, settings)
        self.skeleton = Skeleton(**self.settings.model_dump())
        self.id = f"{self.name}-{content_id(self.settings.model_dump(mode='json'))[:8]}"
        size = self.settings.resolution
        self.input_shape = (1, self.settings.in_channels, size, size)
        self.classes = self.settings.classes
        self._table = CellTable(self._regions)

    def __repr__(self) -> str:
        return f"CellSpace({self.id})"

    def __len__(self) -> int:
        return cell_genes.CELLS

    def enumerate(self) -> Iterator[Candidate]:
        """All 15,625 candidates, in the order of their genotypes."""
        return (Candidate(self.id, tuple(row)) for row in cell_genes.all_cells().tolist())

    def sample(self, rng: np.random.Generator) -> Candidate:
        """One candidate, uniform among all."""
        return self._candidate(self.sample_batch(1, rng))

    def sample_batch(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n genotypes, n x 6."""
        return draw(n, _SIZES, rng)

    def mutate(self, parent: Candidate, rng: np.random.Generator) -> Candidate:
        """A candidate with another operation on one edge."""
        return self._candidate(change_one(self._row(parent), np.ones(len(_SIZES), bool), _SIZES, rng))

    def crossover(self, a: Candidate, b: Candidate, rng: np.random.Generator) -> Candidate:
        """A candidate whose edges each come from one of the parents."""
        return self._candidate(np.where(rng.random(len(_SIZES)) < 0.5, self._row(a), self._row(b)))

    def encode(self, candidate: Candidate) -> str:
        """The benchmark's text, |op~0|+|op~0|op~1|+|op~0|op~1|op~2|."""
        self._row(candidate)
        return cell_genes.encode(candidate.genotype)

    def parse(self, text: str) -> Candidate:
        """The candidate of that text, or of the tuple form (4, 0, 3, 1, 4, 3). Raises CandidateError."""
        return Candidate(self.id, cell_genes.parse(text))

    def canonical(self, candidate: Candidate) -> Candidate:
        """The first of the candidates that are isomorphic, by the benchmark's definition (6,466 differ)."""
        index = cell_genes.canonical_indices()[cell_genes.cell_index(self._row(candidate))]
        return self._candidate(cell_genes.all_cells()[index])

    def connected(self, candidate: Candidate) -> bool:
        """Whether a live path leads from the cell's input to its output; 341 cells have none."""
        return bool(cell_genes.live_edges(self._row(candidate)).any())

    def decode(self, candidate: Candidate) -> nn.Module:
        """The network, initialised from torch's global generator."""
        from hwnas.spaces.cell_network import CellNetwork

        return CellNetwork(self.skeleton, candidate.genotype, plan(self._pruned(self._row(candidate))))

    def graph(self, candidate: Candidate) -> ModelProto:
        """The untrained network as ONNX in milliseconds; equal to exporting `decode`, but for the values of weights."""
        cell = self._pruned(self._row(candidate))
        ops = program(self.skeleton, cell, self.settings.cells).ops
        return whole(ops, self.input_shape, self.encode(candidate))

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        """Regions of the network that no fusion crosses, explained in `cell_regions`."""
        return blocks_of(self._regions(self._pruned(self._row(candidate))))

    def block_counts(self, genotypes: np.ndarray) -> BlockCounts:
        """Block counts of n x 6 genotypes. A cell is analysed when it is first met, then looked up."""
        return self._table.counts(cell_genes.cell_index(cell_genes.pruned(self._checked(genotypes))))

    def prune(self, genotypes: np.ndarray) -> np.ndarray:
        """n x 6 genotypes with `none` on every dead edge."""
        return cell_genes.pruned(self._checked(genotypes))

    def params(self, genotypes: np.ndarray) -> np.ndarray:
        """Parameters as the benchmark counts them (batch norms and dead edges included), n integers."""
        return cell_size.params(self.skeleton, self._checked(genotypes))

    def macs(self, genotypes: np.ndarray) -> np.ndarray:
        """Multiply-accumulates of what runs, for one input, n integers."""
        return cell_size.macs(self.skeleton, self._checked(genotypes))

    def benchmark_flops(self, genotypes: np.ndarray) -> np.ndarray:
        """Operations in the benchmark's convention, n integers."""
        return cell_size.benchmark_flops(self.skeleton, self._checked(genotypes))

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """What the columns of `features` are."""
        return feature_table()[0]

    def features(self, genotypes: np.ndarray) -> np.ndarray:
        """Graph features for accuracy predictors, n x f."""
        values: np.ndarray = feature_table()[1][cell_genes.cell_index(self._checked(genotypes))]
        return values

    def operators(self, genotypes: np.ndarray) -> np.ndarray:
        """Operators of one cell as a compiler leaves them, n x k counts in the order of `cell_operators.OPERATORS`."""
        values: np.ndarray = operator_table()[cell_genes.cell_index(self._checked(genotypes))]
        return values

    def hazards(self, genotypes: np.ndarray) -> np.ndarray:
        """What a compiler may refuse, n x h of 0 or 1 in the order of `cell_operators.HAZARDS`."""
        values: np.ndarray = hazard_table()[cell_genes.cell_index(self._checked(genotypes))]
        return values

    def _regions(self, cell: tuple[int, ...]) -> Counter[Region]:
        return regions(short_program(self.skeleton, cell), self.input_shape)

    @staticmethod
    def _pruned(row: np.ndarray) -> tuple[int, ...]:
        return tuple(cell_genes.pruned(row)[0].tolist())

    def _candidate(self, row: np.ndarray) -> Candidate:
        return Candidate(self.id, tuple(row[0].tolist()))

    def _checked(self, genotypes: np.ndarray) -> np.ndarray:
        return checked_genotypes(genotypes, self.id, _SIZES)

    def _row(self, candidate: Candidate) -> np.ndarray:
        return checked_genotype(candidate, self.id, _SIZES)
