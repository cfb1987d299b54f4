"""Generic NPUs by ZigZag: what is priced and what is left to the CPU, what is kept on disk, and what goes wrong."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas import api
from hwnas.core.artifact import TFLITE
from hwnas.core.device import Device
from hwnas.core.measurement import Fidelity, Samples
from hwnas.core.price import Price, read_price
from hwnas.digest import content_id
from hwnas.errors import BuildError, ConfigError, UnsupportedOperator
from hwnas.graph.analysis import analyse
from hwnas.graph.builder import GraphBuilder, Value
from hwnas.graph.precision import cast
from hwnas.graph.quantised import Activation, Constant, Grid, Group
from hwnas.graph.view import Operator
from hwnas.processes import Child
from hwnas.toolchains.partition import partition
from hwnas.toolchains.zigzag import ZigzagToolchain, prices
from hwnas.toolchains.zigzag.nest import Nest, macs_of, nest_of
from hwnas.toolchains.zigzag.prices import KernelPrice, price_nests
from hwnas.toolchains.zigzag.rules import RULES
from hwnas.toolchains.zigzag.settings import ZigzagSettings, settings_of

EYERISS, EDGE = "npu-eyeriss", "npu-edge-tpu-like"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test begins with nothing kept; returns where prices are kept."""
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "zigzag"


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    prices._worker()[0].close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Nest]:
    """The kernels that ZigZag itself was asked about."""
    nests: list[Nest] = []
    request = Child.request

    def counted(child: Child, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        nests.append(message["nest"])
        return request(child, message, timeout_s)

    monkeypatch.setattr(Child, "request", counted)
    return nests


def small() -> onnx.ModelProto:
    """Two convolutions that are alike but for their weights, a depthwise one, a sum, a mean and a dense product."""
    graph = GraphBuilder("small")
    x = graph.relu6(graph.conv(graph.input((1, 8, 4, 4)), 8, (1, 1)))
    y = graph.relu6(graph.conv(x, 8, (1, 1)))
    y = graph.relu6(graph.conv(y, 8, (1, 3), groups=8))
    y = graph.add(x, y)
    return cast(graph.build(graph.linear(graph.flatten(graph.spatial_mean(y)), 10)), "int8")


def conv(channels: int, size: int, outputs: int, kernel: int = 1, **how: Any) -> onnx.ModelProto:
    graph = GraphBuilder("conv")
    return cast(
        graph.build(graph.relu(graph.conv(graph.input((1, channels, size, size)), outputs, (kernel, kernel), **how))),
        "int8",
    )


def nest(network: onnx.ModelProto, sum_bits: int = 16) -> Nest:
    [segment] = partition(network, RULES).segments
    [kernel] = segment.kernels
    assert kernel.group is not None
    return nest_of(kernel.group, sum_bits)


def changed(name: str, **options: Any) -> Device:
    device = api.load_device(name)
    return device.model_copy(update={"options": {"zigzag": {**device.options["zigzag"], **options}}})


def built(network: onnx.ModelProto, device: Device, into: Path) -> Price:
    ZigzagToolchain().build(network, device, into)
    return read_price(into)


def energy_of(price: Price, device: Device) -> float:
    energy = device.value(Samples(latency_s=(price.total,), traffic=price.traffic, macs=price.macs), "energy")
    assert energy is not None
    return energy


@pytest.mark.parametrize("name", [EYERISS, EDGE])
def test_a_network_is_priced_kernel_by_kernel(name: str, tmp_path: Path, asked: list[Nest]) -> None:
    device, network = api.load_device(name), small()
    assert device.fidelity is Fidelity.MODEL and "model" in device.summary and "ZigZag" in device.summary
    artifact = ZigzagToolchain().build(network, device, tmp_path / "first")
    price = read_price(tmp_path / "first")
    assert price.unit == "s" and price.tool.startswith("ZigZag 3.9.1 (") and all(price.parts.values())
    priced = [x for x in price.layers if x.where == "accelerator"]
    assert [x.op for x in priced] == ["Conv", "Conv", "Conv", "Gemm"]
    assert sum(x.cost for x in priced) == pytest.approx(price.parts["accelerator"])
    assert priced[0].cost == priced[1].cost and len(asked) == 3, "kernels of one shape are asked about once"
    left = {x.op.partition(":")[0] for x in price.layers if x.where == "cpu"}
    assert left >= {"Add", "ReduceMean"} and all(x.cost > 0 for x in price.layers)
    assert price.macs == analyse(network, "cgen").macs
    assert price.crossings == len(partition(network, RULES).crossings) > 4
    assert artifact.flash_bytes == ZigzagToolchain().flash_bytes(network) and (tmp_path / "first" / TFLITE).is_file()
    assert device.accelerator is not None and device.accelerator.energy is not None
    assert set(price.traffic) <= device.accelerator.energy.per_byte.keys()

    assert built(network, device, tmp_path / "second") == price
    assert len(asked) == 3, "the second build found every price on disk"


@pytest.mark.parametrize("name", [EYERISS, EDGE])
def test_the_rule_of_a_device_makes_the_energy_that_zigzag_does(name: str, tmp_path: Path) -> None:
    device, network = api.load_device(name), conv(16, 8, 8)
    price = built(network, device, tmp_path)
    [own] = price_nests([nest(network, settings_of(device).sum_bits)], settings_of(device))
    assert device.accelerator is not None and device.accelerator.energy is not None
    rule = device.accelerator.energy.model_copy(update={"power": 0.0})
    assert rule.joules(own.macs, own.traffic, 1.0) == pytest.approx(own.energy_j, rel=1e-6)
    assert price.parts["accelerator"] == own.cycles / device.accelerator.clock
    assert energy_of(price, device) == pytest.approx(own.energy_j + device.accelerator.energy.power * price.total)


def test_prices_are_those_of_zigzags_own_interface(tmp_path: Path) -> None:
    """The same kernel as ONNX through the documented call, which parses, saves and draws as well."""
    from zigzag.api import get_hardware_performance_zigzag

    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4,
                               dilations=[1, 1], group=1)],
        "graph",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 8, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 16, 4, 4])],
        [onnx.numpy_helper.from_array(np.zeros((16, 8, 3, 3), np.float32), "w")],
    )  # fmt: skip
    network = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    shipped = prices._shipped
    energy_pj, cycles, _ = get_hardware_performance_zigzag(
        network, str(shipped("hardware", "edge_tpu_like")), str(shipped("mapping", "edge_tpu_like")), opt="latency",
        lpf_limit=4, dump_folder=str(tmp_path / "dump"), loma_show_progress_bar=False,
    )  # fmt: skip
    [ours] = price_nests([nest(conv(8, 8, 16, 3, stride=(2, 2)))], settings_of(api.load_device(EDGE)))
    assert (ours.latency_cycles, ours.energy_j) == (cycles, pytest.approx(energy_pj * 1e-12))


