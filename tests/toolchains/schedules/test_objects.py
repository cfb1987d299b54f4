"""Compiled kernels are found again by content, by other networks and processes, and never when they are spoilt."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.firmware.sizes import sections
from hwnas.toolchains.schedules import objects
from hwnas.toolchains.schedules.isa import isa_of
from hwnas.toolchains.schedules.objects import (
    SUFFIX,
    Object,
    ObjectCache,
    kernel_id,
    link_library,
    numbered,
    object_key,
)

SIZE = 16


def host() -> Any:
    import tvm
    from tvm.target import codegen

    return tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(), "num-cores": 1})


def kernel(factor: float, names: str = "xy") -> Any:
    """y = x * factor, with variables of these names."""
    from tvm import te

    x = te.placeholder((SIZE,), name=names[0])
    y = te.compute((SIZE,), lambda i: x[i] * factor, name=names[1])
    return te.create_prim_func([x, y])


def network(*factors: float) -> Any:
    """A module that multiplies by one factor after the other, then adds a constant."""
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((SIZE,), "float32"))
    with builder.function("main", [x]):
        value: Any = x
        for k, factor in enumerate(factors):
            function = builder.add_func(kernel(factor, f"{chr(97 + k)}z"), f"scale{k}")
            value = builder.emit(relax.call_tir(function, [value], relax.TensorType((SIZE,), "float32")))
        builder.emit_func_output(value)
    return builder.get()


def run(path: Path) -> np.ndarray:
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    return np.asarray(machine["main"](tvm.runtime.tensor(np.arange(SIZE, dtype=np.float32))).numpy())


def test_networks_share_the_kernels_that_they_have_in_common(tmp_path: Path) -> None:
    kept = ObjectCache(tmp_path / "kept")
    first = link_library(network(2.0, 3.0), host(), tmp_path / "a.so", kept=kept)
    second = link_library(network(3.0, 5.0), host(), tmp_path / "b.so", kept=kept)
    again = link_library(network(3.0, 2.0, 5.0), host(), tmp_path / "c.so", kept=kept)
    assert [(x.kernels, x.compiled) for x in (first, second, again)] == [(2, 2), (2, 1), (3, 0)]
    for name, factor in (("a", 6), ("b", 15), ("c", 30)):
        np.testing.assert_array_equal(run(tmp_path / f"{name}.so"), factor * np.arange(SIZE, dtype=np.float32))


def test_equal_kernels_of_one_network_are_one(tmp_path: Path) -> None:
    linked = link_library(network(2.0, 2.0, 2.0), host(), tmp_path / "a.so", kept=ObjectCache(tmp_path / "kept"))
    assert (linked.kernels, linked.compiled) == (1, 1)
    np.testing.assert_array_equal(run(tmp_path / "a.so"), 8 * np.arange(SIZE, dtype=np.float32))


def test_a_library_tells_the_bytes_of_code_and_constants_and_holds_little_else(tmp_path: Path) -> None:
    kept = ObjectCache(tmp_path / "kept")
    libraries = [network(2.0), network(2.0, 3.0), network(2.0, 3.0, 3.0)]
    one, two, three = (link_library(n, host(), tmp_path / f"{k}.so", kept=kept) for k, n in enumerate(libraries))
    assert 0 < one.code_bytes < two.code_bytes == three.code_bytes, "a kernel's code counts once"
    assert 0 < one.constant_bytes <= two.constant_bytes <= three.constant_bytes < 4_000, "there are no constants"
    files = [(tmp_path / f"{k}.so").stat().st_size - x.code_bytes - x.constant_bytes for k, x in enumerate((one, two))]
    assert all(0 < frame < 30_000 for frame in files)
    names = {section.name for section in sections(tmp_path / "1.so")}
    assert ".dynsym" in names and not [n for n in names if n.startswith(".debug")]


@pytest.mark.parametrize("spoil", [
    lambda data: b"", lambda data: data[:20], lambda data: data[:-1], lambda data: data[:100] + b"\0" + data[101:],
    lambda data: data + b"\0", lambda data: bytes(len(data)),
])  # fmt: skip
def test_a_spoilt_object_is_dropped_and_compiled_again(spoil: Any, tmp_path: Path) -> None:
    kept = ObjectCache(tmp_path / "kept")
    link_library(network(2.0), host(), tmp_path / "a.so", kept=kept)
    [entry] = (tmp_path / "kept").glob(f"*{SUFFIX}")
    whole = entry.read_bytes()
    entry.write_bytes(spoil(whole))
    assert link_library(network(2.0), host(), tmp_path / "b.so", kept=kept).compiled == 1
    np.testing.assert_array_equal(run(tmp_path / "b.so"), 2 * np.arange(SIZE, dtype=np.float32))
    assert kept.restore(entry.name.removesuffix(SUFFIX)) is not None
    assert link_library(network(2.0), host(), tmp_path / "c.so", kept=kept).compiled == 0


def test_a_reason_that_is_no_text_breaks_nothing(tmp_path: Path) -> None:
    kept = ObjectCache(tmp_path)
    rest = b"\xff\xfe\0object"
    (tmp_path / f"k{SUFFIX}").write_bytes(hashlib.blake2b(rest, digest_size=32).digest() + rest)
    found = kept.restore("k")
    assert found is not None and found.data == b"object" and found.reason


def test_a_folder_that_cannot_be_written_keeps_nothing_and_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = ObjectCache(tmp_path / "file" / "kept")
    for name in ("a", "b"):
        assert link_library(network(2.0), host(), tmp_path / f"{name}.so", kept=kept).compiled == 1


def test_what_was_used_longest_ago_is_dropped(tmp_path: Path) -> None:
    kept = ObjectCache(tmp_path, most=8)
    for k in range(9):
        kept.keep({f"k{k}": Object(bytes([k]), "why")})
        if k < 8:
            assert kept.restore("k0") == Object(b"\0", "why")  # used, so it is young
    left = {path.name.removesuffix(SUFFIX) for path in tmp_path.glob(f"*{SUFFIX}")}
    assert len(left) == 7
    assert left >= {"k0", "k8"}
    assert not list(tmp_path.glob(".new-*"))


def test_a_kernel_is_known_by_content_alone() -> None:
    assert kernel_id(kernel(2.0)) == kernel_id(kernel(2.0).with_attr("global_symbol", "conv7"))
    assert kernel_id(kernel(2.0)) != kernel_id(kernel(3.0))
    nearly = float(np.nextafter(np.float32(2.0), np.float32(3.0)))
    assert kernel_id(kernel(2.0)) != kernel_id(kernel(nearly))


def test_a_kernel_is_known_in_every_process() -> None:
    code = (
        "from tests.toolchains.schedules.test_objects import kernel; from hwnas.toolchains.schedules import objects;"
        "kernel(9.0); print(objects.kernel_id(kernel(2.0)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == kernel_id(kernel(2.0))


def test_variables_are_numbered_and_nothing_else_is() -> None:
    script = 'def f(a: T.Buffer((4,), "a")):\n    for i in range(4):\n        a[i] = T.max(a[i], b.data, axis=i == 0)'
    assert numbered(script).splitlines()[1:] == [
        "    for v2 in v3(4):",
        "        v1[v2] = T.max(v1[v2], v4.data, axis=v2 == 0)",
    ]
    assert numbered(script) == numbered(script.replace("i", "j").replace("jn", "in").replace("axjs", "axis"))
    assert numbered("T.f(low=x)") != numbered("T.f(high=x)")
    assert numbered('T.f("a")') != numbered('T.f("b")')
    assert numbered("x + y") != numbered("x + x")


def test_what_decides_the_code_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    import tvm

    known = object_key("hw_0", host(), {})
    assert object_key("hw_1", host(), {}) != known
    assert object_key("hw_0", host(), {"tirx.disable_vectorize": True}) != known
    assert object_key("hw_0", host(), {}, isa_of(host())) != known
    assert object_key("hw_0", host(), {}, replace(isa_of(host()), threads=2)) != object_key(
        "hw_0", host(), {}, isa_of(host())
    )
    assert object_key("hw_0", tvm.target.Target({"kind": "llvm", "mcpu": "haswell"}), {}) != known
    for name, value in (("VERSION", 99), ("version", lambda _: "0.99"), ("_sources", lambda: "other")):
        with monkeypatch.context() as patched:
            patched.setattr(objects, name, value)
            assert object_key("hw_0", host(), {}) != known
