"""The record of a core: found from a target, with a stated reason where another one stands in."""

from __future__ import annotations

from typing import Any

import pytest

from hwnas.errors import ConfigError
from hwnas.toolchains.schedules.isa import isa_named, isa_of, records


def target(**options: Any) -> Any:
    import tvm

    return tvm.target.Target({"kind": "llvm", **options})


@pytest.mark.parametrize(
    "options, name, lanes, dot",
    [
        ({"mcpu": "haswell"}, "x86-avx2", 8, "madd"),
        ({"mcpu": "znver5"}, "x86-avx512", 16, "vnni"),
        ({"mcpu": "skylake-avx512"}, "x86-avx512", 16, "madd"),  # AVX-512 without VNNI
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53"}, "cortex-a53", 4, "smlal"),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}, "cortex-a72", 4, "smlal"),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}, "cortex-a76", 4, "sdot"),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a78ae"}, "cortex-a78ae", 4, "sdot"),
    ],
)
def test_known_cpus_have_a_record_of_their_own(options: dict[str, Any], name: str, lanes: int, dot: str) -> None:
    isa = isa_of(target(**options))
    assert (isa.name, isa.lanes, isa.dot, isa.reason) == (name, lanes, dot, "")


@pytest.mark.parametrize(
    "options, name",
    [
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-v1"}, "cortex-a76"),
        ({"mtriple": "aarch64-linux-gnu"}, "cortex-a72"),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "alderlake"}, "x86-avx2"),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "graniterapids"}, "x86-avx512"),
        ({"mtriple": "x86_64-linux-gnu", "mcpu": "knl"}, "x86-avx2"),  # AVX-512 without bytes and words
    ],
)
def test_an_unknown_cpu_gets_the_nearest_record_and_the_reason(options: dict[str, Any], name: str) -> None:
    isa = isa_of(target(**options))
    assert isa.name == name
    assert name in isa.reason and options.get("mcpu", "unnamed") in isa.reason


def test_a_core_without_avx_gets_half_the_lanes() -> None:
    isa = isa_of(target(mtriple="x86_64-linux-gnu", mcpu="x86-64"))
    assert (isa.lanes, isa.dot) == (4, None)


def test_threads_come_from_the_target() -> None:
    assert isa_of(target(mcpu="haswell", **{"num-cores": 3})).threads == 3
    assert isa_of(target(mcpu="haswell")).threads == 1


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="no core of isa.yaml is near it"):
        isa_of(target(mtriple="riscv64-unknown-linux-gnu", mcpu="generic-rv64"))


def test_an_unknown_record_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean cortex-a7"):
        isa_named("cortex-a99")


def test_every_record_is_sane() -> None:
    for name, (arch, cpus, isa) in records().items():
        assert isa.name == name and arch in ("x86", "aarch64") and cpus
        assert isa.lanes in (4, 8, 16) and isa.registers in (16, 32)
        assert 0 < isa.loads <= 4 and 0 < isa.fma <= 4 and isa.l1_bytes < isa.l2_bytes
