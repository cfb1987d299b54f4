"""A kernel as the loop nest that ZigZag maps: dimensions, sizes and bits, and nothing of weights or names.

Equal nests cost the same, so that a nest is what prices are kept by. Bias, requantisation and clamp are no part of it:
they are taken to happen on a result's way out, as ZigZag has no price for them.
"""

from __future__ import annotations

from math import prod
from typing import Any

from hwnas.graph.quantised import Group

BITS = 8
"""Of activations, weights and results."""

Nest = dict[str, Any]
"""One kernel in the form of ZigZag's workload files (JSON values)."""


def nest_of(group: Group, sum_bits: int) -> Nest:
    """The loop nest of a convolution or dense product that the rules take."""
    body = _convolution(group) if group.op == "Conv" else _dense(group)
    return {
        "id": 0,
        "name": "kernel",
        "operator_type": "Conv" if group.op == "Conv" else "Gemm",
        "operand_source": {"I": 0, "W": 0},
        "operand_precision": {"I": BITS, "W": BITS, "O": max(sum_bits, BITS), "O_final": BITS},
        **body,
    }


def macs_of(nest: Nest) -> int:
    """Multiply-accumulates of a nest, those with padding among them."""
    return prod(nest["loop_sizes"])


def _convolution(group: Group) -> Nest:
    source, weight, result = group.operands[0].shape, group.operands[1].shape, group.result.shape
    groups = int(group.attributes.get("group", 1))  # type: ignore[arg-type]
    axes = len(source) - 2
    strides, dilations = _numbers(group, "strides", (1,) * axes), _numbers(group, "dilations", (1,) * axes)
    pads = _numbers(group, "pads", (0,) * (2 * axes))
    if axes == 1:  # a line is an image of height 1
        strides, dilations, pads = (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    (height, width), (kernel_height, kernel_width) = _plane(source), _plane(weight)
    result_height, result_width = _plane(result)
    sizes = {
        "B": result[0], "G": groups, "K": result[1] // groups, "C": weight[1],
        "OY": result_height, "OX": result_width, "FY": kernel_height, "FX": kernel_width,
    }  # fmt: skip
    return {
        "equation": "O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
        "loop_dims": list(sizes),
        "loop_sizes": [int(n) for n in sizes.values()],
        "dimension_relations": [f"iy={strides[0]}*oy+{dilations[0]}*fy", f"ix={strides[1]}*ox+{dilations[1]}*fx"],
        "pr_loop_dims": ["IY", "IX"],
        "pr_loop_sizes": [int(height), int(width)],
        "padding": [[pads[0], pads[2]], [pads[1], pads[3]]],
    }


def _dense(group: Group) -> Nest:
    outputs = group.result.shape[-1]
    sizes = {"D": prod(group.result.shape) // outputs, "K": outputs, "C": prod(group.operands[1].shape) // outputs}
    return {
        "equation": "O[d][k]+=I[d][c]*W[c][k]",
        "loop_dims": list(sizes),
        "loop_sizes": [int(n) for n in sizes.values()],
        "dimension_relations": [],
    }


def _plane(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a tensor of an image, or of a line."""
    return (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])


def _numbers(group: Group, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(v) for v in group.attributes.get(name, default))  # type: ignore[union-attr]
