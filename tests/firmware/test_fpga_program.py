"""The file of a deployed network: what is written is read again, and nothing that was damaged or made up is."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.digest import ID_BYTES
from hwnas.errors import DataError
from hwnas.firmware.fpga.array import Array
from hwnas.firmware.fpga.product import Geometry, Packing, Product, Window
from hwnas.firmware.fpga.program import (
    MAGIC,
    PROGRAM,
    CoreStep,
    HostStep,
    Program,
    Tensor,
    decode,
    encode,
    read_program,
    sealed,
    write_program,
)


def program() -> Program:
    """A convolution of two groups on the core, then a kernel of the CPU."""
    rng = np.random.default_rng(0)
    geometry = Geometry((1, 6, 5, 4), Window((3, 3), pads=(1, 1, 1, 1)), 6, 2)
    product = Product(
        geometry, Packing(1, 2, 1, 2), rng.integers(-128, 128, geometry.weights).astype(np.int8),
        np.arange(6, dtype=np.int32), "shift", np.full(6, 7, np.int32), 1, "uint8", 3, "int8", -4, -100, 100,
    )  # fmt: skip
    core = CoreStep("Conv 'a'", "x", "y", "image", (1, 6, 6, 5), product)
    host = HostStep("DequantizeLinear 'b'", b"onnx", ("y",), ("z",))
    return Program(
        Array(8, 8),
        (Tensor("x", "x", "uint8", (1, 4, 6, 5)),),
        (Tensor("z", "z", "float32", (1, 6, 6, 5)),),
        (core, host),
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    given_program = program()
    assert write_program(given_program, tmp_path) == (tmp_path / PROGRAM).stat().st_size
    found = read_program(tmp_path)
    assert (found.array, found.inputs, found.outputs) == (
        given_program.array,
        given_program.inputs,
        given_program.outputs,
    )
    core, host = found.steps
    assert host == given_program.steps[1]
    expected = given_program.steps[0]
    assert isinstance(core, CoreStep)
    assert isinstance(expected, CoreStep)
    for name in ("weights", "bias", "entries"):
        np.testing.assert_array_equal(getattr(core.product, name), getattr(expected.product, name))
        assert getattr(core.product, name).dtype == getattr(expected.product, name).dtype
    bare = {"weights": None, "bias": None, "entries": None}
    assert replace(core.product, **bare) == replace(expected.product, **bare)  # type: ignore[arg-type]
    assert encode(found) == encode(given_program)


def spoiled(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with another header, and a digest that says that it is whole."""
    data = encode(program())[: -2 * ID_BYTES]
    (size,) = struct.unpack_from("<I", data, len(MAGIC))
    start = len(MAGIC) + 4
    header = json.loads(data[start : start + size])
    change(header)
    head = json.dumps(header).encode()
    return sealed(MAGIC + struct.pack("<I", len(head)) + head + data[start + size :])


def set_at(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value: keys, then the value."""
    *keys, last, value = path

    def change(header: dict[str, Any]) -> None:
        inside: Any = header
        for key in keys:
            inside = inside[key]
        inside[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_at("array", {"rows": 8, "lanes": 3}), "cannot be .*lanes"),
        (set_at("array", {"rows": 7000}), "cannot be .*rows"),
        (set_at("array", {"rows": 8, "columns": 8, "steps": 16}), "does not fit the 8x8 array: sums of 24"),
        (set_at("steps", 0, "groups", 3), "into 3 groups"),
        (set_at("steps", 0, "image", [1, 2**26, 2**26, 4]), r"more than|the shape"),
        (set_at("steps", 0, "shape", [1, 6, 6, 6]), "the shape"),
        (set_at("steps", 0, "pads", [0, 0, 0, -1]), "pads"),
        (set_at("steps", 0, "kernel", [9, 9]), r"the shape|result"),
        (set_at("steps", 0, "weights", "size", 17), "17 bytes of weights"),
        (set_at("steps", 0, "weights", "offset", 10**6), "beyond its payload"),
        (set_at("steps", 0, "entries", "size", 8), "8 bytes of shift entries"),
        (set_at("steps", 0, "packing", [2**13, 2**13, 2**10, 2**26]), "more than"),
        (set_at("steps", 0, "low", 101), "bounds int8 by 101"),
        (set_at("steps", 0, "result_zero", 200), "around 200"),
        (set_at("steps", 0, "zero", 300), "zero"),
        (set_at("steps", 0, "lift", True), "lift"),
        (set_at("steps", 0, "source", "nowhere"), "reads 'nowhere' before"),
        (set_at("steps", 1, "sources", ["later"]), "reads 'later' before"),
        (set_at("outputs", 0, "storage", "nothing"), "gives out 'nothing'"),
        (set_at("outputs", 0, "shape", [2**20, 2**20]), "more than"),
        (set_at("outputs", 0, "dtype", "object"), "dtype"),
        (set_at("steps", []), "steps"),
        (set_at("more", 1), "more"),
    ],
)
def test_a_header_that_cannot_be_is_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(spoiled(change))


@settings(deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(at: int, bit: int) -> None:
    data = bytearray(encode(program()))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(DataError):
        decode(bytes(data))


def test_a_header_longer_than_the_file_is_refused() -> None:
    data = encode(program())[: -2 * ID_BYTES]
    with pytest.raises(DataError, match="header is longer"):
        decode(sealed(MAGIC + struct.pack("<I", len(data)) + data[len(MAGIC) + 4 :]))


@given(cut=st.integers(0, 10**6))
def test_a_cut_file_is_refused(cut: int) -> None:
    data = encode(program())
    with pytest.raises(DataError):
        decode(data[: cut % len(data)])


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"network\.fpga: cannot be read"):
        read_program(tmp_path)
