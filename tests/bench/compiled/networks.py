"""The fixed networks of the benches, and networks drawn from our own spaces, as ONNX files in a temporary folder.

Weights are random; the statistics of BatchNorm are those of other than trivial data, so that folding them counts.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from torch import nn

HERE = Path(__file__).parent
SOURCES = ("mobile_networks.py", "plain_networks.py", "attention_networks.py")


@dataclass(frozen=True)
class Fixed:
    """A network of the benches: `make` is module:callable, `shape` that of its input (1 x channels x height x width)."""

    make: str
    shape: tuple[int, ...]
    why: str
    reference: bool = False
    large: bool = False
    """Large enough for a second thread."""
    small: bool = True
    """Small enough for a test."""


NETWORKS: dict[str, Fixed] = {
    "nas-bench-201": Fixed("plain_networks:NasBench201", (1, 3, 32, 32), "3x3 convolutions, sums", reference=True),
    "mobilenet-v2-96": Fixed("mobile_networks:small_mobilenet_v2", (1, 3, 96, 96), "depthwise, ReLU6", reference=True),
    "vit-128": Fixed("attention_networks:VisionTransformer", (1, 3, 32, 32), "attention, GELU", reference=True),
    "resnet-18": Fixed("plain_networks:ResNet18", (1, 3, 224, 224), "wide 3x3, 7x7 stem", large=True, small=False),
    "mobilenet-v2": Fixed(
        "mobile_networks:full_mobilenet_v2", (1, 3, 224, 224), "depthwise, 112x112 to 7x7", large=True, small=False
    ),
    "mobilenet-v3": Fixed("mobile_networks:mobilenet_v3", (1, 3, 96, 96), "squeeze-excitation, hard swish, 5x5"),
    "deit-192": Fixed(
        "attention_networks:DeiT", (1, 3, 224, 224), "197 tokens, a prime number", large=True, small=False
    ),
    "darts": Fixed("plain_networks:Darts", (1, 3, 32, 32), "separable, dilated, pools, concatenation"),
    "efficientnet": Fixed(
        "mobile_networks:efficientnet", (1, 3, 128, 128), "swish, squeeze-excitation, 5x5", large=True, small=False
    ),
    "shufflenet": Fixed("mobile_networks:ShuffleNet", (1, 3, 96, 96), "channel shuffle, split, concatenation"),
    "grouped": Fixed("plain_networks:Grouped", (1, 3, 49, 49), "grouped convolutions, odd sizes"),
    "squeezenet": Fixed("plain_networks:SqueezeNet", (1, 3, 97, 97), "fire modules, ceiled max pools", large=True),
    "convnext": Fixed("attention_networks:ConvNext", (1, 3, 96, 96), "7x7 depthwise, layer norm, GELU", large=True),
    "mobileone": Fixed("mobile_networks:MobileOne", (1, 3, 80, 80), "depthwise of odd widths, biases"),
}
REFERENCES = tuple(name for name, fixed in NETWORKS.items() if fixed.reference)

SPACES = {"mbconv-micro": 2, "mbconv-mobile": 1, "cell": 1}
"""Networks drawn from each of our own spaces, by a seed that is fixed."""


def names() -> list[str]:
    """All networks of the benches, the fixed ones first."""
    return [*NETWORKS, *(f"{space}/{i}" for space, count in SPACES.items() for i in range(count))]


def network_path(name: str) -> Path:
    """The ONNX file of a network (fp32); exported once, and anew when its definition or torch changes."""
    from importlib.metadata import version

    text = "".join((HERE / source).read_text() for source in (*SOURCES, "networks.py")) + version("torch")
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"hwnas-bench-networks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name.replace('/', '-')}-{digest}.onnx"
    if not path.exists():
        half = path.with_suffix(f".{os.getpid()}")
        half.write_bytes(_export(name).SerializeToString())
        half.replace(path)
    return path


def network(name: str) -> onnx.ModelProto:
    return onnx.load(network_path(name))


def random_input(graph: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    """A normal input of a network that has one."""
    shape = tuple(d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantised(name: str) -> onnx.ModelProto:
    """The int8 form (QDQ) of a network with scales that cover what 8 random inputs make of it, kept as the fp32 one is."""
    from hwnas.graph.quantize import quantize

    source = network_path(name)
    path = source.with_name(source.stem + "-int8.onnx")
    if not path.exists():
        graph = onnx.load(source)
        half = path.with_suffix(f".{os.getpid()}")
        made = quantize(graph, [random_input(graph, seed) for seed in range(8)], "free")
        half.write_bytes(made.SerializeToString())
        half.replace(path)
    return onnx.load(path)


def _export(name: str) -> onnx.ModelProto:
    import torch

    from hwnas.graph.export import export

    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, shape = _module(name)
        _set_statistics(module)
        return export(module.eval(), shape)


def _module(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    if name not in NETWORKS:
        from hwnas.registry import spaces

        kind, _, index = name.partition("/")
        space = spaces.load(kind)()
        candidate = [space.sample(np.random.default_rng(2026 + i)) for i in range(int(index) + 1)][-1]
        return space.decode(candidate), tuple(space.input_shape)
    from importlib import import_module

    fixed = NETWORKS[name]
    module, _, maker = fixed.make.partition(":")
    make: Callable[[], nn.Module] = getattr(import_module(f"tests.bench.compiled.{module}"), maker)
    return make(), fixed.shape


def _set_statistics(module: nn.Module) -> None:
    from torch import nn

    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.7, 1.3)
            nn.init.normal_(part.bias, 0, 0.1)
