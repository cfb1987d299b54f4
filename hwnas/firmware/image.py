"""Images: the firmware and any number of compiled networks, linked for one device by arm-none-eabi-gcc.

An image that does not fit the device's memories is a BuildError with the numbers. Nothing here talks to a board.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hwnas.config import cache_folder, data_folder
from hwnas.core.device import Device, Mcu
from hwnas.digest import content_id, digest_bytes
from hwnas.errors import BuildError, ConfigError
from hwnas.firmware.linker import linker_script, region, stack_bytes
from hwnas.firmware.sizes import sections

COMPILER = "arm-none-eabi-gcc"
PACKAGES = "gcc-arm-none-eabi libnewlib-arm-none-eabi"
ALIGNMENT = 16
KERNELS_TIMED = 96
COMPILE_TIMEOUT_S = 600.0
_ALONE = "alone.json"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_OVERFLOW = re.compile(r"region [`'](\w+)' overflowed by (\d+) bytes")
_WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wvla")


@dataclass(frozen=True, slots=True)
class Image:
    """A linked image. `memory` is bytes by use:

    `flash` and `ram` (the whole image; ram with the reserved stack), `arena`, `workspace`, `stack`, and what the
    firmware takes of them without any network: `firmware_flash`, `firmware_ram`.
    """

    elf: Path
    image_id: bytes
    memory: Mapping[str, int]


def compiler_flags(device: Device, *, faults: bool = False) -> tuple[str, ...]:
    """The flags that the firmware is compiled with for a device. Raises ConfigError where it is no microcontroller."""
    mcu = _mcu(device)
    settings = (f"-DHWNAS_CLOCK_HZ={int(mcu.clock)}u", f"-DHWNAS_BAUD={mcu.baud}u", *(["-DHWNAS_FAULTS"] * faults))
    return (
        *_machine_flags(device),
        "-std=gnu11",
        "-Os",
        "-ffunction-sections",
        "-fdata-sections",
        *_WARNINGS,
        *settings,
    )


def network_flags(device: Device) -> tuple[str, ...]:
    """The flags that networks are compiled with. Products and sums are rounded one by one (no fused multiply-add),

    so that the same C gives the same bits on every core. Raises ConfigError where the device is no microcontroller.
    """
    return (*_machine_flags(device), "-std=gnu11", "-O3", "-ffunction-sections", "-fdata-sections", "-ffp-contract=off",
            "-fno-math-errno")  # fmt: skip


def firmware_id(device: Device, *, faults: bool = False) -> str:
    """A content id of the firmware for a device, whatever networks are linked with it: that of its sources and flags.

    Raises ConfigError where the device is no microcontroller, BuildError where there is no such port.
    """
    root = data_folder("firmware")
    files = [*_sources(device), *sorted(path for path in root.rglob("*.h") if path.parent.name != "tests")]
    content = [[path.relative_to(root).as_posix(), digest_bytes(path.read_bytes())] for path in files]
    return content_id([compiler_flags(device, faults=faults), content])


def compile_network(source: Path, device: Device, into: Path) -> Path:
    """Compile a network's C file to an object in the folder `into`, named after it.

    Raises BuildError with the compiler's log, or one that names the package where there is no compiler.
    """
    into.mkdir(parents=True, exist_ok=True)
    made = into / f"{source.stem}.o"
    include = data_folder("firmware") / "include"
    _run(
        "compile",
        [COMPILER, *network_flags(device), f"-I{include}", "-c", str(source.resolve()), "-o", str(made.resolve())],
    )
    return made


def link_image(
    device: Device,
    networks: Sequence[tuple[Path, str]],
    into: Path,
    *,
    arena_bytes: int,
    workspace_bytes: int,
    faults: bool = False,
) -> Image:
    """Link objects, each with the symbol of its `hwnas_network`, and the firmware to `image.elf` in the folder `into`.

    arena_bytes, workspace_bytes: the largest that any of the networks needs. faults: with the request PROVOKE, for
    tests. Raises BuildError (stage `link`), with the numbers where the image does not fit the device.
    """
    into.mkdir(parents=True, exist_ok=True)
    arena, workspace = _aligned(arena_bytes), _aligned(workspace_bytes)
    firmware = _firmware(device, faults)
    image_id = bytes.fromhex(
        content_id([firmware.id, linker_script(device), arena, workspace,
                    [[digest_bytes(_read(path)), symbol] for path, symbol in networks]])
    )  # fmt: skip
    table = into / "image.c"
    table.write_text(_table(image_id, [symbol for _, symbol in networks], arena, workspace))
    elf = into / "image.elf"
    try:
        _link(device, firmware.objects, table, [path for path, _ in networks], elf)
    except _DoesNotFit as error:
        raise BuildError("link", _shortage(device, error.over, arena, workspace, firmware)) from None
    used = _used(elf, device)
    return Image(
        elf=elf,
        image_id=image_id,
        memory={
            **used,
            "arena": arena,
            "workspace": workspace,
            "stack": stack_bytes(device),
            "firmware_flash": firmware.flash_bytes,
            "firmware_ram": firmware.ram_bytes,
        },
    )


def write_binary(image: Image) -> Path:
    """Write the image's flash content, from its lowest address on, as `image.bin` beside the ELF file."""
    made = image.elf.with_suffix(".bin")
    _run("link", [COMPILER.replace("gcc", "objcopy"), "-O", "binary", str(image.elf), str(made)])
    return made


