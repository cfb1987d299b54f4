"""How the report says numbers: with unit, fidelity, interval and n. Nothing here knows HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

from hwnas import units
from hwnas.core.estimate import METRIC_KIND, Metric
from hwnas.core.measurement import Fidelity

ON_DEVICE: frozenset[Metric] = frozenset({"latency", "energy", "instructions", "cycles"})
"""Metrics whose value depends on what stood in for the device; sizes and counts of the network do not."""
NAMES: dict[Metric, str] = {
    "ram": "RAM", "sram": "SRAM", "params": "parameters", "macs": "MACs", "dsp": "DSPs", "bram": "BRAMs", "lut": "LUTs"
}  # fmt: skip
NBSP = "\u00a0"
_Z95 = 1.959963984540054
_SCALES: dict[units.Kind, tuple[tuple[float, str], ...]] = {
    "time": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "energy": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "bytes")),
    "count": ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1.0, "")),
}


_UNSEEN = {
    code: "\ufffd"
    for code in (
        *range(32),
        *range(0x7F, 0xA0),
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),
    )
    if chr(code) not in "\n\t"
} | {0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}


def visible(text: str) -> str:
    """Text without characters that act instead of showing: controls, direction overrides, lone surrogates."""
    return text.translate(_UNSEEN)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson 1927, score interval without continuity correction)."""
    centre = share + _Z95**2 / (2 * n)
    half = _Z95 * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n))
    scale = 1 + _Z95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def metric_label(metric: Metric, fidelity: Fidelity) -> str:
    """The metric's name; where the device was not hardware, with the fidelity: 'latency (model)'."""
    name = NAMES.get(metric, str(metric))
    return name if fidelity is Fidelity.HARDWARE or metric not in ON_DEVICE else f"{name} ({fidelity.of(metric)})"


def come_by(metric: Metric, fidelity: Fidelity) -> str:
    """How a metric's values were come by: measured (as flash and accuracy always are), simulated or modelled."""
    return fidelity.of(metric).participle if metric in ON_DEVICE else Fidelity.HARDWARE.participle


def show(metric: Metric, value: float | None) -> str:
    """A metric's value for people; number and unit stay on one line."""
    return units.show(value, METRIC_KIND[metric]).replace(" ", NBSP if value is not None else " ")


def show_range(metric: Metric, values: Sequence[float]) -> str:
    """'405 µs to 431 µs' of at least one value."""
    return f"{show(metric, min(values))} to {show(metric, max(values))}"


def percent(share: float, digits: int = 1) -> str:
    """A share in 0..1 as '95.8 %', the same number of decimals everywhere so that columns compare."""
    return f"{100 * share:.{digits}f}{NBSP}%"


def signed_percent(share: float) -> str:
    """A relative difference as '+3.1 %' or '−2.0 %'."""
    return f"{100 * share:+.1f}{NBSP}%".replace("-", "−")


def axis_scale(metric: Metric, values: Iterable[float]) -> tuple[float, str]:
    """The unit an axis is drawn in: what to divide SI values by, and its name, so that the median is at least 1."""
    steps = _SCALES[METRIC_KIND[metric]]
    typical = median([v for v in values if v > 0] or [1.0])
    return next((step for step in steps if typical >= step[0]), steps[-1])


def axis_title(metric: Metric, fidelity: Fidelity, unit: str) -> str:
    """'latency in ms', 'latency (model) in ms', 'cycles in millions'."""
    label = metric_label(metric, fidelity)
    return f"{label} in {unit}" if unit else label
