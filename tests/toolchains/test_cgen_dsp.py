"""Products on packed halves of words (cores with the DSP extension): equal to the numpy reference on every vector, on
this computer under sanitizers and on emulated Cortex-M4 and M7."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from hwnas.config import load_device
from hwnas.core.artifact import LAYOUT
from hwnas.runners.firmware import FirmwareBoard, FirmwareRunner
from hwnas.toolchains.cgen import CgenToolchain
from hwnas.toolchains.cgen.folder import write_folder
from hwnas.toolchains.cgen.kernels import core_of, reference
from hwnas.toolchains.cgen.program import read_program
from hwnas.toolchains.cgen.toolchain import generate
from tests.toolchains.generated import Qdq, built, expected

SANITIZED = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
             "-fno-sanitize-recover=all"]  # fmt: skip


def product(
    shape: tuple[int, ...],
    weights: tuple[int, ...],
    *,
    power: bool,
    dtype: str = "uint8",
    zeros: tuple[int, int] = (128, 128),
    clamp: float | None = None,
    extreme: bool = False,
    seed: int = 0,
    **attributes: Any,
) -> ModelProto:
    """A convolution (weights O x C x KH x KW) or a matrix product (weights O x K) with results all over their grid."""
    rng, graph, kind = np.random.default_rng(seed), Qdq(), np.dtype(dtype).type
    outputs, size = weights[0], int(np.prod(weights[1:]))
    factor = np.float32(1 if power else 0.93)
    x = graph.dequantize(graph.input(shape, dtype), 2.0**-5 * factor, kind(zeros[0]))
    channel_scale = np.exp2(-np.round(np.log2(np.sqrt(size) * 60)) - np.arange(outputs) % 2).astype(np.float32) * factor
    values = np.full(weights, 127) if extreme else rng.integers(-127, 128, weights)
    w = graph.dequantize(graph.constant(values.astype(np.int8)), channel_scale, np.zeros(outputs, np.int8), 0)
    steps = (channel_scale * np.float32(2.0**-5) * factor).astype(np.float32)
    stored = graph.constant(rng.integers(-3000, 3000, outputs).astype(np.int32))
    bias = graph.dequantize(stored, steps, np.zeros(outputs, np.int32), 0)
    convolves = len(weights) == 4
    y = graph.operator("Conv" if convolves else "Gemm", [x, w, bias], **(attributes if convolves else {"transB": 1}))
    if clamp is not None:
        y = graph.operator("Clip", [y, graph.constant(np.float32(-0.7)), graph.constant(np.float32(clamp))])
    graph.output(graph.quantize(y, 2.0**-5 * float(factor), kind(zeros[1])), _result(shape, weights, attributes), dtype)
    return graph.network()


def _result(shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any]) -> tuple[int, ...]:
    if len(weights) == 2:
        return (shape[0], weights[0])
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    spatial = [
        (shape[2 + k] + pads[k] + pads[2 + k] - dilations[k] * (weights[2 + k] - 1) - 1) // strides[k] + 1
        for k in range(2)
    ]
    return (shape[0], weights[0], *spatial)


def draw(network: ModelProto, seed: int) -> np.ndarray:
    value = network.graph.input[0].type.tensor_type
    limits = np.iinfo(np.uint8 if value.elem_type == 2 else np.int8)
    shape = [d.dim_value for d in value.shape.dim]
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, limits.dtype, endpoint=True)


def by_numpy(network: ModelProto, x: np.ndarray) -> np.ndarray:
    """What the reference computes from the recipe's values."""
    [step] = read_program(network).steps
    assert step.recipe is not None and step.group is not None
    values, facts, attributes = step.recipe.values, step.recipe.facts, step.group.attributes
    if step.recipe.form == "matmul":
        sums = x.astype(np.int64) @ values["weights"].T + values["bias"]
    else:
        sums = _convolved(x.astype(np.int64), values, attributes) + values["bias"][:, None, None]
    entries = values["shifts" if facts["kind"] == "shift" else "multipliers"].astype(np.int64)
    entries = entries if sums.ndim == 2 else entries[:, None, None]
    ends = (values["out_zero"], values["low"], values["high"])
    return reference.rescaled(sums, facts["kind"], entries, values["lift"], *ends)


