"""The Edge TPU by law and by a stand-in for its compiler: prices, partitions, caches, logs, and what goes wrong."""

from __future__ import annotations

import csv
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from hwnas import api
from hwnas.core.artifact import COMPILED, TFLITE, read_artifact
from hwnas.core.device import Device
from hwnas.core.price import Price, read_price
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.precision import cast
from hwnas.graph.tflite import tflite_bytes
from hwnas.graph.workloads import materialize
from hwnas.profiling.subjects import network_subject, untrained
from hwnas.spaces.cell import CellSpace
from hwnas.toolchains.edgetpu import EdgeTpuToolchain
from hwnas.toolchains.edgetpu.compiler import compile_tflite, compiler_version, read_report
from hwnas.toolchains.edgetpu.law import Caching, cache, streaming_s, wait_s
from hwnas.toolchains.edgetpu.rules import RULES
from hwnas.toolchains.edgetpu.settings import LawSettings, settings_of
from hwnas.toolchains.edgetpu.toolchain import LOG
from hwnas.toolchains.partition import partition

DEVICE = api.load_device("coral-edgetpu")
LAW = settings_of(DEVICE).law
STAND_IN = Path(__file__).parent / "edgetpu_stand_in.py"
Install = Callable[..., None]


def changed(**options: Any) -> Device:
    return DEVICE.model_copy(update={"options": {"edgetpu": {**DEVICE.options["edgetpu"], **options}}})


def network(seed: int = 0, space: str = "mbconv-micro") -> onnx.ModelProto:
    chosen = api.load_space(space)
    return untrained(chosen, chosen.sample(np.random.default_rng(seed)), "int8")


