"""Data movement: what TVM's own legalisations do not give in a form that is vectorised, or read through as a view.

Permutations, slices, concatenations, pads and broadcasts are TVM's own computes; `generic` vectorises them along
contiguous axes and cuts their loops where a condition changes. Reshapes stay as they are: the
Relax VM gives their result as a view, without running a kernel.
"""

from __future__ import annotations

from typing import Any

from hwnas.toolchains.schedules.geometry import shape_of
from hwnas.toolchains.schedules.isa import Isa
from hwnas.toolchains.schedules.transposes import NAME, legal_permutation, schedule_transposition


def legal_take(isa: Isa) -> Any:
    """The legalisation of relax.take at one constant place, which is a slice; None for any other."""

    def legalise(builder: Any, operator: Any) -> Any:
        from tvm import te

        source, places = operator.args
        if not hasattr(places, "value") or operator.attrs.axis is None:
            return None
        index = places.value.numpy()
        if index.ndim != 0:
            return None
        shape = shape_of(source)
        axis = int(operator.attrs.axis) % len(shape)
        place = int(index)
        if not -shape[axis] <= place < shape[axis]:
            return None
        place %= shape[axis]

        def sliced(tensor: Any) -> Any:
            return te.compute(
                (*shape[:axis], *shape[axis + 1 :]),
                lambda *at: tensor[(*at[:axis], place, *at[axis:])],
                name="T_take",
            )

        return builder.call_te(sliced, source, primfunc_name_hint="take")

    return legalise


LEGAL = {"relax.take": legal_take, "relax.permute_dims": legal_permutation}
RULES = {NAME: schedule_transposition}
