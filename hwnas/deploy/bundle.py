"""The bundle: everything that runs a found network elsewhere, and the manifest that says what was promised.

A folder with the network as ONNX (fp32 and int8), as a TVM library, a ten-line script for each, a sample with its
expected output, test data, and `manifest.json` with digests, versions, estimate, measurement and fidelity.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas import __version__
from hwnas.core.device import Device
from hwnas.digest import digest_bytes
from hwnas.errors import BuildError, DataError
from hwnas.graph.quantize import quantize
from hwnas.graph.session import open_session
from hwnas.records import write_atomically
from hwnas.toolchains.builder import build_one

if TYPE_CHECKING:
    from onnx import ModelProto

MANIFEST = "manifest.json"
FP32, INT8, LIBRARY, SAMPLE, TEST = "network.onnx", "network-int8.onnx", "tvm", "sample.npz", "test.npz"
CALIBRATION = 128
MAX_TEST = 2000
VERSIONS = ("onnx", "onnxruntime", "torch", "apache-tvm", "apache-tvm-ffi", "numpy")

RUN_ONNX = '''\
"""Run this network with onnxruntime:  python run_onnx.py [network-int8.onnx]   (pip install onnxruntime numpy)"""
import sys
from pathlib import Path
import numpy as np, onnxruntime
here = Path(__file__).parent
session = onnxruntime.InferenceSession(str(here / (sys.argv[1:] or ["network.onnx"])[0]), providers=["CPUExecutionProvider"])
run = lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]
sample, test = np.load(here / "sample.npz"), np.load(here / "test.npz")
print("largest difference from the expected output:", np.abs(run(sample["input"]) - sample["output"]).max())
print("test accuracy:", np.mean([run(x[None]).argmax() == y for x, y in zip(test["x"], test["y"])]))
'''
RUN_TVM = '''\
"""Run this network with TVM:  python run_tvm.py   (pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1)"""
from pathlib import Path
import numpy as np, tvm
from tvm import relax
here = Path(__file__).parent
machine = relax.VirtualMachine(tvm.runtime.load_module(str(here / "tvm" / "network.so")), tvm.cpu())
first = lambda y: y if hasattr(y, "numpy") else y[0]
run = lambda x: first(machine["main"](tvm.runtime.tensor(np.ascontiguousarray(x)))).numpy()
sample, test = np.load(here / "sample.npz"), np.load(here / "test.npz")
print("largest difference from the expected output:", np.abs(run(sample["input"]) - sample["output"]).max())
print("test accuracy:", np.mean([run(x[None]).argmax() == y for x, y in zip(test["x"], test["y"])]))
'''


@dataclass(frozen=True, slots=True)
class Promise:
    """What the bundle claims: accuracy of these weights, and the latency that was estimated and measured."""

    candidate: str
    space: str
    device: str
    machine: str
    fidelity: str
    toolchain: str
    test_accuracy: float
    test_samples: int
    budget: Mapping[str, float]
    estimate: Mapping[str, Sequence[float]]
    measured: Mapping[str, Any]
    date: str


def accuracy_of(network: ModelProto, inputs: np.ndarray, labels: np.ndarray) -> float:
    """Share of n inputs (n x ...) whose largest output is the label, one input at a time through onnxruntime."""
    session = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "all"})
    name = session.get_inputs()[0].name
    hits = [int(np.argmax(session.run(None, {name: x[None]})[0])) == int(y) for x, y in zip(inputs, labels)]
    return float(np.mean(hits))


def write_bundle(
    into: Path,
    network: ModelProto,
    *,
    device: Device,
    promise: Mapping[str, Any],
    calibration: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
    formats: Sequence[str] = ("onnx", "tvm"),
) -> Path:
    """Write a bundle and return its manifest's path.

    `calibration` is n x c x h x w training inputs for int8, `test` (inputs, labels). A format that cannot be built
    (no linker for TVM) is left out and named in the manifest with the reason. Raises DataError, BuildError.
    """
    if into.exists():
        shutil.rmtree(into)
    into.mkdir(parents=True)
    x, y = test[0][:MAX_TEST].astype(np.float32), test[1][:MAX_TEST].astype(np.int64)
    (into / FP32).write_bytes(network.SerializeToString())
    session = open_session(str(into / FP32), {"threads": 1, "graph_optimization": "all"})
    sample = x[:1]
    expected = session.run(None, {session.get_inputs()[0].name: sample})[0]
    np.savez(into / SAMPLE, input=sample, output=expected)
    np.savez_compressed(into / TEST, x=x, y=y)
    (into / "run_onnx.py").write_text(RUN_ONNX)
    accuracy = {"fp32": accuracy_of(network, x, y)}
    left_out: dict[str, str] = {}
    small = quantize(network, [calibration[i : i + 1] for i in range(min(CALIBRATION, len(calibration)))])
    (into / INT8).write_bytes(small.SerializeToString())
    accuracy["int8"] = accuracy_of(small, x, y)
    if "tvm" in formats:
        try:
            build_one("tvm", network, device, into / LIBRARY)
            (into / "run_tvm.py").write_text(RUN_TVM)
        except BuildError as error:
            shutil.rmtree(into / LIBRARY, ignore_errors=True)
            left_out["tvm"] = str(error)
    manifest = {
        "schema": 1,
        "hwnas": __version__,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
        "promise": dict(promise),
        "accuracy": accuracy,
        "test_samples": len(y),
        "left_out": left_out,
        "files": {
            str(f.relative_to(into)): {"bytes": f.stat().st_size, "digest": digest_bytes(f.read_bytes())}
            for f in sorted(into.rglob("*"))
            if f.is_file()
        },
    }
    write_atomically(into / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return into / MANIFEST


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest, every file it names checked. Raises DataError for a missing, changed or escaping file."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        files = dict(manifest["files"])
        promise = manifest["promise"]
        if not isinstance(promise, dict):
            raise TypeError("promise is not a mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is not a bundle's manifest ({error})", path=folder / MANIFEST) from error
    for name, facts in files.items():
        file = folder / name
        if Path(name).is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"names a file outside its folder: {name}", path=folder / MANIFEST)
        if not file.is_file():
            raise DataError("is missing from the bundle", path=file)
        if digest_bytes(file.read_bytes()) != facts["digest"]:
            raise DataError("was changed since the bundle was written", path=file)
    return manifest