def chain(*kinds: str) -> onnx.ModelProto:
    """A small int8 network of the kinds in order."""
    graph = GraphBuilder("chain")
    x = graph.conv(graph.input((1, 8, 16, 16)), 16, (3, 3))
    for kind in kinds:
        if kind == "conv":
            x = graph.relu(graph.conv(x, 16, (3, 3)))
        elif kind == "groups":
            x = graph.conv(x, 16, (3, 3), groups=2)
        elif kind == "elu":
            x = graph.operator("Elu", (x.name,), x.shape)
    return cast(graph.build(x), "int8")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts the stand-in on the PATH as edgetpu_compiler, with options of its own."""

    def put(*options: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "edgetpu_compiler"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" {" ".join(options)} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return put


@pytest.fixture(autouse=True)
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that somebody really has plays no part in these tests."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}/usr/bin{os.pathsep}/bin")


def built(onnx_network: onnx.ModelProto, into: Path, device: Device = DEVICE) -> Price:
    EdgeTpuToolchain().build(onnx_network, device, into)
    return read_price(into)


def test_a_network_is_priced_by_parts_without_the_compiler(tmp_path: Path) -> None:
    price = built(network(), tmp_path)
    assert price.unit == "s" and "law" in price.tool and "not compiled" in price.tool
    assert 200e-6 < price.total < 1e-3 and price.crossings == 2
    accelerator = [layer for layer in price.layers if layer.where == "accelerator"]
    assert sum(layer.cost for layer in accelerator) == pytest.approx(price.parts["accelerator"])
    assert DEVICE.accelerator is not None and DEVICE.accelerator.energy is not None
    assert set(price.traffic) <= DEVICE.accelerator.energy.per_byte.keys()
    artifact = read_artifact(tmp_path)
    assert artifact.flash_bytes == (tmp_path / TFLITE).stat().st_size
    assert artifact.memory["constants"] > 1000 and artifact.memory["sram"] > 1000
    assert not (tmp_path / COMPILED).exists()


def test_the_law_says_what_it_says() -> None:
    """Golden numbers of a 3x3 convolution, 16 to 16 channels at 32 x 32, by hand from the constants."""
    graph = GraphBuilder("one")
    whole = cast(graph.build(graph.conv(graph.input((1, 16, 32, 32)), 16, (3, 3))), "int8")
    [segment] = partition(whole, RULES).segments
    from hwnas.toolchains.edgetpu.law import layer_of

    layer = layer_of(segment.kernels[0], LAW)
    parameters, macs = 16 * 16 * 9 + 8 * 16, 16 * 16 * 9 * 32 * 32
    by_hand = 1.49e-6 + parameters / 3.70e9 + 2 * 16 * 32 * 32 / 43.2e9 + macs / (2e12 * 0.935 * 16 / 64)
    assert layer.cost == pytest.approx(by_hand, rel=1e-6)
    assert (layer.macs, layer.traffic) == (macs, {"sram": parameters + 2 * 16 * 32 * 32})


def test_parameters_beyond_the_cache_are_streamed_in_every_run() -> None:
    mib = 2**20
    assert cache(3 * mib, mib, LAW) == Caching(3 * mib, 0)
    assert cache(10 * mib, 0, LAW) == Caching(int(6.9 * mib), 10 * mib - int(6.9 * mib))
    assert cache(3 * mib, 7 * mib, LAW) == Caching(mib, 2 * mib)  # activations take the same memory
    assert cache(mib, 20 * mib, LAW) == Caching(0, mib)
    assert streaming_s(Caching(0, 0), LAW) == 0
    assert streaming_s(Caching(0, 395_000_000), LAW) == pytest.approx(1 - 0.395 / 3.7)


def test_long_runs_wait_and_short_ones_do_not() -> None:
    assert wait_s(0.5e-3, LAW) == pytest.approx(0, abs=1e-12)
    assert wait_s(1.095e-3, LAW) == pytest.approx(44.5e-6)
    assert wait_s(2e-3, LAW) == pytest.approx(89e-6)


def test_the_law_orders_networks_as_the_public_column_does(shared_data: Path) -> None:
    """The constants were calibrated on this column: what is tested is that the toolchain applies them to networks."""
    space = CellSpace()
    with (shared_data / "nb201_hw_cifar10.csv").open(newline="") as file:
        rows = [(row["net"], float(row["edgetpu_latency"]) / 1e3) for row in csv.DictReader(file)]
    picked = [rows[i] for i in np.random.default_rng(0).permutation(len(rows)) if rows[i][1] > 0][:24]
    found, truth = [], []
    for text, seconds in picked:
        price = price_of(untrained(space, space.parse(text), "int8"))
        found.append(price)
        truth.append(seconds)
    assert kendalltau(found, truth).statistic > 0.85
    assert np.median(np.abs(np.array(found) / np.array(truth) - 1)) < 0.06


def price_of(onnx_network: onnx.ModelProto) -> float:
    from hwnas.toolchains.edgetpu.toolchain import price_partition

    found = partition(onnx_network, RULES, prefix_only=True)
    price, _ = price_partition(found, DEVICE, settings_of(DEVICE), None, 0, "law")
    return price.total - price.parts["cpu"]


def test_kernels_alone_add_up_to_the_network_but_for_handing_over(tmp_path: Path) -> None:
    subject, known = network_subject("it", network(3), EdgeTpuToolchain.rules)
    total = 0.0
    for i, (key, n) in enumerate(subject.item.parts.items()):
        price = built(materialize(known[key]), tmp_path / str(i))
        assert price.parts["transfer"] == 0 and price.crossings == 0
        total += n * price.total
    whole = built(network(3), tmp_path / "whole")
    assert total == pytest.approx(whole.total - whole.parts["transfer"], rel=1e-6)


def test_after_the_first_operator_that_is_not_supported_the_cpu_computes(tmp_path: Path) -> None:
    odd = chain("conv", "groups", "conv")
    one = built(odd, tmp_path / "one")
    assert one.parts["cpu"] > 0 and one.crossings == 2
    assert [layer.where for layer in one.layers].count("accelerator") == 2
    several = built(odd, tmp_path / "several", changed(subgraphs="several"))
    assert several.crossings == 4 and several.parts["transfer"] > one.parts["transfer"]
    assert [layer.where for layer in several.layers].count("accelerator") == 3
    with pytest.raises(
        UnsupportedOperator, match="channels form one group, or each channel its own; given 2 groups of 16"
    ):
        built(odd, tmp_path / "strict", changed(allow_cpu_fallback=False))


@pytest.mark.parametrize("fallback", [True, False])
def test_a_float_network_is_told_to_be_quantised(fallback: bool, tmp_path: Path) -> None:
    graph = GraphBuilder("float")
    floats = graph.build(graph.conv(graph.input((1, 4, 8, 8)), 8, (1, 1)))
    with pytest.raises(UnsupportedOperator, match="quantise the network"):
        built(floats, tmp_path, changed(allow_cpu_fallback=fallback))


def test_flash_counts_segments_where_the_whole_has_no_tflite(tmp_path: Path) -> None:
    known, odd = chain("conv", "conv"), chain("conv", "elu", "conv")
    whole = len(tflite_bytes(known))
    for subgraphs, files in (("one", 1), ("several", 2)):
        into = tmp_path / subgraphs
        built(odd, into, changed(subgraphs=subgraphs))
        segments = sorted(into.glob("segment-*.tflite"))
        assert [s.name for s in segments] == [f"segment-{i}.tflite" for i in range(files)]
        assert all(s.read_bytes()[4:8] == b"TFL3" for s in segments) and not (into / TFLITE).exists()
        on_cpu = read_artifact(into).flash_bytes - sum(s.stat().st_size for s in segments)
        assert on_cpu >= 16 * 16 * 9 if subgraphs == "one" else 0 <= on_cpu < 256  # the last convolution's weights
        assert read_artifact(into).flash_bytes == pytest.approx(whole, rel=0.35)


def test_a_segment_that_has_no_tflite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_onnx: onnx.ModelProto) -> bytes:
        raise UnsupportedOperator("Conv (c)", "it is odd")

    for user in ("hwnas.toolchains.edgetpu.toolchain", "hwnas.graph.tflite.emit"):  # of a segment, and of the whole
        monkeypatch.setattr(f"{user}.tflite_bytes", refused)
    with pytest.raises(UnsupportedOperator, match=r"Conv \(c\): segment 0 has no TFLite form: it is odd"):
        built(chain("conv"), tmp_path)


def test_flash_of_blocks_adds_up_to_the_file() -> None:
    from hwnas.graph.precision import cast_block

    toolchain, space = EdgeTpuToolchain(), api.load_space("mbconv-micro")
    for seed in range(4):
        candidate = space.sample(np.random.default_rng(seed))
        blocks = [cast_block(b, "int8", space.input_shape, space.classes).build() for b in space.blocks(candidate)]
        real = len(tflite_bytes(untrained(space, candidate, "int8")))
        assert sum(map(toolchain.flash_bytes, blocks)) == pytest.approx(real, rel=0.01)


def test_the_support_table_names_operators_and_what_has_to_hold() -> None:
    lines = {line.operator: line.conditions for line in EdgeTpuToolchain().support()}
    assert "dilations are the same in both directions" in lines["Conv"]
    assert "HardSwish" not in lines


def test_settings_name_what_is_wrong() -> None:
    law = DEVICE.options["edgetpu"]["law"]
    for options, words in (
        ({"speed": 3}, "speed"),
        ({"subgraphs": "two"}, r"options\.edgetpu of coral-edgetpu.*subgraphs"),
        ({"law": {**law, "peak": 2e12}}, "peak"),
        ({"law": {**law, "peak": "0 T/s"}}, "peak"),
        ({"law": {**law, "sources": {}}}, "sources says nothing of activation, activations, cache"),
        ({"law": {**law, "sources": {**law["sources"], "colour": "blue"}}}, "colour, which are no constants"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings_of(changed(**options))
    assert isinstance(LAW, LawSettings)


# with a compiler on the PATH


def test_the_compiler_is_asked_where_it_is_installed(install: Install, tmp_path: Path) -> None:
    install()
    price = built(network(), tmp_path / "out")
    artifact = read_artifact(tmp_path / "out")
    assert "edgetpu_compiler 16.0.384591198 (compiled)" in price.tool
    assert (tmp_path / "out" / COMPILED).read_bytes().endswith(b"edgetpu-custom-op")
    assert artifact.flash_bytes == (tmp_path / "out" / COMPILED).stat().st_size
    log = (tmp_path / "out" / LOG).read_text()
    assert "On-chip memory used for caching" in log and "network_edgetpu.log" in log
    assert artifact.memory["constants"] > 1000 and artifact.schedule == "edgetpu-compiler"
    by_law = built(network(), tmp_path / "law", changed(compiler="never"))
    assert price.total == pytest.approx(by_law.total) and price.layers == by_law.layers
    assert compiler_version() == "16.0.384591198"
    assert EdgeTpuToolchain().version() == "law 1, edgetpu_compiler 16.0.384591198"


def test_what_the_compiler_maps_replaces_the_rules(install: Install, tmp_path: Path) -> None:
    install("--cut", "9")
    price = built(network(), tmp_path / "cut")
    computed = [layer.name for layer in price.layers if layer.where == "accelerator"]
    by_law = built(network(), tmp_path / "law", changed(compiler="never"))
    assert computed == [layer.name for layer in by_law.layers if layer.where == "accelerator"][: len(computed)]
    assert len(computed) == 7  # PAD belongs to the first convolution, ADD without its MUL makes no hard sigmoid
    assert price.parts["cpu"] > by_law.parts["cpu"]
    with pytest.raises(
        UnsupportedOperator, match="edgetpu_compiler maps it to the Edge TPU; given Operation is otherwise"
    ):
        built(network(), tmp_path / "strict", changed(allow_cpu_fallback=False))


def test_several_subgraphs_come_back_to_the_edge_tpu(install: Install, tmp_path: Path) -> None:
    install("--refuse", "MUL")
    one = built(network(), tmp_path / "one")
    several = built(network(), tmp_path / "several", changed(subgraphs="several"))
    refused = [layer.op for layer in several.layers if layer.where == "cpu"]
    assert sum("Mul" in op or "HardSigmoid" in op for op in refused) == len(refused) - 2  # and entry and exit
    assert several.crossings > one.crossings
    assert len([x for x in several.layers if x.where == "accelerator"]) > len(
        [x for x in one.layers if x.where == "accelerator"]
    )


def test_the_partition_is_the_one_that_was_priced(install: Install, tmp_path: Path) -> None:
    by_law = EdgeTpuToolchain().partition(network(), DEVICE)
    install("--cut", "9")
    by_compiler = EdgeTpuToolchain().partition(network(), DEVICE)
    assert [len(s.kernels) for s in by_compiler.segments] == [7] and len(by_law.segments[0].kernels) > 20
    computing = [rest for rest in by_compiler.rest if rest.kernel.workload is not None]  # not only another shape
    assert len(computing) == len([x for x in built(network(), tmp_path).layers if x.where == "cpu"])


def test_what_the_compiler_caches_replaces_the_law(install: Install, tmp_path: Path) -> None:
    install("--cache", "4096")
    price = built(network(), tmp_path / "small")
    by_law = built(network(), tmp_path / "law", changed(compiler="never"))
    assert price.traffic["host"] > by_law.traffic["host"] + 10_000
    assert price.parts["accelerator"] > by_law.parts["accelerator"] + 10_000 / 395e6


def test_where_tflite_lacks_an_operator_its_part_before_that_is_compiled(install: Install, tmp_path: Path) -> None:
    install()
    odd = chain("conv", "elu", "conv")
    with pytest.raises(UnsupportedOperator, match="Elu"):
        tflite_bytes(odd)
    price = built(odd, tmp_path / "out")
    assert [layer.where for layer in price.layers].count("accelerator") == 2
    assert (tmp_path / "out" / COMPILED).exists() and not (tmp_path / "out" / TFLITE).exists()
    left = read_artifact(tmp_path / "out").flash_bytes - (tmp_path / "out" / COMPILED).stat().st_size
    assert 16 * 16 * 9 <= left < 16 * 16 * 9 + 256  # the convolution that the CPU computes


def test_a_workload_that_only_the_cpu_computes_is_not_compiled(install: Install, tmp_path: Path) -> None:
    install("--behave", "abort")
    subject, known = network_subject("it", network(), EdgeTpuToolchain.rules)
    border = [known[k] for k in subject.item.parts if known[k].op in ("QuantizeLinear", "DequantizeLinear")]
    assert border
    for i, workload in enumerate(border):
        assert built(materialize(workload), tmp_path / str(i)).parts["accelerator"] == 0


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        ("abort", r"the compiler refuses the network: .*Internal compiler error\. Aborting!"),
        ("float", r"the compiler refuses the network: .*Model not quantized"),
        ("nothing", "the compiler refuses the network"),
        ("spoil", "what the compiler wrote is no TFLite file"),
        ("silent", "does not say 'On-chip memory remaining for caching model parameters'"),
        ("flood", "the compiler refuses the network"),
    ],
)
def test_a_compiler_that_refuses_is_heard(behave: str, words: str, install: Install, tmp_path: Path) -> None:
    install("--behave", behave)
    with pytest.raises(BuildError, match=f"(?s){words}") as raised:
        built(network(), tmp_path / "out")
    assert raised.value.stage == "edgetpu_compiler" and raised.value.exit_code == 4
    assert len(str(raised.value)) < 6000


def test_a_compiler_that_hangs_is_ended(install: Install) -> None:
    install("--behave", "hang")
    with pytest.raises(BuildError, match=r"did not end within 1 s: .*Edge TPU Compiler version"):
        compile_tflite(tflite_bytes(network()), "one", deadline_s=1.0)


def test_a_compiler_that_is_required_and_missing_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"edgetpu_compiler is not on the PATH: see coral\.ai/docs/edgetpu/compiler"):
        built(network(), tmp_path, changed(compiler="required"))
    assert compiler_version() is None


PUBLISHED = """Edge TPU Compiler version 2.1.302470888

