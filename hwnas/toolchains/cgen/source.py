"""TVM's C made plain: static functions that take pointers, without the packed calling convention of its runtime.

TVM wraps every function to unpack tensors from a list of variants (some 220 instructions a call) and asks a runtime for
memory. Here the wrapper is cut off, and every allocation becomes an offset into the workspace that is passed in, its
total known when the code is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import BuildError

STACK_BYTES = 64
"""Local arrays above this size go into the workspace, so that the stack stays small."""

_ALIGN = 16
_HEAD = re.compile(r"^TVM_DLL int32_t __tvm_ffi_(\w+)\(void\* self_handle, .*\{$")
_PARAMETER = re.compile(r"^  void\* (\w+)_handle = ")
_POINTER = re.compile(r"^  (\w+)\* (\w+) = .*\(DLTensor\*\)(\w+)_handle\)\[0\]\.data\)")
_ALLOCATE = re.compile(r"^( *)(\w+)\* (\w+) = .*TVMBackendAllocWorkspace\([^,]*, [^,]*, \(uint64_t\)(\d+)ULL,")
_FREE = re.compile(r"^ *if \(TVMBackendFreeWorkspace\([^,]*, [^,]*, (\w+)\) != 0\) \{$")
_LOCAL = re.compile(r"^( *)(\w+) (\w+)\[(\d+)\];$")
_TEMPORARY = re.compile(r"^ *\w+ (v_\w*|cse_v\w*|condval\w*) = (.*);$")
_STORE = re.compile(r"^ *(\w+)\[[^=]*\] = (.*);$")
_SIZES = {"float": 4, "int8_t": 1, "uint8_t": 1, "int16_t": 2, "int32_t": 4, "uint32_t": 4, "int64_t": 8, "double": 8,
          "bool": 1, "uint16_t": 2, "uint64_t": 8}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlainFunction:
    """A C function without its name: `parameters` is (C type, name) in order, `body` its indented lines."""

    parameters: tuple[tuple[str, str], ...]
    body: str
    workspace_bytes: int

    def written(self, name: str, outputs: int, dropped: frozenset[int]) -> str:
        """The definition under a name; the last `outputs` parameters are written, those in `dropped` are absent."""
        count = len(self.parameters)
        declared = [
            f"{'' if k >= count - outputs else 'const '}{kind} *restrict {parameter}"
            for k, (kind, parameter) in enumerate(self.parameters)
            if k not in dropped
        ]
        if self.workspace_bytes:
            declared.append("uint8_t *restrict workspace")
        unused = "".join(
            f"  (void){parameter};\n"
            for k, (_, parameter) in enumerate(self.parameters)
            if k not in dropped and not re.search(rf"\b{parameter}\b", self.body)
        )
        return f"HWNAS_KERNEL {name}({', '.join(declared)}) {{\n{unused}{self.body}}}\n"


def plain_functions(source: str, literals: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, PlainFunction]:
    """The functions of a C module of TVM by name; parameters in `literals` become numbers in the code.

    Raises BuildError where the text is not of the form that TVM 0.27 writes.
    """
    functions: dict[str, PlainFunction] = {}
    lines = iter(source.splitlines())
    for line in lines:
        head = _HEAD.match(line)
        if head is None:
            continue
        body = []
        for inner in lines:
            if inner == "}":
                break
            body.append(inner)
        functions[head[1]] = _plain(head[1], body, literals.get(head[1], {}))
    return functions


def _plain(name: str, lines: Sequence[str], literals: Mapping[int, np.ndarray]) -> PlainFunction:
    order = [m[1] for line in lines if (m := _PARAMETER.match(line))]
    pointers = {m[3]: (m[1], m[2], k) for k, line in enumerate(lines) if (m := _POINTER.match(line))}
    if not pointers or not set(pointers) <= set(order):
        raise BuildError("cgen", f"TVM wrote function {name} in a form that is not known")
    start = max(k for *_, k in pointers.values()) + 1
    parameters = tuple(pointers[handle][:2] if handle in pointers else ("void", handle) for handle in order)
    body, workspace = _without_runtime(name, lines[start:])
    for k, value in literals.items():
        body = re.sub(rf"\b{re.escape(parameters[k][1])}\[0\]", _literal(value), body)
    check_temporaries(name, body)
    return PlainFunction(parameters, body, workspace)


def _without_runtime(name: str, lines: Sequence[str]) -> tuple[str, int]:
    """The statements with every allocation as an offset into the workspace, and how much of it they need."""
    kept: list[str] = []
    stack: list[tuple[str, int, int]] = []  # array, indentation of its scope, where the stack stood before
    top = peak = 0
    feed = iter(lines)
    for line in feed:
        indent = len(line) - len(line.lstrip())
        while stack and stack[-1][1] > indent:  # the scope of a local array has ended
            top = stack.pop()[2]
        allocation, local = _ALLOCATE.match(line), _LOCAL.match(line)
        size = 0
        if allocation:
            space, kind, array, size = allocation[1], allocation[2], allocation[3], int(allocation[4])
            for _ in range(3):  # the test of the pointer
                next(feed)
        elif local and int(local[4]) * _SIZES[local[2]] > STACK_BYTES:
            space, kind, array = local[1], local[2], local[3]
            size = int(local[4]) * _SIZES[kind]
        if size:
            stack.append((array, indent, top))
            kept.append(f"{space}{kind} *restrict {array} = ({kind} *)(workspace + {top});")
            top += -(-size // _ALIGN) * _ALIGN
            peak = max(peak, top)
        elif free := _FREE.match(line):
            next(feed), next(feed)
            while stack and free[1] in [array for array, *_ in stack]:
                top = stack.pop()[2]
        elif line.strip() != "return 0;":
            kept.append(line)
    text = "\n".join(kept) + "\n"
    if leftover := re.search(r"TVM\w+|DLTensor|__tvm\w+", text):
        raise BuildError("cgen", f"function {name} needs TVM's runtime ({leftover[0]})")
    return re.sub(r"hwnas_bits\((\d+)\)", lambda m: _literal(np.uint32(m[1]).view(np.float32)), text), peak


def check_temporaries(name: str, body: str) -> None:
    """Raise BuildError where a temporary is used after what it was read from has changed.

    TVM's C generator gives equal expressions in one scope one temporary, also where memory was written in between:
    code that would compute something else has to end here.
    """
    read_from: dict[str, set[str]] = {}
    stale: dict[str, str] = {}
    for line in body.splitlines():
        defined, stored = _TEMPORARY.match(line), _STORE.match(line)
        value = defined[2] if defined else stored[2] if stored else line
        for word in set(re.findall(r"\w+", value)):
            if word in stale:
                raise BuildError("cgen", f"function {name}: {word} is used after {stale[word]} has changed")
        if defined:
            read_from[defined[1]] = set(re.findall(r"(\w+)\[", value))
            stale.pop(defined[1], None)
        elif stored:
            stale |= {v: stored[1] for v, arrays in read_from.items() if stored[1] in arrays}


def _literal(value: np.ndarray | np.generic) -> str:
    """A number as C, exact."""
    item = np.asarray(value).reshape(-1)[0]
    if np.issubdtype(item.dtype, np.floating):
        if not np.isfinite(item):
            return "NAN" if np.isnan(item) else ("INFINITY" if item > 0 else "(-INFINITY)")
        text = f"{float(item):.9g}"
        text += "" if re.search(r"[.e]", text) else ".0"
        return f"({text}f)" if item.dtype.itemsize == 4 else f"({float(item)!r})"
    return f"({int(item)})"
