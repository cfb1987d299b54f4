"""What a network costs on the core and the CPU beside it: the sum of its kernels, to the cycle.

Every product streams its operands out of memory and its result back, whatever stands before or behind it, so the law of
its jobs is the price of a kernel wherever it occurs. What is modelled is kept apart and rounded up to whole cycles of
the core's clock, kernel by kernel: the kernels of the CPU (`cpu`), and the time until a stream in or out has begun
with what a memory port narrower than all streams together adds (`transfer`; the streaming itself is in the law, because
the simulation's interface takes it).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Literal

from hwnas.core.accelerator import Accelerator
from hwnas.core.price import Layer, Price
from hwnas.core.workload import Workload
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.product import Geometry, Packing, pieces
from hwnas.toolchains.fpga.packing import UNLIMITED, best_packing, bytes_moved, job_cycles
from hwnas.toolchains.partition.companion import companion_table, seconds_of

Part = Literal["accelerator", "cpu", "transfer"]
PARTS: tuple[Part, ...] = ("accelerator", "cpu", "transfer")
TOOL = "cycle law of hwnas_core, asserted against Verilator; CPU and transfers modelled"
STREAMS = 2
"""Streams of a job that the CPU has to start: one into the core and one out of it."""
MEMORY = "dram"
"""The memory that everything is streamed from and to."""


def core_price(label: str, op: str, geometry: Geometry, array: Array, clock: Accelerator) -> Price:
    """The price of a product on the core (cycles): its jobs by the law, and what their streams take besides."""
    port = port_of(clock)
    shapes = [piece.shape(geometry) for piece in pieces(geometry, packing_of(geometry, array, port))]
    spent = [job_cycles(shape, array, port) for shape in shapes]
    streams = STREAMS * len(shapes)
    begun = 0 if clock.transfer is None else whole_cycles(clock.transfer.seconds(streams, 0), clock)
    costs: dict[Part, int] = {
        "accelerator": sum(computing for computing, _ in spent),
        "transfer": begun + sum(waiting for _, waiting in spent),
    }
    return _price(label, op, costs, geometry.macs, bytes_moved(shapes, array), streams)


def packing_of(geometry: Geometry, array: Array, port: float) -> Packing:
    """How a product that the rules admit is cut into jobs."""
    found = best_packing(geometry, array, port)
    assert found is not None
    return found


def port_of(clock: Accelerator) -> float:
    """Bytes that the memory gives or takes in a cycle of the core's clock."""
    return UNLIMITED if clock.transfer is None else clock.transfer.bandwidth / clock.clock


def cpu_price(label: str, workload: Workload, clock: Accelerator, reason: str = "") -> Price:
    """The price of a kernel on the CPU (cycles of the core's clock), and why the core does not compute it.

    Traffic and MACs are the core's alone.
    """
    cycles = max(1, whole_cycles(seconds_of(workload, clock), clock))
    return _price(label, workload.op, {"cpu": cycles}, 0, 0, 0, reason)


def summed(prices: Iterable[Price], tool: str = TOOL) -> Price:
    """The price of a network from those of its kernels, at least one."""
    all_of = list(prices)
    return Price(
        unit="cycles",
        parts={part: sum(price.parts[part] for price in all_of) for part in PARTS},
        macs=sum(price.macs for price in all_of),
        traffic={MEMORY: sum(price.traffic[MEMORY] for price in all_of)},
        tool=tool,
        crossings=sum(price.crossings for price in all_of),
        layers=tuple(layer for price in all_of for layer in price.layers),
    )


def tool_of(clock: Accelerator) -> str:
    """What prices are by: the law, and for the CPU its table or roofline."""
    return TOOL if clock.cpu is None else f"{TOOL}; CPU rest: {companion_table(clock.cpu)[1]}"


def whole_cycles(seconds: float, clock: Accelerator) -> int:
    """Cycles of the core's clock that a time takes, begun ones counted."""
    # a time that is a whole number of cycles but for its last bit is that number
    return ceil(round(seconds * clock.clock, 6))


def _price(
    label: str, op: str, costs: dict[Part, int], macs: int, moved: int, crossings: int, reason: str = ""
) -> Price:
    where: Literal["accelerator", "cpu"] = "cpu" if "cpu" in costs else "accelerator"
    traffic = {MEMORY: float(moved)}
    cost = sum(costs.values())
    layer = Layer(name=label, op=op, where=where, cost=cost, macs=macs, traffic=traffic, reason=reason)
    return Price(
        unit="cycles",
        parts={part: costs.get(part, 0) for part in PARTS},
        macs=macs,
        traffic=traffic,
        tool=TOOL,
        crossings=crossings,
        layers=(layer,),
    )
