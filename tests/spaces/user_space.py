"""A search space of one's own: plain stacks of strided convolutions with a choice of width and kernel."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
from torch import nn

from hwnas import Candidate
from hwnas.core.workload import Block
from hwnas.errors import CandidateError
from hwnas.graph.export import export


def convolution(inputs: int, width: int, kernel: int) -> nn.Module:
    conv = nn.Conv2d(inputs, width, kernel, stride=2, padding=kernel // 2)
    return nn.Sequential(conv, nn.ReLU())


def classifier(inputs: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


@lru_cache(maxsize=1024)
def exported(part, arguments, shape):
    return export(part(*arguments), shape)


class StackSpace:
    name = "stack"
    choices = ((8, 3), (8, 5), (16, 3), (16, 5), (32, 3), (32, 5))  # width, kernel
    depth = 3

    def __init__(self, resolution: int = 28, channels: int = 1, classes: int = 10) -> None:
        self.id = f"stack-{resolution}-{channels}-{classes}"
        self.input_shape = (1, channels, resolution, resolution)
        self.classes = classes

    def sample(self, rng: np.random.Generator) -> Candidate:
        return Candidate(self.id, tuple(rng.integers(len(self.choices), size=self.depth).tolist()))

    def mutate(self, parent: Candidate, rng: np.random.Generator) -> Candidate:
        genes = list(parent.genotype)
        place = int(rng.integers(self.depth))
        genes[place] = (genes[place] + int(rng.integers(1, len(self.choices)))) % len(self.choices)
        return Candidate(self.id, tuple(genes))

    def crossover(self, a: Candidate, b: Candidate, rng: np.random.Generator) -> Candidate:
        return Candidate(self.id, tuple(x if rng.random() < 0.5 else y for x, y in zip(a.genotype, b.genotype)))

    def encode(self, candidate: Candidate) -> str:
        return "-".join("{}k{}".format(*self.choices[gene]) for gene in self.genes(candidate))

    def parse(self, text: str) -> Candidate:
        names = ["{}k{}".format(*choice) for choice in self.choices]
        parts = text.split("-")
        if len(parts) != self.depth or not set(parts) <= set(names):
            raise CandidateError(f"{text!r} is not {self.depth} of {', '.join(names)} joined by -")
        return Candidate(self.id, tuple(names.index(part) for part in parts))

    def decode(self, candidate: Candidate) -> nn.Module:
        return nn.Sequential(*(part(*arguments) for part, arguments, _ in self.parts(candidate)))

    def blocks(self, candidate: Candidate) -> tuple[Block, ...]:
        return tuple(Block(f"{p.__name__}{a}{s}", partial(exported, p, a, s)) for p, a, s in self.parts(candidate))

    def parts(self, candidate: Candidate):
        _, inputs, size, _ = self.input_shape
        for width, kernel in (self.choices[gene] for gene in self.genes(candidate)):
            yield convolution, (inputs, width, kernel), (1, inputs, size, size)
            inputs, size = width, (size + 1) // 2
        yield classifier, (inputs, self.classes), (1, inputs, size, size)

    def genes(self, candidate: Candidate) -> tuple[int, ...]:
        if candidate.space != self.id:
            raise CandidateError(f"the candidate belongs to space {candidate.space!r}, not to {self.id!r}")
        return candidate.genotype