def test_what_fits_on_the_chip_moves_once_through_dram() -> None:
    kernels = [nest(conv(16, 8, 8)), nest(conv(8, 16, 8, 3, groups=8)), nest(conv(8, 16, 8, 3, stride=(2, 2)))]
    found = price_nests(kernels, settings_of(api.load_device(EDGE)))
    weights = [16 * 8, 8 * 9, 8 * 8 * 9]
    inputs, outputs = [16 * 64, 8 * 256, 8 * 256], [8 * 64, 8 * 256, 8 * 64]
    assert [p.traffic["dram_read"] for p in found] == [i + w for i, w in zip(inputs, weights)]
    assert [p.traffic["dram_write"] for p in found] == outputs


def test_figures_of_the_pinned_version() -> None:
    """Golden: 16 channels of 32 x 32 through a 1 x 1 convolution wait for DRAM, where 256 cycles would compute."""
    [found] = price_nests([nest(conv(16, 32, 16))], settings_of(api.load_device(EDGE)))
    assert (found.latency_cycles, found.port_cycles, found.macs) == (4097.0, 4128.0, 16 * 16 * 1024)


def test_no_kernel_is_faster_than_the_dram_it_waits_for() -> None:
    kernels = [nest(conv(64, 14, 24)), nest(conv(8, 8, 8, 3, groups=8))]
    waits, computes = price_nests(kernels, settings_of(api.load_device(EDGE)))
    for price in (waits, computes):
        assert price.cycles >= (price.traffic["dram_read"] + price.traffic["dram_write"]) / 8, "64 bits a cycle"
    assert waits.latency_cycles < waits.port_cycles == waits.cycles
    assert computes.port_cycles < computes.latency_cycles == computes.cycles


