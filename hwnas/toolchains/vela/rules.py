"""What Ethos-U computes: the constraints of Vela 5.2's own report of supported operators, as support rules.

The compiler has the last word: what it leaves to the CPU although a rule took it is an error of the build.
Source: `vela --supported-ops-report` of ethos-u-vela 5.2.0, TFLite operators of Ethos-U55, U65 and U85.
"""

from __future__ import annotations

from math import prod

import numpy as np

from hwnas.graph.quantised import Constant, Group
from hwnas.graph.view import METADATA_OPS, View
from hwnas.toolchains.partition import Rule

MOST_WEIGHTS = 127 * 65536
"""The sum of absolute weights that one output may have."""
MOST_REDUCED = 2**23
"""Elements that a mean of unsigned bytes may reduce; signed ones may be twice as many."""


def constant_weights(group: Group, graph: View) -> str | None:
    """weights and bias are constant"""
    dynamic = [o for o in group.operands[1:] if not isinstance(o, Constant)]
    return "weights that are computed" if dynamic else None


def light_weights(group: Group, graph: View) -> str | None:
    """the absolute weights of an output add up to 8,323,072 at most"""
    weight = group.operands[1]
    assert isinstance(weight, Constant)
    if weight.values is None:
        return None
    rows_first = group.op == "Conv" or bool(group.attributes.get("transB", 0))
    values = np.abs((weight.values if rows_first else weight.values.T).astype(np.int64))
    heaviest = int(values.reshape(len(values), -1).sum(axis=1).max(initial=0))
    return None if heaviest <= MOST_WEIGHTS else f"{heaviest:,}"


def image(group: Group, graph: View) -> str | None:
    """the tensor is one image of four dimensions"""
    shape = group.activations[0].shape
    return None if len(shape) == 4 and shape[0] == 1 else f"shape {' x '.join(map(str, shape))}"


def one_group_or_depthwise(group: Group, graph: View) -> str | None:
    """channels form one group, or each channel its own"""
    groups = int(group.attributes.get("group", 1))  # type: ignore[arg-type]
    channels = group.activations[0].shape[1]
    return None if groups in (1, channels) else f"{groups} groups of {channels} channels"


def small_window(group: Group, graph: View) -> str | None:
    """a window is at most 256 high and 65,536 pixels large, padded average pools at most 8 x 8"""
    window = _numbers(group, "kernel_shape") or tuple(group.activations[0].shape[2:])
    padded = any(_numbers(group, "pads"))
    if window[0] > 256 or prod(window) > 65536 or (group.op == "AveragePool" and padded and max(window) > 8):
        return f"a window of {window[0]} x {window[-1]}"
    return None


def short_stride(group: Group, graph: View) -> str | None:
    """strides are at most 3, larger ones only of convolutions with one group"""
    strides = _numbers(group, "strides") or (1,)
    convolution = group.op == "Conv" and int(group.attributes.get("group", 1)) == 1  # type: ignore[arg-type]
    return None if max(strides) <= 3 or convolution else f"strides {' x '.join(map(str, strides))}"


def few_reduced(group: Group, graph: View) -> str | None:
    """a mean reduces at most 8,388,608 elements"""
    reduced = prod(group.activations[0].shape[2:])
    return None if reduced <= MOST_REDUCED else f"{reduced:,}"


def batch_of_one(group: Group, graph: View) -> str | None:
    """the batch is 1"""
    batch = group.activations[0].shape[0] if group.activations[0].shape else 1
    return None if batch == 1 else f"a batch of {batch}"


def at_most_four_dimensions(group: Group, graph: View) -> str | None:
    """tensors have at most four dimensions"""
    most = max(len(a.shape) for a in (*group.activations, group.result))
    return None if most <= 4 else f"{most}"


def whole_upscaling(group: Group, graph: View) -> str | None:
    """an image is enlarged 1, 2, 4 or 8 times in both directions"""
    (_, _, h, w), (_, _, high, wide) = group.activations[0].shape, group.result.shape
    ratios = (high / h, wide / w)
    return None if ratios[0] == ratios[1] and ratios[0] in (1, 2, 4, 8) else f"{ratios[0]:g} x {ratios[1]:g} times"


CONVOLUTION = (image, constant_weights, one_group_or_depthwise, short_stride, light_weights)
RULES: tuple[Rule, ...] = (
    Rule("convolution", ("Conv",), CONVOLUTION),
    Rule("dense", ("Gemm", "MatMul"), (constant_weights, batch_of_one, light_weights)),
    Rule("elementwise", ("Add", "Sub", "Mul"), (at_most_four_dimensions, batch_of_one)),
    Rule("pool", ("MaxPool", "AveragePool"), (image, small_window, short_stride)),
    Rule("mean", ("GlobalAveragePool", "ReduceMean"), (batch_of_one, few_reduced)),
    Rule("activation", ("Relu", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Sigmoid", "Tanh", "Softmax"),
         (at_most_four_dimensions, batch_of_one)),
    Rule("move", ("Concat", "Pad", "Slice", "Transpose"), (at_most_four_dimensions, batch_of_one)),
    Rule("resize", ("Resize",), (image, whole_upscaling)),
    Rule("change of scale", ("DequantizeLinear",), (at_most_four_dimensions,)),
    Rule("shape", tuple(sorted(METADATA_OPS)), (batch_of_one,)),
)  # fmt: skip


def _numbers(group: Group, name: str) -> tuple[int, ...]:
    return tuple(int(v) for v in group.attributes.get(name, ()))  # type: ignore[union-attr]
