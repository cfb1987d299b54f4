"""The cgen toolchain: ONNX to C, and the C to an object and a linked image, or a shared library on this computer."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.config import data_folder
from hwnas.core.artifact import LAYOUT, LIBRARY, write_artifact
from hwnas.core.device import Device
from hwnas.core.measurement import SHARED_CODE
from hwnas.core.workload import Artifact
from hwnas.errors import BuildError, ConfigError, HwnasError, UnsupportedOperator
from hwnas.toolchains.cgen.emit import Emitted, emit
from hwnas.toolchains.cgen.kernels import CORES, Core, core_of
from hwnas.toolchains.cgen.lowered import Lowered
from hwnas.toolchains.cgen.lowering import lower
from hwnas.toolchains.cgen.program import RULES, arena_bytes, read_program
from hwnas.toolchains.cgen.schedule import SCHEDULE
from hwnas.toolchains.tvm import check_versions

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

SOURCE = "network.c"
HEADER = "hwnas_network.h"
LOWERING = 2
"""Version of the lowering: it changes whenever the generated code does."""

OPTION_KEYS = ("threads", "compiler", "flags", "core")
HOST_FLAGS = ("-O2", "-std=c11", "-ffp-contract=off")
_EXECUTED, _ALLOCATED, _PROGBITS = 4, 2, 1
KERNEL_CODE_BYTES = 600
"""Flash that the code of one distinct kernel takes, roughly: used before a build knows better."""
KERNEL_ENTRY_BYTES = 48


class CgenToolchain:
    """TVM's lowering to C, in fp32 and, for QDQ networks, in integers of our own."""

    name = "cgen"
    cached = True
    rules = RULES

    def version(self) -> str:
        return f"tvm{version('apache-tvm')}+cgen{LOWERING}"

    def unsupported(self, node: NodeProto) -> str | None:
        """What TVM's Relax front end imports, and every QDQ group around it."""
        from hwnas.toolchains.tvm import TvmToolchain

        return TvmToolchain().unsupported(node)

    def flash_bytes(self, onnx: ModelProto) -> int:
        """Constants (those of portable code: a core's may be some bytes a channel more), and round figures for code:
        see KERNEL_CODE_BYTES."""
        program = read_program(onnx)
        constants = sum(array.values.nbytes for array in program.constants)
        distinct = len(set(program.keys))
        return constants + KERNEL_CODE_BYTES * distinct + KERNEL_ENTRY_BYTES * len(program.steps)

    def arena_bytes(self, onnx: ModelProto) -> int:
        """Bytes of the arena that holds all activations of a network, or of a block of one."""
        return arena_bytes(onnx)

    def build(self, onnx: ModelProto, device: Device, into: Path) -> Artifact:
        """Generate, compile and (for a microcontroller) link into `into`.

        Raises UnsupportedOperator, ConfigError for options, BuildError with the compiler's or linker's words: a
        network that does not fit a microcontroller's memories is one.
        """
        check_versions()
        options = checked_options(device)
        for node in onnx.graph.node:
            if reason := self.unsupported(node):
                raise UnsupportedOperator(f"{node.op_type} ({node.name or 'unnamed'})", reason)
        into.mkdir(parents=True, exist_ok=True)
        emitted, uncovered = generate(onnx, _core(device, options))
        (into / SOURCE).write_text(emitted.source)
        (into / HEADER).write_text(header_path().read_text())
        (into / LAYOUT).write_text(json.dumps(emitted.layout, indent=1) + "\n")
        memory = _link(into, device, options, emitted)
        built_by = "arm-none-eabi-gcc" if device.mcu is not None else options["compiler"]
        return write_artifact(
            Artifact(
                path=str(into),
                toolchain=self.name,
                version=self.version(),
                options={**options, "compiler": compiler_version(built_by)},
                schedule=SCHEDULE,
                flash_bytes=memory["flash"],
                uncovered=uncovered,
                memory=memory,
                kernels=emitted.kernels,
                layout_transforms=emitted.layout["layout_transforms"],
                code=tuple(sorted(set(emitted.layout["code"]))),
            )
        )


