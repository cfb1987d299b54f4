"""What onnxruntime's CPU provider runs as one kernel at its highest optimisation level, on the level of ONNX operators.

Two kinds of rules. An *epilogue* is what a convolution or matrix product takes in after it; for convolutions it
depends on the blocked (NCHWc) layout, which onnxruntime gives to most 4-D convolutions and keeps between them. A
*motif* is several operators that together compute one known function. Layout changes (Reorder) are no workloads.
The tables were read off optimised networks that onnxruntime saved; the tests compare them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hwnas.graph.rules_qdq import quantised_groups
from hwnas.graph.view import METADATA_OPS, View

CONV_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid"})
"""What any convolution takes in directly."""

BLOCKED_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"})
"""What a convolution in blocked layout takes in after a residual sum; HardSwish also directly."""

GEMM_ACTIVATIONS = frozenset(
    {"Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "Elu", "Selu", "Softplus", "Softsign", "ThresholdedRelu"}
)

BLOCK = 16
"""Channels of a block on AVX-512 and NEON (8 on AVX2, where it only matters for 8 to 15 or grouped channels)."""

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_ELEMENTWISE = frozenset({"Relu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Clip", "Gelu"})


def groups(graph: View) -> list[list[int]]:
    """Groups of operators as onnxruntime fuses them."""
    found = quantised_groups(graph)
    taken = {i for group in found for i in group}
    blocked = _blocked_tensors(graph)
    for rule in (_epilogue, *MOTIFS):
        for i, operator in enumerate(graph.operators):
            if i in taken or operator.domain or operator.op in METADATA_OPS:
                continue
            more = rule(graph, i, blocked)
            if more and not taken.intersection(more):
                found.append(sorted({i, *more}))
                taken.update(found[-1])
    found += [[i] for i in range(len(graph.operators)) if i not in taken]
    return found


def _blocked_tensors(graph: View) -> frozenset[str]:
    """Tensors that onnxruntime keeps in blocked layout.

    The 4-D inputs of a graph count as blocked: the graph of a search space's block continues a network.
    """
    blocked = {name for name in graph.inputs if len(graph.types[name].shape) == 4}
    for i, operator in enumerate(graph.operators):
        first = operator.inputs[0] if operator.inputs else ""
        if operator.op == "Conv":
            keeps = _runs_blocked(graph, i)
        elif operator.op in _POOLS:
            keeps = first in blocked and graph.types[first].shape[1] % BLOCK == 0
        elif operator.op in _ELEMENTWISE or operator.op == "BatchNormalization":
            keeps = first in blocked
        elif operator.op in ("Add", "Sum", "Mul"):
            shape = graph.types[operator.outputs[0]].shape
            keeps = all(name in blocked and graph.types[name].shape == shape for name in operator.inputs)
        elif operator.op == "Concat":
            keeps = operator.attributes.get("axis") == 1 and all(
                name in blocked and graph.types[name].shape[1] % BLOCK == 0 for name in operator.inputs
            )
        else:
            keeps = False
        if keeps:
            blocked.add(operator.outputs[0])
    return frozenset(blocked)


def _runs_blocked(graph: View, i: int) -> bool:
    operator = graph.operators[i]
    if operator.inputs[1] not in graph.constants:
        return False
    shape = graph.types[operator.inputs[1]].shape
    group = operator.attributes.get("group", 1)
    assert isinstance(group, int)
    if len(shape) != 4:
        return False
    outputs, inputs = shape[:2]
    if group == 1:
        return inputs < BLOCK or inputs % 4 == 0
    if inputs == 1 and outputs == group:
        return outputs % 4 == 0
    return inputs % BLOCK == 0 and outputs // group % BLOCK == 0


def _epilogue(graph: View, i: int, blocked: frozenset[str]) -> list[int]:
    operator = graph.operators[i]
    after = graph.sole_reader(operator.outputs[0])
    if after is None:
        return []
    op = graph.operators[after].op
    if operator.op == "Conv":
        return _conv_epilogue(graph, i, after, blocked)
    if operator.op == "Gemm":
        return [after] if op in GEMM_ACTIVATIONS else []
    if operator.op == "BatchNormalization" and operator.inputs[0] in blocked:
        return [after] if op in BLOCKED_ACTIVATIONS else []
    if operator.op == "MatMul" and op == "Add" and _is_bias(graph, i, after):
        last = graph.sole_reader(graph.operators[after].outputs[0])
        if len(graph.types[operator.inputs[0]].shape) == 2 and last is not None:
            return [after, last] if graph.operators[last].op in GEMM_ACTIVATIONS else [after]
        return [after]
    return []


def _conv_epilogue(graph: View, i: int, after: int, blocked: frozenset[str]) -> list[int]:
    runs_blocked = _runs_blocked(graph, i)
    following = graph.operators[after]
    if following.op in CONV_ACTIVATIONS:
        return [after] if _bounds_are_constant(graph, after) else []
    if following.op == "HardSwish":
        return [after] if runs_blocked else []
    if following.op not in ("Add", "Sum") or len(following.inputs) != 2:
        return []
    own = graph.operators[i].outputs[0]
    other = following.inputs[1] if following.inputs[0] == own else following.inputs[0]
    shape = graph.types[following.outputs[0]].shape
    if graph.types[other].shape != shape or graph.types[own].shape != shape or other == own:
        return []
    last = graph.sole_reader(following.outputs[0])
    activation = graph.operators[last].op if last is not None else ""
    if not runs_blocked:
        # the older fusion knows 4-D Add only (and needs a bias, which every convolution has here)
        if following.op != "Add" or len(shape) != 4:
            return []
        fits = last is not None and activation in CONV_ACTIVATIONS and _bounds_are_constant(graph, last)
        return [after, last] if fits and last is not None else [after]
    if other not in blocked or (following.inputs[1] == own and _could_take_in(graph, other)):
        return []
    return [after, last] if last is not None and activation in BLOCKED_ACTIVATIONS else [after]


def _could_take_in(graph: View, name: str) -> bool:
    """Whether the convolution that makes the first operand of a sum takes the sum in before the second's may."""
    source = graph.producer.get(name)
    return (
        source is not None
        and graph.operators[source].op == "Conv"
        and _runs_blocked(graph, source)
        and graph.sole_reader(name) is not None
    )