def test_a_new_process_finds_the_same(empty_cache: Path) -> None:
    kernel, settings = nest(conv(6, 7, 10, 3), 24), settings_of(api.load_device(EYERISS))
    before = price_nests([kernel], settings)
    prices._worker()[0].close()
    for file in empty_cache.iterdir():
        file.unlink()
    assert price_nests([kernel], settings) == before


def test_other_searches_hardware_and_widths_are_other_questions(asked: list[Nest]) -> None:
    kernel = nest(conv(8, 4, 8))
    base = settings_of(api.load_device(EDGE)).model_dump()
    variants: list[dict[str, Any]] = [
        {},
        {"loops": 3},
        {"mappings": 2},
        {"mapping": None},
        {"hardware": "eyeriss_like", "mapping": None},
    ]
    for change in variants:
        price_nests([kernel], ZigzagSettings.model_construct(**{**base, **change}))
    price_nests([nest(conv(8, 4, 8), 12)], ZigzagSettings.model_construct(**base))
    assert len(asked) == len(variants) + 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: text.replace('"macs"', '"cats"'),
        lambda text: json.dumps({**json.loads(text), "question": "0" * 20}),
        lambda text: text.replace('"latency_cycles":', '"latency_cycles":1'),
        lambda text: text.replace('"latency_cycles":', '"latency_cycles":-'),
        lambda text: text.replace('"traffic":{', '"traffic":{"dram_read":NaN,'),
        lambda text: text + " " * 2**17,
        lambda text: text.replace('"digest"', '"pickle":"gASVAAAA","digest"'),
    ],
    ids=["empty", "torn", "deep", "key", "question", "altered", "negative", "nan", "large", "more"],
)
def test_a_spoilt_file_is_asked_for_again(spoil: Any, empty_cache: Path, asked: list[Nest]) -> None:
    kernel, settings = nest(conv(8, 4, 8)), settings_of(api.load_device(EDGE))
    [price] = price_nests([kernel], settings)
    [file] = empty_cache.iterdir()
    whole = file.read_text()
    file.write_text(spoil(whole))
    assert price_nests([kernel], settings) == [price]
    assert len(asked) == 2 and file.read_text() == whole


def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(empty_cache: Path, asked: list[Nest]) -> None:
    kernel, settings = nest(conv(8, 4, 8)), settings_of(api.load_device(EDGE))
    price_nests([kernel], settings)
    [file] = empty_cache.iterdir()
    file.unlink()
    os.mkfifo(file)
    assert price_nests([kernel], settings)[0].cycles > 0 and file.is_file() and len(asked) == 2


def test_prices_are_kept_as_plain_json(empty_cache: Path) -> None:
    [price] = price_nests([nest(conv(8, 4, 8))], settings_of(api.load_device(EDGE)))
    [file] = empty_cache.iterdir()
    document = json.loads(file.read_text())
    assert document["question"] == file.stem and document["digest"] == content_id(document["price"])
    assert KernelPrice.model_validate(document["price"]) == price


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Nest]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file"))
    kernel, settings = nest(conv(8, 4, 8)), settings_of(api.load_device(EDGE))
    assert price_nests([kernel], settings) == price_nests([kernel], settings)
    assert len(asked) == 2


def test_what_zigzag_does_not_price_is_the_cpus_and_never_free(tmp_path: Path, asked: list[Nest]) -> None:
    graph = GraphBuilder("sum")
    x, device = graph.input((1, 8, 8, 8)), api.load_device(EYERISS)
    network = cast(graph.build(graph.add(x, graph.relu(x))), "int8")
    price = built(network, device, tmp_path)
    assert price.parts["accelerator"] == 0 and price.parts["cpu"] > 0 and not asked
    assert energy_of(price, device) > 0, "the power while it runs"
    with pytest.raises(UnsupportedOperator, match=r"no rule computes Add; supported are Conv, Gemm, MatMul"):
        ZigzagToolchain().build(small(), changed(EYERISS, allow_cpu_fallback=False), tmp_path)


@pytest.mark.parametrize("kind", ["pool", "mean", "hardswish", "mul"])
def test_no_other_operator_is_priced_by_zigzag(kind: str, tmp_path: Path, asked: list[Nest]) -> None:
    graph = GraphBuilder(kind)
    x = graph.input((1, 8, 8, 8))
    made: dict[str, Value] = {
        "pool": graph.average_pool(x, 2, 2, 0, False), "mean": graph.spatial_mean(x), "hardswish": graph.hardswish(x),
        "mul": graph.mul(x, x),
    }  # fmt: skip
    price = built(cast(graph.build(made[kind]), "int8"), api.load_device(EDGE), tmp_path)
    assert not asked and not price.macs and price.parts["accelerator"] == 0 and price.parts["cpu"] > 0


