"""The CPU beside an accelerator: what its share of a network is priced at, and that what is built for it computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas import registry
from hwnas.config import data_folder
from hwnas.core.accelerator import Accelerator, Companion
from hwnas.core.price import Layer
from hwnas.errors import BuildError, ConfigError
from hwnas.profiling.subjects import untrained
from hwnas.tables.table import LatencyTable
from hwnas.toolchains.partition import Partition, Rule, partition
from hwnas.toolchains.partition.companion import ROOFLINE, assemble, companion_table, price_rest, seconds_of
from hwnas.toolchains.partition.execute import run_onnx
from hwnas.toolchains.partition.export import PLAN, build_rest, target_options
from tests.toolchains.branching import images, quantised

COUNTED = {"device": "cortex-m7-qemu", "per_s": "300 M/s"}
TRANSFER = {"latency": "1 us", "bandwidth": "1 MB/s", "source": "chosen"}
SOME = (Rule("conv", ("Conv",)), Rule("sums", ("Add", "Mul")), Rule("rest", ("Gemm", "ReduceMean", "Reshape")))


def companion(**more: Any) -> Companion:
    known = {"macs_per_s": "100 M/s", "bandwidth": "1 MB/s", "overhead": "1 ms", "target": "native", "source": "chosen"}
    return Companion.model_validate({**known, **more})


def accelerator(cpu: Companion | None, transfer: dict[str, str] | None = TRANSFER) -> Accelerator:
    return Accelerator.model_validate({"clock": "1 MHz", "source": "chosen", "cpu": cpu, "transfer": transfer})


def micro(precision: Any = "int8") -> ModelProto:
    space = registry.spaces.load("mbconv-micro")()
    return untrained(space, space.sample(np.random.default_rng(1)), precision)


@pytest.fixture(scope="module")
def divided() -> Partition:
    found = partition(micro(), SOME)
    assert len(found.segments) > 1  # HardSigmoid cuts it
    return found


def test_without_a_table_the_roofline_prices_a_kernel(divided: Partition) -> None:
    priced = price_rest(divided, accelerator(companion()))
    assert {kernel.source for kernel in priced.kernels} == {ROOFLINE}
    entry = priced.kernels[0]
    pixels = divided.graph.types[divided.graph.inputs[0]].elements
    assert entry.label.startswith("QuantizeLinear") and entry.macs == 0
    assert entry.seconds == pytest.approx(1e-3 + (4 + 1) * pixels / 1e6)  # floats in, bytes out
    assert priced.cpu_s == pytest.approx(sum(kernel.seconds for kernel in priced.kernels))


def test_a_table_prices_the_kernels_that_it_knows(divided: Partition) -> None:
    table = LatencyTable.read(data_folder("latency_tables") / "cortex-m7-qemu" / "instruction-sim-cgen.jsonl").values()
    cpu = companion(**COUNTED)
    priced = price_rest(divided, accelerator(cpu))
    assert {kernel.source for kernel in priced.kernels} <= {
        "table of cortex-m7-qemu (instruction-sim, cgen)",
        ROOFLINE,
    }
    known = [kernel for kernel in priced.kernels if kernel.source != ROOFLINE]
    assert known
    for kernel in known:
        assert kernel.seconds == pytest.approx(table[kernel.workload.id] / 300e6)
        assert seconds_of(kernel.workload, accelerator(cpu)) == kernel.seconds


def test_a_device_without_a_table_leaves_all_to_the_roofline(tmp_path: Path) -> None:
    assert companion_table(companion(**COUNTED), tmp_path) == ({}, ROOFLINE)
    assert companion_table(companion()) == ({}, ROOFLINE)


def test_a_companion_that_is_not_described_well_is_refused(divided: Partition) -> None:
    with pytest.raises(ConfigError, match=r"accelerator.cpu.per_s: is required: cortex-m7-qemu counts instructions"):
        price_rest(divided, accelerator(companion(device="cortex-m7-qemu")))
    with pytest.raises(ConfigError, match=r"no device 'cortex-m7-qemo' \(did you mean cortex-m7-qemu"):
        price_rest(divided, accelerator(companion(device="cortex-m7-qemo")))
    with pytest.raises(
        ConfigError, match=r"accelerator.cpu: is required .* \(QuantizeLinear '\w+' is computed on the CPU"
    ):
        price_rest(divided, accelerator(None))
    with pytest.raises(ConfigError, match=r"accelerator.transfer: is required: \d+ tensors cross"):
        price_rest(divided, accelerator(companion(), None))


def test_transfers_cost_for_each_tensor_and_each_byte(divided: Partition) -> None:
    priced = price_rest(divided, accelerator(companion()))
    moved = sum(crossing.bytes for crossing in divided.crossings)
    assert priced.crossings == len(divided.crossings) > 2
    assert priced.transfer_s == pytest.approx(priced.crossings * 1e-6 + moved / 1e6)


def test_a_price_has_its_parts_in_one_unit(divided: Partition) -> None:
    described = accelerator(companion())
    mine = (Layer(name="segments", op="all", where="accelerator", cost=500, macs=7),)
    cycles = assemble(divided, described, "cycles", cost=500, macs=7, traffic={"sram": 3}, tool="law 1", layers=mine)
    rest = price_rest(divided, described)
    assert cycles.parts == pytest.approx(
        {"accelerator": 500, "cpu": rest.cpu_s * 1e6, "transfer": rest.transfer_s * 1e6}
    )
    assert cycles.tool == "law 1; CPU rest: roofline" and cycles.macs == 7 and cycles.traffic == {"sram": 3}
    assert cycles.crossings == rest.crossings
    assert [layer.where for layer in cycles.layers] == ["accelerator", *["cpu"] * len(rest.kernels)]
    seconds = assemble(divided, described, "s", cost=0.5, macs=7, traffic={}, tool="law 1")
    assert seconds.parts == pytest.approx({"accelerator": 0.5, "cpu": rest.cpu_s, "transfer": rest.transfer_s})


def test_a_reshape_costs_nothing_on_the_cpu() -> None:
    found = partition(micro(), SOME[:2])
    views = [rest for rest in found.rest if rest.kernel.operator.op == "Reshape"]
    priced = price_rest(found, accelerator(companion()))
    assert len(views) == 1 and len(priced.kernels) == len(found.rest) - 1


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("native", {"target": "native"}),
        ("llvm -mtriple=aarch64-linux-gnu", {"target": "cross", "mtriple": "aarch64-linux-gnu"}),
        (
            "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a53 -mattr=+neon,+crc",
            {"target": "cross", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53", "mattr": ["+neon", "+crc"]},
        ),
    ],
)
def test_a_target_is_read(target: str, options: dict[str, Any]) -> None:
    assert target_options(target) == options


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("llvm -mcpu=cortex-a53", "accelerator.cpu.target: is native, or llvm -mtriple=TRIPLE"),
        ("", "is native, or llvm"),
        ("cuda -mtriple=x", "is native, or llvm"),
        ("llvm -mtriple=a-b -model=x", "is no flag of a CPU target"),
        ("llvm -mtriple=", "is no flag of a CPU target"),
    ],
)
def test_what_is_no_target_is_refused(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        target_options(target)


def test_the_built_parts_and_the_segments_compute_the_network(tmp_path: Path) -> None:
    import tvm
    from tvm import relax

    exact = ("conv", "depthwise", "add", "mul", "hardswish", "pool", "concat", "views", "excite")
    network = quantised(3, 14, "power-of-two", exact)
    found = partition(network, (Rule("conv", ("Conv",)), Rule("sums", ("Add",))))
    files = build_rest(found, companion(), tmp_path)
    assert len(found.segments) > 1 and all(file.is_file() for file in files)
    [x] = images(1, 7)
    known = {found.graph.inputs[0]: x}
    segments = {segment.network.graph.name: segment for segment in found.segments}
    plan = json.loads((tmp_path / PLAN).read_text())
    for part in plan["stages"]:
        inputs = [known[name] for name in part["inputs"]]
        if part["where"] == "accelerator":
            made = run_onnx(segments.pop(part["part"]).network, inputs, "all")
        else:
            assert part["kernels"]
            library = tvm.runtime.load_module(str(tmp_path / part["part"] / "network.so"))
            given = relax.VirtualMachine(library, tvm.cpu())["main"](*(tvm.runtime.tensor(array) for array in inputs))
            made = [given.numpy()] if hasattr(given, "numpy") else [tensor.numpy() for tensor in given]
        known |= dict(zip(part["outputs"], made, strict=True))
    assert plan["target"] == "native" and not segments
    for name, expected in zip(found.graph.outputs, run_onnx(network, [x], "all"), strict=True):
        np.testing.assert_array_equal(known[name], expected)


def test_for_a_bare_microcontroller_the_rest_is_a_folder_of_c(divided: Partition, tmp_path: Path) -> None:
    files = build_rest(divided, companion(target="llvm -mtriple=thumbv7em-none-eabihf -mcpu=cortex-m7"), tmp_path)
    parts = [p["part"] for p in json.loads((tmp_path / PLAN).read_text())["stages"] if p["where"] == "cpu"]
    assert [f"{part}/network.c" for part in parts] == [
        file.relative_to(tmp_path).as_posix() for file in files if file.name == "network.c"
    ]


def test_a_missing_linker_and_an_unknown_processor_are_named(divided: Partition, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="s390x-linux-gnu-gcc is missing.*apt-get install gcc-s390x-linux-gnu"):
        build_rest(divided, companion(target="llvm -mtriple=s390x-linux-gnu"), tmp_path)
    with pytest.raises(ConfigError, match="LLVM knows no such aarch64-linux-gnu"):
        build_rest(divided, companion(target="llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a99"), tmp_path)
