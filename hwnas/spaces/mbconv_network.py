"""mbconv networks as torch modules, made from the same specs as their blocks. Imports torch: load it late."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hwnas.spaces.mbconv_blocks import Bottleneck, Head, Pair, Spec, Stem


class MbconvNetwork(nn.Module):
    """Stem, bottlenecks and head in order; takes n x c x h x w, or n x c x t where the height is 1."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_module(spec) for spec in specs))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.unsqueeze(2)
        logits: Tensor = self.blocks(x)
        return logits


class SqueezeExcite(nn.Module):
    """Channel gates from the spatial mean (Hu et al. 2018), with MobileNetV3's hard sigmoid."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.expand = nn.Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.relu(self.reduce(x.mean((-1, -2), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.expand(gate))


class BottleneckModule(nn.Module):
    """The module of a Bottleneck spec."""

    def __init__(self, spec: Bottleneck) -> None:
        super().__init__()
        hidden, parts = spec.hidden, []
        if spec.expansion > 1:
            parts += [*_conv(spec.inputs, hidden, (1, 1)), _activation(spec.activation)]
        parts += [*_conv(hidden, hidden, spec.kernel, spec.stride, hidden), _activation(spec.activation)]
        if spec.squeeze:
            parts.append(SqueezeExcite(hidden, spec.squeeze))
        self.path = nn.Sequential(*parts, *_conv(hidden, spec.width, (1, 1)))
        self.residual = spec.residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.path(x)
        return x + y if self.residual else y


class HeadModule(nn.Module):
    """The module of a Head spec."""

    def __init__(self, spec: Head) -> None:
        super().__init__()
        conv = [*_conv(spec.inputs, spec.width, (1, 1)), _activation(spec.activation)] if spec.width else []
        self.features = nn.Sequential(*conv)
        self.classifier = nn.Linear(spec.width or spec.inputs, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((-1, -2), keepdim=True).flatten(1))
        return logits


def _module(spec: Spec) -> nn.Module:
    match spec:
        case Stem():
            conv = _conv(spec.channels, spec.width, spec.kernel, spec.stride)
            return nn.Sequential(*conv, _activation(spec.activation))
        case Bottleneck():
            return BottleneckModule(spec)
        case Head():
            return HeadModule(spec)


def _conv(inputs: int, outputs: int, kernel: Pair, stride: Pair = (1, 1), groups: int = 1) -> tuple[nn.Module, ...]:
    pad = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs)
    # The exporter drops a folded bias of exact zeros, and an untrained network would then be made of other workloads
    # than the same network trained.
    nn.init.constant_(norm.bias, 1e-3)
    return conv, norm


def _activation(name: str) -> nn.Module:
    return nn.ReLU6(inplace=False) if name == "relu6" else nn.Hardswish()
