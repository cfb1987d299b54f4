"""8-bit and 16-bit dot products of a core, as tensor intrinsics: what one instruction (or two) adds to 32-bit lanes.

Every one of them is exact. vpmaddubsw and its like saturate at 16 bits and are not used: on x86 without VNNI the
operands are widened to 16 bits, where pairs of products are summed in 32.
"""

from __future__ import annotations

# TVMScript writes shapes and types of buffers as annotations, from values of the enclosing function.
# mypy: disable-error-code="valid-type, untyped-decorator"
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from hwnas.toolchains.schedules.isa import Isa

Kind = Literal["vpdpbusd", "vpdpwssd", "vpmaddwd", "sdot", "smlal"]


@dataclass(frozen=True, slots=True)
class Dot:
    """How products are summed: `group` of them at once into each of `lanes` 32-bit sums.

    `data` and `weight` are the types of the operands; `intrinsic` names the tensor intrinsic, None where LLVM finds
    the instruction for the plain expression; `operations` is how many it takes, of which one multiplies.
    """

    kind: Kind
    lanes: int
    group: int
    data: Literal["uint8", "int8", "int16"]
    weight: Literal["int8", "int16"]
    intrinsic: str | None
    operations: int = 1


def byte_dot(isa: Isa) -> Dot:
    """The fastest exact dot product of 8-bit data with 8-bit constants on a core."""
    if isa.dot in ("vnni", "vnni256"):
        lanes = 16 if isa.dot == "vnni" else 8
        return Dot("vpdpbusd", lanes, 4, "uint8", "int8", _intrinsic("vpdpbusd", lanes))
    if isa.dot == "sdot":
        return Dot("sdot", 4, 4, "int8", "int8", _intrinsic("sdot", 4))
    return word_dot(isa)


def word_dot(isa: Isa) -> Dot:
    """The dot product of 16-bit operands: what is left where both are computed, or 8 bits have no instruction."""
    if isa.dot in ("vnni", "vnni256"):
        lanes = 16 if isa.dot == "vnni" else 8
        return Dot("vpdpwssd", lanes, 2, "int16", "int16", _intrinsic("vpdpwssd", lanes))
    if isa.dot == "madd":
        return Dot("vpmaddwd", isa.lanes, 2, "int16", "int16", _intrinsic("vpmaddwd", isa.lanes), 2)
    return Dot("smlal", isa.lanes, 1, "int16", "int16", None)


@dataclass(frozen=True, slots=True)
class Rows:
    """How rows of a window are summed channel by channel: `group` rows at once into each of `lanes` sums.

    `data` and `weight` are the types of the operands, `sums` that of the sums, all exact.
    """

    lanes: int
    group: int
    data: Literal["uint8", "int16", "float32"]
    weight: Literal["int8", "int16", "float32"]
    sums: Literal["int32", "float32"]
    intrinsic: str | None


def row_dot(isa: Isa) -> Rows:
    """The fastest exact sum of rows of 8-bit data times 8-bit constants on a core."""
    if isa.dot in ("vnni", "vnni256"):
        lanes = 16 if isa.dot == "vnni" else 8
        name = f"hwnas.rows.{lanes}"
        _register_rows(name, lanes)
        return Rows(lanes, 4, "uint8", "int8", "int32", name)
    if isa.dot in ("sdot", "smlal"):
        return Rows(2 * isa.lanes, 1, "int16", "int16", "int32", None)
    return Rows(isa.lanes, 1, "float32", "float32", "float32", None)


