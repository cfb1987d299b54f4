"""CUDA device code in a file: which kernels it holds for which chip, and what the assembler said of each.

A cubin is an ELF file of NVIDIA's machine whose sections `.text.KERNEL` hold the code; `cuobjdump` prints the same. Only
section headers are read here, so that checking an artifact needs no CUDA tool.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hwnas.errors import BuildError

EM_CUDA = 190
SECTION = "<I20xQQ"
"""Of an ELF64 section header: where its name is, where it begins, how long it is."""
_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '(sm_\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_CONSTANT = re.compile(r"(\d+) bytes cmem\[0\]")
_KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\((\d+)[^)]*\)\s*)?(\w+)\s*\(')


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the assembler made of one kernel: per thread registers, stack and spills, per block shared memory, all bytes
    but the registers; `threads` of a block, `code_bytes` of instructions."""

    name: str
    threads: int | None
    registers: int
    shared_bytes: int
    constant_bytes: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    code_bytes: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def kernels_in_source(source: str) -> dict[str, int | None]:
    """The kernels of CUDA source by name, with the threads of a block where the source bounds them."""
    return {name: int(threads) if threads else None for threads, name in _KERNEL.findall(source)}


def code_sections(cubin: bytes, chip: int) -> dict[str, int]:
    """Bytes of code of each kernel in a cubin for the chip `sm_<chip>`. Raises BuildError if it is none, or of another."""
    if len(cubin) < 64 or cubin[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", cubin, 18)[0] != EM_CUDA:
        raise BuildError("cubin", "the compiler's output is not a CUDA ELF file")
    (flags,) = struct.unpack_from("<I", cubin, 48)
    if chip not in (flags & 0xFF, flags >> 8 & 0xFF, flags >> 16 & 0xFF):  # its place moved between CUDA releases
        raise BuildError("cubin", f"the device code is not for sm_{chip} (ELF flags {flags:#x})")
    (offset,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 58)
    try:
        headers = [struct.unpack_from(SECTION, cubin, offset + i * size) for i in range(count)]
        names = cubin[headers[names_at][1] :]
    except (struct.error, IndexError) as error:
        raise BuildError("cubin", f"the device code is cut off: {error}") from error
    found = {}
    for name_at, _, length in headers:
        name = names[name_at : names.index(b"\0", name_at)].decode()
        if name.startswith(".text."):
            found[name.removeprefix(".text.")] = length
    return found


def read_kernels(source: str, cubin: bytes, log: str, chip: int) -> tuple[Kernel, ...]:
    """Every kernel of the source, by what the assembler logged (`ptxas -v`) and the code that the cubin holds.

    Raises BuildError where a kernel has no device code or no entry in the log.
    """
    wanted, code, logged = kernels_in_source(source), code_sections(cubin, chip), _logged(log)
    missing = [name for name in wanted if not code.get(name) or name not in logged]
    if missing:
        raise BuildError("cubin", f"no device code for {', '.join(missing)}")
    return tuple(Kernel(name=n, threads=t, code_bytes=code[n], **logged[n]) for n, t in wanted.items())


def _logged(log: str) -> Mapping[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    parts = _ENTRY.split(log)
    for name, text in zip(parts[1::3], parts[3::3]):
        stack = _STACK.search(text)
        used = _USED.search(text)
        if stack is None or used is None:
            continue
        found[name] = {
            "registers": int(used[1]),
            "shared_bytes": _number(_SHARED, text),
            "constant_bytes": _number(_CONSTANT, text),
            "stack_bytes": int(stack[1]),
            "spill_store_bytes": int(stack[2]),
            "spill_load_bytes": int(stack[3]),
        }
    return found


def _number(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.search(text)
    return int(match[1]) if match else 0
