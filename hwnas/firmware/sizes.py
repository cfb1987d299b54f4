"""How much of which memory an ELF file or object takes, read from its section headers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwnas.errors import DataError

_FORMATS = {
    b"\x7fELF\x01\x01": (struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<10I")),
    b"\x7fELF\x02\x01": (struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")),
}
"""How a file begins -> its header and that of a section: little-endian, of 32 and of 64 bits."""
_NO_BITS = 8
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_OWN_SECTION = ".text."
_SHARED = _OWN_SECTION + "hwnas_"
"""How the section of a function begins that is not of one kernel alone (compiled with -ffunction-sections)."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a little-endian ELF file; `stored` is False where the file holds no bytes of it (.bss)."""

    name: str
    address: int
    size_bytes: int
    writable: bool
    allocated: bool
    executable: bool
    stored: bool


def sections(path: Path) -> tuple[Section, ...]:
    """The sections of a little-endian ELF file. Raises DataError if it is missing, truncated or something else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from error
    if data[:6] not in _FORMATS:
        raise DataError("is not a little-endian ELF file", path=path)
    head, entry = _FORMATS[data[:6]]
    if len(data) < head.size:
        raise DataError("is a truncated ELF file", path=path)
    *_, section_offset, _, _, _, _, entry_bytes, count, names_index = head.unpack_from(data)
    if entry_bytes != entry.size or names_index >= count:
        raise DataError("is not an ELF file with sections", path=path)
    if section_offset + count * entry_bytes > len(data):
        raise DataError("is a truncated ELF file", path=path)
    headers = [entry.unpack_from(data, section_offset + i * entry_bytes) for i in range(count)]
    names_at, names_size = headers[names_index][4:6]
    names = data[names_at : names_at + names_size]
    found = []
    for name_at, kind, flags, address, _, size, *_ in headers:
        name = names[name_at:].split(b"\0", 1)[0].decode("ascii", errors="replace")
        found.append(
            Section(
                name=name,
                address=address,
                size_bytes=size,
                writable=bool(flags & _WRITE),
                allocated=bool(flags & _ALLOC),
                executable=bool(flags & _EXECUTE),
                stored=kind != _NO_BITS,
            )
        )
    return tuple(found)


def object_bytes(path: Path) -> Mapping[str, int]:
    """Bytes of an object by use: `code`, `constants` (read-only data), `data` and `zeroed` (both take RAM).

    `data` takes flash as well, for its initial values. Raises DataError for what is no object.
    """
    used = {"code": 0, "constants": 0, "data": 0, "zeroed": 0}
    for section in sections(path):
        if not section.allocated:
            continue
        if section.executable:
            use = "code"
        elif not section.writable:
            use = "constants"
        else:
            use = "data" if section.stored else "zeroed"
        used[use] += section.size_bytes
    return used


def shared_functions(path: Path) -> dict[str, int]:
    """Bytes of each function of an object that its kernels share, by name: each has a section of its own.

    Raises DataError for what is no object.
    """
    found = (s for s in sections(path) if s.executable and s.size_bytes and s.name.startswith(_SHARED))
    return {section.name.removeprefix(_OWN_SECTION): section.size_bytes for section in found}
