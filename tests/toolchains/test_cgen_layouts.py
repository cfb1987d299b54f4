"""Where elements lie: quantised images are NHWC, nobody transposes at the edge, and what must be copied is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from hwnas.core.artifact import LAYOUT, read_artifact
from hwnas.graph.quantize import quantize
from hwnas.testing import small_network
from hwnas.toolchains.cgen.layouts import Order
from tests.toolchains.generated import Qdq, built, expected

STEP, ZERO = 2.0**-5, np.uint8(7)


def checked(network: ModelProto, folder: Path, core: str = "portable") -> dict[str, Any]:
    """network.json of a network whose generated code agrees with onnxruntime."""
    loaded = built(network, folder, core)
    rng = np.random.default_rng(0)
    for _ in range(3):
        inputs = []
        for value in network.graph.input:
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
            floats = value.type.tensor_type.elem_type == 1
            drawn = rng.standard_normal(shape) if floats else rng.integers(0, 256, shape)
            inputs.append(drawn.astype(np.float32 if floats else np.uint8))
        for ours, theirs in zip(loaded.outputs(inputs), expected(network, inputs), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    layout: dict[str, Any] = json.loads((folder / LAYOUT).read_text())
    assert read_artifact(folder).layout_transforms == layout["layout_transforms"]
    return layout


def image(graph: Qdq, shape: tuple[int, ...] = (1, 6, 4, 3)) -> str:
    return graph.dequantize(graph.input(shape), STEP, ZERO)


def test_a_quantised_image_is_nhwc_at_both_edges(tmp_path: Path) -> None:
    graph = Qdq()
    graph.output(
        graph.quantize(graph.operator("MaxPool", [image(graph)], kernel_shape=[2, 2]), STEP, ZERO), (1, 6, 3, 2)
    )
    layout = checked(graph.network(), tmp_path)
    [given], [made] = layout["inputs"], layout["outputs"]
    assert (given["shape"], given["layout"]) == ([1, 6, 4, 3], "NHWC")
    assert (made["shape"], made["layout"]) == ([1, 6, 3, 2], "NHWC")
    assert layout["layout_transforms"] == 0
    assert "{1, 4, 3, 6}" in (tmp_path / "network.c").read_text()


def test_a_float_image_that_is_quantised_first_is_nhwc(tmp_path: Path) -> None:
    graph = Qdq()
    graph.output(graph.quantize(graph.input((1, 3, 5, 4), "float32"), STEP, ZERO), (1, 3, 5, 4))
    layout = checked(graph.network(), tmp_path)
    assert [t["layout"] for t in (*layout["inputs"], *layout["outputs"])] == ["NHWC", "NHWC"]


def test_an_fp32_network_stays_nchw(tmp_path: Path) -> None:
    built(small_network(), tmp_path)
    layout = json.loads((tmp_path / LAYOUT).read_text())
    assert [t["layout"] for t in (*layout["inputs"], *layout["outputs"])] == ["NCHW", "plain"]
    assert layout["layout_transforms"] == 0


@pytest.mark.parametrize("core", ["portable", "dsp"])
def test_a_flattened_image_costs_no_copy_before_a_dense_operator(core: str, tmp_path: Path) -> None:
    graph, rng = Qdq(), np.random.default_rng(0)
    flat = graph.quantize(graph.operator("Flatten", [image(graph)], axis=1), STEP, ZERO)
    w = graph.weights(rng, (5, 72), -10)
    y = graph.operator("Gemm", [graph.dequantize(flat, STEP, ZERO), w], transB=1)
    graph.output(graph.quantize(y, 2.0**-4, np.uint8(128)), (1, 5))
    assert checked(graph.network(), tmp_path, core)["layout_transforms"] == 0


def test_a_flattened_image_that_goes_out_is_written_plain(tmp_path: Path) -> None:
    graph = Qdq()
    pooled = graph.quantize(graph.operator("MaxPool", [image(graph)], kernel_shape=[2, 2]), STEP, ZERO)
    flat = graph.quantize(graph.operator("Flatten", [graph.dequantize(pooled, STEP, ZERO)], axis=1), STEP, ZERO)
    graph.output(flat, (1, 36))
    layout = checked(graph.network(), tmp_path)
    assert layout["outputs"][0]["layout"] == "plain"


def test_an_image_made_of_a_row_is_copied_and_counted(tmp_path: Path) -> None:
    graph = Qdq()
    row = graph.dequantize(graph.input((1, 72)), STEP, ZERO)
    shape = graph.constant(np.array([1, 6, 4, 3], np.int64))
    reshaped = graph.quantize(graph.operator("Reshape", [row, shape]), STEP, ZERO)
    gate = graph.dequantize(graph.input((1, 6, 1, 1)), 2.0**-7, np.uint8(0))
    y = graph.operator("Mul", [graph.dequantize(reshaped, STEP, ZERO), gate])
    graph.output(graph.quantize(y, STEP, ZERO), (1, 6, 4, 3))
    assert checked(graph.network(), tmp_path)["layout_transforms"] == 1


@pytest.mark.parametrize(("op", "count"), [("Transpose", 2), ("Reshape", 1)])
def test_what_moves_elements_is_copied_and_counted(op: str, count: int, tmp_path: Path) -> None:
    graph = Qdq()
    x = graph.quantize(graph.operator("Relu", [image(graph)]), STEP, ZERO)
    x = graph.dequantize(x, STEP, ZERO)
    if op == "Transpose":
        y, out = graph.operator("Transpose", [x], perm=[0, 2, 1, 3]), (1, 4, 6, 3)
    else:
        y, out = graph.operator("Reshape", [x, graph.constant(np.array([1, 4, 3, 6], np.int64))]), (1, 4, 3, 6)
    y = graph.dequantize(graph.quantize(y, STEP, ZERO), STEP, ZERO)
    graph.output(graph.quantize(graph.operator("MaxPool", [y], kernel_shape=[1, 1]), STEP, ZERO), out)
    assert checked(graph.network(), tmp_path)["layout_transforms"] == count


def test_one_channel_or_one_pixel_lies_as_it_does_in_onnx() -> None:
    for shape in ((2, 1, 4, 5), (2, 7, 1, 1)):
        assert Order(shape, True).equals(Order(shape, False))
        assert Order(shape, True).equals(Order((2, 20 if shape[1] == 1 else 7), False))
    assert not Order((1, 2, 2, 1), True).equals(Order((1, 2, 2, 1), False))
    assert not Order((1, 2, 2, 1), True).equals(Order((1, 2, 1, 2), True))


def test_a_network_with_float_inputs_runs_without_a_copy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((1, 1, 12, 12)).astype(np.float32) for _ in range(4)]
    assert checked(quantize(small_network(), samples), tmp_path, "dsp")["layout_transforms"] == 0
