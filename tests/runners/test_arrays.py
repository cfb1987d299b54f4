"""Arrays on their way into and out of a compiled library, whose images may be stored channels last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import DeviceError
from hwnas.runners.arrays import Interface, decode_array, encode_array, read_interface

DOCUMENT: dict[str, Any] = {
    "inputs": [{"shape": [1, 8, 9, 3], "dtype": "float32", "axes": [0, 2, 3, 1]}, {"shape": [4], "dtype": "int64", "axes": None}],
    "outputs": [{"axes": [0, 2, 3, 1]}],
}  # fmt: skip


def told(folder: Path, document: object = DOCUMENT) -> Interface:
    (folder / "inputs.json").write_text(json.dumps(document))
    return read_interface(folder)


def test_images_are_stored_channels_last_and_given_back_as_they_were(tmp_path: Path) -> None:
    interface = told(tmp_path)
    image, numbers = np.random.default_rng(0).random((1, 3, 8, 9), np.float32), np.arange(4)
    inside = interface.to_library([image, numbers])
    assert [a.shape for a in inside] == [shape for shape, _ in interface.inputs]
    assert all(a.flags.c_contiguous for a in inside)
    np.testing.assert_array_equal(inside[0][0, :, :, 1], image[0, 1])
    [back, more] = interface.to_network([inside[0], numbers])  # a result that is not named is as it is
    np.testing.assert_array_equal(back, image)
    assert more is numbers


@given(st.permutations(range(4)), st.tuples(*[st.integers(1, 4)] * 4))
def test_any_order_is_undone(axes: list[int], shape: tuple[int, ...]) -> None:
    interface = Interface(((shape, "float32"),), (tuple(axes),), (tuple(axes),))
    array = np.random.default_rng(0).random(shape, np.float32)
    np.testing.assert_array_equal(interface.to_network(interface.to_library([array]))[0], array)


@pytest.mark.parametrize("document", [
    [], {"inputs": []}, {"inputs": [{}], "outputs": []}, {"inputs": [], "outputs": [{"axes": [0, 0]}]},
    {"inputs": [{"shape": [1], "dtype": "float33", "axes": None}], "outputs": []},
    {"inputs": [{"shape": ["x"], "dtype": "float32", "axes": None}], "outputs": []},
])  # fmt: skip
def test_what_tells_no_interface_is_refused(document: object, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"inputs\.json does not tell the inputs"):
        told(tmp_path, document)


def test_a_missing_interface_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"inputs\.json does not tell the inputs"):
        read_interface(tmp_path)


def test_arrays_survive_as_text() -> None:
    for array in (np.zeros((0, 3)), np.arange(6, dtype=np.uint8).reshape(2, 3).T, np.float32(1.5)):
        np.testing.assert_array_equal(decode_array(encode_array(np.asarray(array))), array)
