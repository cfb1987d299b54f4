"""Arrays as text, for messages between this process and the one that runs compiled code; no pickle."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode

import numpy as np


def encode_array(array: np.ndarray) -> str:
    """An array of any shape and plain type as base64 of its .npy form."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return b64encode(stream.getvalue()).decode()


def decode_array(text: str) -> np.ndarray:
    """The array that `encode_array` wrote."""
    return np.asarray(np.load(io.BytesIO(b64decode(text)), allow_pickle=False))
