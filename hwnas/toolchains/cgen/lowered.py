"""What lowering a kernel yields: PrimFuncs in the order they are called, and what each argument is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call: the k-th tensor read or written, constant, or temporary of its kernel; or a number.

    `value` is what a `literal` is, and what an `own` constant holds, one that lowering itself made.
    """

    role: Literal["read", "write", "constant", "temporary", "own", "literal"]
    index: int = 0
    value: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One PrimFunc with its arguments in order; the last `outputs` of them are written."""

    function: Any
    arguments: tuple[Argument, ...]
    outputs: int = 1


@dataclass(frozen=True, slots=True)
class Lowered:
    """The code of a kernel: calls in order, sizes of the temporaries between them (bytes), whether rules cover all."""

    calls: tuple[Call, ...]
    temporaries: tuple[int, ...] = ()
    covered: bool = True
