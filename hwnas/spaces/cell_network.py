"""NAS-Bench-201 networks as torch modules. Imports torch: load it late."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwnas.spaces.cell_genes import CONV1, CONV3, EDGES
from hwnas.spaces.cell_program import Plan, Skeleton


class CellNetwork(nn.Module):
    """The published network: stem, three stages of equal cells, reductions between them, classifier.

    `genotype` decides which edges own convolutions, dead ones included, as in the benchmark (their parameters count
    and never train); `plan` decides what runs.
    """

    def __init__(self, skeleton: Skeleton, genotype: tuple[int, ...], plan: Plan) -> None:
        super().__init__()
        parts: list[nn.Module] = [_conv(skeleton.in_channels, skeleton.channels, 3)]
        for stage, (_, channels, _, _) in enumerate(skeleton.stages):
            if stage:
                parts.append(Reduction(channels // 2, channels))
            parts += [Cell(channels, genotype, plan) for _ in range(skeleton.cells)]
        self.parts = nn.Sequential(*parts)
        self.norm = _norm(channels)
        self.classifier = nn.Linear(channels, skeleton.classes)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.parts(x)))
        logits: Tensor = self.classifier(features.mean((-1, -2), keepdim=True).flatten(1))
        return logits


class Cell(nn.Module):
    """One cell, run by its plan."""

    def __init__(self, channels: int, genotype: tuple[int, ...], plan: Plan) -> None:
        super().__init__()
        kernels = {CONV3: 3, CONV1: 1}
        self.edges = nn.ModuleDict(
            {_name(e): _conv(channels, channels, kernels[op]) for e, op in enumerate(genotype) if op in kernels}
        )
        self.plan = plan

    def forward(self, x: Tensor) -> Tensor:
        values: list[Tensor] = [x]
        for step in self.plan.steps:
            args = [values[a] for a in step.args]
            if step.kind == "relu":
                values.append(torch.relu(args[0]))
            elif step.kind == "pool":
                values.append(nn.functional.avg_pool2d(args[0], 3, 1, 1, count_include_pad=False))
            elif step.kind == "add":
                values.append(args[0] + args[1])
            elif step.kind == "zero":
                values.append(args[0] - args[0])
            else:
                values.append(self.edges[_name(step.edge)](args[0]))
        return values[self.plan.output]


class Reduction(nn.Module):
    """The residual block between stages: halves the resolution and doubles the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, 2)
        self.second = _conv(outputs, outputs, 3)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(torch.relu(x)))
        shortcut: Tensor = self.shortcut(nn.functional.avg_pool2d(x, 2, 2))
        result: Tensor = shortcut + self.second(y)
        return result


def _name(edge: int) -> str:
    return "to".join(map(str, EDGES[edge]))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, _norm(outputs))


def _norm(channels: int) -> nn.Module:
    norm = nn.BatchNorm2d(channels)
    # The exporter drops a folded bias of exact zeros, and an untrained network would then be made of other workloads
    # than the same network trained.
    nn.init.constant_(norm.bias, 1e-3)
    return norm
