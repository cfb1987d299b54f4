"""Instructions executed for a Cortex-A72 under QEMU: our code against onnxruntime's; counts, never a latency.

Run: python -m tests.bench.compiled.bench_aarch64 [NETWORK ...] [--int8] [--kernels] [--measure-onnxruntime]

Needs the emulated board (`hwnas devices setup rpi4b-qemu`). `--kernels` lists what each kernel of ours executes.
`--measure-onnxruntime` fetches onnxruntime's wheel for aarch64, counts it in the same QEMU, and keeps the counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")

from tests.bench.compiled.aarch64 import KEPT, Board, Counts, board, kept_counts, measure_onnxruntime, structure
from tests.bench.compiled.engines import first_line, onnxruntime, relative_error
from tests.bench.compiled.kernels import executed_macs
from tests.bench.compiled.networks import REFERENCES, names, network, quantised, random_input
from tests.bench.compiled.timing import geometric_mean

GOAL_EACH, GOAL_MEAN = 1.0, 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(REFERENCES), metavar="NETWORK", help=", ".join(names()))
    parser.add_argument("--int8", action="store_true", help="the quantised forms")
    parser.add_argument("--kernels", action="store_true", help="list the kernels of each network as well")
    parser.add_argument("--measure-onnxruntime", action="store_true", help=f"count it anew, into {KEPT.name}")
    settings = parser.parse_args()
    if settings.measure_onnxruntime:
        measure_onnxruntime(settings.networks)
    passed, ratios = True, {}
    print(
        f"{'network':22} {'ratio':>6} {'ours M':>8} {'memory':>8} {'SIMD':>8} {'ort M':>8} {'memory':>8} {'SIMD':>8} "
        f"{'error':>8} {'uncov.':>6}  verdict (instructions; goal {GOAL_EACH} each, {GOAL_MEAN} in the mean)"
    )
    with board() as emulated:
        for name in settings.networks:
            try:
                ratio, good = measure(emulated, name, settings.int8)
                if settings.kernels:
                    kernels(emulated, name, settings.int8)
            except Exception as error:  # one network that cannot be built does not hide the others
                print(f"{name:22} FAILED: {first_line(error)}", flush=True)
                ratio, good = None, False
            passed &= good
            if ratio is not None:
                ratios[name] = ratio
    for label, values in (
        ("reference networks", [r for n, r in ratios.items() if n in REFERENCES]),
        ("all networks", list(ratios.values())),
    ):
        if values:
            mean = geometric_mean(values)
            met = "met" if mean <= GOAL_MEAN else "MISSED"
            print(
                f"{label}: geometric mean {mean:.3f} of {len(values)} (goal {GOAL_MEAN}: {met}), worst {max(values):.2f}"
            )
    sys.exit(0 if passed else 1)


def measure(emulated: Board, name: str, int8: bool) -> tuple[float | None, bool]:
    """Measure and print one network: the ratio if onnxruntime's counts are known, and whether it is good."""
    graph = quantised(name) if int8 else network(name)
    given = random_input(graph)
    with tempfile.TemporaryDirectory(prefix="hwnas-bench-") as folder:
        artifact = emulated.network(graph, Path(folder))
        mine = emulated.counts(artifact)
        wanted = onnxruntime(graph, given, optimisation="none" if int8 else "all").outputs()
        error = relative_error(emulated.outputs(artifact, given), wanted)
    label = f"{name} int8" if int8 else name
    known, theirs = kept_counts().get(label, ("", None))
    ratio = None if theirs is None or known != structure(graph) else mine.all / theirs.all
    good = ratio is not None and (ratio <= GOAL_EACH or name not in REFERENCES)
    good = good and not artifact.uncovered and (int8 or error <= 1e-5)
    counted = f"{_millions(theirs)}" if ratio is not None and theirs is not None else f"{'-':>8} {'-':>8} {'-':>8}"
    shown = "-" if ratio is None else f"{ratio:.2f}"
    remark = "ok" if good else "count onnxruntime anew" if ratio is None else "MISSED"
    print(
        f"{label:22} {shown:>6} {_millions(mine)} {counted} {error:8.1e} {len(artifact.uncovered):6d}  {remark}",
        flush=True,
    )
    for reason in artifact.uncovered:
        print(f"  uncovered: {reason[:300]}")
    return ratio, good


def kernels(emulated: Board, name: str, int8: bool) -> None:
    """Print what each kernel executes, those that execute the most first."""
    rows = sorted(emulated.kernels(quantised(name) if int8 else network(name)), key=lambda row: -row[2] * row[3].all)
    total = sum(calls * counts.all for _, _, calls, counts in rows)
    print(
        f"  {'k insns':>9} {'share':>6} {'calls':>5} {'MMAC':>7} {'per MAC':>7} {'memory':>7} {'SIMD':>7}  "
        "kernel: parameters (memory and SIMD per MAC, or as shares)"
    )
    for kernel, function, calls, counts in rows:
        macs = executed_macs(function)
        if macs:
            per = f"{counts.all / macs:7.3f} {counts.memory / macs:7.3f} {counts.simd / macs:7.3f}"
        else:
            per = f"{'-':>7} {counts.memory / counts.all:7.0%} {counts.simd / counts.all:7.0%}"
        shapes = " ".join("x".join(str(int(d)) for d in p.shape) or "scalar" for p in function.params)
        executed = calls * counts.all
        print(
            f"  {executed / 1e3:9.1f} {executed / total:6.1%} {calls:5d} {macs / 1e6:7.2f} {per}  {kernel}: {shapes}",
            flush=True,
        )


def _millions(counts: Counts) -> str:
    return " ".join(f"{value / 1e6:8.2f}" for value in (counts.all, counts.memory, counts.simd))


if __name__ == "__main__":
    main()