def checked_options(device: Device) -> dict[str, Any]:
    """The device's options for cgen with defaults, and the compiler that is used.

    Raises ConfigError for what is unknown or of the wrong type.
    """
    given = device.options.get("cgen", {})
    for key in given:
        if key not in OPTION_KEYS:
            raise ConfigError("unknown option", key=f"options.cgen.{key}", given=key, allowed=OPTION_KEYS)
    if given.get("threads", 1) != 1:
        raise ConfigError("generated code runs in one thread: 1", key="options.cgen.threads", given=given["threads"])
    if device.mcu is not None:
        if unfit := sorted(given.keys() - {"threads"}):
            reason = "a microcontroller's compiler and flags follow from its mcu: section"
            raise ConfigError(reason, key=f"options.cgen.{unfit[0]}", given=given[unfit[0]])
        return {"threads": 1}
    options = {"threads": 1, "compiler": "gcc", "flags": list(HOST_FLAGS), **given}
    flags, compiler = options["flags"], options["compiler"]
    if not isinstance(flags, list) or not all(isinstance(flag, str) and flag.startswith("-") for flag in flags):
        raise ConfigError("flags are a list of texts that begin with '-'", key="options.cgen.flags", given=flags)
    if not isinstance(compiler, str) or not compiler or compiler.startswith("-"):
        raise ConfigError("compiler is the name of a program", key="options.cgen.compiler", given=compiler)
    if options.get("core", "portable") not in CORES:
        raise ConfigError("unknown core", key="options.cgen.core", given=options["core"], allowed=CORES)
    return options


def _core(device: Device, options: Mapping[str, Any]) -> Core:
    """The core that code is written for: a microcontroller's own, or the one that the options name."""
    chosen: Core = options.get("core", "portable") if device.mcu is None else core_of(device.mcu.cpu)
    return chosen


def generate(onnx: ModelProto, core: Core = "portable") -> tuple[Emitted, tuple[str, ...]]:
    """The C of a network for a core, and the kernels that no schedule rule covers.

    Raises UnsupportedOperator, BuildError.
    """
    program = read_program(onnx, core)
    lowered: dict[str, Lowered] = {}
    try:
        for key, step in zip(program.keys, program.steps):
            if key not in lowered:
                lowered[key] = lower(program, step)
        emitted = emit(program, lowered)
    except HwnasError:
        raise
    except Exception as error:  # TVM raises many classes; what they say is what the user needs
        raise BuildError("cgen", f"{type(error).__name__}: {' '.join(str(error).split())[-800:]}") from error
    uncovered = {step.workload.op for key, step in zip(program.keys, program.steps) if not lowered[key].covered}
    return emitted, tuple(sorted(uncovered))


def header_path() -> Path:
    """The header that generated code includes."""
    return data_folder("firmware") / "include" / HEADER


@lru_cache(maxsize=8)
def compiler_version(compiler: str) -> str:
    """A C compiler's name and version. Raises BuildError where it is not installed."""
    try:
        done = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, timeout=30)
    except OSError:
        raise BuildError("compile", f"{compiler} is not installed") from None
    return f"{Path(compiler).name} {done.stdout.strip()}"


def _link(into: Path, device: Device, options: Mapping[str, Any], emitted: Emitted) -> dict[str, int]:
    """Compile and link; bytes by use."""
    needs = {"arena": int(emitted.layout["arena_bytes"]), "workspace": int(emitted.layout["workspace_bytes"])}
    if device.mcu is None:
        library = compile_library(into / SOURCE, options["compiler"], options["flags"], into / LIBRARY)
        used = library_bytes(library)
        return {**needs, **used, "flash": used["code"] + used["constants"]}
    from hwnas.firmware.image import compile_network, link_image
    from hwnas.firmware.sizes import object_bytes, shared_functions

    made = compile_network(into / SOURCE, device, into)
    image = link_image(
        device, [(made, emitted.layout["symbol"])], into / "image",
        arena_bytes=needs["arena"], workspace_bytes=needs["workspace"],
    )  # fmt: skip
    used = dict(object_bytes(made))
    shutil.rmtree(into / "image")  # runners link their own images, of many networks
    shared = {SHARED_CODE + name: size for name, size in shared_functions(made).items()}
    return {**needs, "code": used["code"], **shared, "constants": used["constants"],
            "flash": image.memory["flash"], "ram": image.memory["ram"]}  # fmt: skip


def compile_library(source: Path, compiler: str, flags: Sequence[str], library: Path) -> Path:
    """A shared library of generated C. Raises BuildError with the compiler's words."""
    command = [compiler, *flags, "-shared", "-fPIC", "-o", str(library), str(source), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise BuildError("compile", f"{compiler} is not installed; on Debian: apt-get install gcc") from None
    except subprocess.TimeoutExpired:
        raise BuildError("compile", f"{compiler} did not end within 300 s") from None
    if done.returncode:
        raise BuildError("compile", done.stderr.strip()[-2000:])
    return library


def library_bytes(library: Path) -> dict[str, int]:
    """Code and constants of a 64-bit little-endian ELF library by the flags of its sections. Raises BuildError."""
    data = library.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise BuildError("compile", f"{library.name} is not a 64-bit little-endian ELF library")
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    used = {"code": 0, "constants": 0}
    for k in range(count):
        _, kind, flags, _, _, length = struct.unpack_from("<IIQQQQ", data, offset + k * size)
        if flags & _EXECUTED:
            used["code"] += length
        elif kind == _PROGBITS and flags & _ALLOCATED:
            used["constants"] += length
    return used
