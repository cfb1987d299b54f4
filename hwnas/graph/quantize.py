"""Post-training static int8 quantisation through onnxruntime: QDQ form, per-channel weights."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from hwnas.errors import BuildError, DataError
from hwnas.graph.simplify import simplify
from hwnas.graph.view import view

if TYPE_CHECKING:
    from onnx import ModelProto


def quantize(network: ModelProto, calibration: Sequence[np.ndarray]) -> ModelProto:
    """The int8 form of an fp32 network of one input: unsigned activations, signed weights per output channel.

    `calibration` holds inputs of the network's own shape (1 x ...); the range of each activation is the smallest and
    largest value seen. Deterministic. Raises DataError for calibration data that does not fit, BuildError where
    onnxruntime cannot quantise the network.
    """
    graph = view(network)
    if len(graph.inputs) != 1:
        raise DataError(f"quantize needs a network of one input, this one has {len(graph.inputs)}")
    name = graph.inputs[0]
    shape = graph.types[name].shape
    if len(calibration) == 0:
        raise DataError("calibration needs at least one input")
    for i, array in enumerate(calibration):
        if array.shape != shape or not np.isfinite(array).all():
            given = f"of shape {array.shape}" if array.shape != shape else "with values that are not finite"
            raise DataError(
                f"calibration input {i} {given}; the network's input {name!r} is finite and of shape {shape}"
            )
    with tempfile.TemporaryDirectory(prefix="hwnas-quantize-") as folder, _quiet():
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(network, source)
        try:
            _quantize_file(source, result, name, calibration)
        except Exception as error:  # onnxruntime raises bare Exception, ValueError and its own classes
            raise BuildError("quantize", f"{type(error).__name__}: {error}") from error
        return simplify(onnx.load(result))


def _quantize_file(source: Path, result: Path, name: str, calibration: Sequence[np.ndarray]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            array = next(self._left, None)
            return None if array is None else {name: np.ascontiguousarray(array, np.float32)}

    quantize_static(
        str(source),
        str(result),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's advice about pre-processing off the terminal: `simplify` has done it."""
    root, level = logging.getLogger(), logging.getLogger().level
    sink = io.StringIO()
    root.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
    finally:
        root.setLevel(level)
