"""Kernels as objects: they compute the same with and without checks, and who is called from outside checks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.toolchains.schedules.machine_code import compiled_module
from hwnas.toolchains.schedules.objects import ObjectCache, link_library
from tests.toolchains.schedules.operators import target
from tests.toolchains.schedules.test_objects import network

SIZE = 40


def doubling() -> Any:
    """y = 2 x, its loop in vectors."""
    import tvm
    from tvm import te

    x = te.placeholder((SIZE,), name="x")
    function = te.create_prim_func([x, te.compute((SIZE,), lambda i: x[i] * 2.0, name="y")])
    schedule = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
    schedule.vectorize(schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, 8])[1])
    return schedule.mod["main"]


def tensor(array: Any) -> Any:
    import tvm

    return tvm.runtime.tensor(array)


@pytest.mark.parametrize("checked", [True, False])
def test_a_kernel_computes_what_it_says(checked: bool) -> None:
    x, y = np.arange(SIZE, dtype=np.float32), tensor(np.zeros(SIZE, np.float32))
    compiled_module(doubling(), "kernel", target(), checked)["kernel"](tensor(x), y)
    np.testing.assert_array_equal(y.numpy(), 2 * x)


def test_a_checked_kernel_refuses_another_shape() -> None:
    kernel = compiled_module(doubling(), "kernel", target())["kernel"]
    with pytest.raises(ValueError, match=r"shape\[0\]"):
        kernel(tensor(np.zeros(SIZE - 1, np.float32)), tensor(np.zeros(SIZE, np.float32)))


def test_an_object_holds_its_kernel_once_and_checks_only_if_asked_to(tmp_path: Path) -> None:
    sizes = {}
    for checked in (True, False):
        path = tmp_path / f"{checked}.o"
        compiled_module(doubling(), "kernel", target(), checked).write_to_file(str(path))
        sizes[checked] = path.stat().st_size
        listed = subprocess.run(("nm", path), capture_output=True, text=True, check=True).stdout
        functions = [line.split()[-1] for line in listed.splitlines() if "kernel" in line or "main" in line]
        assert [name for name in functions if name.startswith("__tvm_ffi")] == ["__tvm_ffi_kernel"]
    assert sizes[False] < sizes[True]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(15, np.float32),
        np.zeros(17, np.float32),
        np.zeros((4, 4), np.float32),
        np.zeros(16, np.float64),
        np.zeros(16, np.int32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_a_network_whose_kernels_do_not_check_refuses_what_is_no_input_of_its_own(wrong: Any, tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    link_library(network(2.0, 3.0), target(), tmp_path / "n.so", kept=ObjectCache(tmp_path / "kept"))
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(tmp_path / "n.so")), tvm.cpu())
    with pytest.raises((ValueError, TypeError, RuntimeError, AssertionError)):
        machine["main"](tensor(wrong))
