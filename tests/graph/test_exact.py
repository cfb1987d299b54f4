"""Power-of-two networks give the same bits in float32, in integers, and whether onnxruntime fuses them or not."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from hwnas.graph.fusion import split
from hwnas.graph.quantize import quantize
from hwnas.graph.scales import SUM_LIMIT
from hwnas.graph.view import view
from hwnas.graph.workloads import materialize
from hwnas.spaces.cell import CellSpace
from hwnas.spaces.mbconv import mbconv_micro, mbconv_mobile
from tests.graph.exact import evaluate
from tests.graph.networks import FAMILIES, exported, feeds, graph, session

make = helper.make_node


def normal(n: int, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(n)]


def with_stored_tensors(network: ModelProto) -> ModelProto:
    """The network with all its uint8 tensors as outputs too."""
    shown = ModelProto()
    shown.CopyFrom(network)
    graph = view(network)
    for operator in graph.operators:
        if operator.op == "QuantizeLinear":
            kind = graph.types[operator.outputs[0]]
            shown.graph.output.append(helper.make_tensor_value_info(operator.outputs[0], kind.dtype, kind.shape))
    return shown


@cache
def fused_kernels_saturate() -> bool:
    """Whether this processor's fused int8 kernels overflow in 16 bits, as onnxruntime says of x86 without VNNI."""
    stored = np.full((8, 64, 1, 1), 127, np.float32)
    network = graph([make("Conv", ["x", "w"], ["y"])], {"x": (1, 64, 8, 8)}, {"w": stored})
    network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 8, 8, 8)))
    x = np.full((1, 64, 8, 8), 255, np.float32)
    int8 = quantize(network, [x])
    return not np.array_equal(
        session(int8).run(None, {"x": x})[0], session(int8, optimise=False).run(None, {"x": x})[0]
    )


def assert_exact(network: ModelProto, inputs: list[np.ndarray]) -> None:
    shown = with_stored_tensors(network)
    plain, fused = session(shown, optimise=False), session(network)
    name = plain.get_inputs()[0].name
    names = [value.name for value in plain.get_outputs()]
    for array in inputs:
        values = evaluate(network, {name: array})
        reference = dict(zip(names, plain.run(None, {name: array})))
        for tensor in names:
            np.testing.assert_array_equal(reference[tensor], values[tensor], err_msg=tensor)
        if not fused_kernels_saturate():
            np.testing.assert_array_equal(fused.run(None, {name: array})[0], reference[names[0]])


def test_digits_are_classified_in_integers_bit_for_bit(digits: tuple[ModelProto, np.ndarray, np.ndarray]) -> None:
    network, images, _ = digits
    int8 = quantize(network, list(images[:100]))
    assert_exact(int8, list(images[1200:1400]))


def test_tvm_computes_the_same_bits(digits: tuple[ModelProto, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    network, images, _ = digits
    int8 = quantize(network, list(images[:100]))
    onnx.save(int8, tmp_path / "int8.onnx")
    np.savez(tmp_path / "x.npz", x=images[1200:1300])
    script = Path(__file__).with_name("run_by_tvm.py")
    files = [str(tmp_path / name) for name in ("int8.onnx", "x.npz", "y.npz")]
    environment = {**os.environ, "TVM_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), *files], check=True, capture_output=True, timeout=300, env=environment)
    plain = session(int8, optimise=False)
    expected = np.stack([plain.run(None, {"input": x})[0] for x in images[1200:1300]])
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], expected)


@pytest.mark.parametrize("family", ["residual", "depthwise", "excite", "cell"])
def test_families_are_exact(family: str) -> None:
    shape = FAMILIES[family][1]
    assert_exact(quantize(exported(family), normal(6, shape)), normal(20, shape, seed=1))


@pytest.mark.parametrize("seed", range(4))
def test_untrained_candidates_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for space in (mbconv_micro(), mbconv_mobile(resolution=32, classes=7), CellSpace(resolution=16, cells=1)):
        network = space.graph(space.sample(rng))
        assert_exact(quantize(network, normal(6, space.input_shape)), normal(6, space.input_shape, seed=1))


def test_long_sums_of_equal_weights_are_exact_at_the_limit() -> None:
    # every weight of a channel at its largest: 3 x 3 x 256 products
    weights = {"w": np.ones((4, 256, 3, 3), np.float32), "b": np.zeros(4, np.float32)}
    network = graph([make("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)], {"x": (1, 256, 6, 6)}, weights)
    network.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, (1, 4, 6, 6)))
    data = [np.abs(a) for a in normal(6, (1, 256, 6, 6))] + [np.full((1, 256, 6, 6), 4, np.float32)]
    int8 = quantize(network, data)
    stored = next(t for t in int8.graph.initializer if t.dims[:] == [4, 256, 3, 3])
    sums = np.abs(onnx.numpy_helper.to_array(stored).astype(int)).reshape(4, -1).sum(1) * 255
    assert SUM_LIMIT / 4 < sums.max() < SUM_LIMIT
    assert_exact(int8, data)


def test_scales_are_powers_of_two_and_zero_points_even() -> None:
    int8 = quantize(exported("excite"), normal(6, (1, 3, 32, 32)))
    constants = view(int8)
    for operator in constants.operators:
        if operator.op in ("QuantizeLinear", "DequantizeLinear"):
            scale = constants.array(operator.inputs[1])
            assert scale is not None and (np.frexp(scale)[0] == 0.5).all()
            if len(operator.inputs) > 2:
                assert constants.scalar(operator.inputs[2]) in range(0, 256, 2)


def test_materialised_workloads_take_the_exact_path() -> None:
    int8 = quantize(exported("excite"), normal(3, (1, 3, 32, 32)))
    for workload in split(int8, "cgen").workloads.values():
        network = materialize(workload)
        running = session(network, optimise=False)
        given = feeds(running)
        values = evaluate(network, given)
        for value, array in zip(running.get_outputs(), running.run(None, given)):
            np.testing.assert_array_equal(array, values[value.name], err_msg=workload.op)
            assert array.size < 4 or array.std() > 0
