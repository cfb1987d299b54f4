"""Networks of full and grouped convolutions: residual ones, searched cells, fire modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as f


def relu_conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution, normalisation: the order of the searched cells."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(outputs))


def average() -> nn.Module:
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


class Cell(nn.Module):
    """The best CIFAR-10 cell of NAS-Bench-201 (Dong and Yang 2020): four 3x3 and one 1x1 convolution, a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_one = relu_conv_norm(channels, channels, 3)
        self.to_two = nn.ModuleList(relu_conv_norm(channels, channels, 3) for _ in range(2))
        self.to_three = nn.ModuleList(relu_conv_norm(channels, channels, kernel) for kernel in (3, 1))

    def forward(self, x: Tensor) -> Tensor:
        one = self.to_one(x)
        two = self.to_two[0](x) + self.to_two[1](one)
        three: Tensor = x + self.to_three[0](one) + self.to_three[1](two)
        return three


class Reduction(nn.Module):
    """The residual block between the stages of NAS-Bench-201, its short way an average pool and a 1x1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.long = nn.Sequential(relu_conv_norm(inputs, outputs, 3, 2), relu_conv_norm(outputs, outputs, 3))
        self.short = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.short(x) + self.long(x)
        return added


class NasBench201(nn.Module):
    """Three stages of two cells at 16, 32 and 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), Cell(16), Cell(16)]
        for channels in (32, 64):
            parts += [Reduction(channels // 2, channels), Cell(channels), Cell(channels)]
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(64), nn.ReLU())
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """A basic block of ResNet (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.long = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.short: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return f.relu(self.short(x) + self.long(x))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        parts.append(nn.MaxPool2d(3, 2, 1))
        channels = 64
        for outputs, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
            parts.append(ResidualBlock(channels, outputs, stride))
            channels = outputs
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


def separable(channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """ReLU, a depthwise convolution that may be dilated, 1x1, normalisation."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, 1, padding, dilation, channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class DartsCell(nn.Module):
    """Operations of the DARTS space (Liu et al. 2019): separable, dilated, pools; all states are concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = relu_conv_norm(4 * channels, channels, 1)
        self.three, self.five, self.dilated = separable(channels, 3), separable(channels, 5), separable(channels, 3, 2)
        self.largest, self.mean = nn.MaxPool2d(3, 1, 1), average()

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        first = self.three(x)
        second = self.five(x) + first
        third = self.dilated(second) + self.largest(x)
        fourth = self.mean(third) + second
        return torch.cat([first, second, third, fourth], 1)


class Darts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64))
        self.cells = nn.Sequential(DartsCell(16), DartsCell(16), DartsCell(16))
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.cells(self.stem(x)).mean((2, 3)))
        return logits


class Grouped(nn.Module):
    """Grouped 3x3 convolutions in the manner of ResNeXt (Xie et al. 2017), on odd sizes: 25x25, then 13x13."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, 40, 3, 2, 1), nn.ReLU()]
        for inputs, outputs, groups, stride in ((40, 40, 4, 1), (40, 40, 4, 1), (40, 72, 8, 2), (72, 72, 3, 1)):
            parts += [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=groups), nn.ReLU()]
            parts += [nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*parts, nn.MaxPool2d(2, 2))
        self.classifier = nn.Linear(72, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class Fire(nn.Module):
    """A fire module of SqueezeNet (Iandola et al. 2016): squeezed by 1x1, expanded by 1x1 beside 3x3."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = f.relu(self.squeeze(x))
        return torch.cat([f.relu(self.one(x)), f.relu(self.three(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: no normalisation, max pools of ceiled sizes, a convolution as the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
            nn.Conv2d(512, 100, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = f.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        return logits
