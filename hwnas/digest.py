"""Content ids: the same value has the same id in every process, on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

ID_BYTES = 10


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; floats keep their shortest exact form, NaN is an error.

    Raises ValueError for NaN or infinity, TypeError for a value JSON does not know.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest_bytes(data: bytes) -> str:
    """A content id of raw bytes: 20 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=ID_BYTES).hexdigest()


def content_id(value: Any) -> str:
    """A content id of any JSON value: 20 hexadecimal digits of BLAKE2b over its canonical form."""
    return digest_bytes(canonical_json(value).encode())