def test_a_device_without_cpu_refuses_what_it_cannot_price(tmp_path: Path) -> None:
    device = api.load_device(EDGE)
    assert device.accelerator is not None
    alone = device.model_copy(update={"accelerator": device.accelerator.model_copy(update={"cpu": None})})
    with pytest.raises(ConfigError, match=r"accelerator\.cpu: is required to price what the accelerator does not"):
        ZigzagToolchain().build(small(), alone, tmp_path)
    none = device.model_copy(update={"accelerator": None})
    with pytest.raises(ConfigError, match="has no accelerator: section"):
        ZigzagToolchain().build(small(), none, tmp_path)


def test_a_float_network_is_told_to_be_quantised(tmp_path: Path) -> None:
    graph = GraphBuilder("float")
    floats = graph.build(graph.conv(graph.input((1, 4, 8, 8)), 8, (1, 1)))
    with pytest.raises(UnsupportedOperator, match=r"Conv.*precision: int8"):
        ZigzagToolchain().build(floats, api.load_device(EDGE), tmp_path)


def test_a_kernel_that_has_no_mapping_is_an_error_and_no_price(tmp_path: Path, empty_cache: Path) -> None:
    with pytest.raises(
        BuildError, match=r"ZigZag finds no way to map K 8 x C 8 x OY 4 x OX 4 x FY 3 x FX 3 onto edge_tpu_like"
    ) as it:
        ZigzagToolchain().build(conv(8, 4, 8, 3), changed(EDGE, sum_bits=24), tmp_path / "built")
    assert it.value.exit_code == 4 and not (tmp_path / "built").exists()
    assert not empty_cache.exists() or not list(empty_cache.iterdir())


def test_a_price_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_cache: Path) -> None:
    nothing = {"latency_cycles": 0.0, "port_cycles": 0.0, "macs": 64.0, "energy_j": 1e-9, "traffic": {"dram_read": 1.0}}
    monkeypatch.setattr(Child, "request", lambda *_, **__: nothing)
    with pytest.raises(
        BuildError, match=r"ZigZag prices .* at nothing sound: latency_cycles: Input should be greater than 0"
    ):
        ZigzagToolchain().build(conv(8, 4, 8), api.load_device(EDGE), tmp_path)
    assert not empty_cache.exists()


def test_a_process_that_dies_is_an_error_of_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prices._worker()[0].close()
    monkeypatch.setattr(prices._worker()[0], "_module", "hwnas.toolchains.zigzag.nothing")
    with pytest.raises(BuildError, match=r"ZigZag failed: the process ended with status 1: .*No module named"):
        ZigzagToolchain().build(conv(8, 4, 8), api.load_device(EDGE), tmp_path)


def test_a_deadline_keeps_what_was_priced_and_says_how_to_go_on(tmp_path: Path, asked: list[Nest]) -> None:
    graph = GraphBuilder("long")
    quick = graph.relu(graph.conv(graph.input((1, 8, 4, 4)), 8, (1, 1)))
    network = cast(graph.build(graph.relu(graph.conv(quick, 60, (3, 3)))), "int8")
    device = changed(EYERISS, deadline="0.01 s")
    price_nests([nest(conv(8, 4, 8), 24)], settings_of(api.load_device(EYERISS)))  # the quick one is known
    with pytest.raises(
        BuildError, match=r"did not end within 0\.01 s; 1 of 2 kernels are priced and kept, the next is K 60"
    ) as it:
        ZigzagToolchain().build(network, device, tmp_path)
    assert "Build again to go on" in str(it.value) and it.value.exit_code == 4
    assert price_nests([nest(conv(8, 4, 4))], settings_of(api.load_device(EDGE)))[0].cycles > 0, "a new process answers"


