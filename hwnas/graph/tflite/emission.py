"""What is being written of a network: its tensors in TFLite's order of axes, its constants, and clamps.

TFLite keeps images channels last and 8-bit tensors signed, so the axes of rank-4 tensors are permuted, and unsigned
tensors are shifted by 128 together with their zero points: the reals that they stand for stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwnas.errors import UnsupportedOperator
from hwnas.graph.quantised import Constant, Grid, Group
from hwnas.graph.tflite.flat import Scale, Tensor, TfliteFile
from hwnas.graph.view import View

NONE, RELU, RELU6 = 0, 1, 3
"""TFLite's names for what an operator may do to its sums: the schema's ActivationFunctionType."""
LOW, HIGH = -128, 127
WIDER = 128
"""Steps of int16 to one of int8: 255 times so many fit."""


@dataclass(frozen=True, slots=True)
class Step:
    """A kernel that is written: its group, the tensor of the file for each operand (None: a constant), the result's."""

    group: Group
    sources: tuple[int | None, ...]
    result: int

    def refusal(self, reason: str) -> UnsupportedOperator:
        """The error that names this step's operator."""
        return UnsupportedOperator(str(self.group.operator), reason)


@dataclass(slots=True)
class Emission:
    """A file in the making; `flattened` has the ONNX shape of images that were reshaped as they lie, channels last."""

    graph: View
    max_stride: int | None = None
    file: TfliteFile = field(default_factory=TfliteFile)
    flattened: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _plain: dict[tuple[str, tuple[int, ...], bytes], int] = field(default_factory=dict)

    def tensor(self, name: str, shape: Sequence[int], scale: Scale, dtype: str = "int8") -> int:
        """A new tensor that is computed, of a shape in TFLite's order; a name that is taken gets a number."""
        return self.file.add(Tensor(self._fresh(name), tuple(shape), dtype, scale))

    def like(
        self,
        at: int,
        what: str,
        shape: Sequence[int] | None = None,
        scale: Scale | None = None,
        dtype: str | None = None,
    ) -> int:
        """A new tensor on the way to or from another one, which differs in what is given."""
        old = self.file.tensors[at]
        shape = old.shape if shape is None else shape
        return self.tensor(f"{old.name}/{what}", shape, scale or self.scale(at), dtype or old.dtype)

    def stored(self, name: str, values: np.ndarray, scale: Scale) -> int:
        """A new constant with a scale."""
        values = np.ascontiguousarray(values)
        return self.file.add(Tensor(self._fresh(name), values.shape, str(values.dtype), scale, values))

    def integers(self, what: str, values: Sequence[int] | np.ndarray) -> int:
        """A constant of int32 without a scale, such as a shape; equal ones are one."""
        array = np.array(values, np.int32)
        key = (what, array.shape, array.tobytes())
        if key not in self._plain:
            self._plain[key] = self.file.add(Tensor(self._fresh(what), array.shape, "int32", None, array))
        return self._plain[key]

    def shape(self, at: int) -> tuple[int, ...]:
        return self.file.tensors[at].shape

    def scale(self, at: int) -> Scale:
        scale = self.file.tensors[at].scale
        assert scale is not None
        return scale

    def source(self, step: Step, position: int = 0) -> int:
        """The tensor that holds an operand; a constant is written. Raises UnsupportedOperator for one that cannot be."""
        at = step.sources[position]
        if at is not None:
            return at
        operand = step.group.operands[position]
        assert isinstance(operand, Constant)
        if operand.values is None:
            raise step.refusal(f"its operand {operand.name!r} has no values")
        if operand.grid.dtype not in ("int8", "uint8") or operand.grid.scale.size != 1:
            raise step.refusal(f"its operand {operand.name!r} is not of 8 bits with one scale")
        rank = len(step.group.result.shape)
        values = operand.values.reshape((1,) * (rank - operand.values.ndim) + operand.values.shape)
        return self.stored(operand.name, channels_last(signed_values(values)), signed(operand.grid))

    def requantised(self, source: int, result: int) -> None:
        """Bring a tensor to the scale of another one of its shape."""
        self.file.call("QUANTIZE", [source], result, "QuantizeOptions")

    def at_scale(self, source: int, scale: Scale) -> int:
        """A tensor itself where it has that scale, else what it is requantised to."""
        if self.scale(source).equals(scale):
            return source
        self.requantised(source, new := self.like(source, "rescaled", scale=scale))
        return new

    def keeping_scale(self, step: Step, source: int, write: Callable[[int], None]) -> None:
        """Write an operator that moves values and whose result has its operand's scale; what the network wants follows."""

        def requantise(result: int, _: int) -> None:
            if self.scale(source).equals(self.scale(result)):
                write(result)
                return
            write(new := self.like(result, "unscaled", scale=self.scale(source)))
            self.requantised(new, result)

        self.clamped(step, requantise, fuses=False)

    def averaging(self, step: Step, source: int, write: Callable[[int, int], None], finest: float = 0.5) -> None:
        """Write an operator that averages, given its operand and result, which have one scale in TFLite.

        Where the network wants steps of `finest` times the operand's or less, it averages in int16: two roundings in
        int8, to either's steps, would be more than a step from one.
        """

        def requantise(result: int, _: int) -> None:
            before, after = self.scale(source), self.scale(result)
            if before.equals(after):
                write(source, result)
            elif after.scales[0] > finest * before.scales[0]:
                write(source, new := self.like(result, "unscaled", scale=before))
                self.requantised(new, result)
            else:
                fine = Scale((before.scales / np.float32(WIDER)).astype(np.float32), np.zeros(1, np.int64))
                wide = self.like(source, "int16", scale=fine, dtype="int16")
                self.requantised(source, wide)
                write(wide, new := self.like(result, "int16", scale=fine, dtype="int16"))
                self.requantised(new, result)

        self.clamped(step, requantise, fuses=False)

    def clamped(self, step: Step, write: Callable[[int, int], None], fuses: bool = True) -> None:
        """Write an operator, given its result and activation, with the clamp of its group: fused if it `fuses` them."""
        group = step.group
        grid = group.result.grid
        assert grid is not None
        low, high = group.bounds
        activation = NONE if (low, high) == grid.limits else _activation(group, grid)
        if activation == NONE or (fuses and activation is not None):
            write(step.result, activation or NONE)
            return
        write(raw := self.like(step.result, "unclamped"), NONE)
        if activation is not None:
            self.file.call("RELU" if activation == RELU else "RELU6", [raw], step.result)
        else:
            shift = 128 if grid.dtype == "uint8" else 0
            self.between(raw, step.result, low - shift, high - shift)

    def between(self, source: int, result: int, low: int, high: int) -> None:
        """Clamp a tensor's integers to low..high; source and result have one scale."""
        needed = [(op, v) for op, v in (("MINIMUM", high), ("MAXIMUM", low)) if v not in (LOW, HIGH)]
        for operator, bound in needed:
            last = operator == needed[-1][0]
            to = result if last else self.like(result, "below")
            limit = self.stored(
                f"bound_{bound}", np.full((1,) * len(self.shape(source)), bound, np.int8), self.scale(source)
            )
            self.file.call(operator, [source, limit], to, "MaximumMinimumOptions")
            source = to

    def _fresh(self, name: str) -> str:
        unique, n = name, 1
        while unique in self._names:
            n += 1
            unique = f"{name}_{n}"
        self._names.add(unique)
        return unique