def _convolved(x: np.ndarray, values: Any, attributes: Any) -> np.ndarray:
    weights = values["weights"]
    outputs, _, height, width = weights.shape
    top, left, bottom, right = attributes.get("pads", (0,) * 4)
    (sy, sx), (dy, dx) = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=values["zero"])
    windows = np.lib.stride_tricks.sliding_window_view(x, (dy * (height - 1) + 1, dx * (width - 1) + 1), (2, 3))
    windows = windows[:, :, ::sy, ::sx, ::dy, ::dx]
    parts = [
        np.einsum("nchwij,ocij->nohw", part, own)
        for groups in [attributes.get("group", 1)]
        for part, own in zip(np.split(windows, groups, 1), np.split(weights, groups))
    ]
    assert sum(part.shape[1] for part in parts) == outputs
    return np.concatenate(parts, 1)


SHAPES: dict[str, dict[str, Any]] = {
    "3x3": {"shape": (1, 16, 9, 9), "weights": (16, 16, 3, 3), "pads": [1, 1, 1, 1]},
    "3x3-strided": {"shape": (1, 8, 9, 7), "weights": (6, 8, 3, 3), "pads": [1, 1, 1, 1], "strides": [2, 2]},
    "3x3-many": {"shape": (1, 40, 5, 5), "weights": (9, 40, 3, 3), "pads": [1, 1, 1, 1]},
    "1x1": {"shape": (1, 20, 5, 5), "weights": (12, 20, 1, 1)},
    "1x1-strided": {"shape": (1, 18, 7, 5), "weights": (7, 18, 1, 1), "strides": [2, 2]},
    "1x1-many": {"shape": (1, 530, 3, 2), "weights": (5, 530, 1, 1)},
    "1x1-border": {"shape": (1, 8, 3, 3), "weights": (5, 8, 1, 1), "pads": [1, 0, 0, 1]},
    "odd-channels": {"shape": (1, 5, 7, 6), "weights": (3, 5, 3, 3), "pads": [1, 1, 1, 1]},
    "dilated": {"shape": (1, 8, 9, 9), "weights": (4, 8, 3, 3), "pads": [2, 2, 2, 2], "dilations": [2, 2]},
    "large-window": {"shape": (1, 3, 15, 10), "weights": (8, 3, 10, 4), "pads": [4, 1, 5, 1], "strides": [2, 2]},
    "grouped": {"shape": (2, 12, 5, 6), "weights": (10, 6, 3, 3), "pads": [1, 1, 1, 1], "group": 2},
    "two-images": {"shape": (2, 4, 3, 3), "weights": (4, 4, 3, 3), "pads": [1, 1, 1, 1]},
    "one-output": {"shape": (1, 8, 7, 7), "weights": (1, 8, 3, 3)},
    "dense": {"shape": (1, 64), "weights": (42, 64)},
    "dense-rows": {"shape": (5, 23), "weights": (7, 23)},
    "dense-deep": {"shape": (1, 1300), "weights": (6, 1300)},
}  # fmt: skip


def code_of(folder: Path) -> str:
    [code] = json.loads((folder / LAYOUT).read_text())["code"]
    return str(code)


VARIANTS: list[dict[str, Any]] = [{}, {"dtype": "int8", "zeros": (-3, 5)}, {"clamp": 2.0, "zeros": (7, 100)}]


