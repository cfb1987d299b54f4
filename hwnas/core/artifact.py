"""Artifacts on disk: a folder with what was built and an `artifact.json` that says how. Any runner can load it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwnas.core.workload import Artifact
from hwnas.errors import DataError

DESCRIPTION = "artifact.json"
NETWORK = "network.onnx"
"""The file of an `ort` artifact."""
LIBRARY = "network.so"
"""The shared library of a `tvm` artifact."""
OBJECT = "network.o"
"""The object file of a `cgen` artifact for a microcontroller, ready to be linked into an image."""
LAYOUT = "network.json"
"""What a `cgen` artifact says of its network: {symbol, arena_bytes, workspace_bytes, inputs, outputs, kernels, code,
layout_transforms}.

Tensors are {name, dtype, shape, layout, offset, bytes} with numpy's name of the type. The shape is ONNX's; a tensor of
layout NHWC holds its channels last, and who writes or reads it changes the order. kernels are names in order, code says
which code computes each, and layout_transforms how many tensors kernels copy into another order.
"""
TFLITE = "network.tflite"
"""The int8 network as TFLite with float inputs and outputs, before an accelerator's compiler took it apart."""
COMPILED = "network_compiled.tflite"
"""What an accelerator's compiler made of it: what is deployed."""
INPUTS = "inputs.json"
"""Shape and numpy type of each input, where the artifact cannot tell itself."""


def write_artifact(artifact: Artifact) -> Artifact:
    """Write the artifact's description beside its files, and return it."""
    document = {
        "toolchain": artifact.toolchain,
        "version": artifact.version,
        "options": dict(artifact.options),
        "schedule": artifact.schedule,
        "flash_bytes": artifact.flash_bytes,
        "uncovered": list(artifact.uncovered),
        "memory": dict(artifact.memory),
        "kernels": artifact.kernels,
        "layout_transforms": artifact.layout_transforms,
        "code": list(artifact.code),
    }
    (Path(artifact.path) / DESCRIPTION).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return artifact


def read_artifact(folder: Path) -> Artifact:
    """The artifact in a folder. Raises DataError if its description is missing or not one."""
    try:
        document: dict[str, Any] = dict(json.loads((folder / DESCRIPTION).read_text()))
        lists = {name: tuple(document.get(name, ())) for name in ("uncovered", "code")}
        return Artifact(path=str(folder), **{**document, **lists})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"is not an artifact ({error})", path=folder / DESCRIPTION) from error
