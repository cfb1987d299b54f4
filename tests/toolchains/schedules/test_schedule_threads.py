"""Kernels on two threads: what a thread runs is compiled as well as what a single thread runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hwnas.toolchains.schedules.isa import isa_of
from hwnas.toolchains.schedules.machine_code import compiled_module
from hwnas.toolchains.schedules.pipeline import fused
from hwnas.toolchains.schedules.rules import scheduled
from hwnas.toolchains.schedules.threads import SHARE
from tests.toolchains.schedules.operators import assert_same, network, node, normal, target

CPU = "znver4"


def convolution(channels: int, pixels: int, size: int, stride: int = 1) -> Any:
    """A convolution over `pixels` x `pixels` that keeps the number of channels."""
    weights = normal(channels, channels, size, size)
    operator = node("Conv", "x w", "y", kernel_shape=[size] * 2, pads=[size // 2] * 4, strides=[stride] * 2)
    return network([operator], {"x": (1, channels, pixels, pixels)}, ["y"], {"w": weights})


def code(threads: int) -> str:
    """LLVM's words for the kernel of a convolution that prefetches its weights."""
    import tvm

    chosen = target(CPU, threads)
    isa = isa_of(chosen)
    module = fused(convolution(128, 28, 3), isa, chosen).module
    (function,) = [f for name, f in module.functions.items() if "conv" in name.name_hint]
    made, reason = scheduled(function.with_attr("global_symbol", "main"), isa)
    assert not reason
    with tvm.transform.PassContext(opt_level=3, config={"tirx.enable_buffer_level_predication": True}):
        return str(compiled_module(made, "kernel", chosen).inspect_source("ll"))


def test_a_share_knows_that_its_arrays_do_not_overlap() -> None:
    found = re.findall(rf"^define [^\n]*@{SHARE}[.\d]*\(([^\n]*?)\)[^()\n]*$", code(2), re.MULTILINE)
    assert len(found) == 2, "the padded copy and the convolution"
    for arguments in found:
        arrays = [argument for argument in re.split(r", (?=ptr|i32|i64)", arguments) if argument.startswith("ptr")]
        assert arrays and all("noalias" in array for array in arrays), arguments


def test_sums_stay_in_registers_in_a_share_as_on_a_single_thread() -> None:
    """Where they do not, each pass of the reduction ends with a store of every accumulator."""
    stores = {threads: code(threads).count("store <16 x float>") for threads in (1, 2)}
    assert 0 < stores[2] <= stores[1]


@pytest.mark.parametrize("pixels, size, stride", [(14, 1, 2), (28, 1, 1), (28, 3, 1)])
def test_a_kernel_may_end_with_a_parallel_loop(pixels: int, size: int, stride: int) -> None:
    """Where no memory is freed behind it (the first), LLVM has to be given another instruction there."""
    assert_same(convolution(128, pixels, size, stride), normal(1, 128, pixels, pixels), threads=2)
