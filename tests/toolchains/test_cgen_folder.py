"""The folder that a user drops into a project of their own builds with make and with CMake, and computes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.graph.quantize import quantize
from hwnas.testing import small_network
from hwnas.toolchains.cgen.folder import write_folder
from tests.toolchains.generated import Qdq, expected

BUILDS = {
    "make": [["make"]],
    "cmake": [["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build"]],
}


def run_example(folder: Path, build: str, inputs: list[np.ndarray]) -> np.ndarray:
    for command in BUILDS[build]:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    program = folder / ("build/example" if build == "cmake" else "example")
    raw = b"".join(x.tobytes() for x in inputs)
    done = subprocess.run([str(program)], input=raw, capture_output=True, timeout=60)
    assert done.returncode == 0
    return np.array([float(line) for line in done.stdout.split()])


def networks() -> dict[str, ModelProto]:
    x = np.random.default_rng(0).standard_normal((4, 1, 1, 12, 12)).astype(np.float32)
    graph = Qdq()
    a = graph.dequantize(graph.input((1, 3, 4, 4)), 2.0**-5, np.uint8(7))
    graph.output(graph.quantize(graph.operator("Relu", [a]), 2.0**-5, np.uint8(0)), (1, 3, 4, 4))
    return {"fp32": small_network(), "int8": quantize(small_network(), list(x)), "integers": graph.network()}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ["fp32", "int8", "integers"])
def test_the_folder_builds_and_computes(name: str, build: str, tmp_path: Path) -> None:
    network = networks()[name]
    files = write_folder(network, tmp_path)
    assert sorted(f.name for f in files) == ["CMakeLists.txt", "Makefile", "hwnas_network.h", "main.c", "network.c"]
    assert len((tmp_path / "main.c").read_text().splitlines()) <= 24
    rng = np.random.default_rng(3)
    if name == "integers":
        inputs = [rng.integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)]
    else:
        inputs = [rng.standard_normal((1, 1, 12, 12)).astype(np.float32)]
    [theirs] = expected(network, inputs)
    ours = run_example(tmp_path, build, inputs)
    if name == "fp32":
        np.testing.assert_allclose(ours, theirs.reshape(-1), atol=1e-5)
    else:
        np.testing.assert_array_equal(ours.astype(theirs.dtype), theirs.reshape(-1))


def test_an_example_without_its_input_says_so(tmp_path: Path) -> None:
    write_folder(small_network(), tmp_path)
    subprocess.run(["make"], cwd=tmp_path, capture_output=True, check=True, timeout=120)
    assert subprocess.run([str(tmp_path / "example")], input=b"short", timeout=60).returncode == 2
