"""The order in which a tensor's elements lie in memory: quantised tensors of four axes are NHWC, all others as in ONNX.

Cameras deliver NHWC, and it is what micro-kernels read in whole words. Who needs another order than a storage has
changes it within its own kernel, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

from hwnas.graph.view import TensorType, View

_INTEGERS = (TensorProto.UINT8, TensorProto.INT8)


@dataclass(frozen=True, slots=True)
class Order:
    """A shape in ONNX's order of axes (N, C, H, W), and whether memory holds the channels last."""

    shape: tuple[int, ...]
    nhwc: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return stored_shape(self.shape, self.nhwc)

    @property
    def name(self) -> str:
        if len(self.shape) != 4:
            return "plain"
        return "NHWC" if self.nhwc else "NCHW"

    def equals(self, other: Order) -> bool:
        """Whether both hold the same elements at the same places."""
        if self._moves and other._moves:
            return self.shape == other.shape
        return not self._moves and not other._moves

    @property
    def _moves(self) -> bool:
        """Whether any element lies elsewhere than in ONNX's order."""
        return self.nhwc and self.shape[1] > 1 and prod(self.shape[2:]) > 1

    def features(self) -> np.ndarray:
        """For each element of one image in memory, where it stands in ONNX's order."""
        places = np.arange(prod(self.shape[1:])).reshape(self.shape[1:])
        return (places.transpose(1, 2, 0) if self.nhwc else places).reshape(-1)


def stored_shape(shape: Sequence[int], nhwc: bool) -> tuple[int, ...]:
    """The shape of a tensor as it lies in memory."""
    return (shape[0], *shape[2:], shape[1]) if nhwc else tuple(shape)


def logical(index: Sequence[Any]) -> tuple[Any, ...]:
    """An index (n, ..., c) of a tensor that lies channels last, as ONNX counts (n, c, ...)."""
    return (index[0], index[-1], *index[1:-1])


def storage_orders(
    graph: View, storage: Mapping[str, str], names: Iterable[str], floats: Mapping[str, bool]
) -> dict[str, Order]:
    """The order of each storage. `floats` says of storages that hold floats whether only integer kernels touch them."""
    renamed = {
        storage[name] for name in graph.outputs if graph.types[storage[name]].shape != graph.types[name].shape
    }  # the network's user sees no storage, only the tensor
    orders = {}
    for name in names:
        kind = graph.types[name]
        touched = kind.dtype == TensorProto.FLOAT and len(kind.shape) == 4 and floats.get(name, False)
        orders[name] = Order(kind.shape, (is_channels_last(kind) or touched) and name not in renamed)
    return orders


def is_channels_last(kind: TensorType) -> bool:
    """Whether tensors of a type lie channels last where nothing speaks against it: quantised ones of four axes."""
    return kind.dtype in _INTEGERS and len(kind.shape) == 4


def reorder_function(before: Order, after: Order, dtype: str) -> Any:
    """The PrimFunc that copies a tensor from one order to another; both have the same elements."""
    from tvm import te

    source = te.placeholder(before.stored_shape, dtype, name="x")

    def element(*index: Any) -> Any:
        if after.nhwc:
            index = logical(index)
        if before.shape != after.shape:
            index = _unravelled(index, after.shape, before.shape)
        return source(index[0], *index[2:], index[1]) if before.nhwc else source(*index)

    return te.create_prim_func([source, te.compute(after.stored_shape, element, name="result")])


def _unravelled(index: Sequence[Any], shape: Sequence[int], into: Sequence[int]) -> tuple[Any, ...]:
    place: Any = 0
    for i, size in zip(index, shape):
        place = place * size + i
    found: list[Any] = []
    for size in reversed(into):
        found.insert(0, place % size)
        place = place // size
    return tuple(found)
