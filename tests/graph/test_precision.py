"""Proof of casting: the workloads of a cast network are those of its cast blocks, and of the calibrated network."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from hwnas.core.workload import Block
from hwnas.errors import BuildError, ConfigError
from hwnas.graph.analysis import analyse
from hwnas.graph.export import export
from hwnas.graph.fusion import split
from hwnas.graph.precision import cast, cast_block, cast_blocks
from hwnas.graph.quantize import quantize
from hwnas.spaces.cell import CellSpace
from hwnas.spaces.mbconv import MbconvSpace, mbconv_micro, mbconv_mobile
from tests.graph.networks import exported, graph, ones

RULES = ("cgen", "tvm")
Space = MbconvSpace | CellSpace


def hardswish_space() -> MbconvSpace:
    stage = {"widths": (8, 12), "depths": (1, 2), "strides": (1, 2), "activations": ("relu6", "hardswish")}
    return mbconv_mobile(
        resolution=(20, 24), classes=7, stages=[stage, {**stage, "kernels": (3, 5, 7)}],
        head={"widths": (0, 16), "activations": ("relu6", "hardswish")},
    )  # fmt: skip


SPACES: dict[str, tuple[Callable[[], Space], int]] = {
    "micro": (mbconv_micro, 60),
    "mobile": (mbconv_mobile, 4),
    "hardswish": (hardswish_space, 60),
    "one-dimensional": (lambda: MbconvSpace(resolution=(1, 64), channels=6, classes=7, stem={"kernels": (5, 9)}), 40),
    "cell": (lambda: CellSpace(resolution=8, channels=16, cells=2), 60),
}


@pytest.mark.parametrize("name", SPACES)
def test_cast_blocks_hold_the_cast_network(name: str) -> None:
    make, candidates = SPACES[name]
    space = make()
    rng = np.random.default_rng(21)
    known: dict[str, tuple[dict[str, Counter[str]], int, int]] = {}
    for _ in range(candidates):
        candidate = space.sample(rng)
        whole = cast(space.graph(candidate), "int8")
        blocks = cast_blocks(space.blocks(candidate), "int8", space.input_shape, space.classes)
        assert [b.key for b in blocks] == [b.key for b in space.blocks(candidate)]
        for block in blocks:
            if block.key not in known:
                network = block.build()
                onnx.checker.check_model(network, full_check=True)
                facts = analyse(network)
                parts = {r: Counter(split(network, r).parts) for r in RULES}
                known[block.key] = (parts, facts.macs, facts.peak_activation_bytes)
        found = [known[block.key] for block in blocks]
        for rules in RULES:
            parts = sum((f[0][rules] for f in found), Counter())
            assert parts == Counter(split(whole, rules).parts), space.encode(candidate)
        facts = analyse(whole)
        assert facts.macs == sum(f[1] for f in found)
        assert facts.peak_activation_bytes == max(f[2] for f in found)


@pytest.mark.parametrize("name", ["micro", "hardswish", "one-dimensional", "cell"])
def test_a_calibrated_network_has_the_workloads_of_the_cast_one(name: str) -> None:
    space = SPACES[name][0]()
    rng = np.random.default_rng(22)
    for _ in range(2):
        candidate = space.sample(rng)
        network = export(space.decode(candidate), space.input_shape)
        data = [rng.normal(size=space.input_shape).astype(np.float32) for _ in range(3)]
        for rules in RULES:
            parts = split(cast(space.graph(candidate), "int8"), rules).parts
            assert parts == split(quantize(network, data), rules).parts
            assert parts == split(quantize(network, data, "free"), rules).parts


def test_borders_are_as_asked() -> None:
    network = mbconv_micro().blocks(mbconv_micro().sample(np.random.default_rng(0)))[1].build()
    for given in (False, True):
        for made in (False, True):
            int8 = cast(network, "int8", quantised_input=given, quantised_output=made)
            onnx.checker.check_model(int8, full_check=True)
            kinds = [v.type.tensor_type.elem_type for v in (int8.graph.input[0], int8.graph.output[0])]
            assert [kind == TensorProto.UINT8 for kind in kinds] == [given, made]
            assert int8.graph.input[0].name == network.graph.input[0].name
            assert int8.graph.output[0].name == network.graph.output[0].name
            ops = [node.op_type for node in int8.graph.node]
            assert (ops[0] == "QuantizeLinear") == (not given)
            assert (ops[-1] == "DequantizeLinear") == (not made)


def test_tensors_held_through_a_block_keep_the_type_of_its_inputs() -> None:
    body = graph([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 4), "z": (1, 8)}, outputs=("y", "z"))
    body.graph.output[1].CopyFrom(body.graph.input[1])
    int8 = cast(body, "int8", quantised_input=True, quantised_output=True)
    assert [v.type.tensor_type.elem_type for v in (*int8.graph.input, *int8.graph.output)] == [TensorProto.UINT8] * 4
    half = cast(body, "int8", quantised_input=True)
    assert [v.type.tensor_type.elem_type for v in half.graph.output] == [TensorProto.FLOAT, TensorProto.UINT8]
    for network in (int8, half, cast(body, "int8")):
        onnx.checker.check_model(network, full_check=True)


def test_the_network_cast_twice_is_the_same_bytes() -> None:
    network = exported("excite")
    first, second = (cast(network, "int8").SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_fp32_is_the_network_itself() -> None:
    network = exported("residual")
    assert cast(network, "fp32") is network
    block = Block("b", lambda: network)
    assert cast_block(block, "fp32", (1, 3, 32, 32), 10) is block


def test_a_block_finds_its_borders_by_shape() -> None:
    def block(shape: tuple[int, ...], features: int) -> Block:
        nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
        network = graph(nodes, {"x": shape}, {"w": ones(shape[1], features)})
        network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, features)))
        return Block("b", lambda: network)

    for shape, features in [((1, 8), 6), ((1, 8), 5), ((1, 7), 6), ((1, 7), 5)]:
        int8 = cast_block(block(shape, features), "int8", (1, 8), 6).build()
        assert int8.graph.input[0].type.tensor_type.elem_type == (1 if shape == (1, 8) else TensorProto.UINT8)
        assert int8.graph.output[0].type.tensor_type.elem_type == (1 if features == 6 else TensorProto.UINT8)


def test_an_unknown_precision_shows_what_there_is() -> None:
    for attempt in (
        lambda: cast(exported("residual"), "int9"),  # type: ignore[arg-type]
        lambda: cast_block(Block("b", ModelProto), "int9", (1,), 1),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="precision: no precision 'int9' .did you mean int8"):
            attempt()


def test_what_cannot_be_cast_is_named() -> None:
    network = graph([helper.make_node("Conv", ["x", "z"], ["y"], name="c7")], {"x": (1, 3, 8, 8), "z": (4, 3, 1, 1)})
    with pytest.raises(BuildError, match="Conv 'c7' cannot be quantised: operand 'z' is not a constant"):
        cast(network, "int8")


def test_casting_needs_no_runtime() -> None:
    program = (
        "import sys, numpy as np; from hwnas.spaces.mbconv import mbconv_micro; from hwnas.graph.precision import cast; "
        "s = mbconv_micro(); cast(s.graph(s.sample(np.random.default_rng(0))), 'int8'); "
        "sys.exit(int('onnxruntime' in sys.modules or 'torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
