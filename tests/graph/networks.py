"""Networks of several families that the tests of this room share: torch modules, small ONNX graphs, light networks."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, helper, numpy_helper
from torch import nn

from hwnas.graph.export import export

LIGHT = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512",
)  # fmt: skip


def light_path(name: str) -> Path:
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx"


def conv_bn(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]


class Basic(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_bn(i, o, 3, stride), nn.ReLU(), *conv_bn(o, o))
        self.skip = nn.Sequential(*conv_bn(i, o, 1, stride)) if i != o or stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.skip(x) + self.body(x))


class Excite(nn.Module):
    """Squeeze and excite."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(c, c // 4, 1), nn.Conv2d(c // 4, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """An inverted bottleneck, with squeeze-excite where asked for."""

    def __init__(self, i: int, h: int, o: int, k: int, stride: int, act: type[nn.Module], excite: bool = False) -> None:
        super().__init__()
        gate = [Excite(h)] if excite else []
        self.body = nn.Sequential(
            *conv_bn(i, h, 1), act(), *conv_bn(h, h, k, stride, h), act(), *gate, *conv_bn(h, o, 1)
        )
        self.residual = stride == 1 and i == o

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class Cell(nn.Module):
    """A cell as in NAS-Bench-201: a sum over edges at every node."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.Sequential(nn.ReLU(), *conv_bn(c, c, k)) for k in (3, 3, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.edges[0](x)
        b = self.edges[1](x) + F.avg_pool2d(a, 3, 1, 1, count_include_pad=False)
        return x + self.edges[2](a) + self.edges[3](b)


class Attention(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.first(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.second(x))


class Tokens(nn.Module):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, 32))
        self.blocks = nn.Sequential(Attention(32, 2), Attention(32, 2))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


class Shuffle(nn.Module):
    """Channel split, concatenation and shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.deep = (
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keep, work = F.relu(self.stem(x)).chunk(2, 1)
        x = torch.cat([keep, F.relu(self.deep(F.relu(self.mix(work))))], 1)
        h, w = x.shape[2:]
        return self.head(x.reshape(1, 2, 8, h, w).transpose(1, 2).reshape(1, 16, h, w).mean((2, 3)))


def pooled(body: list[nn.Module], width: int) -> nn.Module:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


FAMILIES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "residual": (
        lambda: pooled([*conv_bn(3, 16, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), Basic(16, 16, 1), Basic(16, 32, 2)], 32),
        (1, 3, 32, 32),
    ),
    "depthwise": (
        lambda: pooled(
            [*conv_bn(3, 16, 3, 2), nn.ReLU6(), Inverted(16, 32, 24, 3, 2, nn.ReLU6), Inverted(24, 48, 24, 5, 1, nn.ReLU6)],
            24,
        ),
        (1, 3, 32, 32),
    ),
    "excite": (
        lambda: pooled(
            [*conv_bn(3, 16, 3, 2), nn.Hardswish(), Inverted(16, 32, 16, 3, 1, nn.Hardswish, True), Inverted(16, 32, 24, 3, 2, nn.ReLU, True)],
            24,
        ),
        (1, 3, 32, 32),
    ),
    "swish": (
        lambda: pooled([*conv_bn(3, 16, 3, 2), nn.SiLU(), Inverted(16, 32, 16, 3, 1, nn.SiLU)], 16),
        (1, 3, 32, 32),
    ),
    "cell": (
        lambda: pooled([*conv_bn(3, 16), Cell(16), Cell(16), nn.BatchNorm2d(16), nn.ReLU()], 16),
        (1, 3, 16, 16),
    ),
    "transformer": (Tokens, (1, 3, 16, 16)),
    "shuffle": (Shuffle, (1, 3, 16, 16)),
    "perceptron": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 10), nn.Softmax(1)),
        (1, 1, 8, 8),
    ),
    "signal": (
        lambda: nn.Sequential(nn.Conv1d(6, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 3, 1, 1, groups=2), nn.LeakyReLU(0.1), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(16 * 25, 5)),
        (1, 6, 100),
    ),
}  # fmt: skip


@cache
def module(family: str) -> nn.Module:
    """A module of the family in evaluation mode, with batch statistics that are not neutral."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built: nn.Module = FAMILIES[family][0]()
    for part in built.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.1)
    return built.eval()


@cache
def exported(family: str) -> ModelProto:
    return export(module(family), FAMILIES[family][1])


def graph(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, ...]],
    weights: dict[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
) -> ModelProto:
    """A little float network of these nodes; the shapes of outputs are left to inference."""
    body = helper.make_graph(
        nodes,
        "little",
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int64)": np.int64}


def session(network: ModelProto, optimised: Path | None = None, optimise: bool = True) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    if not optimise:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised is not None:
        settings.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(network.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def feeds(running: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    drawn = {}
    for value in running.get_inputs():
        kind = DTYPES[value.type]
        array = rng.normal(size=value.shape) if kind is np.float32 else rng.integers(0, 127, size=value.shape)
        drawn[value.name] = array.astype(kind)
    return drawn


def kinds(names: list[str]) -> Counter[str]:
    return Counter(names)
