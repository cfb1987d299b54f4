"""Networks for a Jetson: device code for every kernel, in the library itself, and built without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import load_space
from hwnas.config import load_device
from hwnas.core.artifact import LIBRARY
from hwnas.core.device import Device
from hwnas.core.interfaces import Toolchain
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, ConfigError
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.export import export
from hwnas.testing import ToolchainContract, small_network
from hwnas.toolchains import nvcc
from hwnas.toolchains.builder import build_one
from hwnas.toolchains.cubin import Kernel, code_sections, kernels_in_source, read_kernels
from hwnas.toolchains.nvcc import find_nvcc
from hwnas.toolchains.tvm_cuda import CUBIN, KERNELS, SOURCE, TvmCudaToolchain, embed, with_device_code

CHIP = 87


class TestTvmCuda(ToolchainContract):
    @pytest.fixture
    def toolchain(self) -> Toolchain:
        return TvmCudaToolchain()

    @pytest.fixture
    def device(self) -> Device:
        return load_device("jetson-orin-nano")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("jetson") / "built"
    return build_one("tvm-cuda", small_network(), load_device("jetson-orin-nano"), folder)


def cuobjdump() -> str:
    """NVIDIA's own reader of device code: on PATH, or of the Python package nvidia-cuda-cuobjdump."""
    found = [str(p) for folder in nvcc._packages() for p in folder.glob("cu*/bin/cuobjdump")]
    path = shutil.which("cuobjdump") or (found[0] if found else None)
    if path is None:
        message = "cuobjdump is missing: pip install nvidia-cuda-cuobjdump"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def dumped(option: str, cubin: Path) -> str:
    return subprocess.run([cuobjdump(), option, str(cubin)], capture_output=True, text=True, check=True).stdout


def kernels_of(artifact: Artifact) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((Path(artifact.path) / KERNELS).read_text())
    return found


def candidate() -> Any:
    space = load_space("mbconv-mobile", resolution=32, classes=10)
    return export(space.decode(space.sample(np.random.default_rng(0))), space.input_shape)


@pytest.mark.parametrize(
    ("name", "network", "kernels"), [("jetson-orin-nano", candidate, 10), ("jetson-agx-orin", small_network, 3)]
)
def test_every_kernel_of_a_network_has_device_code(
    name: str, network: Callable[[], Any], kernels: int, tmp_path: Path
) -> None:
    artifact = build_one("tvm-cuda", network(), load_device(name), tmp_path / "built")
    rows = kernels_of(artifact)
    wanted = set(kernels_in_source((tmp_path / "built" / SOURCE).read_text()))
    assert {row["name"] for row in rows} == wanted
    assert len(wanted) > kernels
    cubin = tmp_path / "built" / CUBIN
    assert f"sm_{CHIP}.cubin" in dumped("-lelf", cubin)
    entries = {line.split()[-1] for line in dumped("-symbols", cubin).splitlines() if "ENTRY" in line}
    assert entries == wanted
    for row in rows:
        assert set(row) == {f.name for f in fields(Kernel)}
        assert row["code_bytes"] > 0
        assert 0 < row["registers"] <= 255
        assert 0 < row["threads"] <= 1024
    assert any(row["shared_bytes"] for row in rows)


def test_what_cuobjdump_says_is_what_we_read(built: Artifact) -> None:
    usage = dumped("-res-usage", Path(built.path) / CUBIN)
    for row in kernels_of(built):
        line = usage.split(f"Function {row['name']}:")[1].strip().splitlines()[0]
        said = dict(part.split(":", 1) for part in line.split() if ":" in part)
        assert int(said["REG"]) == row["registers"]
        assert int(said["SHARED"]) == row["shared_bytes"]
        assert int(said["STACK"]) == row["stack_bytes"]


