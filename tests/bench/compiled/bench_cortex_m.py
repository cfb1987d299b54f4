"""Executed instructions of single int8 operators on emulated Cortex-M boards, beside CMSIS-NN's.

Every operator goes through the product: QDQ ONNX, cgen, the firmware, QEMU, the runner's own instruction counts.
Its outputs are compared with numpy element by element. Counts are of instructions executed under QEMU, of code by
gcc 12.2; the weighted cycles beside them are a model of no silicon, and nothing here is a time.

Run: python tests/bench/compiled/bench_cortex_m.py [--core m4 ...] [--only TEXT] [--dtype uint8] [--power-of-two]
     python tests/bench/compiled/bench_cortex_m.py --random 40 --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import numpy as np

from hwnas.core.artifact import LAYOUT
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.errors import HwnasError
from hwnas.toolchains.cgen import CgenToolchain
from tests.bench.compiled.cortex_m_boards import WeighedBoard, roomy, weighed
from tests.bench.compiled.cortex_m_networks import Case, Grids, case
from tests.bench.compiled.cortex_m_shapes import CORES, Shape, drawn, fixed

GOALS = {"m3": (0.65, 1.0), "m4": (0.5, 0.85), "m7": (0.5, 0.85), "m55": (0.7, 1.0)}
"""Geometric mean of ours over the peer's, and the largest of any shape."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one shape gave on one core; `error` says why it gave nothing."""

    shape: Shape
    kernels: str = ""
    instructions: float = 0.0
    moves: int = 0
    cycles: float = 0.0
    scratch_bytes: int = 0
    flash_bytes: int = 0
    compared: int = 0
    differing: int = 0
    furthest: int = 0
    build_s: float = 0.0
    error: str = ""

    @property
    def per_unit(self) -> float:
        return self.instructions / self.shape.units

    def ratio(self, core: str) -> float | None:
        constant = self.shape.constant(core)
        return None if constant is None or self.error else self.per_unit / constant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", nargs="+", choices=CORES, default=CORES)
    parser.add_argument("--only", default="", help="only shapes whose name holds this text")
    parser.add_argument("--dtype", choices=("int8", "uint8"), default="int8")
    parser.add_argument("--power-of-two", action="store_true", help="scales of our own quantiser: powers of two")
    parser.add_argument("--clamped", action="store_true", help="every result behind a Clip: bounds of calibration")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N drawn shapes instead, for correctness")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    zeros = (5, -7) if given.dtype == "int8" else (128, 0)
    grids = Grids(given.dtype, *zeros, power_of_two=given.power_of_two)
    shapes = drawn(given.random, given.seed) if given.random else fixed()
    chosen = [replace(shape, clamped=True) if given.clamped else shape for shape in shapes if given.only in shape.name]
    bad = 0
    for core in given.core:
        rows = measure(chosen, grids, roomy(core), given.seed)
        print_table(core, rows, grids)
        bad += sum(bool(row.error or row.differing) for row in rows)
    sys.exit(1 if bad else 0)


def measure(shapes: list[Shape], grids: Grids, device: Device, seed: int) -> list[Row]:
    """A row of each shape: all are built, linked into as few images as hold them, and run."""
    cases = [case(shape, grids, seed) for shape in shapes]
    built: list[Artifact | Row] = []
    with tempfile.TemporaryDirectory(prefix="hwnas-bench-") as folder, weighed(device) as board:
        spent = []
        for k, one in enumerate(cases):
            begin = time.perf_counter()
            try:
                built.append(CgenToolchain().build(one.network, device, Path(folder) / str(k)))
            except HwnasError as error:
                built.append(Row(one.shape, error=" ".join(str(error).split())[-160:]))
            spent.append(time.perf_counter() - begin)
        board.stage([artifact for artifact in built if isinstance(artifact, Artifact)])
        return [
            made if isinstance(made, Row) else row(board, one, made, seed, seconds)
            for one, made, seconds in zip(cases, built, spent)
        ]


def row(board: WeighedBoard, one: Case, artifact: Artifact, seed: int, build_s: float) -> Row:
    """Counts and outputs of one built case."""
    try:
        counted = board.count(artifact)
        inputs = one.inputs(np.random.default_rng(seed))
        found = board.outputs(artifact, inputs).astype(np.int64)
    except (HwnasError, RuntimeError) as error:
        return Row(one.shape, error=" ".join(str(error).split())[-160:])
    off = np.abs(found - one.integers(inputs).astype(np.int64))
    described = layout(artifact)
    return Row(
        one.shape,
        "+".join(described["code"]),
        sum(kernel.instructions for kernel in counted),
        described["layout_transforms"],
        sum(kernel.cycles for kernel in counted),
        artifact.memory.get("workspace", 0),
        artifact.memory.get("code", 0) + artifact.memory.get("constants", 0),
        off.size,
        int((off > 0).sum()),
        int(off.max(initial=0)),
        build_s,
    )


def layout(artifact: Artifact) -> dict[str, Any]:
    """What an artifact says of its network."""
    found: dict[str, Any] = json.loads((Path(artifact.path) / LAYOUT).read_text())
    return found


def print_table(core: str, rows: list[Row], grids: Grids) -> None:
    scales = "powers of two" if grids.power_of_two else "any scale"
    print(f"\n## {core}: executed instructions per unit under QEMU, gcc 12.2; {grids.dtype}, {scales}")
    head = (f"{'shape':<34} {'ours':>7} {'peer':>7} {'ratio':>6} {'weighted':>8} {'peer':>6} {'scratch':>7} {'flash':>7} "
            f"{'moves':>6} {'differ':>12}  kernel")  # fmt: skip
    print(head)
    for row in rows:
        if row.error:
            print(f"{row.shape.name:<34} FAILED {row.error}")
            continue
        constant, ratio = row.shape.constant(core), row.ratio(core)
        print(
            f"{row.shape.name:<34} {row.per_unit:>7.3f} {_number(constant):>7} {_number(ratio):>6} "
            f"{row.cycles / row.shape.units:>8.2f} {_number(row.shape.peer_cycles.get(core), 2):>6} {row.scratch_bytes:>7} {row.flash_bytes:>7} "
            f"{row.moves:>6} {f'{row.differing}/{row.compared}':>12}"
            f"{f' by {row.furthest}' if row.furthest > 1 else ''}  {row.kernels}"
        )
    compared, differing = sum(row.compared for row in rows), sum(row.differing for row in rows)
    print(
        f"outputs: {differing} of {compared} differ from the integer reference; failed: {sum(bool(r.error) for r in rows)}"
    )
    ratios = [ratio for row in rows if (ratio := row.ratio(core)) is not None]
    if ratios:
        mean, worst = float(np.exp(np.log(ratios).mean())), max(ratios)
        goal, limit = GOALS[core]
        verdict = "met" if mean <= goal and worst <= limit else "MISSED"
        print(
            f"{core}: geometric mean {mean:.3f} (goal {goal}), largest {worst:.3f} (goal {limit}): {verdict}; "
            "executed instructions under QEMU, gcc 12.2, ours over CMSIS-NN's"
        )
    weighted = [row.cycles / row.shape.units / peer for row in rows if not row.error
                and (peer := row.shape.peer_cycles.get(core)) is not None]  # fmt: skip
    if weighted:
        print(f"{core}: weighted cycles of {len(weighted)} shapes over CMSIS-NN's: "
              f"geometric mean {float(np.exp(np.log(weighted).mean())):.3f}; a model, no silicon")  # fmt: skip
    sys.stdout.flush()


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    main()