Model compiled successfully in 12264 ms.

Input model: model2.tflite
Input size: 8.11MiB
Output model: model2_edgetpu.tflite
Output size: 9.47MiB
On-chip memory used for caching model parameters: 6.86MiB
On-chip memory remaining for caching model parameters: 7.75KiB
Off-chip memory used for streaming uncached model parameters: 1.22MiB
Number of Edge TPU subgraphs: 1
Total number of operations: 93
Operation log: model2_edgetpu.log
Number of operations that will run on Edge TPU: 83
Number of operations that will run on CPU: 10

Operator                       Count      Status

LOGISTIC                       1          More than one subgraph is not supported
ADD                            10         Mapped to Edge TPU
CONCATENATION                  3          Mapped to Edge TPU
"""
"""Figures of google-coral/edgetpu issue 60."""


def test_a_published_log_is_read() -> None:
    report = read_report(PUBLISHED)
    assert report.version == "2.1.302470888" and report.subgraphs == 1
    assert (report.cached, report.remaining) == (round(6.86 * 2**20), round(7.75 * 1024))
    assert report.streamed == round(1.22 * 2**20)
    assert [(row.operator, row.count, row.mapped) for row in report.operators] == [
        ("LOGISTIC", 1, False), ("ADD", 10, True), ("CONCATENATION", 3, True),
    ]  # fmt: skip
    assert read_report(PUBLISHED + PUBLISHED.split("Operator ")[1]).operators == report.operators


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("version 2.1.302470888", "version ?", "has no version"),
        ("6.86MiB", "6.86 parsecs", "does not say 'On-chip memory used"),
        ("6.86MiB", "-6.86MiB", "does not say 'On-chip memory used"),
        ("subgraphs: 1", "subgraphs: many", "does not say 'Number of Edge TPU subgraphs'"),
        ("ADD                            10 ", "ADD  999999 ", "more than 100000 operators"),
    ],
)
def test_a_log_that_is_none_is_refused(before: str, after: str, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        read_report(PUBLISHED.replace(before, after))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.integers(0, len(PUBLISHED)))
def test_whatever_a_log_holds_it_is_read_or_refused(text: str, at: int) -> None:
    for words in (text, PUBLISHED[:at] + text + PUBLISHED[at:], PUBLISHED[:at]):
        try:
            report = read_report(words)
        except BuildError:
            continue
        assert report.cached >= 0 and report.operators
