"""What the Edge TPU computes, as support rules: the operators and limitations that Google documents.

Pools and concatenations take no fused activation; the TFLite that we write has none there, but an operator of its own.
Where the compiler is installed it has the last word. Source: "TensorFlow models on the Edge TPU",
coral.ai/docs/edgetpu/models-intro, sections *Model requirements* and *Supported operations*.
"""

from __future__ import annotations

from math import prod

from hwnas.graph.quantised import Constant, Group
from hwnas.graph.view import METADATA_OPS, View
from hwnas.toolchains.partition import Rule

MOST_SOFTMAX = 16_000


def three_dimensions(group: Group, graph: View) -> str | None:
    """tensors have one, two or three dimensions beside those of size 1 in front"""
    for tensor in (*group.activations, group.result):
        shape = tensor.shape
        if len(shape) > 3 and prod(shape[:-3]) != 1:
            return f"shape {' x '.join(map(str, shape))}"
    return None


def constant_weights(group: Group, graph: View) -> str | None:
    """weights and bias are constants"""
    dynamic = [operand for operand in group.operands[1:] if not isinstance(operand, Constant)]
    return "weights that are computed" if dynamic else None


def one_group_or_depthwise(group: Group, graph: View) -> str | None:
    """channels form one group, or each channel its own"""
    groups = int(group.attributes.get("group", 1))  # type: ignore[arg-type]
    channels = group.activations[0].shape[1]
    return None if groups in (1, channels) else f"{groups} groups of {channels} channels"


def same_dilation(group: Group, graph: View) -> str | None:
    """dilations are the same in both directions"""
    dilations = tuple(int(d) for d in group.attributes.get("dilations", ()) or (1,))  # type: ignore[union-attr]
    return None if len(set(dilations)) == 1 else f"dilations {' x '.join(map(str, dilations))}"


def one_row(group: Group, graph: View) -> str | None:
    """the result has one dimension beside those of size 1"""
    shape = group.result.shape
    return None if prod(shape[:-1]) == 1 else f"shape {' x '.join(map(str, shape))}"


def short_row(group: Group, graph: View) -> str | None:
    """the tensor has one dimension, of at most 16,000 elements"""
    shape = group.activations[0].shape
    return None if prod(shape) == max(shape) <= MOST_SOFTMAX else f"shape {' x '.join(map(str, shape))}"


def not_along_the_batch(group: Group, graph: View) -> str | None:
    """the batch is 1 and left alone"""
    before, after = group.activations[0].shape, group.result.shape
    whole = bool(before) and bool(after) and before[0] == 1 and after[0] == 1
    return None if whole else f"shape {' x '.join(map(str, before))} to {' x '.join(map(str, after))}"


CONVOLUTION = (three_dimensions, constant_weights, one_group_or_depthwise, same_dilation)
RULES: tuple[Rule, ...] = (
    Rule("convolution", ("Conv",), CONVOLUTION),
    Rule("dense", ("Gemm", "MatMul"), (constant_weights, one_row)),
    Rule("elementwise", ("Add", "Sub", "Mul", "Max", "Min"), (three_dimensions,)),
    Rule("pool", ("MaxPool", "AveragePool"), (three_dimensions,)),
    Rule("mean", ("GlobalAveragePool", "ReduceMean"), (three_dimensions, not_along_the_batch)),
    Rule("activation", ("Relu", "Clip", "HardSigmoid", "Sigmoid", "Tanh"), (three_dimensions,)),
    Rule("softmax", ("Softmax",), (short_row,)),
    Rule("concatenation", ("Concat",), (three_dimensions,)),
    Rule("move", ("Pad", "Slice", "Transpose"), (three_dimensions, not_along_the_batch)),
    Rule("resize", ("Resize",), (three_dimensions,)),
    Rule("change of scale", ("DequantizeLinear",), (three_dimensions,)),
    Rule("shape", tuple(sorted(METADATA_OPS)), (three_dimensions,)),
)
