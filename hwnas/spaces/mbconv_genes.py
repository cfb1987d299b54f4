"""Which integer of an mbconv genotype means what: the order of genes, and which of them are active.

A gene is an index into a list of choices of the settings. Genes without effect (a slot behind the stage's depth, a
residual where shapes differ, the activation of an absent head) are inactive, and 0 in a canonical genotype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwnas.spaces.mbconv_settings import MbconvSettings


@dataclass(frozen=True, slots=True)
class SlotGenes:
    """Positions of one block's genes."""

    kernel: int
    expansion: int
    squeeze: int
    residual: int


@dataclass(frozen=True, slots=True)
class StageGenes:
    """Positions of one stage's genes, and of its blocks' genes up to its largest depth."""

    width: int
    depth: int
    stride: int
    activation: int
    slots: tuple[SlotGenes, ...]


@dataclass(slots=True)
class MbconvGenes:
    """The layout of a genotype: positions, names, and the choices of each gene."""

    settings: MbconvSettings
    names: list[str] = field(default_factory=list)
    choices: list[Sequence[Any]] = field(default_factory=list)
    stages: list[StageGenes] = field(default_factory=list)

    STEM_WIDTH, STEM_KERNEL, STEM_STRIDE, STEM_ACTIVATION = range(4)

    def __post_init__(self) -> None:
        settings = self.settings
        for name in ("width", "kernel", "stride", "activation"):
            self._add(f"stem.{name}", getattr(settings.stem, f"{name}s"))
        for number, stage in enumerate(settings.stages, 1):
            own = [self._add(f"stage{number}.{n}", getattr(stage, f"{n}s")) for n in ("width", "depth", "stride")]
            own.append(self._add(f"stage{number}.activation", stage.activations))
            slots = tuple(
                SlotGenes(
                    *(
                        self._add(f"stage{number}.block{k}.{n}", getattr(stage, f"{n}s"))
                        for n in ("kernel", "expansion", "squeeze", "residual")
                    )
                )
                for k in range(1, max(stage.depths) + 1)
            )
            self.stages.append(StageGenes(own[0], own[1], own[2], own[3], slots))
        self.head_width = self._add("head.width", settings.head.widths)
        self.head_activation = self._add("head.activation", settings.head.activations)
        self.sizes = np.array([len(c) for c in self.choices])

    head_width: int = 0
    head_activation: int = 0
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def _add(self, name: str, choices: Sequence[Any]) -> int:
        self.names.append(name)
        self.choices.append(choices)
        return len(self.choices) - 1

    def values(self, genotypes: np.ndarray, gene: int) -> np.ndarray:
        """What the gene says in each row, n numbers."""
        chosen: np.ndarray = np.array(self.choices[gene])[genotypes[:, gene]]
        return chosen

    def active(self, genotypes: np.ndarray) -> np.ndarray:
        """Which genes have an effect, n x g booleans."""
        live = np.ones(genotypes.shape, bool)
        inputs = self.values(genotypes, self.STEM_WIDTH)
        for stage in self.stages:
            width, depth = self.values(genotypes, stage.width), self.values(genotypes, stage.depth)
            for number, slot in enumerate(stage.slots):
                present = depth > number
                for gene in (slot.kernel, slot.expansion, slot.squeeze, slot.residual):
                    live[:, gene] = present
                if number == 0:
                    live[:, slot.residual] = (inputs == width) & (self.values(genotypes, stage.stride) == 1)
            inputs = width
        live[:, self.head_activation] = self.values(genotypes, self.head_width) > 0
        return live

    def canonical(self, genotypes: np.ndarray) -> np.ndarray:
        """The genotypes with inactive genes at 0, so that equal choices are equal rows."""
        rows: np.ndarray = np.where(self.active(genotypes), genotypes, 0)
        return rows