LOAD = """
import sys; sys.modules["torch"] = None
import tvm, tvm_ffi
def load(data):
    open(sys.argv[2], "wb").write(bytes(data))
    raise RuntimeError("stop here")
tvm_ffi.register_global_func("ffi.Module.load_from_bytes.cuda", load)
try:
    tvm.runtime.load_module(sys.argv[1])
except RuntimeError as error:
    print(error)
"""


def test_the_library_carries_the_device_code_and_no_source(tmp_path: Path) -> None:
    """TVM's own loader finds the CUDA module, and what it hands to the CUDA runtime is the device code."""
    host = {"target": "nvidia/jetson-orin-nano", "mtriple": "x86_64-linux-gnu", "compiler": "gcc"}
    device = load_device("jetson-orin-nano").model_copy(update={"options": {"tvm-cuda": host}})
    artifact = build_one("tvm-cuda", small_network(), device, tmp_path / "built")
    library, seen = Path(artifact.path) / LIBRARY, tmp_path / "seen"
    assert b"__global__" not in library.read_bytes()
    done = subprocess.run([sys.executable, "-c", LOAD, library, seen], capture_output=True, text=True)
    assert "stop here" in done.stdout, done.stderr
    value, cubin = seen.read_bytes(), (Path(artifact.path) / CUBIN).read_bytes()
    assert value.startswith(struct.pack("<Q", 5) + b"cubin")
    assert value.endswith(struct.pack("<Q", len(cubin)) + cubin)
    for row in kernels_of(artifact):
        assert row["name"].encode() in value[: -len(cubin)], "the kernel's signature stands before the code"


def test_the_library_for_the_board_is_one_of_its_kind(built: Artifact) -> None:
    library = (Path(built.path) / LIBRARY).read_bytes()
    assert struct.unpack_from("<H", library, 18)[0] == 183, "AArch64"
    assert (Path(built.path) / CUBIN).read_bytes() in library
    assert built.options["nvcc"] == find_nvcc().release
    assert built.schedule == "tvm-dlight"
    assert built.memory["device_code"] == sum(row["code_bytes"] for row in kernels_of(built))


def test_a_network_that_computes_little_builds_too(tmp_path: Path) -> None:
    graph = GraphBuilder("flat")
    network = graph.build(graph.flatten(graph.input((1, 4, 3, 3))))
    artifact = build_one("tvm-cuda", network, load_device("jetson-orin-nano"), tmp_path / "built")
    assert (Path(artifact.path) / LIBRARY).is_file()
    assert isinstance(kernels_of(artifact), list)


def test_a_missing_nvcc_is_said_with_the_way_out() -> None:
    with pytest.raises(BuildError, match=r"nvcc is missing.*pip install nvidia-cuda-nvcc.*CUDA_HOME"):
        find_nvcc({"PATH": "/nowhere"}, packages=[])


def test_nvcc_is_found_in_cuda_home_and_in_the_python_package(tmp_path: Path) -> None:
    here = find_nvcc()
    for folder in (tmp_path / "home" / "bin", tmp_path / "nvidia" / "cu13" / "bin"):
        folder.mkdir(parents=True)
        (folder / "nvcc").write_text(f'#!/bin/sh\nexec "{here.path}" "$@"\n')
        (folder / "nvcc").chmod(0o755)
    found = find_nvcc({"PATH": "", "CUDA_HOME": str(tmp_path / "home")}, packages=[])
    assert (found.path, found.release) == (tmp_path / "home" / "bin" / "nvcc", here.release)
    found = find_nvcc({"PATH": ""}, packages=[tmp_path / "nvidia"])
    assert found.path == tmp_path / "nvidia" / "cu13" / "bin" / "nvcc"
    assert CHIP in found.chips


