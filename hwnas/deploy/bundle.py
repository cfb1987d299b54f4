"""The bundle: everything that runs a found network elsewhere, and the manifest that says what was promised.

A folder with the network as ONNX (fp32 and int8), as a TVM library with a ten-line script for each or as C sources, a
sample with its expected output, test data, and `manifest.json` with digests, versions, estimate, measurement and
fidelity.
"""

from __future__ import annotations

import json
import platform
import shutil
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hwnas import __version__, registry
from hwnas.config import validate
from hwnas.core.device import Device
from hwnas.core.estimate import Metric
from hwnas.core.measurement import Fidelity
from hwnas.deploy.agreement import Agreement, accuracy_of
from hwnas.deploy.finalists import one_by_one, scale_rule
from hwnas.digest import digest_bytes
from hwnas.errors import BuildError, ConfigError, DataError, UnsupportedOperator
from hwnas.graph.precision import Precision
from hwnas.graph.quantize import quantize
from hwnas.graph.session import open_session
from hwnas.records import write_atomically
from hwnas.toolchains.builder import build_one

if TYPE_CHECKING:
    from onnx import ModelProto

MANIFEST = "manifest.json"
FP32, INT8, LIBRARY, SOURCES = "network.onnx", "network-int8.onnx", "tvm", "c"
SAMPLE, TEST = "sample.npz", "test.npz"
DEPLOYED: dict[Precision, str] = {"fp32": FP32, "int8": INT8}
"""The file of the network in each precision."""
REST, NOT_BUILT = "cpu", "not-built.txt"
"""The folder in an accelerator's form with what its CPU computes, and the file that says why it is not there."""
MAX_TEST = 2000
ACCELERATORS = ("vela", "edgetpu", "fpga")
"""Toolchains of accelerators; a form of that name is what the toolchain built, in a folder of that name."""
FORMATS = ("onnx", "tvm", "c", *ACCELERATORS)
TVM = ("tvm-cuda", "tvm")
"""The toolchains that make a TVM library, the one for a GPU first."""
VERSIONS = ("onnx", "onnxruntime", "torch", "apache-tvm", "apache-tvm-ffi", "numpy")