def _activation(group: Group, grid: Grid) -> int | None:
    """The activation that narrows the integers as a group's clamp does; None where TFLite has none."""
    assert group.clamp is not None
    low, high = group.clamp
    if low == 0 and group.bounds[1] == grid.limits[1]:
        return RELU
    return RELU6 if (low, high) == (0.0, 6.0) else None


def signed(grid: Grid) -> Scale:
    """The scale of a grid's integers as int8."""
    return Scale(grid.scale, grid.zero - (128 if grid.dtype == "uint8" else 0))


def signed_values(values: np.ndarray) -> np.ndarray:
    """8-bit integers as int8; those of uint8 are shifted by 128."""
    if values.dtype == np.uint8:
        values = values.astype(np.int16) - 128
    return values.astype(np.int8)


def channels_last(values: np.ndarray) -> np.ndarray:
    """An array of rank 4 in TFLite's order; any other as it is."""
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if values.ndim == 4 else values


def stored_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """An ONNX shape in TFLite's order."""
    return (shape[0], shape[2], shape[3], shape[1]) if len(shape) == 4 else tuple(shape)


def stored_axis(axis: int, rank: int) -> int:
    """Where an axis of an ONNX tensor is in TFLite's order."""
    axis %= rank
    return (0, 3, 1, 2)[axis] if rank == 4 else axis
