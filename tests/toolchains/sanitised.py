"""Networks as generated C in a program of their own under the address and undefined-behaviour sanitizers; and the
integers that a quantised operator has to give, by numpy in 64 bits from the numbers of its recipe.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from hwnas.runners.arrays import from_stored, stored_shape, to_stored
from hwnas.toolchains.cgen.kernels import Core
from hwnas.toolchains.cgen.program import Step
from hwnas.toolchains.cgen.toolchain import generate, header_path

FLAGS = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all")  # fmt: skip

_MAIN = """\
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hwnas_network.h"
{declared}
static const hwnas_network *const networks[] = {{{listed}}};

/* Memory of exactly the size that a network asks for, so that the sanitizer sees what reaches beyond it. */
static uint8_t *memory(uint32_t bytes) {{
  uint8_t *made = malloc(bytes ? bytes : 1); /* aligned to 16 on a 64-bit machine */
  if (made) memset(made, 0xA5, bytes);
  return made;
}}

int main(void) {{
  for (unsigned k = 0; k < sizeof networks / sizeof *networks; k++) {{
    const hwnas_network *n = networks[k];
    uint8_t *arena = memory(n->arena_bytes), *workspace = memory(n->workspace_bytes);
    for (unsigned i = 0; i < n->inputs; i++)
      if (fread(arena + n->input[i].offset, 1, n->input[i].bytes, stdin) != n->input[i].bytes) return 2;
    if (hwnas_run(n, arena, workspace)) return 3;
    for (unsigned i = 0; i < n->outputs; i++) fwrite(arena + n->output[i].offset, 1, n->output[i].bytes, stdout);
    free(arena);
    free(workspace);
  }}
  return 0;
}}
"""


def outputs(
    networks: Sequence[ModelProto], inputs: Sequence[Sequence[np.ndarray]], core: Core, folder: Path
) -> list[np.ndarray]:
    """The single output of each network, computed by the kernels of a core as any computer runs them."""
    made = [generate(network, core)[0] for network in networks]
    symbols = [one.symbol for one in made]
    sources = []
    for k, one in enumerate(made):
        sources.append(folder / f"network{k}.c")
        sources[-1].write_text(one.source)
    (folder / "main.c").write_text(
        _MAIN.format(
            declared="\n".join(f"extern const hwnas_network {symbol};" for symbol in dict.fromkeys(symbols)),
            listed=", ".join(f"&{symbol}" for symbol in symbols),
        )
    )
    unique = dict(zip(symbols, sources)).values()
    program = folder / "program"
    done = subprocess.run(
        ["gcc", *FLAGS, f"-I{header_path().parent}", "-o", program, folder / "main.c", *unique, "-lm"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    data = b"".join(
        to_stored(value, tensor["layout"]).tobytes()
        for one, values in zip(made, inputs)
        for value, tensor in zip(values, one.layout["inputs"], strict=True)
    )
    ran = subprocess.run([program], input=data, capture_output=True, timeout=300)
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    found, at = [], 0
    for one in made:
        [tensor] = one.layout["outputs"]
        raw = np.frombuffer(ran.stdout[at : at + tensor["bytes"]], tensor["dtype"])
        at += tensor["bytes"]
        found.append(from_stored(raw.reshape(stored_shape(tensor["shape"], tensor["layout"])), tensor["layout"]))
    assert at == len(ran.stdout)
    return found


def integers(step: Step, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """What a step has to give: its sums in 64 bits, rescaled and rounded as its recipe says."""
    assert step.recipe is not None and step.group is not None
    values, kind = step.recipe.values, step.recipe.facts["kind"]
    form, given = step.recipe.form, step.group.attributes
    first = inputs[0].astype(np.int64)
    if form == "add":
        a, b = values["multipliers"]
        total = a * first + b * inputs[1].astype(np.int64) + values["offset"]
        rounded = (
            total >> values["shift"] if kind == "multiply" else half_even(total, values["shift"]) + values["out_zero"]
        )
    elif form == "matmul":
        rounded = _rescaled(first @ values["weights"].T + values["bias"], values, kind, 0)
    elif form == "conv":
        total = _convolved(first, step) + np.asarray(values["bias"]).reshape(1, -1, 1, 1)
        rounded = _rescaled(total, values, kind, 1)
    elif form == "maxpool":
        best = np.max([seen for _, seen in _taps(first, given, given["kernel_shape"], -(2**40))], axis=0)
        one = {"lift": values["lifts"][0], "out_zero": values["out_zero"],
               "shifts": values.get("shifts"), "multipliers": values.get("multipliers")}  # fmt: skip
        rounded = _rescaled(best - values["zeros"][0], one, kind, None)
    else:
        rounded = _averaged(first, step)
    result = step.group.result
    assert result.grid is not None
    return np.clip(rounded, values["low"], values["high"]).astype(result.grid.dtype).reshape(result.shape)


def half_even(total: np.ndarray, shift: Any) -> np.ndarray:
    """total / 2^shift, the nearest integer, ties to even."""
    quotient = total >> shift
    twice = 2 * (total - (quotient << shift))
    return np.asarray(
        quotient + ((twice > 1 << np.asarray(shift)) | ((twice == 1 << np.asarray(shift)) & (quotient % 2 == 1)))
    )


def _rescaled(total: np.ndarray, values: Any, kind: str, axis: int | None) -> np.ndarray:
    """Sums on the result's grid; axis: where the channels are (from the front; 0 with no axis of places)."""
    table = np.asarray(values["shifts" if kind == "shift" else "multipliers"], np.int64)
    if axis == 1:
        table = table.reshape(1, -1, 1, 1)
    lifted = total << values["lift"]
    if kind == "shift":
        return half_even(lifted, table) + values["out_zero"]
    return np.asarray(((lifted * table + 2**31) >> 32) + values["out_zero"])


