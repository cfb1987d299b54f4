"""The TVM toolchain: ONNX through Relax to a shared library for this CPU or another one (Relax VM executable).

Kernels are scheduled by our own rules (`schedules/`) and compiled once for all networks that have them. What no rule
covers runs as TVM's default lowering leaves it, far slower; the artifact and every row name it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.core.artifact import INPUTS, LIBRARY, write_artifact
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, ConfigError, HwnasError, UnsupportedOperator
from hwnas.graph.analysis import analyse
from hwnas.graph.workloads import is_channels_last
from hwnas.toolchains.schedules import SCHEDULE, TUNED, VERSION

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from hwnas.toolchains.schedules.tuning import Event

PAIR = {"apache-tvm": "0.27.0", "apache-tvm-ffi": "0.1.14"}
KEY = "options.tvm"
TARGETS = ("native", "cross")
OTHER_NAMES = ("i486", "i586", "i686", "amd64", "arm64")
"""Architectures in triples that LLVM lists by another name."""
TARGET_KEYS = ("target", "threads", "mtriple", "mcpu", "mattr", "compiler", "tuned")
MOST_THREADS = 1024
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


def uses_tuned(options: Mapping[str, Any]) -> bool:
    """Whether a device's options ask for tuned schedules. Raises ConfigError where there can be none."""
    tuned = options.get("tuned", False)
    if not isinstance(tuned, bool):
        raise ConfigError("has to be true or false", key=f"{KEY}.tuned", given=tuned)
    if tuned and options.get("target", "native") != "native":
        raise ConfigError(
            "schedules are tuned for this computer's processor alone (target: native)", key=f"{KEY}.tuned"
        )
    return tuned


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


def tvm_version() -> str:
    """TVM's version and that of the interface that it is called through."""
    return f"{version('apache-tvm')}+ffi{version('apache-tvm-ffi')}"


class TvmToolchain:
    """TVM Relax for CPUs, local or cross-compiled, under the schedules of `hwnas.toolchains.schedules`."""

    name = "tvm"
    cached = True
    rules = "tvm"

    def version(self) -> str:
        return f"{tvm_version()}+schedules{VERSION}"

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
        """Constants, and a round figure for the code of each distinct kernel (`hwnas.graph.analysis`).

        Rows of a table tell more: what each kernel's code and constants take in a library (`predictors.memory`).
        """
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
        threads = options["threads"]
        if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= MOST_THREADS:
            raise ConfigError(f"is a number from 1 to {MOST_THREADS}", key=f"{KEY}.threads", given=threads)
        features = options.get("mattr", [])
        if not isinstance(features, list | tuple) or not all(isinstance(f, str) for f in features):
            raise ConfigError("is a list such as ['+dotprod']", key=f"{KEY}.mattr", given=features)
        uses_tuned(options)
        os.environ["TVM_NUM_THREADS"] = str(threads)
        for node in onnx.graph.node:
            if reason := self.unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
        from hwnas.toolchains.schedules.isa import isa_of
        from hwnas.toolchains.schedules.objects import link_library
        from hwnas.toolchains.schedules.pipeline import fused
        from hwnas.toolchains.schedules.tuned import TunedSchedules, named

        into.mkdir(parents=True, exist_ok=True)
        target, compiler = cpu_target(options), linker(options)
        isa = isa_of(target)
        try:
            network = fused(onnx, isa, target, "NHWC" if is_channels_last(onnx) else "NCHW")
            tuned = TunedSchedules(str(target)) if uses_tuned(options) else None
            linked = link_library(network.module, target, into / LIBRARY, compiler, isa=isa, tuned=tuned)
        except HwnasError:
            raise
        except Exception as error:  # TVM raises many classes; what they say is what the user needs
            raise BuildError("tvm", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error
        write_inputs(onnx, into, network.input_axes, network.output_axes)
        flash_bytes = (into / LIBRARY).stat().st_size
        memory = {"code": linked.code_bytes, "constants": linked.constant_bytes, "flash": flash_bytes}
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options=options,
                schedule=SCHEDULE if tuned is None else TUNED,
                flash_bytes=flash_bytes,
                memory=memory,
                uncovered=(*network.uncovered, *linked.uncovered),
                kernels=linked.kernels,
                layout_transforms=network.layout_transforms,
                code=(*named(linked.tuned), *(tuned.faults if tuned is not None else ())),
            )
        )


def tuning(
    networks: Sequence[ModelProto], device: Device, trials: int, seed: int = 0, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Tune the heaviest kernels of networks for a device that is this computer (`schedules.tuning`).

    Raises UnsupportedOperator, or BuildError for what cannot be lowered.
    """
    check_versions()
    options = {"threads": 1, "target": "native", **device.options.get(TvmToolchain.name, {})}
    os.environ["TVM_NUM_THREADS"] = str(options["threads"])
    for network in networks:
        for node in network.graph.node:
            if reason := TvmToolchain().unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
    from hwnas.toolchains.schedules.tuned import TunedSchedules
    from hwnas.toolchains.schedules.tuning import tune

    target = cpu_target(options)
    try:
        yield from tune(networks, target, trials, TunedSchedules(str(target)), seed, stop)
    except HwnasError:
        raise
    except Exception as error:  # as in `TvmToolchain.build`
        raise BuildError("tvm", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error


def write_inputs(
    network: ModelProto,
    into: Path,
    input_axes: Sequence[Sequence[int] | None] = (),
    output_axes: Sequence[Sequence[int] | None] = (),
) -> None:
    """Say beside a library what it takes and gives: shape and numpy type of each input as the library has it.

    `input_axes` are the permutations from the network's inputs to the library's, `output_axes` those from the
    network's outputs to the library's; None where they are the same.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    constants = {i.name for i in network.graph.initializer}  # in old files they stand among the inputs as well
    kinds = [value.type.tensor_type for value in network.graph.input if value.name not in constants]
    inputs = []
    for k, kind in enumerate(kinds):
        axes = input_axes[k] if k < len(input_axes) else None
        shape = [d.dim_value for d in kind.shape.dim]
        told = shape if axes is None else [shape[axis] for axis in axes]
        inputs.append({"shape": told, "dtype": str(tensor_dtype_to_np_dtype(kind.elem_type)), "axes": axes})
    document = {"inputs": inputs, "outputs": [{"axes": axes} for axes in output_axes]}
    (into / INPUTS).write_text(json.dumps(document, indent=1) + "\n")
