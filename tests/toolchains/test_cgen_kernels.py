"""Micro-kernels: on drawn shapes they give the integers of their recipes, touch only their own memory, and are chosen
by shape and core alone; those for boards run on them, in an emulator."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.config import load_device
from hwnas.runners.firmware import FirmwareRunner
from hwnas.toolchains.cgen import CgenToolchain
from hwnas.toolchains.cgen.emit import PREFACE
from hwnas.toolchains.cgen.kernels import FAMILIES, Core, Request, c_source, choose
from hwnas.toolchains.cgen.kernels.planes import LEAST_LINES, SCRATCH_BYTES, strips
from hwnas.toolchains.cgen.kernels.products import Geometry, block_params, blocked
from hwnas.toolchains.cgen.program import Step, read_program
from hwnas.toolchains.cgen.toolchain import generate, header_path
from tests.bench.compiled.cortex_m_networks import Grids, case
from tests.bench.compiled.cortex_m_shapes import KINDS, Shape, drawn
from tests.toolchains import sanitised

GRIDS = {
    "int8": Grids("int8", 5, -7),
    "uint8": Grids("uint8", 117, 3),
    "int8-powers": Grids("int8", 5, -7, power_of_two=True),
    "uint8-powers": Grids("uint8", 128, 0, power_of_two=True),
}
ROUNDS = 1


def only_step(shape: Shape, grids: Grids, core: Core) -> Step:
    [step] = read_program(case(shape, grids).network, core).steps
    return step


@pytest.mark.parametrize("core", ["scalar", "dsp"])
@pytest.mark.parametrize("name", GRIDS)
def test_drawn_shapes_give_the_integers_of_their_recipes(core: Core, name: str, tmp_path: Path) -> None:
    cases = [
        case(shape, GRIDS[name])
        for shape in drawn(len(KINDS) * ROUNDS, seed=2 * list(GRIDS).index(name) + (core == "dsp"))
    ]
    steps = [read_program(one.network, core).steps[0] for one in cases]
    assert all(step.micro is not None for step in steps), [s.workload.op for s in steps if s.micro is None]
    inputs = [one.inputs(np.random.default_rng(k)) for k, one in enumerate(cases)]
    found = sanitised.outputs([one.network for one in cases], inputs, core, tmp_path)
    for one, step, given_inputs, result in zip(cases, steps, inputs, found):
        np.testing.assert_array_equal(result, sanitised.integers(step, given_inputs), err_msg=one.shape.name)


@pytest.mark.parametrize("name", GRIDS)
def test_recipes_are_within_one_of_the_exact_reals(name: str) -> None:
    """The integers above are those of QuantizeLinear, but for reals next to a tie where scales are not powers of two."""
    total = differing = 0
    for k, shape in enumerate(drawn(len(KINDS) * 6, seed=11)):
        one = case(shape, GRIDS[name])
        inputs = one.inputs(np.random.default_rng(k))
        ours = sanitised.integers(only_step(shape, GRIDS[name], "scalar"), inputs).astype(np.int64)
        off = np.abs(ours - one.integers(inputs).astype(np.int64))
        assert off.max() <= 1, shape.name
        total, differing = total + off.size, differing + int((off > 0).sum())
    assert differing <= (0 if "powers" in name else 1e-3 * total)


BOARDS = [
    Shape("3x3", "conv", 7, 5, 6, 9, (3, 3), pads=(1, 1, 1, 1)),
    Shape("first", "conv", 9, 9, 3, 5, (3, 3), (2, 2), (1, 1, 1, 1), clamped=True),
    Shape("dw3x3", "conv", 9, 7, 12, 12, (3, 3), pads=(1, 1, 1, 1), groups=12),
    Shape("dw3x3 s2", "conv", 9, 8, 4, 4, (3, 3), (2, 2), (1, 1, 1, 1), groups=4, clamped=True),
    Shape("dw5x5", "conv", 9, 7, 4, 4, (5, 5), pads=(2, 2, 2, 2), groups=4),
    Shape("grouped", "conv", 5, 6, 8, 10, (3, 2), pads=(1, 1, 1, 0), groups=2),
    Shape("dense", "dense", 1, 1, 37, 16),
    Shape("average", "average", 8, 8, 8, 8, (2, 2), (2, 2)),
    Shape("maximum", "maximum", 7, 7, 8, 8, (3, 3), (2, 2), (1, 1, 1, 1)),
    Shape("mean", "mean", 6, 6, 12, 12),
    Shape("add", "add", 5, 5, 7, 7, clamped=True),
]


@pytest.mark.parametrize("board", ["cortex-m3-qemu", "cortex-m4-qemu", "cortex-m7-qemu"])
def test_boards_give_the_same_integers(board: str, tmp_path: Path) -> None:
    """The instructions that no other computer has, on each core that has them."""
    device = load_device(board)
    pairs = [(shape, grids) for shape in BOARDS for grids in (GRIDS["int8"], GRIDS["uint8-powers"])]
    cases = [case(shape, grids) for shape, grids in pairs]
    built = [CgenToolchain().build(one.network, device, tmp_path / str(k)) for k, one in enumerate(cases)]
    opened = FirmwareRunner().open(device)
    try:
        opened.stage(built)
        for one, artifact in zip(cases, built):
            inputs = one.inputs(np.random.default_rng(3))
            [found] = opened.outputs(artifact, inputs, 60)
            step = only_step(one.shape, one.grids, "scalar")
            np.testing.assert_array_equal(found, sanitised.integers(step, inputs), err_msg=one.shape.name)
    finally:
        opened.close()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The C files of shapes of every kind, by core."""
    folder, found = tmp_path_factory.mktemp("sources"), {}
    for core in ("scalar", "dsp"):
        found[core] = [folder / f"{core}{k}.c" for k in range(len(BOARDS))]
        for path, shape in zip(found[core], BOARDS):
            path.write_text(generate(case(shape, GRIDS["int8"]).network, core)[0].source)
    return found