@pytest.mark.parametrize("power", [True, False], ids=["shift", "multiply"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_output_is_that_of_the_reference(name: str, power: bool, tmp_path: Path) -> None:
    """Each shape and rescaling as one of the variants; the boards below take others."""
    network = product(**SHAPES[name], power=power, **VARIANTS[(list(SHAPES).index(name) + power + 1) % 3])
    loaded = built(network, tmp_path, "dsp")
    assert code_of(tmp_path).split("/")[1] == "dsp"
    x = draw(network, 0)
    [ours], theirs = loaded.outputs([x]), by_numpy(network, x)
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 8 or ours.size < 32
    if power:
        np.testing.assert_array_equal(ours, expected(network, [x])[0])


@st.composite
def products(draw_: Any) -> dict[str, Any]:
    """Any small convolution."""
    window = draw_(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    groups, channels, outputs = draw_(st.integers(1, 3)), draw_(st.integers(1, 13)), draw_(st.integers(1, 11))
    dilations = draw_(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [d * (w - 1) + 1 for d, w in zip(dilations, window)]
    return {
        "shape": (1, channels * groups, reach[0] + draw_(st.integers(0, 5)), reach[1] + draw_(st.integers(0, 5))),
        "weights": (outputs * groups, channels, *window),
        "pads": [draw_(st.integers(0, reach[k % 2] - 1)) for k in range(4)],
        "strides": list(draw_(st.tuples(st.integers(1, 3), st.integers(1, 3)))),
        "dilations": list(dilations),
        "group": groups,
        "power": draw_(st.booleans()),
        "dtype": draw_(st.sampled_from(["uint8", "int8"])),
        "zeros": (draw_(st.integers(0, 127)), draw_(st.integers(0, 127))),
        "clamp": draw_(st.sampled_from([None, 1.5])),
        "seed": draw_(st.integers(0, 99)),
    }


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(products())
def test_any_convolution_is_that_of_the_reference_under_sanitizers(tmp_path: Path, drawn: dict[str, Any]) -> None:
    network = product(**drawn)
    x = draw(network, 1)
    np.testing.assert_array_equal(sanitized(network, x, tmp_path), by_numpy(network, x))


def sanitized(network: ModelProto, x: np.ndarray, folder: Path) -> np.ndarray:
    """The first output of the exported folder's example, compiled with address and undefined-behaviour checks."""
    write_folder(network, folder, "dsp")
    command = [
        "gcc",
        *SANITIZED,
        "-o",
        str(folder / "example"),
        str(folder / "main.c"),
        str(folder / "network.c"),
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    raw = np.ascontiguousarray(np.moveaxis(x, 1, -1)).tobytes()
    ran = subprocess.run([str(folder / "example")], input=raw, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr[:3000]
    n, c, h, w = (d.dim_value for d in network.graph.output[0].type.tensor_type.shape.dim)
    return np.array([int(line) for line in ran.stdout.split()]).reshape(n, h, w, c).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("size", [256, 257, 508, 509, 1024])
def test_the_largest_sums_do_not_overflow(size: int, dtype: str, tmp_path: Path) -> None:
    """Weights of 127 and activations of 255 (or -128): sums of a chunk come as close to 2^23 as they can."""
    network = product((1, size), (4, size), power=False, dtype=dtype, zeros=(0, 3), extreme=True)
    loaded = built(network, tmp_path, "dsp")
    for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        x = np.full((1, size), value, dtype)
        np.testing.assert_array_equal(loaded.outputs([x])[0], by_numpy(network, x))


def test_weights_that_share_no_half_take_other_code(tmp_path: Path) -> None:
    """-128 above a negative weight is no 16-bit number: it is found when code is written, and computed otherwise."""
    graph = Qdq()
    x = graph.dequantize(graph.input((1, 8)), 2.0**-5, np.uint8(3))
    values = np.full((4, 8), -128, np.int8)
    w = graph.dequantize(graph.constant(values), np.float32(2**-10), np.int8(0))
    graph.output(graph.quantize(graph.operator("Gemm", [x, w], transB=1), 2.0**-3, np.uint8(200)), (1, 4))
    network = graph.network()
    loaded = built(network, tmp_path, "dsp")
    assert "/dsp" not in code_of(tmp_path)
    np.testing.assert_array_equal(loaded.outputs([draw(network, 0)])[0], expected(network, [draw(network, 0)])[0])


@pytest.mark.parametrize("exponent", [-18, -24, -40])
def test_a_channel_of_tiny_weights_gives_the_zero_point(exponent: int, tmp_path: Path) -> None:
    """Its sums are shifted so far that the zero point, shifted as far to the left, would leave 32 bits."""
    graph, scales = Qdq(), np.exp2([-9.0, exponent, -10.0, -9.0]).astype(np.float32)
    x = graph.dequantize(graph.input((1, 8)), 2.0**-5, np.uint8(128))
    values = np.random.default_rng(0).integers(-127, 128, (4, 8)).astype(np.int8)
    w = graph.dequantize(graph.constant(values), scales, np.zeros(4, np.int8), 0)
    graph.output(graph.quantize(graph.operator("Gemm", [x, w], transB=1), 2.0**-5, np.uint8(128)), (1, 4))
    network = graph.network()
    loaded, given = built(network, tmp_path, "dsp"), draw(network, 0)
    np.testing.assert_array_equal(loaded.outputs([given])[0], expected(network, [given])[0])
    assert code_of(tmp_path) == f"dense4x1/dsp/{'shift' if exponent == -18 else 'shift+zero'}"


def test_weights_take_a_byte_each_in_flash() -> None:
    network = product((1, 64, 8, 8), (64, 64, 3, 3), power=True, pads=[1, 1, 1, 1])
    [step] = read_program(network, "dsp").steps
    stored = sum(array.values.nbytes for array in step.constants)
    assert stored == 64 * 64 * 9 + 64 * 8 + 16


def test_scratch_is_that_of_two_packed_windows() -> None:
    network = product((1, 64, 8, 8), (64, 64, 3, 3), power=True, pads=[1, 1, 1, 1])
    [step] = read_program(network, "dsp").steps
    assert step.micro is not None and step.micro.scratch_bytes == 4 * 64 * 9 + 64


@pytest.fixture(scope="module", params=["cortex-m4-qemu", "cortex-m7-qemu"])
def board(request: pytest.FixtureRequest) -> Iterator[tuple[Any, FirmwareBoard]]:
    device = load_device(request.param)
    opened = FirmwareRunner().open(device)
    try:
        yield device, opened
    finally:
        opened.close()


def test_emulated_boards_agree_with_the_reference(board: tuple[Any, FirmwareBoard], tmp_path: Path) -> None:
    device, opened = board
    cases = []
    for k, (name, shape) in enumerate(SHAPES.items()):
        for power in (True, False):
            dtype, zeros = [("uint8", (128, 128)), ("int8", (-3, 5)), ("uint8", (7, 100))][(k + power) % 3]
            more = {"clamp": 2.0} if k % 2 else {}
            network = product(**shape, power=power, dtype=dtype, zeros=zeros, **more)  # type: ignore[arg-type]
            artifact = CgenToolchain().build(network, device, tmp_path / f"{name}-{power}")
            cases.append((name, network, artifact))
    opened.stage([artifact for *_, artifact in cases])
    for name, network, artifact in cases:
        x = draw(network, 5)
        [ours] = opened.outputs(artifact, [x], 60)
        np.testing.assert_array_equal(ours, by_numpy(network, x), err_msg=name)
        used = opened.run(artifact, 1, 60).memory
        assert used is not None and used.get("workspace_used", 0) <= artifact.memory["workspace"]


@pytest.mark.parametrize("name", ["3x3", "1x1-many", "dense"])
def test_code_depends_on_shapes_alone(name: str) -> None:
    """Two networks of one shape, with weights, steps and zero points of their own, differ in constants only."""
    texts = set()
    for seed, zeros in ((0, (128, 128)), (1, (2, 40))):
        emitted, _ = generate(product(**SHAPES[name], power=True, zeros=zeros, seed=seed), "dsp")
        code = re.sub(r"HWNAS_CONSTANT .*?\};\n", "", emitted.source, flags=re.DOTALL)
        texts.add(code.replace(emitted.symbol, ""))
    assert len(texts) == 1


def test_cores_of_the_boards() -> None:
    cores = {name: core_of(name) for name in ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33")}
    assert cores == {"cortex-m0plus": "scalar", "cortex-m3": "scalar", **dict.fromkeys(list(cores)[2:], "dsp")}
    assert core_of("cortex-m55+nofp") == "mve"
    assert core_of("cortex-a72") == "scalar"