@cache
def _register_rows(name: str, lanes: int) -> None:
    """Four rows of as many channels as there are lanes: bytes of one channel are brought together, then VPDPBUSD."""
    from tvm.s_tir import TensorIntrin
    from tvm.script import tirx as T

    sums, vector, pixels = f"int32x{lanes}", f"int8x{4 * lanes}", f"uint8x{4 * lanes}"
    order = [row * lanes + lane for lane in range(lanes) for row in range(4)]
    dot = _expression("vpdpbusd", lanes)

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((4, lanes), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4, 0:lanes], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.cast(A[vk, vi], "int32") * T.cast(B[vi, vk], "int32")

    def gathered(data: Any) -> Any:
        from tvm import tirx

        return tirx.Shuffle([data], [tirx.IntImm("int32", place) for place in order])

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((4, lanes), "uint8", offset_factor=1),
        B: T.Buffer((lanes, 4), "int8", offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:4, 0:lanes], B[0:lanes, 0:4])
            T.writes(C[0:lanes])
            C[T.ramp(T.int32(0), 1, lanes)] = dot(
                C.vload([0], dtype=sums), gathered(A.vload([0, 0], pixels)), B.vload([0, 0], dtype=vector)
            )

    TensorIntrin.register(name, description, implementation, override=True)


def _intrinsic(kind: Kind, lanes: int) -> str:
    name = f"hwnas.{kind}.{lanes}"
    _register(name, kind, lanes)
    return name


@cache
def _register(name: str, kind: Kind, lanes: int) -> None:
    from tvm.s_tir import TensorIntrin

    group = 2 if kind in ("vpdpwssd", "vpmaddwd") else 4
    data = {"vpdpbusd": "uint8", "sdot": "int8"}.get(kind, "int16")
    weight = "int16" if group == 2 else "int8"
    TensorIntrin.register(
        name,
        _description(lanes, group, data, weight),
        _implementation(lanes, group, data, weight, _expression(kind, lanes)),
        override=True,
    )


def _description(lanes: int, group: int, data: str, weight: str) -> Any:
    """What an intrinsic computes: sums[i] += data[k] * weights[i, k]."""
    from tvm.script import tirx as T

    @T.prim_func(s_tir=True)
    def description(
        A: T.Buffer((group,), data, offset_factor=1),
        B: T.Buffer((lanes, group), weight, offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:group], B[0:lanes, 0:group])
            T.writes(C[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, group):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")

    return description


def _implementation(lanes: int, group: int, data: str, weight: str, expression: Callable[..., Any]) -> Any:
    from tvm.script import tirx as T

    piece, vector = f"{data}x{group}", f"{weight}x{lanes * group}"
    spread, sums = f"{data}x{lanes * group}", f"int32x{lanes}"

    @T.prim_func(s_tir=True)
    def implementation(
        A: T.Buffer((group,), data, offset_factor=1),
        B: T.Buffer((lanes, group), weight, offset_factor=1),
        C: T.Buffer((lanes,), "int32", offset_factor=1),
    ) -> None:
        with T.sblock("root"):
            T.reads(C[0:lanes], A[0:group], B[0:lanes, 0:group])
            T.writes(C[0:lanes])
            C[T.ramp(T.int32(0), 1, lanes)] = expression(
                C.vload([0], dtype=sums),
                T.reinterpret(T.broadcast(T.reinterpret(A.vload([0], piece), dtype="int32"), lanes), dtype=spread),
                B.vload([0, 0], dtype=vector),
            )

    return implementation


def _expression(kind: Kind, lanes: int) -> Callable[..., Any]:
    """The instruction of a kind on whole registers: sums, data in every lane, weights of the lanes."""
    from tvm.script import tirx as T

    sums = f"int32x{lanes}"
    bits = 32 * lanes

    def call(name: str, *operands: Any) -> Any:
        return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *operands, dtype=sums)

    if kind in ("vpdpbusd", "vpdpwssd"):
        return lambda total, data, weight: call(f"llvm.x86.avx512.{kind}.{bits}", total, data, weight)
    if kind == "vpmaddwd":
        name = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd", 128: "llvm.x86.sse2.pmadd.wd"}[bits]
        return lambda total, data, weight: total + call(name, data, weight)
    return lambda total, data, weight: call("llvm.aarch64.neon.sdot", total, data, weight)
