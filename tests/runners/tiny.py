"""Tiny compiled networks, written by hand against hwnas_network.h: what the firmware runner is tested with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hwnas.core.artifact import LAYOUT, OBJECT, write_artifact
from hwnas.core.device import Device
from hwnas.core.workload import Artifact
from hwnas.firmware.image import compile_network
from hwnas.firmware.sizes import object_bytes

INPUT = (1, 32)
BODIES = {
    "plain": "",
    "crash": '__asm volatile("udf #0");',
    "hang": 'for (;;) __asm volatile("");',
    "error": "return -7;",
}
SOURCE = """\
#include "hwnas_network.h"
enum {{ N = {n}, WORK = {work} }};
{ballast}
static int32_t scale(uint8_t *arena, uint8_t *workspace) {{
    int8_t *x = (int8_t *)arena;
    volatile uint32_t *scratch = (volatile uint32_t *)workspace;
    for (int i = 0; i < WORK; i++) scratch[i % 4] = (uint32_t)i;
    {body}
    {use}
    for (int i = 0; i < N; i++) x[N + i] = (int8_t)(x[i] ^ {key});
    return 0;
}}
static int32_t total(uint8_t *arena, uint8_t *workspace) {{
    int8_t *x = (int8_t *)arena;
    float sum = 0;
    (void)workspace;
    for (int i = 0; i < N; i++) sum += x[N + i];
    *(float *)(arena + 2 * N) = sum / 4;
    for (int i = 0; i < N; i++) x[i] = 0;
    return 0;
}}
static const hwnas_tensor input[] = {{{{"x", HWNAS_I8, 2, {{1, N}}, 0, N}}}};
static const hwnas_tensor output[] = {{
    {{"y", HWNAS_I8, 2, {{1, N}}, N, N}}, {{"sum", HWNAS_F32, 1, {{1}}, 2 * N, 4}}}};
static const hwnas_kernel kernel[] = {{{{"Scale", scale}}, {{"Total", total}}}};
const hwnas_network {symbol} = {{"{symbol}", {arena}, {workspace}, 1, 2, 2, input, output, kernel}};
"""


def tiny(
    folder: Path,
    device: Device,
    symbol: str = "tiny",
    *,
    work: int = 200,
    kind: str = "plain",
    key: int = 0x55,
    arena: int = 128,
    workspace: int = 16,
    ballast: int = 0,
) -> Artifact:
    """A network of 32 int8 values: y = x ^ key, sum = sum(y) / 4; `work` sets how many instructions it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    n = INPUT[1]
    source = folder / "network.c"
    held = f"static const uint8_t ballast[{ballast}] = {{1}};"
    source.write_text(
        SOURCE.format(
            n=n, work=work, body=BODIES[kind], key=key, symbol=symbol, arena=arena, workspace=workspace,
            ballast=held if ballast else "", use="scratch[0] = ballast[(uint8_t)x[0]];" if ballast else "",
        )
    )  # fmt: skip
    made = compile_network(source, device, folder)
    assert made.name == OBJECT
    layout = {
        "symbol": symbol,
        "arena_bytes": arena,
        "workspace_bytes": workspace,
        "inputs": [{"name": "x", "dtype": "int8", "shape": [1, n], "offset": 0, "bytes": n}],
        "outputs": [
            {"name": "y", "dtype": "int8", "shape": [1, n], "offset": n, "bytes": n},
            {"name": "sum", "dtype": "float32", "shape": [1], "offset": 2 * n, "bytes": 4},
        ],
        "kernels": ["Scale", "Total"],
    }
    (folder / LAYOUT).write_text(json.dumps(layout))
    sizes = object_bytes(made)
    memory = {"code": sizes["code"], "constants": sizes["constants"], "arena": arena, "workspace": workspace}
    flash = sizes["code"] + sizes["constants"]
    return write_artifact(Artifact(str(folder), "cgen", "1", {"threads": 1}, "by-hand", flash, (), memory))


def tiny_outputs(x: np.ndarray, key: int = 0x55) -> list[np.ndarray]:
    """What the tiny network gives."""
    y = (x ^ np.int8(key)).astype(np.int8)
    return [y, np.array([y.sum(dtype=np.int64) / 4], np.float32)]