@pytest.mark.parametrize(("tag", "chip"), [("nvidia/jetson-nano", 53), ("nvidia/jetson-agx-xavier", 72)])
def test_a_chip_that_is_too_old_for_this_nvcc(tag: str, chip: int, tmp_path: Path) -> None:
    if chip in find_nvcc().chips:
        pytest.fail(f"this nvcc knows sm_{chip}: the test needs CUDA 13 or newer")
    device = load_device("jetson-orin-nano")
    options = {"tvm-cuda": {**device.options["tvm-cuda"], "target": tag}}
    release = find_nvcc().release.replace(".", r"\.")
    with pytest.raises(
        BuildError, match=rf"nvcc {release} makes no code for the chip sm_{chip} .*install an older CUDA"
    ):
        TvmCudaToolchain().build(small_network(), device.model_copy(update={"options": options}), tmp_path / "built")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "nvidia/jetson-orin-nan"}, "did you mean .*nvidia/jetson-orin-nano"),
        ({}, "name the GPU by TVM's tag"),
        ({"target": "nvidia/jetson-orin-nano", "tread": 1}, "did you mean threads"),
        ({"target": "nvidia/jetson-orin-nano"}, "mtriple"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    device = load_device("jetson-orin-nano").model_copy(update={"options": {"tvm-cuda": options}})
    with pytest.raises(ConfigError, match=message):
        TvmCudaToolchain().build(small_network(), device, tmp_path / "built")


def test_source_that_nvcc_refuses(tmp_path: Path) -> None:
    (tmp_path / "bad.cu").write_text("this is no CUDA")
    with pytest.raises(BuildError, match="nvcc .* error"):
        find_nvcc().cubin(tmp_path / "bad.cu", tmp_path / "bad.cubin", CHIP)


def test_device_code_that_is_not_what_it_should_be(built: Artifact) -> None:
    cubin = (Path(built.path) / CUBIN).read_bytes()
    source = (Path(built.path) / SOURCE).read_text()
    with pytest.raises(BuildError, match="not a CUDA ELF file"):
        code_sections((Path(built.path) / LIBRARY).read_bytes(), CHIP)
    with pytest.raises(BuildError, match="not for sm_53"):
        code_sections(cubin, 53)
    with pytest.raises(BuildError, match="cut off"):
        code_sections(cubin[: len(cubin) // 2], CHIP)
    with pytest.raises(BuildError, match="no device code for .*conv2d"):
        read_kernels(source, cubin, "", CHIP)
    absent = source + 'extern "C" __global__ void __launch_bounds__(64) absent_kernel(float* x) {}'
    with pytest.raises(BuildError, match="no device code for .*absent_kernel"):
        read_kernels(absent, cubin, "", CHIP)


def blob(kind: bytes = b"cuda", value: bytes | None = None) -> bytes:
    """Imports as TVM 0.27 serialises them: a tree of two modules, the library and one more."""

    def text(x: bytes) -> bytes:
        return struct.pack("<Q", len(x)) + x

    value = text(b"cuda") + b"signatures" + text(b"source") if value is None else value
    body = struct.pack("<4Q", 3, 0, 1, 1) + struct.pack("<2Q", 1, 1) + text(b"_lib") + text(kind) + text(value)
    return struct.pack("<Q", len(body)) + body


def test_device_code_takes_the_place_of_the_source() -> None:
    def text(x: bytes) -> bytes:
        return struct.pack("<Q", len(x)) + x

    expected = blob(value=text(b"cubin") + b"signatures" + text(b"device code"))
    assert with_device_code(blob(), b"source", b"device code") == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 40, "not in the format of TVM"),
        (blob()[:-3], "not in the format of TVM"),
        (blob(kind=b"metal"), "holds 0 CUDA modules"),
        (blob(value=b"something else"), "not in the format of TVM"),
        (struct.pack("<2Q", 8, 2**60), "end early"),
    ],
)
def test_imports_of_another_format(data: bytes, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        with_device_code(data, b"source", b"device code")


def test_a_path_with_spaces_is_embedded(tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    assembly = embed(b"0123456789", folder)
    subprocess.run(["gcc", "-shared", "-o", tmp_path / "x.so", assembly], check=True)
    assert b"0123456789" in (tmp_path / "x.so").read_bytes()
