"""The TVM toolchain: ONNX through Relax to a shared library for this CPU or another one (Relax VM executable).

The schedule is TVM's default lowering, which is far slower than a tuned one; the artifact and every row say so.
"""

from __future__ import annotations

import json
import os
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
    """The TVM target of a device's options: `target: native` for this CPU, else mtriple, mcpu and mattr."""
    import tvm
    from tvm.target import codegen

    kind: dict[str, Any] = {"kind": "llvm", "num-cores": int(options.get("threads", 1))}
    if options.get("target", "native") == "native":
        kind["mcpu"] = codegen.llvm_get_system_cpu()
    else:
        kind |= {key: options[key] for key in ("mtriple", "mcpu", "mattr") if key in options}
    return tvm.target.Target(kind)


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
                raise ConfigError("unknown option", key=f"options.tvm.{key}", given=key, allowed=TARGET_KEYS)
        os.environ["TVM_NUM_THREADS"] = str(options["threads"])
        for node in onnx.graph.node:
            if reason := self.unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
        import tvm
        from tvm.support import cc

        into.mkdir(parents=True, exist_ok=True)
        target = cpu_target(options)
        try:
            fused = lower(onnx, target)
            kernels = sorted(v.name_hint for v, f in fused.functions.items() if isinstance(f, tvm.tirx.PrimFunc))
            library = tvm.compile(fused, target=target)
            compiler = options.get("compiler")
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