def _taps(x: np.ndarray, given: Any, window: Any, border: int) -> list[tuple[tuple[int, int], np.ndarray]]:
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    strides, dilations = given.get("strides", (1, 1)), given.get("dilations", (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=border)
    size = [(padded.shape[2 + k] - dilations[k] * (window[k] - 1) - 1) // strides[k] + 1 for k in range(2)]
    return [
        (
            (i, j),
            padded[:, :, i * dilations[0] :: strides[0], j * dilations[1] :: strides[1]][:, :, : size[0], : size[1]],
        )
        for i in range(window[0])
        for j in range(window[1])
    ]


def _convolved(x: np.ndarray, step: Step) -> np.ndarray:
    assert step.recipe is not None and step.group is not None
    weights, groups = step.recipe.values["weights"], step.group.attributes.get("group", 1)
    assert isinstance(groups, int)
    total: Any = 0
    for (i, j), seen in _taps(x, step.group.attributes, weights.shape[2:], step.recipe.values["zero"]):
        parts = np.split(seen, groups, 1), np.split(weights[:, :, i, j], groups)
        total = total + np.concatenate([np.einsum("nchw,oc->nohw", a, w) for a, w in zip(*parts)], 1)
    return np.asarray(total)


def _averaged(x: np.ndarray, step: Step) -> np.ndarray:
    assert step.recipe is not None and step.group is not None
    values, given, kind = step.recipe.values, step.group.attributes, step.recipe.facts["kind"]
    window = given.get("kernel_shape", x.shape[2:])
    centred = x - values["zero"]
    total = sum(seen for _, seen in _taps(centred, given, window, 0))
    inside = sum(seen for _, seen in _taps(np.ones_like(x), given, window, 0))
    share = np.full_like(total, prod(window)) if given.get("count_include_pad", 0) else np.asarray(inside)  # type: ignore[arg-type]
    lifted = np.asarray(total) << values["lift"]
    if kind == "shift":
        divisor = share << values["divide"]
        quotient = lifted // divisor
        twice = 2 * (lifted - quotient * divisor)
        return np.asarray(
            quotient + ((twice > divisor) | ((twice == divisor) & (quotient % 2 == 1))) + values["out_zero"]
        )
    table = np.asarray(values["multipliers"], np.int64).reshape(-1)
    entries = table[share - 1] if table.size > 1 else table[0]
    return np.asarray(((lifted * entries + 2**31) >> 32) + values["out_zero"])
