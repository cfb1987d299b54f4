"""Networks unlike those of our own spaces: attention, pools, concatenation, grouped convolutions, a cell network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

from hwnas.graph.export import export
from hwnas.graph.quantize import quantize
from hwnas.spaces.cell import CellSpace
from hwnas.toolchains.cgen.kernels import CORES
from tests.toolchains.generated import built, expected


class Attention(nn.Module):
    """A patch embedding, one transformer layer, a classifier with softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.patches(x).flatten(2).transpose(1, 2))
        return torch.softmax(self.head(y.mean(1)), -1)


class Mixed(nn.Module):
    """Grouped convolution, pools with a border, concatenation, pixel shuffle, a difference that broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.largest, self.average = nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = torch.cat([self.largest(y), self.average(torch.sigmoid(self.grouped(y)))], 1)
        y = nn.functional.hardswish(nn.functional.pixel_shuffle(y, 2))
        y = y - y.mean((2, 3), keepdim=True)
        return self.head(nn.functional.adaptive_avg_pool2d(y, (3, 2)).flatten(1))


def cell() -> tuple[Any, tuple[int, ...]]:
    space = CellSpace(channels=4, cells=1, resolution=16)
    return space.decode(space.sample(np.random.default_rng(0))), space.input_shape


NETWORKS: dict[str, Callable[[], tuple[Any, tuple[int, ...]]]] = {
    "attention": lambda: (Attention(), (1, 3, 16, 16)),
    "mixed": lambda: (Mixed(), (1, 2, 12, 12)),
    "cell": cell,
}
EXACT = {"mixed", "cell"}
"""What holds no softmax or layer normalisation, which stay in float."""


def network(name: str) -> tuple[ModelProto, tuple[int, ...]]:
    torch.manual_seed(0)
    module, shape = NETWORKS[name]()
    return export(module.eval(), shape), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_kind_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    floats, shape = network(name)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal(shape).astype(np.float32) for _ in range(6)]
    loaded = built(floats, tmp_path)
    for x in images:
        np.testing.assert_allclose(loaded.outputs([x])[0], expected(floats, [x])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", NETWORKS)
def test_quantised_networks_agree_with_onnxruntime_on_every_core(name: str, core: str, tmp_path: Path) -> None:
    floats, shape = network(name)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal(shape).astype(np.float32) for _ in range(6)]
    integers = quantize(floats, images)
    loaded = built(integers, tmp_path, core)
    for x in images:
        [ours], [theirs] = loaded.outputs([x]), expected(integers, [x])
        if name in EXACT:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-2)
