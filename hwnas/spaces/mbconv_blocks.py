"""The blocks of mbconv networks as values: what each holds, its parameters, its MACs, and its ONNX graph.

Every distinct piece of an mbconv network is one frozen spec; a network is a tuple of them. The graphs equal what
the exporter yields for the torch modules in `mbconv_network` with batch norms folded into their convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, TypeAlias

from hwnas.core.workload import Block
from hwnas.graph.builder import GraphBuilder, Value

if TYPE_CHECKING:
    from onnx import ModelProto

    from hwnas.spaces.mbconv_settings import Activation

Pair: TypeAlias = tuple[int, int]
ACTIVATION_LETTER: dict[str, str] = {"relu6": "R", "hardswish": "H"}


def strided(size: Pair, stride: Pair) -> Pair:
    """Height and width after a convolution that is padded by half its (odd) kernel."""
    return ceil(size[0] / stride[0]), ceil(size[1] / stride[1])


def squeeze_width(hidden: int, ratio: float, grid: int) -> int:
    """Channels of a squeeze: `ratio` of the hidden width, rounded up to the grid so that few sizes occur."""
    return min(hidden, ceil(hidden * ratio / grid) * grid)


@dataclass(frozen=True, slots=True)
class Stem:
    """Convolution, batch norm, activation on the network's input of `size` (height, width)."""

    size: Pair
    channels: int
    width: int
    kernel: Pair
    stride: Pair
    activation: Activation

    @property
    def key(self) -> str:
        return (
            f"stem-{_shape(self.size, self.channels)}-{self.width}{_window(self)}{ACTIVATION_LETTER[self.activation]}"
        )

    @property
    def params(self) -> int:
        return self.channels * self.width * prod(self.kernel) + 2 * self.width

    @property
    def macs(self) -> int:
        return prod(strided(self.size, self.stride)) * self.channels * self.width * prod(self.kernel)

    def build(self) -> ModelProto:
        graph = GraphBuilder(self.key)
        x = graph.input((1, self.channels, *self.size))
        return graph.build(_activate(graph, graph.conv(x, self.width, self.kernel, self.stride), self.activation))


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Expand (unless expansion is 1), depthwise convolution, squeeze-excite (unless squeeze is 0), project, add.

    `size` is the input's; `squeeze` the channels of the squeeze; `residual` adds the input to the output.
    """

    size: Pair
    inputs: int
    width: int
    kernel: Pair
    stride: Pair
    expansion: int
    squeeze: int
    activation: Activation
    residual: bool

    @property
    def hidden(self) -> int:
        return self.inputs * self.expansion

    @property
    def key(self) -> str:
        squeeze, add = f"q{self.squeeze}" if self.squeeze else "", "+" if self.residual else ""
        return (
            f"mb-{_shape(self.size, self.inputs)}-{self.width}{_window(self)}e{self.expansion}"
            f"{squeeze}{ACTIVATION_LETTER[self.activation]}{add}"
        )

    @property
    def params(self) -> int:
        expand = self.inputs * self.hidden + 2 * self.hidden if self.expansion > 1 else 0
        depthwise = self.hidden * prod(self.kernel) + 2 * self.hidden
        squeeze = 2 * self.hidden * self.squeeze + self.squeeze + self.hidden if self.squeeze else 0
        return expand + depthwise + squeeze + self.hidden * self.width + 2 * self.width

    @property
    def macs(self) -> int:
        out = prod(strided(self.size, self.stride))
        expand = prod(self.size) * self.inputs * self.hidden if self.expansion > 1 else 0
        return (
            expand + out * self.hidden * prod(self.kernel) + 2 * self.hidden * self.squeeze
            + out * self.hidden * self.width
        )  # fmt: skip

    def build(self) -> ModelProto:
        graph = GraphBuilder(self.key)
        x = y = graph.input((1, self.inputs, *self.size))
        if self.expansion > 1:
            y = _activate(graph, graph.conv(y, self.hidden, (1, 1)), self.activation)
        y = _activate(graph, graph.conv(y, self.hidden, self.kernel, self.stride, self.hidden), self.activation)
        if self.squeeze:
            gate = graph.relu(graph.conv(graph.spatial_mean(y), self.squeeze, (1, 1)))
            y = graph.mul(y, graph.hardsigmoid(graph.conv(gate, self.hidden, (1, 1))))
        y = graph.conv(y, self.width, (1, 1))
        return graph.build(graph.add(x, y) if self.residual else y)


@dataclass(frozen=True, slots=True)
class Head:
    """Optional 1x1 convolution, batch norm and activation (width 0: none), global mean, classifier."""

    size: Pair
    inputs: int
    width: int
    classes: int
    activation: Activation

    @property
    def key(self) -> str:
        conv = f"-{self.width}{ACTIVATION_LETTER[self.activation]}" if self.width else ""
        return f"head-{_shape(self.size, self.inputs)}{conv}-{self.classes}"

    @property
    def params(self) -> int:
        conv = self.inputs * self.width + 2 * self.width
        return conv + ((self.width or self.inputs) + 1) * self.classes

    @property
    def macs(self) -> int:
        return prod(self.size) * self.inputs * self.width + (self.width or self.inputs) * self.classes

    def build(self) -> ModelProto:
        graph = GraphBuilder(self.key)
        x = graph.input((1, self.inputs, *self.size))
        if self.width:
            x = _activate(graph, graph.conv(x, self.width, (1, 1)), self.activation)
        return graph.build(graph.linear(graph.flatten(graph.spatial_mean(x)), self.classes))


Spec: TypeAlias = Stem | Bottleneck | Head


def blocks_of(specs: Sequence[Spec]) -> tuple[Block, ...]:
    """The blocks that the specs describe, in their order."""
    return tuple(Block(spec.key, spec.build) for spec in specs)


def _activate(graph: GraphBuilder, x: Value, activation: Activation) -> Value:
    return graph.relu6(x) if activation == "relu6" else graph.hardswish(x)


def _shape(size: Pair, channels: int) -> str:
    return f"{channels}x{size[0]}x{size[1]}"


def _window(spec: Stem | Bottleneck) -> str:
    (kh, kw), (sh, sw) = spec.kernel, spec.stride
    kernel = f"{kw}" if kh == kw else f"{kh}x{kw}"
    stride = f"{sw}" if sh == sw else f"{sh}x{sw}"
    return f"k{kernel}d{stride}"
