"""The fpga toolchain: what the core takes and why not, prices that add up to the cycle, and what is deployed."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from hwnas.config import load_device
from hwnas.core.artifact import read_artifact
from hwnas.core.device import Device
from hwnas.core.interfaces import BatchSpace
from hwnas.core.price import Price, read_price
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.law import PARAMETER_BYTES, misfit
from hwnas.firmware.fpga.product import Geometry, Packing, Window, pieces
from hwnas.firmware.fpga.program import CoreStep, read_program
from hwnas.graph.fusion import split
from hwnas.graph.precision import cast
from hwnas.graph.workloads import materialize
from hwnas.profiling.subjects import untrained
from hwnas.registry import spaces
from hwnas.testing import small_network
from hwnas.toolchains.builder import build_one
from hwnas.toolchains.fpga import FpgaToolchain
from hwnas.toolchains.fpga.lowering import kernel_prices
from hwnas.toolchains.fpga.packing import UNLIMITED, best_packing, job_cycles
from hwnas.toolchains.fpga.pricing import summed
from hwnas.toolchains.fpga.settings import array_of, checked_options
from hwnas.toolchains.partition.companion import companion_table
from tests.firmware.test_fpga_driver import geometries

DEVICES = ("fpga-systolic-8x8", "fpga-systolic-16x16")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return load_device(request.param)


def with_options(device: Device, **options: Any) -> Device:
    return device.model_copy(update={"options": {"fpga": options}})


def networks(count: int, seed: int = 5) -> list[ModelProto]:
    """Random int8 networks of mbconv-micro."""
    space: BatchSpace = spaces.load("mbconv-micro")()
    rng = np.random.default_rng(seed)
    return [untrained(space, space.sample(rng), "int8") for _ in range(count)]


def prices(network: ModelProto, device: Device) -> list[Price]:
    assert device.accelerator is not None
    return kernel_prices(network, array_of(device), device.accelerator)


def test_prices_of_kernels_add_up_to_those_of_networks_exactly() -> None:
    """100 networks: what a table of kernels would say, kernel by kernel, is what the network itself costs."""
    device = load_device("fpga-systolic-16x16")
    table: dict[str, Price] = {}
    for network in networks(100):
        whole, parts = summed(prices(network, device)), split(network, FpgaToolchain.rules)
        for name, workload in parts.workloads.items():
            if name not in table:
                table[name] = summed(prices(materialize(workload), device))
        for part in whole.parts:
            assert sum(table[name].parts[part] * n for name, n in parts.parts.items()) == whole.parts[part]
        assert sum(table[name].total * n for name, n in parts.parts.items()) == whole.total
        assert sum(table[name].macs * n for name, n in parts.parts.items()) == whole.macs
        assert sum(table[name].traffic["dram"] * n for name, n in parts.parts.items()) == whole.traffic["dram"]
    assert len(table) > 200


def test_an_artifact_is_priced_as_its_kernels_and_says_how_it_was_made(device: Device, tmp_path: Path) -> None:
    toolchain = FpgaToolchain()
    [network] = networks(1)
    artifact = build_one("fpga", network, device, tmp_path / "built")
    assert (artifact.toolchain, artifact.version, artifact.schedule) == ("fpga", toolchain.version(), "law")
    assert read_artifact(Path(artifact.path)) == artifact
    assert artifact.options == checked_options(device)
    assert artifact.options["threads"] == device.threads("fpga")
    price = read_price(tmp_path / "built")
    assert price.parts == summed(prices(network, device)).parts
    assert price.unit == "cycles"
    assert "table of cortex-m7-qemu" in price.tool
    assert sum(layer.cost for layer in price.layers) == price.total
    program = read_program(tmp_path / "built")
    assert program.array == array_of(device)
    products = [step.product for step in program.steps if isinstance(step, CoreStep)]
    assert len(products) == sum(layer.where == "accelerator" for layer in price.layers)
    assert artifact.memory["constants"] == sum(p.weights.size + 4 * (p.bias.size + p.entries.size) for p in products)
    assert 0 < artifact.memory["sram"] <= device.memory("sram").size  # type: ignore[union-attr, operator]
    assert {use: artifact.memory[use] for use in ("dsp", "bram", "lut")} == toolchain.resources(device)
    assert artifact.memory["ff"] > artifact.memory["dsp"]
    assert artifact.flash_bytes == toolchain.flash_bytes(network) or artifact.flash_bytes == pytest.approx(
        toolchain.flash_bytes(network), rel=0.01
    )
    assert any(name.startswith("cpu ") and "no rule computes" in name for name in artifact.code)


def test_the_cpu_rest_of_our_networks_stands_in_the_companions_table(device: Device) -> None:
    assert device.accelerator is not None
    assert device.accelerator.cpu is not None
    known, _ = companion_table(device.accelerator.cpu)
    for network in networks(20, seed=6):
        on_cpu = {layer.op for price in prices(network, device) for layer in price.layers if layer.where == "cpu"}
        named = {name: w for name, w in split(network, FpgaToolchain.rules).workloads.items() if w.op in on_cpu}
        assert named
        assert not [w.op for name, w in named.items() if name not in known and not w.op.startswith("Conv")]


ARRAY = Array(8, 8, steps=64, words=256, tiles=8)


@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), data=st.data(), port=st.sampled_from([UNLIMITED, 16.0, 4.0]))
def test_no_packing_is_faster_than_the_best(geometry: Geometry, data: st.DataObject, port: float) -> None:
    def spent(packing: Packing) -> int | None:
        shapes = [piece.shape(geometry) for piece in pieces(geometry, packing)]
        if any(misfit(shape, ARRAY) for shape in shapes):
            return None
        return sum(sum(job_cycles(shape, ARRAY, port)) for shape in shapes)

    best = best_packing(geometry, ARRAY, port)
    side = data.draw(st.integers(0, geometry.groups)) if geometry.groups > 1 else 0
    other = Packing(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 8)), side, data.draw(st.integers(1, 8)))
    cost = spent(other)
    if best is None:
        assert cost is None
    elif cost is not None and prod(other.patch) * max(1, side) * geometry.group_outputs <= ARRAY.columns:
        found = spent(best)
        assert found is not None
        assert found <= cost


def test_depthwise_convolutions_share_the_columns() -> None:
    """48 channels of 14 x 14, 3 x 3: a patch of results side by side takes a third of the cycles of 16 channels on the
    diagonal, and a seventh of those of a channel a job."""
    geometry, array = Geometry((1, 14, 14, 48), Window((3, 3), pads=(1, 1, 1, 1)), 48, 48), Array(16, 16)
    best = best_packing(geometry, array)
    assert best is not None
    patch, diagonal, single = (
        sum(job_cycles(piece.shape(geometry), array)[0] for piece in pieces(geometry, packing))
        for packing in (best, Packing(1, 1, 16, 3), Packing(1, 1, 0, 1))
    )
    assert patch * 3 < diagonal < single
    assert patch * 7 < single


def test_a_narrow_port_costs_more_and_is_kept_apart(device: Device) -> None:
    assert device.accelerator is not None
    assert device.accelerator.transfer is not None
    narrow = device.accelerator.model_copy(
        update={"transfer": device.accelerator.transfer.model_copy(update={"bandwidth": 1e8})}
    )
    [network] = networks(1)
    wide = summed(prices(network, device))
    slow = summed(kernel_prices(network, array_of(device), narrow))
    assert slow.parts["transfer"] > 5 * wide.parts["transfer"]
    assert slow.parts["cpu"] == wide.parts["cpu"]


def product(weights: np.ndarray, **changes: Any) -> ModelProto:
    """A quantised matrix product of 1 x k with k x n, or a convolution where weights have four axes."""
    constants = {
        "x.scale": np.float32(0.5), "x.zero": np.uint8(128), "w": weights, "w.scale": np.float32(0.25),
        "w.zero": np.zeros((), weights.dtype), "y.scale": np.float32(2.0), "y.zero": np.uint8(128),
        "b": np.zeros(weights.shape[0 if weights.ndim == 4 else 1], np.int32), "b.scale": np.float32(0.125),
        "b.zero": np.int32(0), **changes.pop("constants", {}),
    }  # fmt: skip
    op = "Conv" if weights.ndim == 4 else "Gemm"
    shape = changes.pop("shape", (1, weights.shape[1], 4, 4) if op == "Conv" else (1, weights.shape[0]))
    nodes = [
        *(helper.make_node("DequantizeLinear", [n, f"{n}.scale", f"{n}.zero"], [f"{n}.real"]) for n in "xwb"),
        helper.make_node(op, ["x.real", "w.real", "b.real"], ["y.real"], name="p", **changes),
        helper.make_node("QuantizeLinear", ["y.real", "y.scale", "y.zero"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.UINT8, s) for n, s in (("x", shape), ("y", None))]
    initialisers = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = helper.make_graph(nodes, "product", values[:1], values[1:], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


INTEGERS = np.ones((16, 4), np.int8)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (product(INTEGERS, transA=1, shape=(16, 1)), "transA is 0.*given transA 1"),
        (product(INTEGERS, alpha=2.0), "alpha and beta are 1; given alpha 2.0"),
        (product(INTEGERS.astype(np.uint8) * 200), "fit 8 bits .*; given weights from 0 to 200"),
        (product(INTEGERS, constants={"b.scale": np.float32(0.5)}), "in steps of input scale x weight scale; given"),
        (
            product(INTEGERS, constants={"b": np.full(4, 2**31 - 1, np.int32)}),
            r"exceed 32 bits.*; given sums up to 2\.15e",
        ),
        (
            product(np.ones((4, 40, 7, 7), np.int8), pads=[3] * 4),
            "activation buffer.*; given 1960 inputs of a result, for 1024 steps",
        ),
    ],
)
def test_what_the_core_cannot_compute_is_the_cpus_and_named(network: ModelProto, reason: str, tmp_path: Path) -> None:
    device = load_device("fpga-systolic-8x8")
    artifact = FpgaToolchain().build(network, device, tmp_path / "built")
    assert not [step for step in read_program(tmp_path / "built").steps if isinstance(step, CoreStep)]
    assert read_price(tmp_path / "built").parts["accelerator"] == 0
    [named] = [name for name in artifact.code if name.startswith("cpu ")]
    assert re.search(reason, named), named
    with pytest.raises(UnsupportedOperator, match=reason):
        FpgaToolchain().build(network, with_options(device, allow_cpu_fallback=False), tmp_path / "refused")


@pytest.mark.parametrize("change", [{}, {"constants": {"w.zero": np.int8(3)}}, {"beta": 1.0}])
def test_what_it_can_compute_is_taken(change: dict[str, Any], tmp_path: Path) -> None:
    network = product(INTEGERS, **change)
    FpgaToolchain().build(network, load_device("fpga-systolic-8x8"), tmp_path)
    [step] = read_program(tmp_path).steps
    assert isinstance(step, CoreStep)


def test_a_float_network_is_told_to_be_quantised(device: Device, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperator, match="Conv.*precision: int8"):
        FpgaToolchain().build(small_network(), device, tmp_path)


def test_an_unknown_operator_is_named(device: Device, tmp_path: Path) -> None:
    network = cast(small_network(), "int8")
    node = next(node for node in network.graph.node if node.op_type == "Conv")
    node.domain, node.op_type = "com.example", "Frobnicate"
    assert FpgaToolchain().unsupported(node)
    with pytest.raises(UnsupportedOperator, match=r"Frobnicate.*com\.example"):
        FpgaToolchain().build(network, device, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arry": {}}, r"options\.fpga\.arry: unknown option \(did you mean array\?\)"),
        ({"array": {"row": 8}}, r"options\.fpga\.array\.row: unknown size \(did you mean rows\?\)"),
        ({"array": {"rows": "8"}}, r"options\.fpga\.array\.rows: a size is a whole number"),
        ({"array": {"rows": 1000}}, r"options\.fpga\.array: rows: must be an integer from"),
        ({"array": {"words": 1000}}, r"options\.fpga\.array: words: must be a power of two"),
        ({"array": 16}, r"options\.fpga\.array: an array is its sizes by name"),
        ({"family": "xilin"}, r"options\.fpga\.family: unknown family \(did you mean xilinx\?\)"),
        ({"threads": 2}, r"options\.fpga\.threads: a core computes one job at a time"),
        ({"allow_cpu_fallback": "no"}, r"options\.fpga\.allow_cpu_fallback: is true or false"),
    ],
)
def test_options_that_cannot_be_are_explained(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    device = with_options(load_device("fpga-systolic-8x8"), **options)
    with pytest.raises(ConfigError, match=message):
        FpgaToolchain().build(cast(small_network(), "int8"), device, tmp_path)


def test_a_device_without_a_cpu_cannot_be_built_for(device: Device, tmp_path: Path) -> None:
    assert device.accelerator is not None
    alone = device.model_copy(update={"accelerator": device.accelerator.model_copy(update={"cpu": None})})
    with pytest.raises(ConfigError, match=r"accelerator\.cpu"):
        FpgaToolchain().build(cast(small_network(), "int8"), alone, tmp_path)


@pytest.mark.parametrize("name", DEVICES)
def test_devices_are_named_after_their_array(name: str) -> None:
    device = load_device(name)
    assert str(array_of(device)) == name.rpartition("-")[2]
    assert device.derived == ("latency", "energy")
    array, sram = array_of(device), device.memory("sram")
    assert sram is not None
    parameters = array.tiles * array.columns * PARAMETER_BYTES
    assert sram.size == 2 * array.steps * array.rows + array.words * array.columns + parameters


def test_a_custom_array_without_yosys_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hwnas.firmware.fpga import synthesis

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path))
    synthesis.yosys_version.cache_clear()
    device = with_options(load_device("fpga-systolic-8x8"), array={"rows": 5, "columns": 7})
    with pytest.raises(BuildError, match="yosys is not installed: apt-get install yosys"):
        FpgaToolchain().resources(device)


def test_the_support_table_names_operators_and_what_has_to_hold() -> None:
    table = FpgaToolchain().support()
    assert {line.operator for line in table} == {"Conv", "Gemm", "MatMul"}
    assert all(len(line.conditions) >= 5 for line in table)