RUN_ONNX = '''\
"""Run this network with onnxruntime:  python run_onnx.py [FILE.onnx]   (pip install onnxruntime numpy)"""
import sys
from pathlib import Path
import numpy as np, onnxruntime
here = Path(__file__).parent
options = onnxruntime.SessionOptions()  # unoptimised: fused int8 kernels round in another way on some processors
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
name = (sys.argv[1:] or ["DEPLOYED"])[0]
session = onnxruntime.InferenceSession(str(here / name), options, providers=["CPUExecutionProvider"])
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


_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]


class Promise(BaseModel):
    """What the bundle claims: accuracy of these weights, and what a run was estimated and measured at.

    metric: what a run is measured in on the device; estimate, readings, median and high are of it, in SI. values: what
    the budget was held against (of the metric the high reading), SI by metric; modelled: those of them that a model told,
    such as energy beside simulated cycles. agreement: the device's outputs against
    this computer's, of the network in the precision that was deployed.
    """

    model_config = _STRICT
    candidate: str
    space: str
    data: str
    data_digest: str
    device: str
    machine: str
    fidelity: Fidelity
    toolchain: str
    schedule: str
    date: str
    budget: dict[Metric, Amount]
    confidence: float = Field(gt=0, lt=1)
    test_accuracy: Share | None
    val_accuracies: tuple[Share, ...]
    precision: Precision
    metric: Metric
    estimate: Amount | None
    readings: tuple[Amount, ...]
    median: Amount
    high: Amount
    agreement: Agreement
    values: dict[Metric, Amount]
    modelled: tuple[Metric, ...] = ()


class FileFacts(BaseModel):
    """Size and content id of one file."""

    model_config = _STRICT
    bytes: int = Field(ge=0)
    digest: str


class Manifest(BaseModel):
    """A bundle's `manifest.json`: the promise, what it was made with, and every file of the bundle but itself."""

    model_config = _STRICT
    schema_: Literal[1] = Field(default=1, alias="schema")
    hwnas: str
    python: str
    versions: dict[str, str]
    promise: Promise
    accuracy: dict[Literal["fp32", "int8"], Share]
    test_samples: int = Field(ge=1)
    left_out: dict[str, str]
    files: dict[str, FileFacts]


def default_formats(device: Device) -> tuple[str, ...]:
    """The forms in which a network is deployed on a device: ONNX, and what the device's toolchains make of it."""
    tvm = any(name in device.toolchains for name in TVM)
    accelerators = (name for name in ACCELERATORS if name in device.toolchains)
    return ("onnx", *(["tvm"] if tvm else []), *(["c"] if "cgen" in device.toolchains else []), *accelerators)


def require_form(form: str, device: Device) -> None:
    """Raises ConfigError for a form that nothing runs on the device."""
    allowed = default_formats(device)
    if form == "tvm" and "tvm" not in allowed and (device.mcu is not None or device.accelerator is not None):
        raise ConfigError(f"{device.name} runs no TVM library", given=form, allowed=allowed)
    if form in ACCELERATORS and form not in allowed:
        raise ConfigError(f"{device.name} has no toolchain {form}", given=form, allowed=allowed)


def write_forms(
    network: ModelProto, formats: Sequence[str], device: Device, into: Path, precision: Precision = "fp32"
) -> list[Path]:
    """Write a network of a precision as ONNX, as a TVM library, as C, as built for an accelerator; returns the files.

    Raises BuildError, and ConfigError as `require_form` does.
    """
    for form in formats:
        require_form(form, device)
    into.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    if "onnx" in formats:
        written.append(into / DEPLOYED[precision])
        written[-1].write_bytes(network.SerializeToString())
    if "tvm" in formats:
        # For a Jetson the library holds device code, and the features of each kernel stand beside it.
        chain = next((name for name in TVM if name in device.toolchains), TVM[-1])
        build_one(chain, network, device, into / LIBRARY)
        written += sorted((into / LIBRARY).iterdir())
    if "c" in formats:
        from hwnas.toolchains.cgen.folder import write_folder
        from hwnas.toolchains.cgen.kernels import core_of

        core = "portable" if device.mcu is None else core_of(device.mcu.cpu)
        written += write_folder(network, into / SOURCES, core)
    for chain in ACCELERATORS:
        if chain in formats:
            build_one(chain, network, device, into / chain)
            _write_rest(chain, network, device, into / chain / REST)
            written += sorted(file for file in (into / chain).rglob("*") if file.is_file())
    return written


def _write_rest(chain: str, network: ModelProto, device: Device, into: Path) -> None:
    """Build what an accelerator leaves to the CPU beside it, for that CPU; where it cannot be built, say why in a file."""
    divide = getattr(registry.toolchains.load(chain)(), "partition", None)
    if divide is None or device.accelerator is None or device.accelerator.cpu is None:
        return
    from hwnas.toolchains.partition.export import build_rest

    try:
        build_rest(divide(network, device), device.accelerator.cpu, into)
    except BuildError as error:  # no cross compiler here, say: the accelerator's own part is worth having
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        (into / NOT_BUILT).write_text(f"The part of the network that runs on the CPU was not built: {error}\n")


def write_bundle(
    into: Path,
    network: ModelProto,
    *,
    device: Device,
    promise: Promise,
    calibration: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
    formats: Sequence[str] = ("onnx", "tvm"),
) -> Path:
    """Write a bundle and return its manifest's path.

    `calibration` is n x c x h x w training inputs for int8, `test` (inputs, labels). Compiled forms are of the network
    in the promised precision; one that cannot be built (no linker for TVM) is left out and named in the manifest with
    the reason. Raises DataError, BuildError.
    """
    if into.exists():
        shutil.rmtree(into)
    into.mkdir(parents=True)
    x, y = test[0][:MAX_TEST].astype(np.float32), test[1][:MAX_TEST].astype(np.int64)
    (into / FP32).write_bytes(network.SerializeToString())
    small = quantize(network, one_by_one(calibration), scale_rule(device))
    (into / INT8).write_bytes(small.SerializeToString())
    session = open_session(str(into / DEPLOYED[promise.precision]), {"threads": 1, "graph_optimization": "none"})
    sample = x[:1]
    expected = session.run(None, {session.get_inputs()[0].name: sample})[0]
    np.savez(into / SAMPLE, input=sample, output=expected)
    np.savez_compressed(into / TEST, x=x, y=y)
    (into / "run_onnx.py").write_text(RUN_ONNX.replace("DEPLOYED", DEPLOYED[promise.precision]))
    accuracy: dict[Literal["fp32", "int8"], float] = {"fp32": accuracy_of(network, x, y)}
    left_out: dict[str, str] = {}
    accuracy["int8"] = accuracy_of(small, x, y)
    deployed = small if promise.precision == "int8" else network
    for form, folder in (("tvm", LIBRARY), ("c", SOURCES), *((name, name) for name in ACCELERATORS)):
        if form in formats:
            try:
                write_forms(deployed, [form], device, into, promise.precision)
            except (BuildError, UnsupportedOperator) as error:
                shutil.rmtree(into / folder, ignore_errors=True)
                left_out[form] = str(error)
    if (into / LIBRARY).exists():
        (into / "run_tvm.py").write_text(RUN_TVM)
    manifest = Manifest(
        hwnas=__version__,
        python=platform.python_version(),
        versions={name: version(name) for name in VERSIONS},
        promise=promise,
        accuracy=accuracy,
        test_samples=len(y),
        left_out=left_out,
        files={
            f.relative_to(into).as_posix(): FileFacts(bytes=f.stat().st_size, digest=digest_bytes(f.read_bytes()))
            for f in sorted(into.rglob("*"))
            if f.is_file()
        },
    )
    document = manifest.model_dump(mode="json", by_alias=True)
    write_atomically(into / MANIFEST, json.dumps(document, indent=1, sort_keys=True) + "\n")
    return into / MANIFEST


def read_manifest(folder: Path) -> Manifest:
    """A bundle's manifest, every file it names checked.

    Raises DataError for what is no manifest, and for a missing, changed, unlisted or escaping file.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text())
        manifest = validate(Manifest, document)
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise DataError(f"is not a bundle's manifest ({error})", path=path) from error
    for name, facts in manifest.files.items():
        file = folder / name
        if Path(name).is_absolute() or not file.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"names a file outside its folder: {name}", path=path)
        if not file.is_file():
            raise DataError("is missing from the bundle", path=file)
        if digest_bytes(file.read_bytes()) != facts.digest:
            raise DataError("was changed since the bundle was written", path=file)
    for name in (FP32, INT8, SAMPLE, TEST):
        if name not in manifest.files:
            raise DataError(f"does not list {name}", path=path)
    return manifest


def read_arrays(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays by name from an .npz file, pickles refused. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"does not hold the arrays {', '.join(names)} ({error})", path=path) from error
