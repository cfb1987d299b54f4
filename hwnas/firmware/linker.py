"""The linker script of a microcontroller, from the memories that its device file gives."""

from __future__ import annotations

from hwnas.core.device import Device
from hwnas.errors import ConfigError

_SCRIPT = """\
/* Generated from the device file of {name}. */
ENTRY(hwnas_reset_exception)

MEMORY
{{
    FLASH (rx)  : ORIGIN = {flash_address:#010x}, LENGTH = {flash_bytes}
    RAM   (rwx) : ORIGIN = {ram_address:#010x}, LENGTH = {ram_bytes}
}}

SECTIONS
{{
    .text : {{ KEEP(*(.vectors)) KEEP(*(.boot)) *(.text .text.*) *(.rodata .rodata.*) . = ALIGN(8); }} > FLASH
    .ARM.extab : {{ *(.ARM.extab*) }} > FLASH
    .ARM.exidx : {{ *(.ARM.exidx*) }} > FLASH

    /* First in RAM: a stack that runs over meets the end of the memory and not somebody's data. */
    .stack (NOLOAD) : {{ hwnas_stack_begin = .; . += {stack_bytes}; hwnas_stack_end = .; }} > RAM
    .data : {{ hwnas_data_begin = .; *(.data .data.*) . = ALIGN(8); hwnas_data_end = .; }} > RAM AT > FLASH
    hwnas_data_source = LOADADDR(.data);
    .bss (NOLOAD) : {{ hwnas_bss_begin = .; *(.bss .bss.*) *(COMMON) . = ALIGN(8); hwnas_bss_end = .; }} > RAM
    .noinit (NOLOAD) : {{ *(.noinit .noinit.*) . = ALIGN(8); }} > RAM
    .workspace (NOLOAD) : ALIGN(16) {{ *(.workspace) }} > RAM
    .arena (NOLOAD) : ALIGN(16) {{ *(.arena) }} > RAM
    hwnas_used_end = .;
    hwnas_ram_end = ORIGIN(RAM) + LENGTH(RAM);
}}
"""


def region(device: Device, use: str) -> tuple[int, int]:
    """Address and size (bytes) of a microcontroller's flash or RAM. Raises ConfigError where the device is none."""
    memory = device.memory(use)
    if device.mcu is None or memory is None or memory.size is None or memory.address is None:
        raise ConfigError(f"{device.name} is not a microcontroller: it has no address of its {use}", given=device.name)
    return memory.address, int(memory.size)


def stack_bytes(device: Device) -> int:
    """Bytes reserved for the stack, a multiple of 8. Raises ConfigError where the device is no microcontroller."""
    if device.mcu is None:
        raise ConfigError(f"{device.name} is not a microcontroller: it has no mcu: section", given=device.name)
    return (int(device.mcu.stack) + 7) // 8 * 8


def linker_script(device: Device) -> str:
    """The GNU ld script that places an image in the device's memories. Raises ConfigError for another kind of device.

    The memories are the device's real ones, so that an image that does not fit is found by the linker.
    """
    (flash_address, flash_bytes), (ram_address, ram_bytes) = region(device, "flash"), region(device, "ram")
    return _SCRIPT.format(
        name=device.name,
        flash_address=flash_address,
        flash_bytes=flash_bytes,
        ram_address=ram_address,
        ram_bytes=ram_bytes,
        stack_bytes=stack_bytes(device),
    )
