"""Hardware and network searched together: which array, and which network on it, under one budget.

Every array of 4, 8 or 16 rows and columns, and every size of its buffers that is named, is a choice beside every network
of `mnist-5k-accuracies.jsonl` (60 networks of mbconv-micro, each trained on eight seeds). Cycles are the core's closed
law, so no simulation runs; multipliers and block RAM are yosys' counts of the array. What is printed are the pairs that
no other pair beats in accuracy, latency, multipliers and block RAM at once, with the share of their time that the core
computes (the CPU beside it and transfers take the rest); fpga-codesign.svg shows the same.

    python examples/fpga-codesign.py --latency "0.3 ms" --dsp 128 --bram 32
    python examples/fpga-codesign.py --buffers 1024x4096 256x1024      # smaller buffers too: yosys counts them first
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from statistics import mean

import numpy as np

from hwnas.accuracy.table import AccuracyTable
from hwnas.api import load_space
from hwnas.cli.main import guarded
from hwnas.cli.render import metric, out, print_table
from hwnas.config import load_device
from hwnas.core.device import Device
from hwnas.core.estimate import Budget
from hwnas.core.interfaces import SearchSpace
from hwnas.core.price import Price
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.synthesis import STANDARD
from hwnas.profiling.subjects import untrained
from hwnas.report.plots import escape, log_ticks, nice_ticks
from hwnas.toolchains.fpga import FpgaToolchain
from hwnas.toolchains.fpga.lowering import kernel_prices
from hwnas.toolchains.fpga.pricing import summed
from hwnas.toolchains.fpga.settings import array_of

HERE = Path(__file__).parent
DEVICE = "fpga-systolic-16x16"
"""Clock, memory port and CPU are this device's; its array is what is chosen."""
PICTURE = Path("fpga-codesign.svg")


@dataclass(frozen=True)
class Pair:
    """A network on an array: mean validation accuracy over seeds, cost by part, and what the array takes."""

    array: str
    network: str
    accuracy: float
    latency_s: float
    price: Price
    dsp: int
    bram: int
    lut: int

    @property
    def goals(self) -> tuple[float, ...]:
        """What is made small."""
        return -self.accuracy, self.latency_s, self.dsp, self.bram

    @property
    def values(self) -> dict[str, float | None]:
        return {"latency": self.latency_s, "dsp": self.dsp, "bram": self.bram, "lut": self.lut}


def with_array(device: Device, sizes: dict[str, int]) -> Device:
    """The device with another array."""
    options = {**device.options["fpga"], "array": sizes}
    return device.model_copy(update={"options": {"fpga": options}})


def label(array: Array) -> str:
    """The array, with its buffers where they are not the usual ones."""
    usual = Array(array.rows, array.columns)
    return str(array) if array == usual else f"{array}, {array.steps}x{array.words}"


