"""Instructions that a network executes on an emulated Cortex-A72: by our code, and by onnxruntime in the same QEMU.

Counts are exact and repeat; they are no cycles and no time. onnxruntime's are kept in `onnxruntime_aarch64.json` with
where they come from, and are measured anew on request, from its wheel for aarch64.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.bench.compiled.networks import network, quantised

DEVICE = "rpi4b-qemu"
ONNXRUNTIME = "1.20.1"
"""The newest release that starts under QEMU 7.2; 1.31.1 crashes there at import."""
KEPT = Path(__file__).with_name("onnxruntime_aarch64.json")
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Counts:
    """Executed instructions of one run: all, those that access memory, those of the SIMD and floating-point unit."""

    all: int
    memory: int
    simd: int


class Board:
    """The emulated board, opened once, for networks that are built for it one after the other."""

    def __init__(self, opened: Any, device: Any) -> None:
        self._opened, self._device = opened, device

    def counts(self, artifact: Any) -> Counts:
        """The counts of the last of two runs."""
        found = self._opened.counts(artifact, 2, TIMEOUT_S)
        return Counts(found["instructions"][-1], found["memory"][-1], found["simd"][-1])

    def network(self, graph: onnx.ModelProto, folder: Path) -> Any:
        """The artifact of a network, built by the product's own toolchain."""
        from hwnas.toolchains.tvm import TvmToolchain

        return TvmToolchain().build(graph, self._device, folder)

    def outputs(self, artifact: Any, given: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._opened.outputs(artifact, [given], TIMEOUT_S)[0]
        return found

    @property
    def target(self) -> Any:
        from hwnas.toolchains.tvm import cpu_target

        return cpu_target(self._device.options["tvm"])

    def kernels(self, graph: onnx.ModelProto) -> Iterator[tuple[str, Any, int, Counts]]:
        """Each distinct kernel of a network: name, scheduled PrimFunc, how often it is called, counts of a call."""
        import tvm
        from tvm import relax

        from hwnas.toolchains.schedules.isa import isa_of
        from hwnas.toolchains.schedules.pipeline import apply_rules, calls_of, fused

        target = self.target
        isa = isa_of(target)
        module, _ = apply_rules(fused(graph, isa, target).module, isa)
        calls = calls_of(module)
        for variable, function in module.functions.items():
            if isinstance(function, tvm.tirx.PrimFunc) and calls[variable.name_hint]:
                name = variable.name_hint
                yield name, function, calls[name], self._kernel(function, name, relax)

    def _kernel(self, function: Any, name: str, relax: Any) -> Counts:
        """The counts of a kernel as a network of its own, whose parameters are all inputs."""
        from hwnas.core.artifact import INPUTS, LIBRARY, write_artifact
        from hwnas.core.workload import Artifact
        from hwnas.toolchains.schedules.objects import link_library

        shapes = [([int(d) for d in p.shape], str(p.dtype)) for p in function.params]
        builder = relax.BlockBuilder()
        given = [relax.Var(f"p{i}", relax.TensorType(*shape)) for i, shape in enumerate(shapes[:-1])]
        with builder.function("main", given):
            kernel = builder.add_func(function.without_attr("global_symbol"), name)
            result = builder.emit(relax.call_tir(kernel, given, relax.TensorType(*shapes[-1])))
            builder.emit_func_output(result)
        with tempfile.TemporaryDirectory(prefix="hwnas-bench-") as folder:
            path = Path(folder)
            compiler = self._device.options["tvm"]["compiler"]
            link_library(builder.finalize(), self.target, path / LIBRARY, compiler)
            inputs = [{"shape": shape, "dtype": dtype, "axes": None} for shape, dtype in shapes[:-1]]
            (path / INPUTS).write_text(json.dumps({"inputs": inputs, "outputs": [{"axes": None}]}))
            size = (path / LIBRARY).stat().st_size
            options = dict(self._device.options["tvm"])
            return self.counts(write_artifact(Artifact(str(path), "tvm", "bench", options, "bench", flash_bytes=size)))


@contextmanager
def board() -> Iterator[Board]:
    """The emulated Cortex-A72 of the device `rpi4b-qemu`."""
    from hwnas.config import load_device
    from hwnas.runners.tvm_rpc import RpcRunner

    device = load_device(DEVICE)
    opened = RpcRunner().open(device)
    try:
        yield Board(opened, device)
    finally:
        opened.close()


def structure(graph: onnx.ModelProto) -> str:
    """A digest of a network but for the values of its weights: counts of another structure are no longer its counts."""
    shapes = {i.name: list(i.dims) for i in graph.graph.initializer}
    nodes = [
        (n.op_type, [shapes.get(i) for i in n.input], str(sorted(map(str, n.attribute)))) for n in graph.graph.node
    ]
    shape = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    return hashlib.blake2b(json.dumps([shape, nodes]).encode(), digest_size=8).hexdigest()


def kept_counts() -> dict[str, tuple[str, Counts]]:
    """onnxruntime's counts by network ("NAME" or "NAME int8"): the structure that they are of, and the counts."""
    rows = json.loads(KEPT.read_text())["networks"]
    return {name: (row["structure"], Counts(row["all"], row["memory"], row["simd"])) for name, row in rows.items()}


def measure_onnxruntime(names: Sequence[str], keep: bool = True) -> Mapping[str, Counts]:
    """Count onnxruntime on networks and their int8 forms, and keep the counts with where they come from."""
    from hwnas.runners.rootfs import emulator_version, installed

    root = installed(DEVICE)
    with tempfile.TemporaryDirectory(prefix="hwnas-bench-ort-") as folder:
        site = Path(folder) / "site"
        _unpack_onnxruntime(Path(folder), site)
        graphs = {name: network(name) for name in names} | {f"{name} int8": quantised(name) for name in names}
        files = {str(Path(folder) / f"{i}.onnx"): name for i, name in enumerate(graphs)}
        for path, name in files.items():
            onnx.save(with_scalar_classifier(graphs[name]), path)
        *emulator, _python, _s, _m, _agent, _counts = root.command("cortex-a72")
        environment = {**root.environment, "PYTHONPATH": f"{site}:{root.folder / 'site'}"}
        script = Path(__file__).with_name("guest_onnxruntime.py")
        done = subprocess.run(
            (*emulator, _python, "-s", str(script), *files),
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found: dict[str, Counts] = {}
    for line in done.stdout.splitlines():
        said = json.loads(line)
        name = files[said["file"]]
        if "counts" in said:
            found[name] = Counts(*said["counts"])
        else:
            print(f"onnxruntime does not run {name}: {said['error']}", file=sys.stderr)
    if keep:
        document = json.loads(KEPT.read_text()) if KEPT.exists() else {"networks": {}}
        document["source"] = {
            "onnxruntime": f"{ONNXRUNTIME}, wheel for cp311 and manylinux_2_27_aarch64 of PyPI",
            "emulator": f"{emulator_version()}, -cpu cortex-a72, user mode",
            "counted": "hwnas/runners/qemu_plugin/count.c, one session.run_with_iobinding of one thread",
            "command": "python -m tests.bench.compiled.bench_aarch64 --measure-onnxruntime",
            "date": date.today().isoformat(),
        }
        rows = document["networks"]
        rows |= {name: {"structure": structure(graphs[name]), **asdict(counts)} for name, counts in found.items()}
        KEPT.write_text(
            json.dumps({"source": document["source"], "networks": dict(sorted(rows.items()))}, indent=1) + "\n"
        )
    return found


def with_scalar_classifier(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The network with one weight scale for each Gemm: onnxruntime 1.20 refuses to run a Gemm with one per channel.

    The values change, what is executed does not.
    """
    made = {name: node for node in graph.graph.node for name in node.output}
    stored = {i.name: i for i in graph.graph.initializer}
    for gemm in (n for n in graph.graph.node if n.op_type == "Gemm"):
        for name in gemm.input[1:]:
            node = made.get(name)
            if node is None or node.op_type != "DequantizeLinear":
                continue
            for parameter in node.input[1:]:
                array = numpy_helper.to_array(stored[parameter])
                if array.size > 1:
                    stored[parameter].CopyFrom(numpy_helper.from_array(array.reshape(-1)[0], parameter))
            del node.attribute[:]
    return graph


def _unpack_onnxruntime(folder: Path, site: Path) -> None:
    command = (
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--implementation", "cp",
        "--python-version", "3.11", "--abi", "cp311", "--platform", "manylinux_2_27_aarch64", "-d", str(folder),
        f"onnxruntime=={ONNXRUNTIME}",
    )  # fmt: skip
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
