"""Dot products of every core: exact at the ends of their types, and the instruction that they are named after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwnas.toolchains.schedules.dot import Dot, Rows, byte_dot, row_dot, word_dot
from hwnas.toolchains.schedules.isa import Isa, isa_of
from tests.toolchains.schedules.operators import Array

PIXELS, STEPS = 3, 5
CORES = {
    "haswell": ("avx2", {"mcpu": "haswell"}),
    "alderlake": ("avxvnni", {"mcpu": "alderlake"}),
    "skylake-avx512": ("avx512bw", {"mcpu": "skylake-avx512"}),
    "cascadelake": ("avx512vnni", {"mcpu": "cascadelake"}),
    "cortex-a72": ("", {"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "mattr": ["+neon"]}),
    "cortex-a76": ("", {"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76", "mattr": ["+neon", "+dotprod"]}),
}
"""The feature that this host needs to run the code (none: it cannot), and the target."""


def target_of(core: str) -> Any:
    import tvm

    return tvm.target.Target({"kind": "llvm", **CORES[core][1]})


def runs_here(core: str) -> bool:
    import tvm
    from tvm.target import codegen

    host = tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    return CORES[core][0] in {str(feature) for feature in codegen.llvm_get_cpu_features(host)}


def ends(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Values of a type of 8 bits, or of the 9 that a zero point makes of them, most of them at its ends."""
    low, high = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-255, 255)}[dtype]
    values = rng.integers(low, high, shape, endpoint=True)
    return np.where(rng.random(shape) < 0.7, np.where(rng.random(shape) < 0.5, low, high), values).astype(dtype)


def built(dot: Dot, target: Any) -> Any:
    """A product of a few pixels with one vector of outputs, compiled."""
    import tvm
    from tvm import te

    data = te.placeholder((PIXELS, STEPS * dot.group), dot.data, name="data")
    weights = te.placeholder((STEPS, dot.lanes, dot.group), dot.weight, name="weights")
    step, k = te.reduce_axis((0, STEPS), "step"), te.reduce_axis((0, dot.group), "k")
    sums = te.compute(
        (PIXELS, dot.lanes),
        lambda i, v: te.sum(
            data[i, step * dot.group + k].astype("int32") * weights[step, v, k].astype("int32"), axis=[step, k]
        ),
        name="sums",
    )
    schedule = tvm.s_tir.Schedule(te.create_prim_func([data, weights, sums]))
    block = schedule.get_sblock("sums")
    i, v, outer, inner = schedule.get_loops(block)
    schedule.reorder(i, outer, v, inner)
    if dot.intrinsic is None:
        schedule.vectorize(v)
    schedule.decompose_reduction(block, outer)
    if dot.intrinsic is not None:
        schedule.tensorize(v, dot.intrinsic)
    return tvm.compile(schedule.mod, target=target)


@pytest.mark.parametrize("choose", [byte_dot, word_dot])
@pytest.mark.parametrize("core", CORES)
def test_products_are_exact_and_use_the_instruction(core: str, choose: Any) -> None:
    import tvm

    target = target_of(core)
    dot = choose(isa_of(target))
    library = built(dot, target)
    assert dot.kind in library.mod.inspect_source("asm")
    if not runs_here(core):
        return
    rng = np.random.default_rng(0)
    for _ in range(20):
        data = ends(rng, (PIXELS, STEPS * dot.group), dot.data)
        weights = ends(rng, (STEPS, dot.lanes, dot.group), dot.weight)
        sums = tvm.runtime.tensor(np.zeros((PIXELS, dot.lanes), np.int32))
        library["main"](tvm.runtime.tensor(data), tvm.runtime.tensor(weights), sums)
        exact = np.einsum("isk,svk->iv", data.reshape(PIXELS, STEPS, -1).astype(np.int64), weights.astype(np.int64))
        assert (sums.numpy() == exact).all()


def chosen(isa: Isa, dot: str | None) -> tuple[Dot, Dot, Rows]:
    isa = replace(isa, dot=dot)
    return byte_dot(isa), word_dot(isa), row_dot(isa)


def test_each_core_has_its_dot_products() -> None:
    x86, arm = isa_of(target_of("cascadelake")), isa_of(target_of("cortex-a76"))
    assert [d.kind for d in chosen(x86, "vnni")[:2]] == ["vpdpbusd", "vpdpwssd"]
    assert [d.lanes for d in chosen(x86, "vnni256")] == [8, 8, 8]
    assert [d.kind for d in chosen(x86, "madd")[:2]] == ["vpmaddwd", "vpmaddwd"]
    assert [d.kind for d in chosen(arm, "sdot")[:2]] == ["sdot", "smlal"]
    assert [d.kind for d in chosen(arm, "smlal")[:2]] == ["smlal", "smlal"]
    assert [rows.sums for *_, rows in (chosen(x86, "madd"), chosen(x86, "vnni"), chosen(arm, "smlal"))] == [
        "float32", "int32", "int32",
    ]  # fmt: skip
