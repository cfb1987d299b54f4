"""Stands in for edgetpu_compiler, which is closed and not on PyPI: takes its options and prints what published logs hold.

Layout and sentences follow the logs of versions 15.0 and 16.0 in google-coral/edgetpu issues 60, 189, 313, 427 and 671. It
maps the first `--cut` operators (all without it), or all but one kind, and compiles nothing: the "compiled" file is the
input with the name of the custom operator behind it.

    edgetpu_stand_in.py [--cut N] [--refuse KIND] [--cache BYTES] [--behave HOW] OPTIONS OF EDGETPU_COMPILER
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

VERSION = "Edge TPU Compiler version 16.0.384591198"
MAPPED, AFTER, KIND = (
    "Mapped to Edge TPU",
    "More than one subgraph is not supported",
    "Operation is otherwise supported, but not mapped due to some unspecified limitation",
)


def operators(data: bytes) -> list[str]:
    import tflite

    names = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}
    network = tflite.Model.GetRootAsModel(data, 0)
    graph = network.Subgraphs(0)
    codes = [network.OperatorCodes(graph.Operators(i).OpcodeIndex()) for i in range(graph.OperatorsLength())]
    return [names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]


def parameters(data: bytes) -> int:
    import tflite

    network = tflite.Model.GetRootAsModel(data, 0)
    return sum(network.Buffers(i).DataLength() for i in range(network.BuffersLength()))


def size(n: float) -> str:
    for unit, step in (("MiB", 2**20), ("KiB", 2**10)):
        if n >= step:
            return f"{n / step:.2f}{unit}"
    return f"{n:.2f}B"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cut", type=int)
    parser.add_argument("--refuse", default="")
    parser.add_argument("--cache", type=int, default=7 * 2**20)
    parser.add_argument("--behave", default="")
    parser.add_argument("-v", "--version", action="store_true")
    parser.add_argument("-s", "--show_operations", action="store_true")
    parser.add_argument("-a", action="store_true", dest="several")
    parser.add_argument("-o", "--out_dir", type=Path, default=Path())
    parser.add_argument("networks", nargs="*", type=Path)
    given = parser.parse_args()
    print(VERSION)
    if given.version:
        return 0
    [path] = given.networks
    data = path.read_bytes()
    if given.behave == "hang":
        sys.stdout.flush()
        time.sleep(600)
    if given.behave == "abort":
        print("\nInternal compiler error. Aborting! ")
        return 1
    if given.behave == "float":
        print(f"Invalid model: {path}\nModel not quantized")
        return 1
    if given.behave == "flood":
        for _ in range(200_000):
            print("CONV_2D " * 12)
        return 1
    if given.behave == "nothing":
        return 0
    found = operators(data)
    fates = [MAPPED] * len(found)
    for i, kind in enumerate(found):
        if given.cut is not None and i >= given.cut:
            fates[i] = KIND if i == given.cut else AFTER
        elif kind == given.refuse:
            fates[i] = KIND
            if not given.several:
                fates[i + 1 :] = [AFTER] * (len(found) - i - 1)
                break
    pieces = sum(fate == MAPPED and (not i or fates[i - 1] != MAPPED) for i, fate in enumerate(fates))
    table = Counter(zip(found, fates))
    lines = ["Operator                       Count      Status", ""]
    lines += [f"{kind:<30} {n:<10} {fate}" for (kind, fate), n in sorted(table.items())]
    stem, total = path.stem, parameters(data)
    cached = min(total, given.cache)
    compiled = given.out_dir / f"{stem}_edgetpu.tflite"
    compiled.write_bytes(b"not a network" if given.behave == "spoil" else data + b"edgetpu-custom-op")
    head = f"{VERSION}\nInput: {path.name}\nOutput: {compiled.name}\n\n"
    (given.out_dir / f"{stem}_edgetpu.log").write_text(head + "\n".join(lines) + "\n")
    print("Started a compilation timeout timer of 180 seconds.\n\nModel compiled successfully in 124 ms.\n")
    print(f"Input model: {path}\nInput size: {size(len(data))}")
    print(f"Output model: {compiled}\nOutput size: {size(compiled.stat().st_size)}")
    print(f"On-chip memory used for caching model parameters: {size(cached)}")
    if given.behave != "silent":
        print(f"On-chip memory remaining for caching model parameters: {size(given.cache - cached)}")
    print(f"Off-chip memory used for streaming uncached model parameters: {size(total - cached)}")
    print(f"Number of Edge TPU subgraphs: {pieces}")
    print(f"Total number of operations: {len(found)}\nOperation log: {stem}_edgetpu.log\n")
    on_cpu = sum(fate != MAPPED for fate in fates)
    if on_cpu:
        print("Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the")
        print(f"Number of operations that will run on Edge TPU: {len(found) - on_cpu}")
        print(f"Number of operations that will run on CPU: {on_cpu}\n")
    if given.show_operations:
        print("\n".join(lines))
    print("Compilation child process completed within timeout period.\nCompilation succeeded! ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
