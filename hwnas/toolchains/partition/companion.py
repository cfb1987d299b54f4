"""What the CPU beside an accelerator takes for the rest of a network, and what handing tensors over takes. A model.

A kernel that the latency table of the companion's device knows costs what was measured or counted there; any other
costs what the companion's roofline says. Every price tells which of the two it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from hwnas.config import data_folder, load_device
from hwnas.core.accelerator import Accelerator, Companion
from hwnas.core.price import Layer, Price
from hwnas.core.workload import Workload
from hwnas.errors import ConfigError
from hwnas.graph.analysis import analyse_workload
from hwnas.tables.table import LatencyTable, table_path
from hwnas.toolchains.partition.stages import Partition, Rest

ROOFLINE = "roofline"
KEY = "accelerator.cpu"


@dataclass(frozen=True, slots=True)
class PricedKernel:
    """A kernel on the CPU: seconds, where they are from (`roofline`, or the table), why the accelerator refused it."""

    label: str
    workload: Workload
    seconds: float
    macs: float
    source: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RestPrice:
    """What a partition spends beside its accelerator: the kernels of the CPU, and the tensors that cross (s)."""

    kernels: tuple[PricedKernel, ...]
    transfer_s: float
    crossings: int

    @property
    def cpu_s(self) -> float:
        return sum(kernel.seconds for kernel in self.kernels)

    def layers(self, per_s: float = 1.0) -> tuple[Layer, ...]:
        """The kernels as lines of a price, in seconds times `per_s` (a clock makes cycles of them)."""
        return tuple(
            Layer(name=k.label, op=k.workload.op, where="cpu", cost=k.seconds * per_s, macs=k.macs, reason=k.reason)
            for k in self.kernels
        )


def price_rest(divided: Partition, accelerator: Accelerator) -> RestPrice:
    """Price the CPU's kernels and the crossings of a partition; what the network's own borders move is not counted.

    Raises ConfigError where the accelerator describes no CPU, or no transfers, and the network needs them.
    """
    kernels = tuple(_priced(stage, accelerator) for stage in divided.rest if stage.kernel.workload is not None)
    crossings = len(divided.crossings)
    if crossings and accelerator.transfer is None:
        raise ConfigError(
            f"is required: {crossings} tensors cross between CPU and accelerator", key="accelerator.transfer"
        )
    moved = sum(crossing.bytes for crossing in divided.crossings)
    transfer_s = accelerator.transfer.seconds(crossings, moved) if crossings and accelerator.transfer else 0.0
    return RestPrice(kernels, transfer_s, crossings)


def assemble(
    divided: Partition,
    accelerator: Accelerator,
    unit: Literal["cycles", "s"],
    *,
    cost: float,
    macs: float,
    traffic: Mapping[str, float],
    tool: str,
    layers: Sequence[Layer] = (),
) -> Price:
    """The price of a whole partition: its segments cost `cost` together, the rest and the crossings come on top.

    `macs` and `traffic` are the accelerator's, as its energy rule is about them. Raises as `price_rest` does.
    """
    rest = price_rest(divided, accelerator)
    per_s = accelerator.clock if unit == "cycles" else 1.0
    sources = sorted({kernel.source for kernel in rest.kernels})
    return Price(
        unit=unit,
        parts={"accelerator": cost, "cpu": rest.cpu_s * per_s, "transfer": rest.transfer_s * per_s},
        macs=macs,
        traffic=dict(traffic),
        tool=f"{tool}; CPU rest: {', '.join(sources)}" if sources else tool,
        crossings=rest.crossings,
        layers=(*layers, *rest.layers(per_s)),
    )


def seconds_of(workload: Workload, accelerator: Accelerator) -> float:
    """What one kernel takes on the companion CPU (s). Raises ConfigError where the accelerator describes none."""
    return _price(workload, accelerator)[0]


def _priced(stage: Rest, accelerator: Accelerator) -> PricedKernel:
    workload = stage.kernel.workload
    assert workload is not None
    try:
        seconds, macs, source = _price(workload, accelerator)
    except ConfigError as error:
        raise ConfigError(f"{error} ({stage.kernel.label} is computed on the CPU)") from None
    return PricedKernel(stage.kernel.label, workload, seconds, macs, source, "; ".join(stage.reasons))


def _price(workload: Workload, accelerator: Accelerator) -> tuple[float, float, str]:
    """Seconds, MACs and source of one kernel."""
    companion = accelerator.cpu
    if companion is None:
        raise ConfigError("is required to price what the accelerator does not compute", key=KEY)
    macs, moved = _work(workload)
    known, source = companion_table(companion)
    if workload.id in known:
        return known[workload.id], macs, source
    return companion.seconds(macs, moved), macs, ROOFLINE


@lru_cache(maxsize=4096)
def _work(workload: Workload) -> tuple[float, float]:
    """MACs and bytes moved of a kernel."""
    found = analyse_workload(workload)
    return float(found.macs), float(found.moved_bytes)


@lru_cache(maxsize=16)
def companion_table(companion: Companion, folder: Path | None = None) -> tuple[Mapping[str, float], str]:
    """workload id -> seconds, by the latency table of the companion's device, and what that table is called.

    Empty where there is no table. `folder` holds tables, the shipped ones unless named; each is read once a process.
    Raises ConfigError for an unknown device, and for one that counts something else than time where the companion does
    not say how many a second.
    """
    if companion.device is None:
        return MappingProxyType({}), ROOFLINE
    device = load_device(companion.device)
    if device.metric != "latency" and companion.per_s is None:
        raise ConfigError(
            f"is required: {device.name} counts {device.metric}, such as 300 M/s makes seconds of", key=f"{KEY}.per_s"
        )
    per_s = companion.per_s if device.metric != "latency" and companion.per_s is not None else 1.0
    for toolchain in sorted(device.toolchains, key=lambda name: name != "tvm"):  # the rest is built with TVM
        path = table_path(folder or data_folder("latency_tables"), device.name, device.fidelity, toolchain)
        if path.is_file():
            seconds = {workload: value / per_s for workload, value in LatencyTable.read(path).values().items()}
            return MappingProxyType(seconds), f"table of {device.name} ({device.fidelity}, {toolchain})"
    return MappingProxyType({}), ROOFLINE
