"""Networks and blocks in the precision that a device runs them in, before anything is trained.

What a kernel costs does not depend on its scales, so an untrained network, or a block of a search space, is given
nominal ones: the same workloads as the calibrated network has, in milliseconds and without data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from hwnas.core.workload import Block
from hwnas.errors import ConfigError
from hwnas.graph.qdq_insert import Insertion
from hwnas.graph.qdq_plan import plan_of
from hwnas.graph.rules_qdq import CLAMPS
from hwnas.graph.scales import Step
from hwnas.graph.view import View, view

if TYPE_CHECKING:
    from onnx import ModelProto

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")

NOMINAL_EXPONENT = -5
"""Steps of 1/32: 256 of them are 8, about what normalised activations span."""


def cast(
    network: ModelProto, precision: Precision, *, quantised_input: bool = False, quantised_output: bool = False
) -> ModelProto:
    """A network in a precision, with nominal scales: for timing, not for its outputs.

    "fp32" is the network as it is. "int8" has uint8 inputs or outputs where that is said, as blocks in the midst of a
    network have, else float ones. Its workloads are those of the calibrated network: ids do not depend on scales.
    Raises ConfigError for an unknown precision, BuildError that names the node which cannot be quantised.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"no precision {precision!r}", key="precision", given=precision, allowed=PRECISIONS)
    if precision == "fp32":
        return network
    graph = view(network)
    plan = plan_of(graph, quantised_input, quantised_output)
    steps = {root: _nominal(graph, root) for root in set(plan.roots.values())}
    writer = Insertion(network, graph, plan, steps, "power-of-two", fit=False)
    return writer.write(quantised_input, quantised_output)


def cast_block(block: Block, precision: Precision, input_shape: Sequence[int], classes: int) -> Block:
    """A block of a search space in a precision; it keeps its key.

    A block that takes a tensor of the space's `input_shape` is the first of its network and has a float input; one
    that gives out 1 x classes is the last and has a float output. All others read and write uint8. In a space whose
    inner tensors have the input's very shape, blocks that take one are counted with a float input. Raises ConfigError
    for an unknown precision; building the block raises as `cast` does.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"no precision {precision!r}", key="precision", given=precision, allowed=PRECISIONS)
    if precision == "fp32":
        return block

    def build() -> ModelProto:
        network = block.build()
        first = _shape(network.graph.input[0]) == tuple(input_shape)
        last = _shape(network.graph.output[0]) == (1, classes)
        return cast(network, precision, quantised_input=not first, quantised_output=not last)

    return replace(block, build=build)


def cast_blocks(
    blocks: Sequence[Block], precision: Precision, input_shape: Sequence[int], classes: int
) -> tuple[Block, ...]:
    """Every block of a sequence by `cast_block`, in its order."""
    return tuple(cast_block(block, precision, input_shape, classes) for block in blocks)


def _nominal(graph: View, root: str) -> Step:
    """Sums are twice as wide as what they add, so that their operands differ in scale as they do in real networks."""
    maker = graph.operators[graph.producer[root]] if root in graph.producer else None
    clamped = maker is not None and maker.op in CLAMPS
    exponent = NOMINAL_EXPONENT + (1 if maker is not None and maker.op in ("Add", "Sub") else 0)
    return Step(2.0**exponent, 0 if clamped else 128)


def _shape(value: object) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)  # type: ignore[attr-defined]
