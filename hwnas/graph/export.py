"""torch networks to ONNX: one exporter, one opset, static shapes, and nothing left in the graph that does not run."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx

from hwnas.errors import BuildError
from hwnas.graph.simplify import simplify
from hwnas.graph.view import OPSET

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn


def export(module: nn.Module, input_shape: tuple[int, ...]) -> ModelProto:
    """Export a module in evaluation mode for one input of a fixed shape (1 x ...), fp32, opset 18.

    The module's own training flags are as before afterwards. Raises BuildError where torch cannot export it.
    """
    import torch

    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (torch.zeros(input_shape),),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=["input"],
                output_names=["output"],
            )
        assert program is not None
        network = simplify(program.model_proto)
    except torch.onnx.errors.OnnxExporterError as error:
        raise BuildError("export", f"torch cannot export {type(module).__name__} to ONNX: {error}") from error
    finally:
        for part, flag in training.items():
            part.training = flag
    onnx.checker.check_model(network, full_check=False)
    return network


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and warnings off the terminal; its errors are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
