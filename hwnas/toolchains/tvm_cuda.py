"""The TVM toolchain for NVIDIA's embedded GPUs: ONNX through Relax and dlight to device code, without a GPU here.

TVM without a CUDA runtime exports a library that carries CUDA source, which the board would have to compile again at
every load. Here nvcc compiles it, and the library carries the device code instead. Schedules are dlight's general rules;
kernels that only its fallback covers are named. Its speed on a board is not known before it is measured there.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.core.artifact import LIBRARY, write_artifact
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.graph.analysis import analyse
from hwnas.toolchains.cubin import Kernel, read_kernels
from hwnas.toolchains.nvcc import Nvcc, find_nvcc
from hwnas.toolchains.schedules.objects import embed, packed_imports
from hwnas.toolchains.tvm import TvmToolchain, check_versions, cpu_target, linker, tvm_version, write_inputs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

SCHEDULE = "tvm-dlight"
KEY = "options.tvm-cuda"
OPTIONS = ("target", "threads", "mtriple", "mcpu", "mattr", "compiler")
SOURCE, CUBIN, KERNELS = "kernels.cu", "kernels.cubin", "kernels.json"
"""Beside the library: the CUDA source, the device code, and what the assembler said of each kernel."""


class TvmCudaToolchain:
    """TVM Relax for a GPU named by TVM's tag (option `target`); the host code is built by the other options."""

    name = "tvm-cuda"
    rules = "tvm"

    def version(self) -> str:
        return tvm_version()

    def unsupported(self, node: NodeProto) -> str | None:
        """TVM imports the operators of the ONNX standard that its Relax front end lists, quantised ones as QDQ."""
        return TvmToolchain().unsupported(node)

    def flash_bytes(self, onnx: ModelProto) -> int:
        """Constants, and a round figure for the code of each distinct kernel (`hwnas.graph.analysis`)."""
        return analyse(onnx, self.rules).flash_bytes

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Compile and link into `into`, device code included. Raises UnsupportedOperator, BuildError, ConfigError."""
        check_versions()
        options = {"threads": 1, **device.options.get(self.name, {})}
        for key in options:
            if key not in OPTIONS:
                raise ConfigError("unknown option", key=f"{KEY}.{key}", given=key, allowed=OPTIONS)
        for node in onnx.graph.node:
            if reason := self.unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
        nvcc, target = find_nvcc(), gpu_target(options)
        chip = int(str(target.arch).removeprefix("sm_"))
        compiler = linker({**options, "target": "cross"})
        os.environ["TVM_NUM_THREADS"] = str(options["threads"])
        into.mkdir(parents=True, exist_ok=True)
        try:
            library, uncovered = compile_library(onnx, target)
        except Exception as error:  # TVM raises many classes; what they say is what the user needs
            raise BuildError("tvm", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error
        kernels = device_code(library, nvcc, chip, into)
        export(library, compiler, into)
        (into / KERNELS).write_text(json.dumps([k.as_json() for k in kernels], indent=1) + "\n")
        write_inputs(onnx, into)
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options={**options, "nvcc": nvcc.release},
                schedule=SCHEDULE,
                flash_bytes=(into / LIBRARY).stat().st_size,
                uncovered=uncovered,
                memory={"device_code": sum(k.code_bytes for k in kernels)},
            )
        )


def gpu_target(options: dict[str, Any]) -> Any:
    """TVM's target of the tag in option `target`, with the host that the options describe. Raises ConfigError."""
    import tvm

    tags = sorted(str(tag) for tag in tvm.target.list_tags() or ())
    gpus = [tag for tag in tags if tag.startswith("nvidia/")]
    if options.get("target") not in gpus:
        raise ConfigError("name the GPU by TVM's tag", key=f"{KEY}.target", given=options.get("target"), allowed=gpus)
    host = cpu_target({**options, "target": "cross"})
    return tvm.target.Target(options["target"], host=host)


