"""The forms of a network: what lands in a folder for which kind of device."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.metadata import files
from pathlib import Path

import pytest

from hwnas import api
from hwnas.deploy.bundle import default_formats, write_forms
from hwnas.errors import ConfigError
from hwnas.graph.precision import cast
from hwnas.testing import small_network


@pytest.mark.parametrize(
    ("device", "formats"),
    [
        ("host", ("onnx", "tvm")),
        ("cortex-m7-qemu", ("onnx", "c")),
        ("rpi4b", ("onnx", "tvm")),
        ("jetson-orin-nano", ("onnx", "tvm")),
    ],
)
def test_a_device_gets_the_forms_that_its_toolchains_make(device: str, formats: tuple[str, ...]) -> None:
    assert default_formats(api.load_device(device)) == formats


@pytest.mark.parametrize(
    ("device", "form", "reason"),
    [
        ("ethos-u55-128", "tvm", r"runs no TVM library \(allowed: onnx, vela\)"),
        ("cortex-m7-qemu", "tvm", "runs no TVM library"),
        ("ethos-u55-128", "fpga", "has no toolchain fpga"),
        ("host", "vela", r"has no toolchain vela \(allowed: onnx, tvm\)"),
    ],
)
def test_a_form_that_nothing_runs_there_is_refused(device: str, form: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        write_forms(small_network(), [form], api.load_device(device), tmp_path / "forms")
    assert not (tmp_path / "forms").exists()


def test_a_jetson_gets_device_code_for_every_kernel_and_their_features(tmp_path: Path) -> None:
    device = api.load_device("jetson-orin-nano")
    written = {p.name for p in write_forms(small_network(), ["tvm"], device, tmp_path)}
    assert {"network.so", "kernels.cubin", "kernels.json"} <= written
    kernels = json.loads((tmp_path / "tvm" / "kernels.json").read_text())
    assert kernels
    cubin = tmp_path / "tvm" / "kernels.cubin"
    assert "sm_87" in _dumped("-lelf", cubin)
    listed = _dumped("-symbols", cubin)
    for kernel in kernels:
        assert kernel["name"] in listed
        assert kernel["registers"] > 0


def test_a_microcontroller_gets_sources_of_the_precision_that_is_deployed(tmp_path: Path) -> None:
    device = api.load_device("cortex-m7-qemu")
    write_forms(cast(small_network(), "int8"), ["onnx", "c"], device, tmp_path, "int8")
    assert (tmp_path / "network-int8.onnx").exists()
    assert "const hwnas_network" in (tmp_path / "c" / "network.c").read_text()


def _dumped(option: str, cubin: Path) -> str:
    """What NVIDIA's own reader of device code says: from PATH, or of the Python package nvidia-cuda-cuobjdump."""
    shipped = [f for f in files("nvidia-cuda-cuobjdump") or [] if f.name == "cuobjdump"]
    program = shutil.which("cuobjdump") or str(shipped[0].locate())
    return subprocess.run([program, option, str(cubin)], capture_output=True, text=True, check=True).stdout