@pytest.mark.parametrize("flags", ["-O0", "-Os -fno-omit-frame-pointer", "-O3 -fno-omit-frame-pointer -fPIC"])
@pytest.mark.parametrize(("core", "cpu"), [("scalar", "cortex-m3"), ("dsp", "cortex-m4"), ("scalar", "cortex-m0plus")])
def test_kernels_compile_whatever_registers_are_left(
    flags: str, core: str, cpu: str, sources: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Code by hand asks for registers by name or number; how many there are is not for it to say."""
    done = subprocess.run(
        ["arm-none-eabi-gcc", "-mthumb", f"-mcpu={cpu}", "-std=gnu11", "-Wall", "-Wextra", "-Werror", *flags.split(),
         f"-I{header_path().parent}", "-c", *sources[core]],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("compiler", ["gcc", "arm-none-eabi-gcc -mthumb -mcpu=cortex-m4"])
def test_all_kernels_stand_in_one_file(compiler: str, tmp_path: Path) -> None:
    """A network may need any of them at once: no two declare the same name."""
    listed = [
        source
        for core in FAMILIES
        for shape in [*BOARDS, replace(DEPTHWISE, groups=1)]
        for grids in (GRIDS["int8"], GRIDS["uint8-powers"])
        if (micro := only_step(shape, grids, core).micro) is not None
        for source in micro.sources
    ]
    assert {"conv_dsp.h", "conv_scalar.h", "mve_conv.h"} <= set(listed)
    first = ["scalar.h", "dsp.h", "clamp_dsp.h", "rescale_dsp.h", "mve.h"]
    (tmp_path / "all.c").write_text(PREFACE + "".join(c_source(name) for name in dict.fromkeys([*first, *listed])))
    command = [*compiler.split(), "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{header_path().parent}"]
    done = subprocess.run([*command, "-c", "all.c"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


DENSE, DEPTHWISE = Shape("d", "dense", 1, 1, 9, 6), Shape("w", "conv", 9, 9, 8, 8, (3, 3), groups=8)


@pytest.mark.parametrize(
    ("shape", "core", "name"),
    [
        (BOARDS[0], "scalar", "conv4x2/scalar/NHWC"),
        (DENSE, "scalar", "dense6/scalar"),
        (DEPTHWISE, "scalar", "depthwise/scalar/NHWC"),
        (DEPTHWISE, "dsp", "depthwise/dsp/NHWC"),
        (replace(DEPTHWISE, dilations=(2, 1)), "dsp", "depthwise/scalar/NHWC"),
        (replace(DEPTHWISE, kernel=(9, 9)), "dsp", "depthwise/scalar/NHWC"),
        (Shape("a", "average", 8, 8, 8, 8, (2, 2)), "dsp", "average/dsp/NHWC"),
        (Shape("a", "average", 8, 8, 7, 7, (2, 2)), "dsp", "average/scalar/NHWC"),
        (Shape("m", "maximum", 8, 8, 8, 8, (2, 2)), "scalar", "maximum/scalar/NHWC"),
        (Shape("s", "add", 8, 8, 8, 8), "dsp", "add/scalar"),
    ],
)
def test_the_choice_follows_from_shape_and_core(shape: Shape, core: Core, name: str) -> None:
    for seed in (0, 1):
        [step] = read_program(case(shape, GRIDS["int8"], seed).network, core).steps
        assert step.micro is not None and step.micro.name == name


def test_weights_take_a_byte_each() -> None:
    for core in ("scalar", "dsp"):
        micro = only_step(DEPTHWISE, GRIDS["int8"], core).micro
        assert micro is not None and micro.arrays[0].values.nbytes == 9 * 8
    micro = only_step(DENSE, GRIDS["int8"], "scalar").micro
    assert micro is not None and micro.arrays[0].values.nbytes == 9 * 6


def test_what_is_not_covered_is_left_to_generated_code() -> None:
    assert FAMILIES["portable"] == ()
    step = only_step(DEPTHWISE, GRIDS["int8"], "scalar")
    assert step.group is not None and step.recipe is not None
    changes: list[dict[str, Any]] = [{"stored": "int16"}, {"lifted": True}, {"kind": "float"}]
    for change in changes:
        other = replace(step.recipe, facts={**step.recipe.facts, **change})
        assert choose(Request(step.group, other, "scalar")) is None, change
    assert choose(Request(step.group, step.recipe, "portable")) is None


@given(st.integers(-(2**28), 2**28), st.integers(1, 28), st.integers(-9, 9))
def test_half_even_by_the_odd_bit_of_the_quotient(total: int, shift: int, zero: int) -> None:
    """What kernels do: the bias holds 2^(s - 1) - 1, and the quotient's last bit is added before the shift."""
    biased = total + (1 << (shift - 1)) - 1
    ours = ((biased + (biased >> shift & 1)) >> shift) + zero
    assert ours == int(sanitised.half_even(np.array(total), shift)) + zero
    assert ours == zero + round(total / 2**shift)


def test_blocks_are_transposed_and_the_last_may_be_narrower() -> None:
    table = np.arange(12).reshape(6, 2)
    np.testing.assert_array_equal(blocked(table, 4), [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 9, 11])
    np.testing.assert_array_equal(block_params(np.arange(3), np.arange(3) + 10, 2), [0, 1, 10, 11, 2, 12])


@given(st.integers(1, 120), st.integers(1, 120), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
def test_strips_cover_all_rows_and_keep_to_their_scratch(
    height: int, width: int, window: int, stride: int, pad: int
) -> None:
    height, width, pad = max(height, window), max(width, window), min(pad, window - 1)
    out = [(size + 2 * pad - window) // stride + 1 for size in (height, width)]
    g = Geometry(height, width, 8, window, window, (stride, stride), (1, 1), (pad,) * 4, out[0], out[1], 8, 8)
    cut = strips(g)
    assert cut.pitch % 2 == 0 and cut.pitch >= (out[1] - 1) * stride + window and cut.used + pad <= cut.pitch
    assert 1 <= cut.lines <= out[0]
    assert cut.scratch_bytes <= max(SCRATCH_BYTES, 2 * cut.pitch * ((LEAST_LINES - 1) * stride + window))
