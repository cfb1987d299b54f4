"""What the Edge TPU takes for a network: a law, operator by operator, whose constants stand in the device's YAML.

    convolution, dense   overhead + weights / B_weights + activations / B_activations + MACs / (peak x efficiency x fill)
    depthwise            the same, with a rate of its own for MACs
    mean, average        as the depthwise convolution of ones that TFLite gets instead; padded averages are pools
    pool                 overhead + window elements / rate
    elementwise          overhead + operands / B_operands
    activation, move     overhead + activations / B_activations

`fill` is the share of lanes that output channels fill. Parameters that the cache does not hold are streamed in every run.
A run that would be longer than some time waits a little more for its result (seen on networks of two resolutions at the
same time, not at the same size; the reason is not known). It is a model: no cycle is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, prod

from hwnas.core.price import Layer
from hwnas.graph.quantised import Activation, Constant, Group
from hwnas.graph.view import METADATA_OPS
from hwnas.toolchains.edgetpu.settings import LawSettings
from hwnas.toolchains.partition import Placed

POOLS = frozenset({"MaxPool", "AveragePool"})
MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_BIAS_AND_SCALE = 8
"""Bytes that each output channel has beside its weights: a bias of 32 bits and a scale."""
_WAIT_WIDTH = 0.02
"""The wait begins within this part of its time, as measurements scatter."""
SRAM, HOST = "sram", "host"
"""Memories that traffic is counted in: the chip's own, and that of the computer that parameters are streamed from."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one operator does: MACs, elements of windows, bytes of parameters, bytes of activations read and written.

    Sums of windows are MACs where a convolution of ones makes them.
    """

    macs: int
    window: int
    weights: int
    activations: int


@dataclass(frozen=True, slots=True)
class Caching:
    """Where parameters lie (bytes): in the chip's cache, and those streamed from the host in every run."""

    cached: int
    streamed: int


def work_of(group: Group) -> Work:
    """What a quantised operator does."""
    activations = sum(prod(a.shape) for a in (*group.activations, group.result))
    outputs = prod(group.result.shape)
    if group.op in PRODUCTS:
        weight = group.operands[1]
        assert isinstance(weight, Constant), "a rule requires constant weights"
        rows = _rows(group, weight)
        return Work(outputs * (prod(weight.shape) // rows), 0, prod(weight.shape) + _BIAS_AND_SCALE * rows, activations)
    if group.op in POOLS | MEANS:
        reads = outputs * prod(_window(group))
        if group.op == "MaxPool" or _leaves_pads_out(group):
            return Work(0, reads, 0, activations)
        channels = group.result.shape[1] if len(group.result.shape) > 1 else 1
        return Work(reads, 0, (prod(_window(group)) + _BIAS_AND_SCALE) * channels, activations)
    constants = sum(prod(o.shape) for o in group.operands if isinstance(o, Constant))
    return Work(0, 0, constants, activations + constants)


def seconds_of(group: Group, law: LawSettings) -> float:
    """What one operator takes by the law (s), its parameters in the cache."""
    work = work_of(group)
    moved = work.activations / law.activations
    if group.op in PRODUCTS and not _is_depthwise(group):
        weight = group.operands[1]
        assert isinstance(weight, Constant)
        channels = _rows(group, weight)
        fill = channels / (ceil(channels / law.lanes) * law.lanes)
        rate = law.peak * law.efficiency * fill
        return law.convolution + work.weights / law.weights + moved + work.macs / rate
    if work.macs:
        return law.convolution + work.weights / law.weights + moved + work.macs / law.depthwise
    if group.op in POOLS:
        return law.pool + work.window / law.window
    if group.op in METADATA_OPS:
        return 0.0
    if len(group.operands) > 1:
        return law.elementwise + work.activations / law.operands
    return law.activation + moved


def layer_of(kernel: Placed, law: LawSettings) -> Layer:
    """One operator as a line of the price."""
    assert kernel.group is not None, "what the accelerator computes is an integer operator"
    work = work_of(kernel.group)
    return Layer(
        name=kernel.label,
        op=kernel.group.op,
        where="accelerator",
        cost=seconds_of(kernel.group, law),
        macs=work.macs,
        traffic={SRAM: float(work.weights + work.activations)},
    )


def parameters_of(kernels: Sequence[Placed]) -> int:
    """Bytes of parameters that a segment's operators have."""
    return sum(work_of(kernel.group).weights for kernel in kernels if kernel.group is not None)


def cache(parameters: int, activations: int, law: LawSettings) -> Caching:
    """How many bytes of a segment's parameters the chip holds beside the activations."""
    room = int(min(law.cache, max(law.sram - activations, 0)))
    return Caching(min(parameters, room), max(parameters - room, 0))


def streaming_s(caching: Caching, law: LawSettings) -> float:
    """What streamed parameters take beyond those that the cache holds (s)."""
    return max(caching.streamed / law.streaming - caching.streamed / law.weights, 0.0)


def wait_s(run_s: float, law: LawSettings) -> float:
    """How much longer a run of so many seconds takes (s)."""
    over = (run_s - law.wait_from) / (_WAIT_WIDTH * law.wait_from)
    return law.wait / (1 + exp(-min(max(over, -50.0), 50.0)))


def _rows(group: Group, weight: Constant) -> int:
    """Output channels of a product."""
    if group.op == "Conv" or bool(group.attributes.get("transB", 0)):
        return weight.shape[0]
    return weight.shape[-1]


def _is_depthwise(group: Group) -> bool:
    source = group.operands[0]
    assert isinstance(source, Activation)
    groups = int(group.attributes.get("group", 1))  # type: ignore[arg-type]
    return groups > 1 and groups == source.shape[1]


def _window(group: Group) -> tuple[int, ...]:
    if group.op in MEANS:
        return (prod(group.activations[0].shape) // max(prod(group.result.shape), 1),)
    return tuple(int(k) for k in group.attributes.get("kernel_shape", ()))  # type: ignore[union-attr]


def _leaves_pads_out(group: Group) -> bool:
    """Whether the windows of an average hold different numbers of pixels, so that no convolution of ones makes it."""
    if group.op != "AveragePool" or group.attributes.get("count_include_pad", 0):
        return False
    return any(int(p) for p in group.attributes.get("pads", ()))  # type: ignore[union-attr]