@pytest.mark.parametrize("absent", ["zigzag-dse", "six"])
def test_a_missing_package_says_what_to_install(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def missing(name: str) -> str:
        if name == absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr("hwnas.toolchains.zigzag.prices.version", missing)
    for attempt in (ZigzagToolchain().version, lambda: built(small(), api.load_device(EDGE), tmp_path)):
        with pytest.raises(BuildError, match=r'ZigZag is not installed: pip install "hwnas\[zigzag\]"') as raised:
            attempt()
        assert raised.value.exit_code == 4


def test_unknown_settings_name_the_key(tmp_path: Path) -> None:
    for options, words in (
        ({"hardware": "../etc/passwd"}, r"options\.zigzag of npu-eyeriss.*hardware"),
        ({"speed": 3}, "speed"),
        ({"loops": 12}, "loops"),
        ({"deadline": "1 h"}, "deadline"),
        ({"deadline": 5}, "5 has no unit"),
        ({"sum_bits": 4}, "sum_bits"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings_of(changed(EYERISS, **options))
    for key in ("hardware", "mapping"):
        with pytest.raises(ConfigError, match=rf"ZigZag ships no {key} 'tpu_liek' \(did you mean tpu_like"):
            ZigzagToolchain().build(conv(8, 4, 8), changed(EYERISS, **{key: "tpu_liek"}), tmp_path)


def product(
    op: str, *shapes: tuple[int, ...], result: tuple[int, ...], constants: bool = True, **attributes: Any
) -> Group:
    grid = Grid("uint8", np.ones(1, np.float32), np.zeros(1, np.int64))
    first, *others = shapes
    operands = [Constant("w", s, grid, None) if constants else Activation(s, grid) for s in others]
    operator = Operator(op=op, domain="", name="it", inputs=(), outputs=("y",), attributes=attributes)
    return Group(op, operator, attributes, (Activation(first, grid), *operands), None, Activation(result, grid))


def test_what_the_rules_refuse_and_why() -> None:
    convolution, dense = RULES
    cases = (
        (convolution, product("Conv", (1, 4, 8, 8), (8, 4, 1, 1), result=(1, 8, 8, 8), constants=False),
         "convolution: an activation meets constant weights; given weights that are computed"),
        (convolution, product("Conv", (1, 4, 8, 8, 8), (8, 4, 1, 1, 1), result=(1, 8, 8, 8, 8)),
         "convolution: a convolution is over an image or over time; given 3 axes"),
        (dense, product("MatMul", (1, 4, 8), (1, 8, 8), result=(1, 4, 8)),
         "dense: the weights of a dense product are one matrix; given weights of 3 axes"),
    )  # fmt: skip
    for rule, group, words in cases:
        assert rule.refusal(group, None) == words  # type: ignore[arg-type]
    fine = product("MatMul", (2, 4, 8), (8, 5), result=(2, 4, 5))
    assert dense.refusal(fine, None) is None  # type: ignore[arg-type]
    assert dict(zip(*[nest_of(fine, 16)[k] for k in ("loop_dims", "loop_sizes")])) == {"D": 8, "K": 5, "C": 8}


def test_a_line_is_an_image_of_height_1_and_sides_keep_their_pads() -> None:
    line = nest_of(product("Conv", (1, 4, 30), (6, 4, 5), result=(1, 6, 14), strides=(2,), pads=(1, 2)), 16)
    image = nest_of(
        product("Conv", (1, 4, 1, 30), (6, 4, 1, 5), result=(1, 6, 1, 14), strides=(1, 2), pads=(0, 1, 0, 2)), 16
    )
    assert line == image
    assert line["padding"] == [[0, 0], [1, 2]] and line["pr_loop_sizes"] == [1, 30]
    assert line["dimension_relations"] == ["iy=1*oy+1*fy", "ix=2*ox+1*fx"]


@given(
    groups=st.integers(1, 6), inputs=st.integers(1, 6), outputs=st.integers(1, 6), size=st.integers(3, 12),
    kernel=st.sampled_from([1, 3, 5]), stride=st.integers(1, 3), batch=st.integers(1, 3),
)  # fmt: skip
def test_a_nest_holds_every_product(
    groups: int, inputs: int, outputs: int, size: int, kernel: int, stride: int, batch: int
) -> None:
    side = (size + 2 * (kernel // 2) - kernel) // stride + 1
    weight, result = (groups * outputs, inputs, kernel, kernel), (batch, groups * outputs, side, side)
    found = nest_of(
        product("Conv", (batch, groups * inputs, size, size), weight, result=result, group=groups,
                strides=(stride, stride), pads=(kernel // 2,) * 4), 16,
    )  # fmt: skip
    assert macs_of(found) == prod(result) * prod(weight[1:])
    assert len(found["loop_dims"]) == len(set(found["loop_dims"])) == len(found["loop_sizes"])
