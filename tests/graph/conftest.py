"""Fixtures that the tests of this room share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import nn

from hwnas.graph.export import export


@pytest.fixture(scope="session")
def digits() -> tuple[ModelProto, np.ndarray, np.ndarray]:
    """A small convolutional network trained on scikit-learn's digits, with its held-out images and labels."""
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images.reshape(-1, 1, 8, 8) / 8 - 1, dtype=torch.float32)
    y = torch.tensor(labels)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.ReLU6(),
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(30):
        for start in range(0, 1200, 100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[start : start + 100]), y[start : start + 100]).backward()
            optimiser.step()
    return export(net, (1, 1, 8, 8)), x.numpy()[:, None], y.numpy()
