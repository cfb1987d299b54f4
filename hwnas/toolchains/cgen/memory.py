"""One arena for all activations: tensors whose lives do not meet share memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A storage of so many bytes that is in use from kernel `first` to kernel `last`, both included."""

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each storage begins in the arena, and how large the arena is."""

    offsets: Mapping[str, int]
    bytes: int


def place(lives: Sequence[Lifetime]) -> Layout:
    """Offsets by best fit, largest storage first; storages whose lives meet never overlap.

    The greedy-by-size strategy of Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference
    (2020), section 5.2.
    """
    placed: list[tuple[int, int, Lifetime]] = []
    offsets: dict[str, int] = {}
    for life in sorted(lives, key=lambda one: (-one.size, one.first, one.name)):
        size = max(ALIGNMENT, -(-life.size // ALIGNMENT) * ALIGNMENT)
        offset, best, room = 0, None, None
        for begin, end, other in placed:
            if not other.meets(life):
                continue
            gap = begin - offset
            if gap >= size and (room is None or gap < room):
                best, room = offset, gap
            offset = max(offset, end)
        begin = offset if best is None else best
        offsets[life.name] = begin
        placed.append((begin, begin + size, life))
        placed.sort(key=lambda one: one[:2])
    return Layout(offsets, max((end for _, end, _ in placed), default=0))
