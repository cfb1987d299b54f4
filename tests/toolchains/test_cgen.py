"""The cgen toolchain: its contract on a computer and on a microcontroller, whole networks, workloads, options, errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from hwnas.config import load_device
from hwnas.core.artifact import LAYOUT, OBJECT
from hwnas.core.device import Device
from hwnas.core.interfaces import Toolchain
from hwnas.core.measurement import SHARED_CODE
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.fusion import split
from hwnas.graph.quantize import quantize
from hwnas.graph.workloads import materialize
from hwnas.spaces.mbconv import mbconv_micro
from hwnas.testing import ToolchainContract, small_network
from hwnas.toolchains.builder import build_one
from hwnas.toolchains.cgen import CgenToolchain, arena_bytes, constant_bytes
from hwnas.toolchains.cgen.kernels import CORES
from hwnas.toolchains.cgen.source import check_temporaries, plain_functions
from tests.toolchains.generated import Qdq, built, expected, host


class TestCgenOnThisComputer(ToolchainContract):
    @pytest.fixture
    def toolchain(self) -> Toolchain:
        return CgenToolchain()

    @pytest.fixture
    def device(self) -> Device:
        return host()


class TestCgenOnACortexM7(ToolchainContract):
    @pytest.fixture
    def toolchain(self) -> Toolchain:
        return CgenToolchain()

    @pytest.fixture
    def device(self) -> Device:
        return load_device("cortex-m7-qemu")


def candidate_network(seed: int) -> ModelProto:
    space = mbconv_micro()
    return space.graph(space.sample(np.random.default_rng(seed)))


def images(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((1, 1, 28, 28)).astype(np.float32) for _ in range(n)]


@pytest.mark.parametrize("seed", [1, 7])
def test_fp32_networks_agree_with_onnxruntime(seed: int, tmp_path: Path) -> None:
    network = candidate_network(seed)
    loaded = built(network, tmp_path)
    for x in images(5):
        [ours], [theirs] = loaded.outputs([x]), expected(network, [x])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(np.abs(theirs).max())))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("seed", [1, 7])
def test_int8_networks_are_bit_identical_to_onnxruntime(seed: int, core: str, tmp_path: Path) -> None:
    network = quantize(candidate_network(seed), images(8, seed=1))
    loaded = built(network, tmp_path, core)
    for x in images(20):
        np.testing.assert_array_equal(loaded.outputs([x])[0], expected(network, [x])[0])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_kernels_are_those_that_fusion_names(precision: str, tmp_path: Path) -> None:
    network = candidate_network(3)
    if precision == "int8":
        network = quantize(network, images(2))
    artifact = CgenToolchain().build(network, host(), tmp_path)
    parts = split(network, "cgen")
    layout = json.loads((tmp_path / LAYOUT).read_text())
    assert layout["kernels"] == [parts.workloads[i].op for i in parts.order]
    assert artifact.uncovered == ()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_workload_of_a_network_builds_by_itself(precision: str, tmp_path: Path) -> None:
    network = candidate_network(2)
    if precision == "int8":
        network = quantize(network, images(2))
    for k, workload in enumerate(split(network, "cgen").workloads.values()):
        alone = materialize(workload)
        loaded = built(alone, tmp_path / str(k))
        inputs = [_draw(value) for value in alone.graph.input]
        for ours, theirs in zip(loaded.outputs(inputs), expected(alone, inputs), strict=True):
            if ours.dtype == np.float32:
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_array_equal(ours, theirs, err_msg=workload.op)


def _draw(value: Any) -> np.ndarray:
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    if value.type.tensor_type.elem_type == 1:
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, 256, shape).astype(np.uint8)


def test_a_microcontroller_gets_an_object_and_the_size_of_its_image(tmp_path: Path) -> None:
    network = quantize(candidate_network(1), images(2))
    artifact = CgenToolchain().build(network, load_device("cortex-m7-qemu"), tmp_path)
    assert (tmp_path / OBJECT).is_file()
    shared = {use: size for use, size in artifact.memory.items() if use.startswith(SHARED_CODE)}
    assert artifact.memory.keys() - shared == {"code", "constants", "arena", "workspace", "flash", "ram"}
    assert 0 < sum(shared.values()) < artifact.memory["code"]
    assert artifact.flash_bytes == artifact.memory["flash"] > artifact.memory["code"] + artifact.memory["constants"]
    assert artifact.memory["ram"] > artifact.memory["arena"] + artifact.memory["workspace"]
    assert artifact.options["compiler"].startswith("arm-none-eabi-gcc ")


def test_a_network_that_does_not_fit_says_by_how_much(tmp_path: Path) -> None:
    device = load_device("cortex-m3-qemu")
    graph = GraphBuilder("large")
    network = graph.build(graph.relu(graph.input((1, 16, 64, 64))))
    with pytest.raises(BuildError, match=r"does not fit cortex-m3-qemu: RAM needs [\d,]+ of 65,536 bytes"):
        CgenToolchain().build(network, device, tmp_path)


def test_a_child_process_builds_it(tmp_path: Path) -> None:
    artifact = build_one("cgen", small_network(), host(), tmp_path / "built")
    assert artifact.schedule == "cgen-2"


def test_the_same_network_is_the_same_c(tmp_path: Path) -> None:
    texts = []
    for k in range(2):
        CgenToolchain().build(small_network(), host(), tmp_path / str(k))
        texts.append((tmp_path / str(k) / "network.c").read_text())
    assert texts[0] == texts[1]
    other = CgenToolchain().build(small_network(16), host(), tmp_path / "other")
    names = [json.loads((tmp_path / k / LAYOUT).read_text())["symbol"] for k in ("0", "other")]
    assert names[0] != names[1] and other.flash_bytes


@pytest.mark.parametrize("compiler", ["gcc", "arm-none-eabi-gcc"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_code_compiles_without_a_warning(compiler: str, precision: str, tmp_path: Path) -> None:
    network = candidate_network(1)
    if precision == "int8":
        network = quantize(network, images(2))
    CgenToolchain().build(network, host(), tmp_path)
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    machine = ["-mcpu=cortex-m4", "-mthumb"] if compiler.startswith("arm") else []
    command = [compiler, *strict, *machine, "-c", str(tmp_path / "network.c"), "-o", str(tmp_path / "n.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]


def test_networks_link_side_by_side(tmp_path: Path) -> None:
    for k, channels in enumerate((4, 8)):
        CgenToolchain().build(small_network(channels), host(), tmp_path / str(k))
    sources = [str(tmp_path / str(k) / "network.c") for k in range(2)]
    command = ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "both.so"), *sources, "-lm"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    listed = subprocess.run(["nm", "-D", "--defined-only", str(tmp_path / "both.so")], capture_output=True, text=True)
    assert listed.stdout.count("hwnas_net_") == len(listed.stdout.split()) / 3 == 2


@pytest.mark.parametrize("channels", [4, 24])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_sizes_before_a_build_are_those_of_the_build(channels: int, precision: str, tmp_path: Path) -> None:
    network = small_network(channels) if channels == 4 else candidate_network(channels)
    if precision == "int8":
        shape = [d.dim_value for d in network.graph.input[0].type.tensor_type.shape.dim]
        rng = np.random.default_rng(0)
        network = quantize(network, [rng.standard_normal(shape).astype(np.float32) for _ in range(2)])
    device = load_device("cortex-m7-qemu")
    artifact = CgenToolchain().build(network, device, tmp_path)
    assert artifact.memory["arena"] == arena_bytes(network)
    kernels = len(json.loads((tmp_path / LAYOUT).read_text())["kernels"])
    beside = artifact.memory["constants"] - constant_bytes(network, "dsp")
    # the rest is tables: entries and names of kernels, tensors, the network
    assert 0 <= beside <= 32 * kernels + 160
    assert artifact.flash_bytes is not None
    estimate = CgenToolchain().flash_bytes(network)
    assert abs(estimate - artifact.memory["code"] - artifact.memory["constants"]) < 0.25 * estimate + 2000


BAD_OPTIONS = {
    "core": ({"core": "vliw"}, "unknown core"),
    "unknown": ({"optimise": 3}, "options.cgen.optimise"),
    "threads": ({"threads": 2}, "one thread"),
    "flags": ({"flags": "-O2"}, "list of texts"),
    "flag": ({"flags": ["input.c"]}, "begin with '-'"),
    "compiler": ({"compiler": "-c"}, "name of a program"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_named(name: str, tmp_path: Path) -> None:
    options, message = BAD_OPTIONS[name]
    device = host().model_copy(update={"options": {"cgen": options}})
    with pytest.raises(ConfigError, match=message):
        CgenToolchain().build(small_network(), device, tmp_path)


def test_a_microcontroller_takes_no_compiler(tmp_path: Path) -> None:
    device = load_device("cortex-m7-qemu").model_copy(update={"options": {"cgen": {"flags": ["-O1"]}}})
    with pytest.raises(ConfigError, match=r"options.cgen.flags.*mcu: section"):
        CgenToolchain().build(small_network(), device, tmp_path)


def test_a_missing_compiler_is_a_build_error(tmp_path: Path) -> None:
    device = host().model_copy(update={"options": {"cgen": {"compiler": "no-such-cc"}}})
    with pytest.raises(BuildError, match="no-such-cc is not installed"):
        CgenToolchain().build(small_network(), device, tmp_path)


def test_inputs_that_the_firmware_does_not_know_are_refused(tmp_path: Path) -> None:
    graph = Qdq()
    graph.input((1, 2, 1, 1, 1, 1, 2), "float32")
    graph.output(graph.operator("Relu", ["x1"]), (1, 2, 1, 1, 1, 1, 2), "float32")
    with pytest.raises(UnsupportedOperator, match="at most 6"):
        CgenToolchain().build(graph.network(), host(), tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_constants_need_no_weights(precision: str) -> None:
    network = candidate_network(2)
    if precision == "int8":
        network = quantize(network, images(2))
    for workload in split(network, "cgen").workloads.values():
        bare = onnx.load_model_from_string(workload.onnx)
        assert constant_bytes(bare) == constant_bytes(materialize(workload)), workload.op
        assert arena_bytes(bare) == arena_bytes(materialize(workload))


def test_a_temporary_of_memory_that_changed_ends_the_build() -> None:
    sound = "  float v_ = a[0];\n  b[0] = v_;\n  a[0] = v_ + 1;\n  float v_ = a[0];\n  b[1] = v_;\n"
    check_temporaries("f", sound)
    with pytest.raises(BuildError, match="v_ is used after a has changed"):
        check_temporaries("f", "  float v_ = a[0];\n  a[0] = b[0];\n  a[1] = ((v_) > (b[1]) ? (v_) : (b[1]));\n")


def test_code_that_needs_a_runtime_ends_the_build() -> None:
    with pytest.raises(BuildError, match="form that is not known"):
        plain_functions("TVM_DLL int32_t __tvm_ffi_f(void* self_handle, void* args) {\n  g();\n}\n", {})
