"""Compiled kernels by content, shared by all networks and processes, and networks linked from them.

A fused PrimFunc is scheduled and compiled on its own to an object file whose one symbol is named by the content of the
function, so that any network that has the same kernel links the same object. What a library has of its own is its
constants and the bytecode that calls the kernels.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from keyword import kwlist
from pathlib import Path
from typing import Any

from hwnas.config import cache_folder
from hwnas.digest import content_id
from hwnas.firmware.sizes import object_bytes
from hwnas.toolchains.schedules import VERSION
from hwnas.toolchains.schedules.driver import NAME, driven
from hwnas.toolchains.schedules.isa import Isa, isa_of
from hwnas.toolchains.schedules.machine_code import compiled_module
from hwnas.toolchains.schedules.rules import scheduled
from hwnas.toolchains.schedules.traces import MisfitError, fitted, form_id
from hwnas.toolchains.schedules.tuned import Tuned, TunedSchedules

MOST_OBJECTS = 10_000
"""The objects used longest ago beyond this many are dropped, a quarter at a time; one has some 20 KB."""
SUFFIX = ".object"
PREFIX = "hw_"
"""How the symbol of a kernel begins; its id follows."""
DIGEST_BYTES = 32
STALE_S = 3600.0
"""A file that was being written so long ago belongs to a process that was killed."""
LINK_OPTIONS = ("-Wl,--strip-all", "-Wl,-z,noseparate-code", "-Wl,--build-id=none")
"""LLVM describes every variable of a kernel to debuggers, which took a third of a library; what is called by name stays.
Code and constants on pages of their own would pad a small library by some percent. The linker would digest all of a
library for an id that nobody asks for, in a third of its time."""
BLOB, BLOB_SYMBOL = "imports.bin", "__tvm_ffi__library_bin"
KEPT_WORDS = frozenset({*kwlist, "T", "I", "R"})
_WORD = re.compile(r'("(?:[^"\\]|\\.)*")|(?<![\w.])([A-Za-z_]\w*)(?![\w]|=(?!=))')


@dataclass(frozen=True, slots=True)
class Object:
    """A compiled kernel: its object file, and why no schedule rule covers it (empty where one does)."""

    data: bytes
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Linked:
    """A library that was linked: its distinct kernels, how many of them had to be compiled, "kernel: reason" of each
    that no schedule rule covers, and the entries of the tuned ones; bytes of the kernels' code, and of the constants
    with the bytecode that is stored beside them. What else a library holds grows with the number of calls."""

    kernels: int
    compiled: int
    code_bytes: int
    constant_bytes: int
    uncovered: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()


class ObjectCache:
    """Objects by the content of what they were compiled from; each entry starts with the digest of the rest.

    The digest finds entries that are not whole, not those that were forged: who may write the folder is trusted.
    """

    def __init__(self, folder: Path | None = None, most: int = MOST_OBJECTS) -> None:
        self._folder, self._most = folder or cache_folder() / "objects", most

    def restore(self, key: str) -> Object | None:
        """The object of a key; None if there is none, or if it is not whole any more and was dropped."""
        path = self._folder / (key + SUFFIX)
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        digest, rest = entry[:DIGEST_BYTES], entry[DIGEST_BYTES:]
        if not rest or _digest(rest) != digest:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        reason, _, data = rest.partition(b"\0")
        return Object(data, reason.decode(errors="replace"))

    def keep(self, objects: Mapping[str, Object]) -> None:
        """Keep objects by key; a full or unwritable disk keeps none, and nothing else happens."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for key, made in objects.items():
                self._write(key, made.reason.replace("\0", " ").encode() + b"\0" + made.data)
            self._drop_old()
        except OSError:
            return

    def _write(self, key: str, rest: bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(rest) + rest)
            # A name that is taken holds the same; what a crash of the machine leaves is dropped by its digest.
            Path(name).replace(self._folder / (key + SUFFIX))
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise

    def _drop_old(self) -> None:
        entries = [e for e in os.scandir(self._folder) if e.name.endswith(SUFFIX)]
        if len(entries) <= self._most:
            return
        used: list[tuple[float, str]] = []
        for entry in entries:
            with suppress(OSError):  # dropped by another process meanwhile
                used.append((entry.stat().st_mtime, entry.path))
        for _, path in sorted(used)[: self._most // 4]:
            with suppress(OSError):
                Path(path).unlink()
        for left in self._folder.glob(".new-*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_S:
                    left.unlink()


def kernel_id(function: Any) -> str:
    """A content id of a PrimFunc that no name of a variable changes, the same in every process.

    Of TVMScript with variables numbered by their first mention, which is exact but for the digits of a float, and of
    the structural hash, which is exact in those.
    """
    import tvm_ffi

    anonymous = function.without_attr("global_symbol") if "global_symbol" in (function.attrs or {}) else function
    structure = tvm_ffi.structural_hash(anonymous) & (2**64 - 1)
    return content_id([numbered(anonymous.script(show_meta=True)), structure])


def numbered(script: str) -> str:
    """TVMScript with every name of a variable replaced by the order in which it is first mentioned.

    What stands after a dot, in quotes, or before the `=` of a keyword argument is no variable.
    """
    numbers: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        word = found[2]
        if word is None or word in KEPT_WORDS:
            return found[0]
        return numbers.setdefault(word, f"v{len(numbers)}")

    return _WORD.sub(number, script)


def link_library(
    module: Any,
    target: Any,
    path: Path,
    compiler: str | None = None,
    kept: ObjectCache | None = None,
    isa: Isa | None = None,
    tuned: TunedSchedules | None = None,
) -> Linked:
    """Link a module of fused PrimFuncs and the Relax main that calls them into a shared library.

    With an `isa`, kernels that are not in the cache are scheduled by its rules first, or as `tuned` has them; without
    one they are compiled as they are. `compiler` links for another processor. Raises RuntimeError with the linker's
    words.
    """
    import tvm
    from tvm.relax import vm_build
    from tvm.support import cc

    kept, options = kept or ObjectCache(), pass_options(target)
    module, names = with_content_names(without_reshapes(module))
    better = {} if tuned is None or isa is None else _tuned(module, names, tuned)
    one, calls = driven(module), {}
    checked = one is None  # else the function that makes the calls checks what comes from outside
    keys = {symbol: object_key(symbol, target, options, isa, better.get(symbol), checked) for symbol in names}
    with tempfile.TemporaryDirectory(prefix="hwnas-link-") as folder:
        scratch = Path(folder)
        with tvm.transform.PassContext(opt_level=3, config=options):
            known = {symbol: made for symbol, key in keys.items() if (made := kept.restore(key)) is not None}
            fresh = {}
            for symbol in names.keys() - known.keys():
                try:
                    entry = better.get(symbol)
                    fresh[symbol] = compile_object(module[symbol], symbol, target, scratch, isa, entry, checked)
                except MisfitError as error:
                    assert tuned is not None
                    tuned.faults.append(str(error))
                    del better[symbol]
                    keys[symbol] = object_key(symbol, target, options, isa, checked=checked)
                    fresh[symbol] = compile_object(module[symbol], symbol, target, scratch, isa, checked=checked)
            if one is not None:
                # Optimised further it is neither faster nor smaller, and takes twice as long to compile.
                plain = tvm.target.Target({**target.export(), "opt-level": 1})
                calls = {NAME: compile_object(one.module[NAME], NAME, plain, scratch)}
            builder, own, constants = _bytecode(one.module if one else module, {*names, *calls}, target)
        kept.keep({keys[symbol]: made for symbol, made in fresh.items()})
        objects, libraries, code_bytes, constant_bytes = known | fresh, [], 0, 0
        for symbol, made in (objects | calls).items():
            file = scratch / f"{symbol}.o"
            file.write_bytes(made.data)
            if symbol in objects:
                code_bytes += stored_bytes(file)
            libraries.append(tvm.runtime.load_static_library(str(file), [symbol]))
        linked = vm_build._ffi_api.VMLink(builder, target, own, libraries, constants)

        def pack(made: Any, _system: bool, _prefix: str, inside: str) -> str:
            nonlocal constant_bytes
            blob = packed_imports(made)
            constant_bytes = len(blob)
            return embed(blob, Path(inside))

        linked.export_library(
            str(path),
            fcompile=cc.cross_compiler(compiler) if compiler else None,
            fpack_imports=pack,
            options=[*LINK_OPTIONS, *(f"-Wl,--defsym={new}={known}" for new, known in (one.aliases if one else ()))],
        )
    uncovered = sorted(f"{names[symbol]}: {made.reason}" for symbol, made in objects.items() if made.reason)
    return Linked(len(names), len(fresh), code_bytes, constant_bytes, tuple(uncovered), tuple(better.values()))


def stored_bytes(path: Path) -> int:
    """Bytes of an object that a library carries: code, its constants and initial values."""
    used = object_bytes(path)
    return used["code"] + used["constants"] + used["data"]


def _tuned(module: Any, names: Mapping[str, str], tuned: TunedSchedules) -> dict[str, Tuned]:
    """Symbol -> the entry that says how to schedule it, under the name that it has in this network."""
    found = {symbol: tuned.find(form_id(module[symbol])) for symbol in names}
    return {s: replace(t, name=names[s]) for s, t in found.items() if t is not None and t.schedule is not None}


def pass_options(target: Any) -> dict[str, Any]:
    """TVM's PassContext options that kernels for a target are compiled with."""
    return {"tirx.enable_buffer_level_predication": True} if isa_of(target).predication else {}


def _bytecode(module: Any, symbols: Collection[str], target: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The builder that holds a module's bytecode, the code of functions that only staging makes, and the constants."""
    import tvm
    from tvm import relax
    from tvm.relax import vm_build

    with target:
        staged = relax.get_pipeline("default")(module)
    constants = dict((staged.attrs or {}).get("const_name_to_constant", {}))
    builder = relax.ExecBuilder()
    staged = vm_build._vmcodegen(builder, staged)
    others = {v: f for v, f in staged.functions.items() if v.name_hint not in symbols}
    own = tvm.tirx.build(tvm.IRModule(others), target=target) if others else None
    return builder, own, constants


def packed_imports(module: Any) -> Any:
    """What a library carries of its imported modules (constants, bytecode), as TVM serialises them: n bytes."""
    from tvm.runtime import _ffi_api

    return _ffi_api.ModulePackImportsToTensor(module).numpy()


def embed(blob: Any, folder: Path) -> str:
    """Assembly that puts a blob (bytes, or an array of them) where TVM looks for a library's imports; returns its path.

    An assembler copies 50 MB of weights in a twentieth of the time that LLVM takes to emit them as a constant.
    """
    with (folder / BLOB).open("wb") as file:
        file.write(blob)
    assembly = folder / "imports.s"
    assembly.write_text(
        f".section .rodata\n.global {BLOB_SYMBOL}\n.type {BLOB_SYMBOL}, %object\n.balign 16\n{BLOB_SYMBOL}:\n"
        f'.incbin "{folder / BLOB}"\n.size {BLOB_SYMBOL}, {len(blob)}\n.section .note.GNU-stack,"",%progbits\n'
    )
    return str(assembly)


def object_key(
    symbol: str,
    target: Any,
    options: Mapping[str, Any],
    isa: Isa | None = None,
    tuned: Tuned | None = None,
    checked: bool = True,
) -> str:
    """The id of an object: the kernel's content, and everything else that decides what it is compiled to."""
    from tvm.target import codegen

    compiler = [version("apache-tvm"), int(codegen.llvm_version_major())]
    rules = None if isa is None else asdict(isa)
    better = None if tuned is None else tuned.id
    shared = [str(target), compiler, VERSION, _sources(), sorted(map(str, options.items()))]
    return content_id([symbol, *shared, rules, better, checked])


def compile_object(
    function: Any,
    symbol: str,
    target: Any,
    scratch: Path,
    isa: Isa | None = None,
    tuned: Tuned | None = None,
    checked: bool = True,
) -> Object:
    """One PrimFunc under a symbol, scheduled by the rules of an `isa` if one is given, or as `tuned` has it.

    `checked` as in `machine_code.compiled_module`. Raises MisfitError for an entry that does not fit.
    """
    reason = ""
    if isa is not None and tuned is not None:
        function = fitted(function, tuned, isa)
    elif isa is not None:
        function, reason = scheduled(function.with_attr("global_symbol", "main"), isa)
    file = scratch / f"{symbol}.o"
    compiled_module(function, symbol, target, checked).write_to_file(str(file))
    return Object(file.read_bytes(), reason)


def without_reshapes(module: Any) -> Any:
    """The module with kernels that only reshape as the views that the virtual machine makes of them for nothing."""
    import tvm
    from tvm import relax

    passes = relax.transform
    return tvm.transform.Sequential([passes.RewriteDataflowReshape(), passes.DeadCodeElimination()])(module)


def with_content_names(module: Any) -> tuple[Any, dict[str, str]]:
    """The module with each PrimFunc named by its content, equal ones only once; and those names -> the first before."""
    import tvm
    from tvm import relax

    renamed: dict[str, Any] = {}
    functions: dict[Any, Any] = {}
    by_symbol: dict[str, Any] = {}
    names: dict[str, str] = {}
    for variable, function in module.functions.items():
        if not isinstance(function, tvm.tirx.PrimFunc):
            continue
        symbol = PREFIX + kernel_id(function)
        if symbol not in by_symbol:
            fresh = tvm.ir.GlobalVar(symbol)
            relax.expr._update_type(fresh, variable.ty)
            by_symbol[symbol], names[symbol] = fresh, variable.name_hint
            functions[fresh] = function.without_attr("global_symbol")
        renamed[variable.name_hint] = by_symbol[symbol]

    @relax.expr_functor.mutator
    class Rename(relax.PyExprMutator):  # type: ignore[misc]
        def visit_global_var_(self, variable: Any) -> Any:
            return renamed.get(variable.name_hint, variable)

    for variable, function in module.functions.items():
        if not isinstance(function, tvm.tirx.PrimFunc):
            functions[variable] = Rename().visit_expr(function)
    return tvm.IRModule(functions, attrs=module.attrs), names


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


@cache
def _sources() -> str:
    """A digest of the rules' sources: a kernel that calls an intrinsic of ours changes with what that does."""
    here = Path(__file__).parent
    return content_id([hashlib.blake2b(f.read_bytes()).hexdigest() for f in sorted(here.glob("*.py"))])
