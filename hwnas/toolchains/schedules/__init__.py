"""Schedules of our own for CPUs: TensorIR for each fused kernel in closed form, with no search.

`pipeline.fused` and `objects.link_library` are the entrances. A row or report that used these schedules names `SCHEDULE`; raise `VERSION` with
every change that alters the code of a kernel, so that rows of another version do not mix.
"""

from __future__ import annotations

VERSION = 2
SCHEDULE = f"hwnas-cpu-{VERSION}"
TUNED = f"{SCHEDULE}+tuned"
"""The same with whatever tuning found on top (`tuning`)."""
