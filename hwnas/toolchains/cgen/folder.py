"""A folder to drop into somebody's own firmware: the network as C, its header, an example, a Makefile and CMake.

The C is for one core and compiles for any: what a core's instructions compute is emulated elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.toolchains.cgen.emit import Emitted
from hwnas.toolchains.cgen.kernels import Core
from hwnas.toolchains.cgen.layouts import stored_shape
from hwnas.toolchains.cgen.toolchain import HEADER, SOURCE, generate, header_path

if TYPE_CHECKING:
    from onnx import ModelProto

C_NAMES = {"float32": "float", "int8": "int8_t", "uint8": "uint8_t", "int32": "int32_t", "int64": "int64_t"}
SPECIFIERS = {"float32": "%.9g", "int8": "%d", "uint8": "%d", "int32": "%ld", "int64": "%lld"}
WIDENED = {"float32": "(double)", "int32": "(long)", "int64": "(long long)"}

_MAKEFILE = """\
# The example on this computer: make && ./example < input.bin
# In a firmware of your own: compile network.c as C99 or later with your flags (-Os, -O2 or -O3; -O0 makes it
# large, and the assembly for MVE is not built with -Og; and -ffp-contract=off to get the same bits on every core), put
# this folder on the include path, and link libm. An image of several networks for MVE is linked without -flto.
CFLAGS ?= -O2
CFLAGS += -std=c11 -Wall -ffp-contract=off

example: main.o network.o
\t$(CC) $(LDFLAGS) -o $@ $^ -lm

main.o network.o: hwnas_network.h

clean:
\trm -f example main.o network.o

.PHONY: clean
"""

_CMAKE = """\
# In a CMake project of your own: add_subdirectory(this-folder), then target_link_libraries(your-program PRIVATE network)
cmake_minimum_required(VERSION 3.13)
project(hwnas_example C)

add_library(network STATIC network.c)
target_include_directories(network PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_options(network PRIVATE -O2 -ffp-contract=off)
target_link_libraries(network PUBLIC m)

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  add_executable(example main.c)
  target_link_libraries(example PRIVATE network)
endif()
"""


def write_folder(onnx: ModelProto, into: Path, core: Core = "portable") -> list[Path]:
    """Write the folder of a network for a core, and return its files. Raises UnsupportedOperator, BuildError.

    The example reads the raw bytes of all inputs from its standard input and prints the first output, one value a line,
    both in the order in which they lie in memory: its comments say where that is NHWC.
    """
    emitted, _ = generate(onnx, core)
    into.mkdir(parents=True, exist_ok=True)
    texts = {
        SOURCE: emitted.source,
        HEADER: header_path().read_text(),
        "main.c": _example(emitted),
        "Makefile": _MAKEFILE,
        "CMakeLists.txt": _CMAKE,
    }
    for name, text in texts.items():
        (into / name).write_text(text)
    return [into / name for name in texts]


def _example(emitted: Emitted) -> str:
    layout = emitted.layout
    output = layout["outputs"][0]
    kind = C_NAMES[output["dtype"]]
    count = max(1, output["bytes"] // {"float32": 4, "int32": 4, "int64": 8}.get(output["dtype"], 1))
    given = f"{WIDENED.get(output['dtype'], '')}result[i]"
    network = emitted.symbol
    return f"""\
#include <stdio.h>
#include "hwnas_network.h"

extern const hwnas_network {network};

{_tensors(layout)}
/* Activations and scratch memory: nothing else is needed in RAM but a small stack. */
static _Alignas(16) uint8_t arena[{max(16, layout["arena_bytes"])}];
static _Alignas(16) uint8_t workspace[{max(16, layout["workspace_bytes"])}];

int main(void) {{
  const hwnas_network *network = &{network};
  for (int i = 0; i < network->inputs; i++) {{
    uint8_t *input = arena + network->input[i].offset;
    if (fread(input, 1, network->input[i].bytes, stdin) != network->input[i].bytes) return 2;
  }}
  if (hwnas_run(network, arena, workspace)) return 1;
  const {kind} *result = (const {kind} *)(arena + network->output[0].offset);
  for (int i = 0; i < {count}; i++) printf("{SPECIFIERS[output["dtype"]]}\\n", {given});
  return 0;
}}
"""


def _tensors(layout: Mapping[str, Any]) -> str:
    """A comment on how inputs and outputs lie in memory."""
    lines = []
    for role in ("input", "output"):
        for k, tensor in enumerate(layout[f"{role}s"]):
            shape = stored_shape(tensor["shape"], tensor["layout"] == "NHWC")
            order = "" if tensor["layout"] == "plain" else f" ({', '.join(tensor['layout'])})"
            lines.append(f"{role} {k}: {C_NAMES[tensor['dtype']]} {' x '.join(map(str, shape)) or '1'}{order}")
    return "/* " + ",\n * ".join(lines) + ". */"
