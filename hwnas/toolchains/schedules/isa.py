"""What the schedules know of a core: one record of a dozen numbers, read from isa.yaml, found from a TVM target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

from hwnas.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Isa:
    """The numbers of one core that tile sizes follow from.

    `lanes` fp32 values a vector register; `registers` vector registers; `loads`, `fma`, `issue` operations a cycle;
    `latency` cycles of an FMA; `broadcast`: a scalar operand in memory takes no register; `predication`: stores take a
    mask; `dot` the 8-bit dot product ("vnni" | "vnni256" | "madd" | "sdot" | "smlal" | None); `l1_bytes` and `l2_bytes` of the
    data caches; `threads` of the build; `reason` why this record stands in for the CPU asked for, empty where it was
    made for it; `lookup` as in `lookup_of`.
    """

    name: str
    lanes: int
    registers: int
    loads: float
    fma: float
    latency: int
    issue: int
    broadcast: bool
    predication: bool
    dot: str | None
    l1_bytes: int
    l2_bytes: int
    threads: int = 1
    reason: str = ""
    lookup: str | None = None


@cache
def records() -> dict[str, tuple[str, frozenset[str], Isa]]:
    """Every record of isa.yaml by name: its architecture, the CPUs that it was made for, and its numbers."""
    text = resources.files(__package__).joinpath("isa.yaml").read_text(encoding="utf-8")
    found = {}
    for name, fields in yaml.safe_load(text).items():
        arch, cpus = fields.pop("arch"), frozenset(fields.pop("cpus"))
        found[name] = (arch, cpus, Isa(name=name, **fields))
    return found


def isa_named(name: str, threads: int = 1) -> Isa:
    """The record of that name. Raises ConfigError for an unknown one."""
    if name not in records():
        raise ConfigError("no such core in isa.yaml", key="isa", given=name, allowed=sorted(records()))
    return replace(records()[name][2], threads=threads)


def isa_of(target: Any) -> Isa:
    """The record for a TVM target: by `mcpu`, else the nearest of its architecture, with the reason stated.

    Raises ConfigError for a target that is neither x86-64 nor aarch64: the rules have no numbers for it.
    """
    from tvm.target import codegen

    cpu, triple = _text(target, "mcpu"), _text(target, "mtriple")
    threads = int(target.attrs.get("num-cores", 1) or 1)
    features = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
    for _, cpus, isa in records().values():
        if cpu in cpus:
            return replace(isa, threads=threads, dot=dot_of(isa.dot, features), lookup=lookup_of(features))
    triple = triple or str(codegen.llvm_get_system_triple())
    asked = f"{cpu or 'an unnamed CPU'} of {triple}"
    if triple.startswith(("aarch64", "arm64")):
        nearest = "cortex-a76" if "dotprod" in features else "cortex-a72"
    elif triple.startswith(("x86_64", "amd64")):
        nearest = "x86-avx512" if features >= {"avx512f", "avx512bw", "avx512vl"} else "x86-avx2"
    else:
        raise ConfigError("no core of isa.yaml is near it", key="target", given=asked, allowed=sorted(records()))
    isa = isa_named(nearest, threads)
    if nearest == "x86-avx2" and not features >= {"avx2", "fma"}:
        # SSE has half the lanes and no FMA; the shape of the tiles is the same.
        isa = replace(isa, lanes=4, dot=None)
    return replace(
        isa,
        dot=dot_of(isa.dot, features),
        lookup=lookup_of(features),
        reason=f"{nearest} stands in for {asked}: the nearest record by its features",
    )


def dot_of(dot: str | None, features: set[str]) -> str | None:
    """The 8-bit dot product of a core: that of its record, where the features of this build have it too."""
    if dot in ("vnni", "madd"):
        return "vnni" if "avx512vnni" in features else "vnni256" if "avxvnni" in features else "madd"
    return "smlal" if dot == "sdot" and "dotprod" not in features else dot


def lookup_of(features: set[str]) -> str | None:
    """How a core looks bytes up in a table that lies in its registers: "vbmi" (x86), "tbl" (Arm), None: it cannot."""
    return "vbmi" if "avx512vbmi" in features else "tbl" if "neon" in features else None


def _text(target: Any, key: str) -> str:
    return str(target.attrs.get(key, "") or "")