def _mcu(device: Device) -> Mcu:
    if device.mcu is None:
        raise ConfigError(f"{device.name} is not a microcontroller: it has no mcu: section", given=device.name)
    return device.mcu


def _machine_flags(device: Device) -> tuple[str, ...]:
    mcu = _mcu(device)
    fpu = ("-mfloat-abi=soft",) if mcu.fpu is None else (f"-mfpu={mcu.fpu}", "-mfloat-abi=hard")
    return ("-mthumb", f"-mcpu={mcu.cpu}", *fpu)


def _aligned(size: int) -> int:
    return max(ALIGNMENT, (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError("link", f"{path} cannot be read: {error.strerror}") from error


def _run(stage: str, command: Sequence[str], folder: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=COMPILE_TIMEOUT_S,
            stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildError(stage, f"{command[0]} is not installed: apt-get install {PACKAGES}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(stage, f"{command[0]} did not end within {COMPILE_TIMEOUT_S:g} s") from None
    if done.returncode:
        raise BuildError(stage, done.stderr.strip() or f"{command[0]} ended with status {done.returncode}")


def _sources(device: Device) -> list[Path]:
    root = data_folder("firmware")
    folders = [root / "core", root / "cortex_m", root / "drivers", root / "ports" / _mcu(device).port]
    found = sorted(path for folder in folders for path in folder.glob("*.c"))
    if not any(path.parent == folders[-1] for path in found):
        raise BuildError("compile", f"there is no port {_mcu(device).port!r} in {root / 'ports'}")
    return found


@dataclass(frozen=True, slots=True)
class _Firmware:
    """The firmware's objects for one kind of device, and what they take without any network, stack, arena, workspace."""

    id: str
    objects: tuple[Path, ...]
    flash_bytes: int
    ram_bytes: int


def _firmware(device: Device, faults: bool) -> _Firmware:
    """The compiled firmware: made once, then found by the digest of what it is made of. Raises BuildError."""
    identity = firmware_id(device, faults=faults)
    cached = (cache_folder() / "firmware") / identity
    if not (cached / _ALONE).is_file():
        _make_cache(cached)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            made = Path(folder) / "objects"
            _compile_firmware(device, faults, made)
            with suppress(OSError):  # another process was quicker: its objects are the same
                made.rename(cached)
    alone = json.loads((cached / _ALONE).read_text())
    return _Firmware(identity, tuple(sorted(cached.glob("*.o"))), alone["flash"], alone["ram"])


def _compile_firmware(device: Device, faults: bool, into: Path) -> None:
    """Compile the firmware, and link it without networks to see how large it is."""
    root = data_folder("firmware")
    includes = [f"-I{root / name}" for name in ("include", "core", "cortex_m", "drivers")]
    into.mkdir()
    flags = compiler_flags(device, faults=faults)
    _run("compile", [COMPILER, *flags, *includes, "-c", *map(str, _sources(device))], into)
    with tempfile.TemporaryDirectory() as folder:
        table, elf = Path(folder) / "image.c", Path(folder) / "image.elf"
        table.write_text(_table(bytes(10), [], ALIGNMENT, ALIGNMENT))
        try:
            _link(device, sorted(into.glob("*.o")), table, [], elf)
        except _DoesNotFit as error:
            over = ", ".join(f"{name} by {count:,} bytes" for name, count in error.over.items())
            raise BuildError("link", f"{device.name} cannot even hold the firmware: it exceeds {over}") from None
        used = _used(elf, device)
    used["ram"] -= stack_bytes(device) + 2 * ALIGNMENT
    (into / _ALONE).write_text(json.dumps(used))


def _make_cache(cached: Path) -> None:
    """Make the folder that holds the cached one, which is removed where somebody left it incomplete."""
    shutil.rmtree(cached, ignore_errors=True)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            "compile", f"{cached.parent} cannot be made ({error.strerror}); name another folder in HWNAS_CACHE"
        ) from error


def _table(image_id: bytes, symbols: Sequence[str], arena: int, workspace: int) -> str:
    """The C file that names the image's networks and reserves their memory."""
    for symbol in symbols:
        if not _IDENTIFIER.fullmatch(symbol):
            raise BuildError("link", f"{symbol!r} is not the name of a C object")
    if len(symbols) > 0xFFFF:
        raise BuildError("link", f"{len(symbols)} networks are more than an image can number (65,535)")
    declared = "".join(f"extern const hwnas_network {symbol};\n" for symbol in sorted(set(symbols)))
    listed = ", ".join([*(f"&{symbol}" for symbol in symbols), "0"])
    identity = ", ".join(f"0x{byte:02x}" for byte in image_id)
    return f"""\
/* Generated: the networks of one image and the memory they share. */
#include "image.h"

{declared}
const uint8_t hwnas_image_id[10] = {{{identity}}};
const hwnas_network *const hwnas_networks[] = {{{listed}}};
const uint16_t hwnas_network_count = {len(symbols)};

__attribute__((section(".arena"), aligned({ALIGNMENT}))) uint8_t hwnas_arena[{arena}];
__attribute__((section(".workspace"), aligned({ALIGNMENT}))) uint8_t hwnas_workspace[{workspace}];
const uint32_t hwnas_arena_bytes = {arena}, hwnas_workspace_bytes = {workspace};

uint32_t hwnas_kernel_ticks[{KERNELS_TIMED}];
const uint16_t hwnas_kernel_room = {KERNELS_TIMED};
"""


class _DoesNotFit(Exception):
    def __init__(self, over: Mapping[str, int]) -> None:
        self.over = over
        super().__init__(str(over))


def _link(device: Device, firmware: Sequence[Path], table: Path, objects: Sequence[Path], elf: Path) -> None:
    script = elf.with_suffix(".ld")
    script.write_text(linker_script(device))
    root = data_folder("firmware")
    command = [
        COMPILER, *compiler_flags(device), f"-I{root / 'include'}", f"-I{root / 'core'}", "--specs=nano.specs",
        "-nostartfiles", "-Wl,--gc-sections", f"-T{script}",
        str(table), *map(str, firmware), *map(str, dict.fromkeys(objects)), "-lm", "-o", str(elf),
    ]  # fmt: skip
    try:
        _run("link", command)
    except BuildError as error:
        over = {region.lower(): int(count) for region, count in _OVERFLOW.findall(error.log)}
        if over:
            raise _DoesNotFit(over) from None
        raise


def _used(elf: Path, device: Device) -> dict[str, int]:
    """Bytes of flash and RAM that an image takes. RAM is counted with the padding between its sections."""
    flash = ram_end = 0
    ram_begin, ram_bytes = region(device, "ram")
    for section in sections(elf):
        if not section.allocated:
            continue
        if section.stored:
            flash += section.size_bytes
        if ram_begin <= section.address < ram_begin + ram_bytes:
            ram_end = max(ram_end, section.address + section.size_bytes - ram_begin)
    return {"flash": flash, "ram": ram_end}


def _shortage(device: Device, over: Mapping[str, int], arena: int, workspace: int, firmware: _Firmware) -> str:
    """What does not fit, in numbers."""
    stack = stack_bytes(device)
    lines = []
    if "ram" in over:
        size = region(device, "ram")[1]
        needed = size + over["ram"]
        parts = {"arena": arena, "workspace": workspace, "stack": stack, "firmware": firmware.ram_bytes}
        parts["networks' own"] = max(0, needed - sum(parts.values()))
        lines.append(_numbers("RAM", needed, size, {k: v for k, v in parts.items() if v}))
    if "flash" in over:
        size = region(device, "flash")[1]
        needed = size + over["flash"]
        lines.append(
            _numbers(
                "flash", needed, size, {"networks": needed - firmware.flash_bytes, "firmware": firmware.flash_bytes}
            )
        )
    return f"does not fit {device.name}: {'; '.join(lines)}"


def _numbers(what: str, needed: int, size: int, parts: Mapping[str, int]) -> str:
    shares = ", ".join(f"{name} {share:,}" for name, share in parts.items())
    return f"{what} needs {needed:,} of {size:,} bytes ({needed - size:,} over): {shares}"
