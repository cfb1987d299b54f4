"""The TVM toolchain: ONNX through Relax to a shared library for this CPU or another one (Relax VM executable).

The schedule is TVM's default lowering, which is far slower than a tuned one; the artifact and every row say so.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.core.artifact import INPUTS, LIBRARY, write_artifact
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.graph.analysis import analyse

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

SCHEDULE = "tvm-default"
PAIR = {"apache-tvm": "0.27.0", "apache-tvm-ffi": "0.1.14"}
KEY = "options.tvm"
TARGETS = ("native", "cross")
OTHER_NAMES = ("i486", "i586", "i686", "amd64", "arm64")
"""Architectures in triples that LLVM lists by another name."""
TARGET_KEYS = ("target", "threads", "mtriple", "mcpu", "mattr", "compiler")
# In the onnx importer, but without an implementation, or imported to something that cannot be compiled.
QUANTISED = "onnx operators of quantised arithmetic are not imported; export the network as QDQ instead"


def check_versions() -> None:
    """Refuse a TVM and tvm-ffi pair that is known to crash. Raises BuildError before anything is imported."""
    for package, wanted in PAIR.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            raise BuildError(
                "tvm import", f"{package} is not installed; pip install {package}=={wanted}.post1"
            ) from None
        if not found.startswith(wanted):
            raise BuildError(
                "tvm import",
                f"{package} {found} is not supported: {wanted} is (tvm-ffi 0.1.15 crashes the process in save_json). "
                "Install the pair that hwnas pins: pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1",
            )


def cpu_target(options: dict[str, Any]) -> Any:
    """The TVM target of a device's options: `target: native` for this CPU, `cross` for mtriple, mcpu and mattr.

    Raises ConfigError for a processor or a feature that LLVM does not know: it would build for another one instead.
    """
    import tvm
    from tvm.target import codegen

    kind: dict[str, Any] = {"kind": "llvm", "num-cores": int(options.get("threads", 1))}
    if options.get("target", "native") == "native":
        kind["mcpu"] = codegen.llvm_get_system_cpu()
        return tvm.target.Target(kind)
    if "mtriple" not in options:
        raise ConfigError("is required to build for another processor, such as aarch64-linux-gnu", key=f"{KEY}.mtriple")
    triple = str(options["mtriple"])
    families = [str(family) for family in codegen.llvm_get_targets()]
    if not triple.startswith((*families, *OTHER_NAMES)):  # asked about any other, LLVM crashes
        raise ConfigError("LLVM builds for no such processor", key=f"{KEY}.mtriple", given=triple, allowed=families)
    known = [str(cpu) for cpu in codegen.llvm_get_cpu_archlist(tvm.target.Target({**kind, "mtriple": triple}))]
    if (cpu := options.get("mcpu")) is not None and cpu not in known:
        raise ConfigError(f"LLVM knows no such {triple}", key=f"{KEY}.mcpu", given=cpu, allowed=known)
    kind |= {k: options[k] for k in ("mtriple", "mcpu", "mattr") if k in options}
    target = tvm.target.Target(kind)
    features = {str(feature) for feature in codegen.llvm_get_cpu_features(target)}
    for feature in options.get("mattr", ()):
        if feature.startswith("+") and feature[1:] not in features:
            raise ConfigError("LLVM knows no such feature", key=f"{KEY}.mattr", given=feature[1:], allowed=features)
    return target


def linker(options: dict[str, Any]) -> str | None:
    """The compiler that links for another processor, None for this one's. Raises BuildError where it is missing."""
    compiler = options.get("compiler")
    if options.get("target", "native") == "native":
        return None if compiler is None else str(compiler)
    compiler = str(compiler or f"{options['mtriple']}-gcc")
    if shutil.which(compiler) is None:
        package = f"gcc-{compiler.removesuffix('-gcc')}" if compiler.endswith("-gcc") else compiler
        raise BuildError(
            "link", f"{compiler} is missing, which links for {options['mtriple']}: apt-get install {package}"
        )
    return compiler


def lower(onnx: ModelProto, target: Any) -> Any:
    """ONNX to an IRModule of fused PrimFuncs and the Relax main that calls them."""
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


class TvmToolchain:
    """TVM Relax for CPUs, local or cross-compiled."""

    name = "tvm"
    cached = True
    rules = "tvm"

    def version(self) -> str:
        return f"{version('apache-tvm')}+ffi{version('apache-tvm-ffi')}"

    def unsupported(self, node: NodeProto) -> str | None:
        """TVM imports the operators of the ONNX standard that its Relax front end lists, quantised ones as QDQ."""
        check_versions()
        from tvm.relax.frontend.onnx import onnx_frontend

        if node.domain not in ("", "ai.onnx"):
            return f"domain {node.domain!r}: TVM imports the ONNX standard only"
        if node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "ConvInteger", "MatMulInteger"):
            return QUANTISED
        if node.op_type not in onnx_frontend._get_convert_map():
            return f"TVM {version('apache-tvm')} does not import it"
        return None

    def flash_bytes(self, onnx: ModelProto) -> int:
        """Constants, and a round figure for the code of each distinct kernel (`hwnas.graph.analysis`)."""
        return analyse(onnx, self.rules).flash_bytes

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Compile and link into `into`. Raises UnsupportedOperator or BuildError with the compiler's words."""
        check_versions()
        options = {"threads": 1, "target": "native", **device.options.get(self.name, {})}
        for key in options:
            if key not in TARGET_KEYS:
                raise ConfigError("unknown option", key=f"{KEY}.{key}", given=key, allowed=TARGET_KEYS)
        if options["target"] not in TARGETS:
            raise ConfigError("unknown target", key=f"{KEY}.target", given=options["target"], allowed=TARGETS)
        os.environ["TVM_NUM_THREADS"] = str(options["threads"])
        for node in onnx.graph.node:
            if reason := self.unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
        import tvm
        from tvm.support import cc

        into.mkdir(parents=True, exist_ok=True)
        target, compiler = cpu_target(options), linker(options)
        try:
            fused = lower(onnx, target)
            kernels = sorted(v.name_hint for v, f in fused.functions.items() if isinstance(f, tvm.tirx.PrimFunc))
            library = tvm.compile(fused, target=target)
            library.export_library(str(into / LIBRARY), fcompile=cc.cross_compiler(compiler) if compiler else None)
        except Exception as error:  # TVM raises many classes; what they say is what the user needs
            raise BuildError("tvm", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error
        (into / INPUTS).write_text(json.dumps(_input_types(onnx)))
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options=options,
                schedule=SCHEDULE,
                flash_bytes=(into / LIBRARY).stat().st_size,
                uncovered=tuple(kernels),  # no schedule rule of ours covers any kernel of the default lowering
            )
        )


def _input_types(network: ModelProto) -> list[tuple[list[int], str]]:
    """Shape and numpy type of each true input (an initializer may stand among the inputs in old files)."""
    from onnx.helper import tensor_dtype_to_np_dtype

    constants = {i.name for i in network.graph.initializer}
    return [
        (
            [d.dim_value for d in value.type.tensor_type.shape.dim],
            str(tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in network.graph.input
        if value.name not in constants
    ]
