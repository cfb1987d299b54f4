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


TRIES = 64
"""Orders that are tried before the best layout so far is taken."""


def place(lives: Sequence[Lifetime]) -> Layout:
    """Offsets at which storages whose lives meet never overlap, in as few bytes as can be found.

    Best fit, largest storage first: the greedy-by-size strategy of Pisarchyk and Lee, "Efficient Memory Management for
    Deep Neural Net Inference" (2020), section 5.2. Where that leaves holes, the storage that reached highest goes first
    in the next try, until the arena is as small as the fullest moment or TRIES orders were tried.
    """
    order = sorted(lives, key=lambda one: (-one.size, one.first, one.name))
    least = fullest_moment(lives)
    best = _placed(order)
    current = best
    for _ in range(TRIES):
        if best.bytes <= least:
            break
        top = max(order, key=lambda one: (current.offsets[one.name] + _aligned(one.size), one.name))
        order = [top, *(one for one in order if one is not top)]
        current = _placed(order)
        if current.bytes < best.bytes:
            best = current
    return best


def fullest_moment(lives: Sequence[Lifetime]) -> int:
    """Bytes in use at once at the worst moment: no layout takes less."""
    return max((sum(_aligned(o.size) for o in lives if o.first <= one.first <= o.last) for one in lives), default=0)


def _placed(order: Sequence[Lifetime]) -> Layout:
    placed: list[tuple[int, int, Lifetime]] = []
    offsets: dict[str, int] = {}
    for life in order:
        size = _aligned(life.size)
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


def _aligned(size: int) -> int:
    return max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)