def buffers(text: str) -> dict[str, int]:
    """Sizes of the buffers of activations and weights from text such as 1024x4096: steps x words."""
    steps, _, words = text.partition("x")
    if not (steps.isdecimal() and words.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not STEPSxWORDS, such as 1024x4096")
    return {"steps": int(steps), "words": int(words)}


def trained_networks(space: SearchSpace) -> dict[str, float]:
    """Text -> mean validation accuracy of every network of the table that belongs to the space."""
    found: dict[str, list[float]] = {}
    for row in AccuracyTable.read(HERE / "mnist-5k-accuracies.jsonl").best():
        if row.space == space.id and np.isfinite(row.accuracy):
            found.setdefault(row.text, []).append(row.accuracy)
    return {text: mean(values) for text, values in found.items()}


def pairs(space: SearchSpace, networks: dict[str, float], arrays: Iterable[dict[str, int]]) -> list[Pair]:
    """Every network on every array."""
    toolchain, made = FpgaToolchain(), []
    graphs = {text: untrained(space, space.parse(text), "int8") for text in networks}
    for sizes in arrays:
        device = with_array(load_device(DEVICE), sizes)
        assert device.accelerator is not None
        taken, array = toolchain.resources(device), array_of(device)
        for text, graph in graphs.items():
            price = summed(kernel_prices(graph, array, device.accelerator))
            made.append(
                Pair(
                    label(array), text, networks[text], price.total / device.accelerator.clock, price,
                    int(taken["dsp"]), int(taken["bram"]), int(taken["lut"]),
                )
            )  # fmt: skip
    return made


def front(found: Sequence[Pair]) -> list[Pair]:
    """The pairs that no other is at least as good as everywhere and better somewhere, fastest first."""
    goals = np.array([pair.goals for pair in found])
    kept = [
        pair for pair, own in zip(found, goals) if not ((goals <= own).all(axis=1) & (goals < own).any(axis=1)).any()
    ]
    return sorted(kept, key=lambda pair: (pair.latency_s, pair.dsp))


class Axis:
    """Where values lie between two ends of the picture."""

    def __init__(self, values: Iterable[float], at: tuple[float, float]) -> None:
        known = list(values)
        room = 0.03 * (max(known) - min(known)) or 1.0
        self.low, self.high, self._at = min(known) - room, max(known) + room, at

    def __call__(self, value: float) -> float:
        first, last = self._at
        return first + (last - first) * (value - self.low) / (self.high - self.low)


LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT = 60, 630, 30, 380, 760, 430


def picture(found: Sequence[Pair], best: Sequence[Pair], budget: Budget) -> str:
    """Accuracy against latency (logarithmic), one colour for each number of multipliers, as SVG."""
    across = Axis((log10(1e3 * pair.latency_s) for pair in found), (LEFT, RIGHT))
    upwards = Axis((100 * pair.accuracy for pair in found), (BOTTOM, TOP))
    counts = sorted({pair.dsp for pair in found})
    colours = {n: f"hsl({210 - 200 * k // max(1, len(counts) - 1)} 70% 45%)" for k, n in enumerate(counts)}

    def dot(pair: Pair, look: str, inside: str = "") -> str:
        x, y = across(log10(1e3 * pair.latency_s)), upwards(100 * pair.accuracy)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" fill="{colours[pair.dsp]}" {look}>{inside}</circle>'

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

    shapes = []
    for tick in log_ticks(10**across.low, 10**across.high):
        x = across(log10(tick))
        shapes += [f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="#ddd"/>', text(x, BOTTOM + 18, f"{tick:g}", "middle")]
    for tick in (t for t in nice_ticks(upwards.low, upwards.high) if upwards.low <= t <= upwards.high):
        y = upwards(tick)
        shapes += [f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#ddd"/>', text(LEFT - 8, y + 4, f"{tick:g}", "end")]
    shapes += [dot(pair, 'r="3" fill-opacity=".35"') for pair in found]
    for pair in best:
        told = f"{pair.array}, {metric('latency', pair.latency_s)}, {pair.accuracy:.1%}: {pair.network}"
        shapes.append(dot(pair, 'r="5" stroke="#000"', f"<title>{escape(told)}</title>"))
    if budget.latency is not None and across.low < (limit := log10(1e3 * budget.latency)) < across.high:
        shapes.append(f'<path d="M{across(limit):.1f} {TOP}V{BOTTOM}" stroke="#b3261e" stroke-dasharray="6 4"/>')
    for k, count in enumerate(counts):
        y = TOP + 18 * k
        shapes.append(f'<circle cx="{RIGHT + 20}" cy="{y}" r="5" fill="{colours[count]}"/>')
        shapes.append(text(RIGHT + 32, y + 4, f"{count} DSP"))
    shapes.append(text((LEFT + RIGHT) / 2, HEIGHT - 12, "latency (cycle-sim, CPU rest by a model), ms", "middle"))
    shapes.append(text(LEFT, 18, "accuracy, % (ringed: within the budget, and no other pair beats it)"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="12">', '<rect width="100%" height="100%" fill="#fff"/>', *shapes, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", default="0.3 ms")
    parser.add_argument("--dsp", default="128")
    parser.add_argument("--bram", default="32")
    parser.add_argument("--buffers", nargs="+", type=buffers, default=[{}], metavar="STEPSxWORDS")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    start = time.monotonic()
    budget = Budget(latency=arguments.latency, dsp=arguments.dsp, bram=arguments.bram)
    space = load_space("mbconv-micro")
    networks = trained_networks(space)
    arrays = [{"rows": a.rows, "columns": a.columns, **sizes} for a in STANDARD for sizes in arguments.buffers]
    found = pairs(space, networks, arrays)
    fitting = [pair for pair in found if all(v <= 0 for v in budget.violations(pair.values).values())]
    best = front(fitting)
    columns = ("array", "DSP", "BRAM", "latency (cycle-sim)", "core", "accuracy", "network")
    print_table(
        f"{len(networks)} networks x {len(arrays)} arrays, {len(fitting)} of {len(found)} pairs within {budget}",
        columns,
        [
            (
                pair.array, pair.dsp, pair.bram, metric("latency", pair.latency_s),
                f"{pair.price.parts['accelerator'] / pair.price.total:.0%}", f"{pair.accuracy:.1%}", pair.network,
            )
            for pair in best
        ],
        right=columns[1:6],
    )  # fmt: skip
    arguments.picture.write_text(picture(found, best, budget), encoding="utf-8")
    out.print(f"\n{time.monotonic() - start:.0f} s. Picture: {arguments.picture}")


if __name__ == "__main__":
    guarded(main)