def _bounds_are_constant(graph: View, i: int) -> bool:
    return all(not name or name in graph.constants for name in graph.operators[i].inputs[1:])


def _is_bias(graph: View, product: int, addition: int) -> bool:
    """MatMul by a constant matrix plus a constant row is a Gemm."""
    weight = graph.operators[product].inputs[1]
    constants = [name for name in graph.operators[addition].inputs if name in graph.constants]
    if weight not in graph.constants or len(graph.types[weight].shape) != 2 or len(constants) != 1:
        return False
    return graph.types[constants[0]].elements == graph.types[weight].shape[1]


def _chain(graph: View, start: int, ops: Sequence[str]) -> list[int]:
    """The operators of these kinds that follow one another, each the only reader of the one before; [] if not all."""
    found = [start]
    for op in ops:
        after = graph.sole_reader(graph.operators[found[-1]].outputs[0])
        if after is None or graph.operators[after].op != op:
            return []
        found.append(after)
    return found[1:]


def _gelu(graph: View, i: int, _: frozenset[str]) -> list[int]:
    """x/sqrt2 -> Erf -> +1, then either times x times 1/2, or times (x times 1/2)."""
    operator = graph.operators[i]
    if operator.op != "Div" or graph.scalar(operator.inputs[1]) is None:
        return []
    tail = _chain(graph, i, ("Erf", "Add", "Mul"))
    if not tail:
        return []
    product = graph.operators[tail[-1]]
    if operator.inputs[0] in product.inputs:
        last = _chain(graph, tail[-1], ("Mul",))
        halves = last and any(graph.scalar(name) is not None for name in graph.operators[last[0]].inputs)
        return [*tail, *last] if halves else []
    sum_ = graph.operators[tail[1]].outputs[0]
    half = graph.producer.get(next((name for name in product.inputs if name != sum_), ""))
    if half is None or graph.operators[half].op != "Mul" or operator.inputs[0] not in graph.operators[half].inputs:
        return []
    return [*tail, half] if graph.sole_reader(graph.operators[half].outputs[0]) is not None else []


def _quick_gelu(graph: View, i: int, _: frozenset[str]) -> list[int]:
    """x times Sigmoid(x)."""
    operator = graph.operators[i]
    tail = _chain(graph, i, ("Mul",)) if operator.op == "Sigmoid" else []
    return tail if tail and operator.inputs[0] in graph.operators[tail[0]].inputs else []


