"""Networks of depthwise convolutions: inverted bottlenecks with and without squeeze-excitation, channel shuffles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as f

Activation = Callable[[], nn.Module]


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (but for its stride), and its normalisation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class SqueezeExcitation(nn.Module):
    """Channels weighted by a gate that sees all pixels."""

    def __init__(self, channels: int, squeezed: int, act: Activation, gate: Activation) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), act(), nn.Conv2d(squeezed, channels, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = x * self.weigh(x)
        return weighed


class Bottleneck(NamedTuple):
    """One inverted bottleneck; `squeeze` is the divisor of the squeezed channels, 0 without."""

    kernel: int
    expanded: int
    outputs: int
    stride: int
    act: Activation
    squeeze: int = 0


class InvertedBottleneck(nn.Module):
    """Expand by 1x1, filter depthwise, project by 1x1; the input is added where it fits."""

    def __init__(self, inputs: int, b: Bottleneck, gate: Activation) -> None:
        super().__init__()
        self.adds = b.stride == 1 and inputs == b.outputs
        parts: list[nn.Module] = []
        if b.expanded != inputs:
            parts += [*conv_norm(inputs, b.expanded, 1), b.act()]
        parts += [*conv_norm(b.expanded, b.expanded, b.kernel, b.stride, b.expanded), b.act()]
        if b.squeeze:
            # EfficientNet squeezes the input's channels with its own activation, MobileNetV3 the expanded ones with ReLU.
            swish = b.act is nn.SiLU
            squeezed = (inputs if swish else b.expanded) // b.squeeze
            parts.append(SqueezeExcitation(b.expanded, squeezed, b.act if swish else nn.ReLU, gate))
        self.parts = nn.Sequential(*parts, *conv_norm(b.expanded, b.outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.parts(x)
        return x + y if self.adds else y


class MobileNetwork(nn.Module):
    """A stem, inverted bottlenecks, a 1x1 head, pooling and a classifier."""

    def __init__(
        self, stem: int, bottlenecks: Sequence[Bottleneck], head: int, classes: int, act: Activation, gate: Activation
    ) -> None:
        super().__init__()
        parts = [*conv_norm(3, stem, 3, 2), act()]
        channels = stem
        for b in bottlenecks:
            parts.append(InvertedBottleneck(channels, b, gate))
            channels = b.outputs
        self.features = nn.Sequential(*parts, *conv_norm(channels, head, 1), act())
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(f.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


def mobilenet_v2(stem: int, stages: Sequence[tuple[int, int, int, int]], head: int, classes: int) -> MobileNetwork:
    """MobileNetV2 (Sandler et al. 2018) from its table: expansion, channels, repeats and stride of each stage."""
    channels, bottlenecks = stem, []
    for expansion, outputs, repeats, stride in stages:
        for i in range(repeats):
            bottlenecks.append(Bottleneck(3, channels * expansion, outputs, stride if i == 0 else 1, nn.ReLU6))
            channels = outputs
    return MobileNetwork(stem, bottlenecks, head, classes, nn.ReLU6, nn.Sigmoid)


def small_mobilenet_v2() -> nn.Module:
    stages = [(1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 3, 2), (6, 40, 3, 2), (6, 56, 2, 1), (6, 96, 2, 2)]
    return mobilenet_v2(16, stages, 640, 100)


def full_mobilenet_v2() -> nn.Module:
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return mobilenet_v2(32, stages, 1280, 1000)


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-small (Howard et al. 2019) without its second head layer: squeeze-excitation, hard swish, 5x5."""
    relu, swish = nn.ReLU, nn.Hardswish
    bottlenecks = [
        Bottleneck(3, 16, 16, 2, relu, 4), Bottleneck(3, 72, 24, 2, relu), Bottleneck(3, 88, 24, 1, relu),
        Bottleneck(5, 96, 40, 2, swish, 4), Bottleneck(5, 240, 40, 1, swish, 4), Bottleneck(5, 120, 48, 1, swish, 4),
        Bottleneck(5, 288, 96, 2, swish, 4), Bottleneck(5, 576, 96, 1, swish, 4),
    ]  # fmt: skip
    return MobileNetwork(16, bottlenecks, 576, 1000, swish, nn.Hardsigmoid)


def efficientnet() -> nn.Module:
    """EfficientNet-B0 (Tan and Le 2019) at half its repeats: swish, squeeze-excitation in every block, 3x3 and 5x5."""
    channels, bottlenecks = 32, []
    for expansion, kernel, outputs, repeats, stride in (
        (1, 3, 16, 1, 1), (6, 3, 24, 1, 2), (6, 5, 40, 1, 2), (6, 3, 80, 2, 2), (6, 5, 112, 2, 1), (6, 5, 192, 2, 2),
        (6, 3, 320, 1, 1),
    ):  # fmt: skip
        for i in range(repeats):
            first = stride if i == 0 else 1
            bottlenecks.append(Bottleneck(kernel, channels * expansion, outputs, first, nn.SiLU, 4))
            channels = outputs
    return MobileNetwork(32, bottlenecks, 1280, 1000, nn.SiLU, nn.Sigmoid)


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNetV2 (Ma et al. 2018): half of the channels pass by, all are shuffled afterwards."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.splits = stride == 1
        into = inputs // 2 if self.splits else inputs
        self.long = nn.Sequential(
            *conv_norm(into, half, 1), nn.ReLU(), *conv_norm(half, half, 3, stride, half), *conv_norm(half, half, 1), nn.ReLU()
        )  # fmt: skip
        self.short = nn.Sequential(*conv_norm(into, into, 3, stride, into), *conv_norm(into, half, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        if self.splits:
            passing, taken = x.chunk(2, 1)
            x = torch.cat([passing, self.long(taken)], 1)
        else:
            x = torch.cat([self.short(x), self.long(x)], 1)
        n, c, h, w = x.shape
        return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleNet(nn.Module):
    """ShuffleNetV2 0.5x: splits, concatenations and channel shuffles between small convolutions, a max pool first."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [*conv_norm(3, 24, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = 24
        for outputs, repeats in ((48, 4), (96, 8), (192, 4)):
            parts += [ShuffleUnit(channels if i == 0 else outputs, outputs, 2 if i == 0 else 1) for i in range(repeats)]
            channels = outputs
        self.features = nn.Sequential(*parts, *conv_norm(channels, 1024, 1), nn.ReLU())
        self.classifier = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class MobileOne(nn.Module):
    """MobileOne (Vasu et al. 2023) as deployed: 3x3 depthwise and 1x1 with biases and ReLU, nothing added, odd widths."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, 48, 3, 2, 1), nn.ReLU()]
        channels = 48
        for outputs, repeats in ((52, 1), (100, 3), (180, 4), (268, 1)):
            for i in range(repeats):
                stride = 2 if i == 0 else 1
                parts += [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.ReLU()]
                parts += [nn.Conv2d(channels, outputs, 1), nn.ReLU()]
                channels = outputs
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits
