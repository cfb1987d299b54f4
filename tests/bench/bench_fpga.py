"""The systolic core in figures: cycles, utilisation, speed of its simulation, and what it takes of an FPGA.

Run: python tests/bench/bench_fpga.py            (builds the simulators on first use)
     python tests/bench/bench_fpga.py --write    counts the resources anew for firmware/fpga/resources.json (some minutes)
     python tests/bench/bench_fpga.py --place    also places and routes 8x8, where nextpnr-ecp5 is installed
"""

from __future__ import annotations

import sys
import time

import numpy as np

from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.build import simulator
from hwnas.firmware.fpga.job import Job, Requantisation, Shape
from hwnas.firmware.fpga.law import cycles, utilisation
from hwnas.firmware.fpga.reference import compute
from hwnas.firmware.fpga.simulation import Simulation
from hwnas.firmware.fpga.synthesis import frequency_hz, resources, write_shipped

SHAPES = {
    "GEMM 32 x 64 x 32": Shape(32, 64, 32),
    "1x1, 28 x 28, 16 -> 64": Shape(784, 16, 64),
    "1x1, 7 x 7, 96 -> 32": Shape(49, 96, 32),
    "3x3, 14 x 14, 32 -> 32": Shape(196, 288, 32),
    "3x3, 28 x 28, 1 -> 16": Shape(784, 9, 16),
    "dense, 128 -> 10": Shape(1, 128, 10),
}


def job(shape: Shape, rng: np.random.Generator) -> Job:
    return Job(
        rng.integers(0, 256, (shape.m, shape.k)).astype(np.uint8),
        rng.integers(-128, 128, (shape.k, shape.n)).astype(np.int8),
        rng.integers(-1000, 1000, shape.n).astype(np.int32),
        Requantisation.by_multiplier(rng.integers(2**20, 2**24, shape.n)),
        zero=128,
    )


def main() -> None:
    if "--write" in sys.argv:
        write_shipped()
    for array in (Array(8, 8), Array(16, 16)):
        start = time.perf_counter()
        simulator(array)
        print(f"\n{array} (built or found in {time.perf_counter() - start:.1f} s)")
        print(f"{'job':<26}{'cycles':>9}{'law':>9}{'utilisation':>13}{'cycles/s':>12}")
        with Simulation(array) as simulation:
            for name, shape in SHAPES.items():
                given = job(shape, np.random.default_rng(0))
                simulation.run([given])
                start = time.perf_counter()
                [result] = simulation.run([given])
                taken = time.perf_counter() - start
                assert np.array_equal(result.values, compute(given))
                print(f"{name:<26}{result.cycles:>9,}{cycles(shape, array):>9,}{utilisation(shape, array):>13.1%}"
                      f"{result.cycles / taken:>12,.0f}")  # fmt: skip
        for family in ("xilinx", "ecp5"):
            found = resources(array, family)
            print(f"{family:<8} LUT {found.lut:,}, FF {found.ff:,}, DSP {found.dsp:,}, BRAM {found.bram:,}")
    if "--place" in sys.argv:
        print(f"8x8 on LFE5U-85F: {frequency_hz(Array(8, 8)) / 1e6:.1f} MHz")


if __name__ == "__main__":
    main()
