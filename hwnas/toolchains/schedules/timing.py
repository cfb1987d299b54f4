"""Kernels run and timed in this process: only ratios of readings that were taken in turn are to be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

READING_S = 2e-4
ROUNDS = 30
SLOW = 3.0
"""A candidate that takes this many times what the rule's code takes is not read again."""
TOLERANCE = 1e-4
"""How far a result of another order of additions may be off, relative to the largest value."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled kernel; `call(*arguments)` runs it once, `seconds(n)` is the time of each of n runs."""

    call: Callable[..., None]
    timer: Callable[[int], Callable[..., Any]]


def compiled(function: Any, target: Any, options: dict[str, Any]) -> Compiled:
    """A scheduled PrimFunc compiled into this process. Raises what TVM raises."""
    import tvm

    named = function.with_attrs({"global_symbol": "main", "tirx.is_scheduled": True})
    with tvm.transform.PassContext(opt_level=3, config=options):
        library = tvm.tirx.build(tvm.IRModule({"main": named}), target=target)
    return Compiled(library["main"], lambda n: library.time_evaluator("main", tvm.cpu(), number=n))


def arguments(function: Any, seed: int) -> list[Any]:
    """Arrays for a kernel's inputs and outputs: bytes of any value, other integers that may be places, floats near 1."""
    import numpy as np
    import tvm

    rng = np.random.default_rng(seed)

    def values(shape: tuple[int, ...], kind: Any) -> Any:
        if kind.kind == "f":
            return rng.uniform(0.1, 1, shape).astype(kind)
        if kind.itemsize == 1 and kind.kind in "iu":
            return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, endpoint=True).astype(kind)
        return rng.integers(0, 2, shape).astype(kind)

    shapes = [(tuple(int(d) for d in p.shape), np.dtype(str(p.dtype))) for p in function.params]
    return [tvm.runtime.tensor(values(*shape)) for shape in shapes]


def seconds(kernel: Compiled, given: list[Any], runs: int = 1) -> float:
    """The mean time of that many runs."""
    return float(kernel.timer(runs)(*given).results[0])


def quick_seconds(kernel: Compiled, given: list[Any], known_s: float | None = None) -> float:
    """The least of a few readings; a single run where that is far slower than `known_s`."""
    first = seconds(kernel, given)
    if known_s is not None and first > SLOW * known_s + 1e-4:
        return first
    runs = runs_for(first)
    return min(seconds(kernel, given, runs) for _ in range(5))


def runs_for(each_s: float) -> int:
    """How many runs make a reading."""
    return max(1, int(READING_S / max(each_s, 1e-8)))


def in_turn(first: Compiled, second: Compiled, given: list[Any]) -> tuple[float, float]:
    """The least times of two kernels read in turn, `ROUNDS` times each."""
    runs = runs_for(min(seconds(first, given), seconds(second, given)))
    readings = [(seconds(first, given, runs), seconds(second, given, runs)) for _ in range(ROUNDS)]
    return min(a for a, _ in readings), min(b for _, b in readings)


def agree(first: Compiled, second: Compiled, function: Any, seed: int) -> bool:
    """Whether two kernels leave the same values in all their arrays, floats up to `TOLERANCE`."""
    import numpy as np

    ours, theirs = arguments(function, seed), arguments(function, seed)
    first.call(*ours)
    second.call(*theirs)
    for a, b in zip((x.numpy() for x in ours), (x.numpy() for x in theirs)):
        if a.dtype.kind != "f":
            if not np.array_equal(a, b):
                return False
        elif not np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * float(np.abs(a).max(initial=0.0))):
            return False
    return True