def _skip_layer_norm(graph: View, i: int, _: frozenset[str]) -> list[int]:
    """LayerNormalization of a sum of two 3-D tensors that nobody else reads."""
    operator = graph.operators[i]
    if operator.op != "Add" or len(graph.types[operator.outputs[0]].shape) != 3:
        return []
    shape = graph.types[operator.outputs[0]].shape
    same = all(name not in graph.constants and graph.types[name].shape == shape for name in operator.inputs)
    return _chain(graph, i, ("LayerNormalization",)) if same else []


def _layer_norm(graph: View, i: int, _: frozenset[str]) -> list[int]:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + shift, as exporters before opset 17 wrote it."""
    if graph.operators[i].op != "ReduceMean":
        return []
    difference = _chain(graph, i, ("Sub",))
    readers = graph.readers.get(graph.operators[difference[0]].outputs[0], []) if difference else []
    square = next((j for j in readers if graph.operators[j].op in ("Pow", "Mul")), None)
    if square is None:
        return []
    root = _chain(graph, square, ("ReduceMean", "Add", "Sqrt", "Div"))
    if not root or set(readers) != {square, root[-1]}:
        return []
    tail = _chain(graph, root[-1], ("Mul", "Add"))
    return [difference[0], square, *root, *tail] if tail else []


def _slices(graph: View, i: int, _: frozenset[str]) -> list[int]:
    """Slices of one tensor that partition one of its axes are one Split."""
    operator = graph.operators[i]
    if operator.op != "Slice":
        return []
    source = operator.inputs[0]
    others = [j for j in graph.readers[source] if graph.operators[j].op == "Slice"]
    shape = graph.types[source].shape
    shapes = [graph.types[graph.operators[j].outputs[0]].shape for j in others]
    axes = [axis for axis in range(len(shape)) if any(s[axis] != shape[axis] for s in shapes)]
    whole = len(axes) == 1 and sum(s[axes[0]] for s in shapes) == shape[axes[0]]
    return others if whole and len(others) > 1 and i == others[0] else []


def _scaled_product(graph: View, i: int, _: frozenset[str]) -> list[int]:
    """MatMul with factors of its operands or result, and with operands whose last two axes are swapped."""
    operator = graph.operators[i]
    if operator.op != "MatMul":
        return []
    found: list[int] = []
    for name in operator.inputs:
        found += _scale_before(graph, name)
    after = graph.sole_reader(operator.outputs[0])
    if after is not None and _is_scale(graph, after):
        found.append(after)
    return found


def _scale_before(graph: View, name: str) -> list[int]:
    found: list[int] = []
    pending: list[int] = []
    while (source := graph.producer.get(name)) is not None and graph.sole_reader(name) is not None:
        operator = graph.operators[source]
        if operator.op in METADATA_OPS:
            pending.append(source)
        elif _is_scale(graph, source) or _swaps_last_axes(graph, source):
            found += [*pending, source]
            pending = []
        else:
            break
        name = next(n for n in operator.inputs if n not in graph.constants)
    return found


def _is_scale(graph: View, i: int) -> bool:
    operator = graph.operators[i]
    if operator.op == "Mul":
        return any(graph.scalar(name) is not None for name in operator.inputs)
    return operator.op == "Div" and graph.scalar(operator.inputs[1]) is not None


def _swaps_last_axes(graph: View, i: int) -> bool:
    operator = graph.operators[i]
    order = operator.attributes.get("perm")
    rank = len(graph.types[operator.inputs[0]].shape)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    return operator.op == "Transpose" and rank >= 2 and order == swapped


def _pad(graph: View, i: int, _: frozenset[str]) -> list[int]:
    """Zero padding before a convolution or a pool becomes part of its own padding."""
    operator = graph.operators[i]
    if operator.op != "Pad" or operator.attributes.get("mode", b"constant") != b"constant":
        return []
    return _chain(graph, i, ("Conv",)) or _chain(graph, i, ("MaxPool",))


Motif = Callable[[View, int, frozenset[str]], list[int]]
MOTIFS: tuple[Motif, ...] = (_gelu, _quick_gelu, _layer_norm, _skip_layer_norm, _slices, _scaled_product, _pad)
"""Tried in this order, each from the operator the motif begins with (for products: from the product)."""

KERNEL_NAMES: Mapping[str, str] = {
    "FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul", "SkipLayerNormalization": "LayerNormalization",
    "QuickGelu": "Gelu", "Upsample": "Resize",
}  # fmt: skip
"""Kernels that onnxruntime names otherwise than the ONNX operator they stand for."""
