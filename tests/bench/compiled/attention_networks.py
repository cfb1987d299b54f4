"""Transformers on images, and a convolutional network with their normalisation and activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as f


class TransformerBlock(nn.Module):
    """Attention and a perceptron with GELU, each normalised first and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        split = self.into(self.before_attention(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = f.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(attended)
        return x + self.perceptron(self.before_perceptron(x))


class VisionTransformer(nn.Module):
    """ViT (Dosovitskiy et al. 2021) without a class token, 64 tokens of an image of 32x32; its mean is classified."""

    def __init__(self, width: int = 128, depth: int = 4, heads: int = 4, patch: int = 4, tokens: int = 64) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.classifier(self.norm(self.blocks(embedded)).mean(1))
        return logits


class DeiT(nn.Module):
    """DeiT-tiny (Touvron et al. 2021) at four of its twelve blocks: 196 tokens and one of the class, a prime number."""

    def __init__(self, width: int = 192, depth: int = 4, heads: int = 3) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token, self.embed(x).flatten(2).transpose(1, 2)], 1) + self.position
        logits: Tensor = self.classifier(self.norm(self.blocks(tokens))[:, 0])
        return logits


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normalised


class ConvNextBlock(nn.Module):
    """7x7 depthwise, layer normalisation, and a perceptron on channels that come last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.into, self.out = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = self.norm(self.filter(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.out(f.gelu(self.into(last)))).permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """ConvNeXt (Liu et al. 2022) in small: four stages of 40 to 320 channels."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, 40, 4, 4), ChannelNorm(40)]
        channels = 40
        for outputs, repeats in ((40, 2), (80, 2), (160, 3), (320, 1)):
            if outputs != channels:
                parts += [ChannelNorm(channels), nn.Conv2d(channels, outputs, 2, 2)]
            parts += [ConvNextBlock(outputs) for _ in range(repeats)]
            channels = outputs
        self.features = nn.Sequential(*parts)
        self.norm, self.classifier = nn.LayerNorm(channels), nn.Linear(channels, 100)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.norm(self.features(x).mean((2, 3))))
        return logits