def lower(onnx: ModelProto, target: Any) -> Any:
    """ONNX to an IRModule of fused PrimFuncs, as TVM legalises them, and the Relax main that calls them."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    passes = relax.transform
    pipeline = tvm.transform.Sequential(
        [
            passes.DecomposeOpsForInference(),  # the default pipeline leaves Clip and BatchNorm in pieces
            passes.CanonicalizeBindings(),
            passes.FoldConstant(),
            passes.LegalizeOps(),
            passes.AnnotateTIROpPattern(),
            passes.FoldConstant(),
            passes.FuseOps(),
            passes.FuseTIR(),
            passes.DeadCodeElimination(),
        ]
    )
    with target:
        return pipeline(from_onnx(onnx, keep_params_in_input=False))


def compile_library(onnx: ModelProto, target: Any) -> tuple[Any, tuple[str, ...]]:
    """The compiled library, and the names of the kernels that only dlight's fallback schedules."""
    import tvm
    from tvm.s_tir import dlight

    gpu = dlight.gpu
    with target:
        fused = lower(onnx, target)
        ruled = dlight.ApplyDefaultSchedule(gpu.Matmul(), gpu.GEMV(), gpu.Reduction(), gpu.GeneralReduction())(fused)
        uncovered = tuple(
            sorted(
                var.name_hint
                for var, function in ruled.functions.items()
                if isinstance(function, tvm.tirx.PrimFunc) and not (function.attrs or {}).get("tirx.is_scheduled")
            )
        )
        scheduled = dlight.ApplyDefaultSchedule(gpu.Fallback())(ruled)
        return tvm.compile(scheduled, target=target), uncovered


def device_code(library: Any, nvcc: Nvcc, chip: int, into: Path) -> tuple[Kernel, ...]:
    """Compile the library's CUDA source into `into`, and check that every kernel has code. Raises BuildError."""
    source = cuda_source(library)
    if source is None:
        return ()  # a network that only moves data between shapes
    (into / SOURCE).write_text(source)
    log = nvcc.cubin(into / SOURCE, into / CUBIN, chip)
    return read_kernels(source, (into / CUBIN).read_bytes(), log, chip)


def cuda_source(library: Any) -> str | None:
    """The CUDA source that a compiled library carries; None where it has no kernels."""
    pending = [library.mod]
    while pending:
        module = pending.pop()
        if module.kind == "cuda":
            return str(module.inspect_source("cuda"))
        pending += list(module.imports)
    return None


def export(library: Any, compiler: str | None, into: Path) -> None:
    """Link the shared library, its device code in the place of the source. Raises BuildError."""
    from tvm.support import cc

    cubin = into / CUBIN
    source = cuda_source(library)
    pack: Callable[..., str] | None = None
    if source is not None:

        def pack(module: Any, _system: bool, _prefix: str, folder: str) -> str:
            blob = with_device_code(bytes(packed_imports(module)), source.encode(), cubin.read_bytes())
            return embed(blob, Path(folder))

    try:
        library.export_library(
            str(into / LIBRARY), fcompile=cc.cross_compiler(compiler) if compiler else None, fpack_imports=pack
        )
    except BuildError:
        raise
    except Exception as error:
        raise BuildError("link", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error


def with_device_code(blob: bytes, source: bytes, cubin: bytes) -> bytes:
    """The serialised imports with the CUDA module's source replaced by device code. Raises BuildError.

    The format of TVM 0.27 (src/target/codegen.cc, src/backend/cuda/runtime/cuda_module.cc): a length; the import tree
    as two rows of numbers; then a kind for each module and, unless it is part of the library itself (`_lib`), its
    bytes. Those of a CUDA module are format, kernel signatures and code, and with the format `cubin` the code goes to
    the driver as it is. Strings and rows carry their length in front, everything is 64-bit little-endian.
    """
    reader = _Reader(blob)
    if reader.number() != len(blob) - 8:
        raise BuildError("link", "the imports of the library are not in the format of TVM 0.27")
    for _ in range(2):
        reader.take(8 * reader.number())
    changed, pieces = 0, [blob[8 : reader.at]]
    while reader.at < len(blob):
        kind = reader.text()
        pieces.append(_text(kind))
        if kind == b"_lib":
            continue
        value = reader.text()
        if kind == b"cuda":
            head, tail = _text(b"cuda"), _text(source)
            if not value.startswith(head) or not value.endswith(tail):
                raise BuildError("link", "the CUDA module of the library is not in the format of TVM 0.27")
            value = _text(b"cubin") + value[len(head) : -len(tail)] + _text(cubin)
            changed += 1
        pieces.append(_text(value))
    if changed != 1:
        raise BuildError("link", f"the library holds {changed} CUDA modules, not one")
    body = b"".join(pieces)
    return struct.pack("<Q", len(body)) + body


class _Reader:
    """Numbers and strings out of bytes. Raises BuildError where they end early."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def take(self, n: int) -> bytes:
        if n < 0 or self.at + n > len(self._data):
            raise BuildError("link", "the imports of the library end early")
        found = self._data[self.at : self.at + n]
        self.at += n
        return found

    def number(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def text(self) -> bytes:
        return self.take(self.number())


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value
