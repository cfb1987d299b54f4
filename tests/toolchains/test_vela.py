"""Vela on networks of ours: priced by Vela's estimate, in this process and by its command line alike."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hwnas import api
from hwnas.core.artifact import COMPILED, TFLITE
from hwnas.core.device import Device
from hwnas.core.price import read_price
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.graph.builder import GraphBuilder
from hwnas.graph.precision import cast
from hwnas.graph.tflite import tflite_bytes
from hwnas.profiling.subjects import untrained
from hwnas.toolchains.builder import build_one
from hwnas.toolchains.vela import VelaToolchain
from hwnas.toolchains.vela.compiler import compile_by_command, compile_tflite, system_text
from hwnas.toolchains.vela.settings import VelaSettings, settings_of

DEVICES = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512", "ethos-u85-256")


def network(seed: int = 0) -> onnx.ModelProto:
    space = api.load_space("mbconv-micro")
    return untrained(space, space.sample(np.random.default_rng(seed)), "int8")


def changed(device: Device, **options: Any) -> Device:
    return device.model_copy(update={"options": {"vela": {**device.options["vela"], **options}}})


def with_sram(device: Device, size: str) -> Device:
    document = changed(device, sram=size).model_dump(mode="json", by_alias=True)
    for memory in document["memories"]:
        if memory["use"] == "sram":
            memory["size"] = size
    return Device.model_validate(document)


def small(channels: int = 8, size: int = 12) -> onnx.ModelProto:
    graph = GraphBuilder("small")
    return cast(graph.build(graph.relu6(graph.conv(graph.input((1, 3, size, size)), channels, (3, 3)))), "int8")


@pytest.mark.parametrize("name", DEVICES)
def test_a_network_is_compiled_whole_and_priced(name: str, tmp_path: Path) -> None:
    device = api.load_device(name)
    artifact = VelaToolchain().build(network(), device, tmp_path)
    price = read_price(tmp_path)
    assert price.unit == "cycles" and price.parts["accelerator"] > 1000 and price.tool.startswith("Vela 5.2")
    assert price.macs > 1e5 and price.traffic["sram"] > 0
    assert set(price.traffic) <= device.accelerator.energy.per_byte.keys()  # type: ignore[union-attr]
    assert sum(layer.cost for layer in price.layers if layer.where == "accelerator") == price.parts["accelerator"]
    compiled = (tmp_path / COMPILED).read_bytes()
    assert compiled[4:8] == b"TFL3" and artifact.flash_bytes == len(compiled)
    assert (tmp_path / TFLITE).read_bytes()[4:8] == b"TFL3" and artifact.memory["sram"] > 1000
    assert b"ethos-u" in compiled, "the custom operator of the NPU's driver"


def test_the_same_network_costs_the_same_every_time_and_by_the_command_line() -> None:
    settings = settings_of(api.load_device("ethos-u55-128"))
    data = tflite_bytes(network(3), 3)
    first, second, by_command = (
        compile_tflite(data, settings),
        compile_tflite(data, settings),
        compile_by_command(data, settings),
    )
    assert (first.cycles, first.macs, first.sram_bytes) == (second.cycles, second.macs, second.sram_bytes)
    assert (first.cycles, first.macs, first.cpu_operators) == (
        by_command.cycles,
        by_command.macs,
        by_command.cpu_operators,
    )
    assert first.sram_bytes == pytest.approx(by_command.sram_bytes, abs=16)
    assert [layer.cost for layer in first.layers] == [layer.cost for layer in by_command.layers]


def test_a_larger_array_takes_fewer_cycles() -> None:
    data = tflite_bytes(network(1), 3)
    cycles = [compile_tflite(data, settings_of(api.load_device(f"ethos-u55-{macs}"))).cycles for macs in (128, 256)]
    assert cycles[1] < cycles[0]


def test_kernels_alone_add_up_to_about_the_network() -> None:
    from hwnas.graph.workloads import materialize
    from hwnas.profiling.subjects import network_subject

    settings = settings_of(api.load_device("ethos-u55-128"))
    for seed in range(4):
        subject, known = network_subject("it", network(seed), VelaToolchain.rules)
        parts = {
            k: n for k, n in subject.item.parts.items() if known[k].op not in ("QuantizeLinear", "DequantizeLinear")
        }
        total = sum(
            n * compile_tflite(tflite_bytes(materialize(known[k]), 3), settings).cycles for k, n in parts.items()
        )
        whole = compile_tflite(tflite_bytes(network(seed), 3), settings).cycles
        assert total == pytest.approx(whole, rel=0.05)


def test_an_operator_that_no_rule_takes_is_named_unless_the_cpu_may_help(tmp_path: Path) -> None:
    graph = GraphBuilder("wide")
    x = graph.conv(graph.input((1, 4, 8, 8)), 8, (1, 1))
    odd = cast(graph.build(graph.relu6(graph.conv(x, 8, (3, 3), groups=2))), "int8")
    device = api.load_device("ethos-u55-128")
    with pytest.raises(
        UnsupportedOperator, match=r"convolution: channels form one group, or each channel its own; given 2 groups of 8"
    ):
        VelaToolchain().build(odd, device, tmp_path / "strict")
    artifact = VelaToolchain().build(odd, api.with_cpu_fallback(device), tmp_path / "lenient")
    price = read_price(Path(artifact.path))
    assert price.parts["cpu"] > 0 and price.parts["transfer"] > 0 and price.crossings >= 2
    assert any(layer.where == "cpu" and "Conv" in layer.name for layer in price.layers)


def test_a_float_network_is_told_to_be_quantised(tmp_path: Path) -> None:
    graph = GraphBuilder("float")
    floats = graph.build(graph.conv(graph.input((1, 4, 8, 8)), 8, (1, 1)))
    with pytest.raises(UnsupportedOperator, match="int8"):
        VelaToolchain().build(floats, api.load_device("ethos-u55-128"), tmp_path)


def test_a_network_beyond_the_sram_says_how_much_it_needs(tmp_path: Path) -> None:
    device = with_sram(api.load_device("ethos-u55-128"), "4 KiB")
    with pytest.raises(BuildError, match=r"needs .* KiB of SRAM at once, and ethos-u55-128 has 4 KiB"):
        VelaToolchain().build(small(32, 64), device, tmp_path)


def test_sram_of_two_sizes_is_a_contradiction(tmp_path: Path) -> None:
    device = changed(api.load_device("ethos-u55-128"), sram="4 KiB")
    with pytest.raises(ConfigError, match=r"options\.vela\.sram is 4 KiB, and memories has sram of 512 KiB"):
        VelaToolchain().build(small(), device, tmp_path)
    with pytest.raises(ConfigError, match="the same memory"):
        VelaToolchain().check(device)


def test_unknown_settings_name_the_key() -> None:
    device = api.load_device("ethos-u55-128")
    for options, words in (
        ({"accelerator": "ethos-u99"}, r"options\.vela of ethos-u55-128.*accelerator"),
        ({"speed": 3}, "speed"),
        ({"system_config": "../etc"}, "system_config"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings_of(changed(device, **options))


def test_an_unknown_system_configuration_lists_those_of_vela() -> None:
    device = changed(api.load_device("ethos-u55-128"), system_config="Ethos_U55_Imaginary")
    with pytest.raises(BuildError, match=r"no System_Config 'Ethos_U55_Imaginary'; it has Ethos_U55_Deep_Embedded, "):
        system_text(settings_of(device))


def test_what_vela_refuses_is_said_in_its_words() -> None:
    settings = settings_of(api.load_device("ethos-u55-128"))
    graph = GraphBuilder("stride")
    long_stride = cast(graph.build(graph.conv(graph.input((1, 3, 32, 32)), 8, (5, 5), stride=(4, 4))), "int8")
    with pytest.raises(BuildError, match="Vela refuses the network: .*NPU"):
        compile_tflite(tflite_bytes(long_stride), settings)  # without the detour by a shorter stride
    with pytest.raises(BuildError, match="Vela refuses the network"):
        compile_by_command(b"TFL3 not a network", settings)


def test_a_missing_vela_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("hwnas.toolchains.vela.compiler.version", missing)
    with pytest.raises(BuildError, match=r'Vela is not installed: pip install "hwnas\[npu\]"') as raised:
        VelaToolchain().version()
    assert raised.value.exit_code == 4


def test_flash_is_estimated_within_a_tenth() -> None:
    chain, errors = VelaToolchain(), []
    settings = settings_of(api.load_device("ethos-u55-128"))
    for seed in range(6):
        real = len(compile_tflite(tflite_bytes(network(seed), 3), settings).data)
        errors.append(chain.flash_bytes(network(seed)) / real - 1)
    assert max(map(abs, errors)) < 0.1, errors


def test_two_cores_of_256() -> None:
    found = VelaSettings.model_validate(api.load_device("ethos-u65-512").options["vela"])
    assert (found.family, found.macs, found.cores) == ("EthosU65", 256, 2)


def test_what_vela_computes_nothing_of_is_said_to_be_left_to_the_cpu(tmp_path: Path) -> None:
    graph = GraphBuilder("channels")
    model = graph.build(graph.relu6(graph.conv(graph.input((1, 3, 8, 8)), 4, (1, 1))))
    rank_0 = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "scalar",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ())],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ())],
    )  # fmt: skip
    scalar = onnx.helper.make_model(rank_0, opset_imports=model.opset_import, ir_version=model.ir_version)
    with pytest.raises(BuildError, match="leaves to the CPU what the support rules take: operators 1"):
        VelaToolchain().build(cast(scalar, "int8"), api.load_device("ethos-u55-128"), tmp_path)


def test_an_error_of_a_build_names_its_stage_once(tmp_path: Path) -> None:
    device = with_sram(api.load_device("ethos-u55-128"), "4 KiB")
    with pytest.raises(BuildError) as raised:
        build_one("vela", small(32, 64), device, tmp_path)
    assert str(raised.value).startswith("build failed in vela: the network needs")


def test_a_command_line_that_reports_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(command: list[str], cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        (cwd / "out").mkdir()
        (cwd / "out" / "network_vela.tflite").write_bytes(b"TFL3")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("hwnas.toolchains.vela.compiler.subprocess.run", silent)
    with pytest.raises(BuildError, match="reports in another way"):
        compile_by_command(tflite_bytes(small()), settings_of(api.load_device("ethos-u55-128")))
