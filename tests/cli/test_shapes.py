"""--shape fixes what an ONNX file leaves open, as the error without it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.cli.profile import shapes_of
from hwnas.errors import ConfigError, DataError
from hwnas.graph.load import load_onnx
from hwnas.testing import small_network


def test_the_error_of_an_open_shape_names_the_option_that_fixes_it(tmp_path: Path) -> None:
    network = small_network()
    network.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    path = tmp_path / "open.onnx"
    path.write_bytes(network.SerializeToString())
    with pytest.raises(DataError, match=r"--shape (\S+)") as caught:
        load_onnx(path)
    option = str(caught.value).partition("--shape ")[2].split()[0].rstrip(").,;'`")
    load_onnx(path, shapes_of([option]))


@pytest.mark.parametrize("text", ["x", "x=", "=1x2", "x=1x-2", "x=1xa", "x=0x3", "x=1,3"])
def test_what_is_no_shape_shows_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="input=1x3x224x224"):
        shapes_of([text])
