"""onnxruntime sessions, opened in one place so that threads and optimisation level are always named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def open_session(network: str | bytes, options: Mapping[str, Any]) -> Any:
    """An onnxruntime CPU session of a file or of serialised ONNX.

    `options`: `threads` (intra-operator) and `graph_optimization` (a key of LEVELS). Raises what onnxruntime raises.
    """
    import onnxruntime as ort

    threads = int(options["threads"])
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[options["graph_optimization"]])
    # Spinning between operators would steal the core from whoever measures next.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    return ort.InferenceSession(network, settings, providers=["CPUExecutionProvider"])
