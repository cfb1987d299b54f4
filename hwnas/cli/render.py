"""How things look in a terminal: tables on stdout for data, progress and notes on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hwnas.core.estimate import METRIC_KIND
from hwnas.units import show

log = Console(stderr=True, highlight=False)
"""Notes, warnings and progress."""
out = Console(highlight=False)
"""Data."""


MOST_NAMED = 20
"""Uncovered kernels that a note names."""


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()
) -> None:
    """A table on stdout; columns named in `right` are aligned right."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[str(cell) for cell in row])
    out.print(table)


def uncovered_kernels(found: Mapping[str, int]) -> None:
    """Kernels that ran without a schedule rule, with the number of workloads and networks that have each; a note."""
    if not found:
        return
    log.print(f"[yellow]note:[/] kernels without a schedule rule, which run slower than they could: {len(found)}")
    for name, subjects in list(found.items())[:MOST_NAMED]:
        log.print(f"  {escape(name)} (in {subjects})")
    if len(found) > MOST_NAMED:
        log.print(f"  and {len(found) - MOST_NAMED} more")


def progress(unit: str) -> Progress:
    """A progress bar on stderr with count, time taken and time left; silent where stderr is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=log,
        transient=False,
    )


def metric(name: str, value: float | None) -> str:
    """A budgeted metric with its unit."""
    return show(value, METRIC_KIND[name])


def metrics(values: Mapping[str, float]) -> str:
    """Several metrics in one line."""
    return ", ".join(f"{name} {metric(name, value)}" for name, value in values.items())
