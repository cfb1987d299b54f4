"""Sealed messages: what both sides say, with a digest, because TVM's RPC has none. Used by the host as well."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any

ANSWER = "hwnas.answer"
"""The remote function that takes a sealed request and returns a sealed reply."""
DIGEST_BYTES = 16
ENDED = "the lease on the board has ended"


class Corrupt(Exception):
    """A message does not match its digest."""


def seal(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """A message: digest, length of the header (uint32, little-endian), header as JSON, payload."""
    text = json.dumps(header).encode()
    body = struct.pack("<I", len(text)) + text + payload
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() + body


def unseal(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a message. Raises Corrupt if a bit of it changed on the way."""
    digest, body = message[:DIGEST_BYTES], message[DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() != digest:
        raise Corrupt("a message was changed on the way")
    (length,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + length]), body[4 + length :]


def pack_arrays(arrays: Any) -> tuple[list[list[Any]], bytes]:
    """Arrays as a list of [shape, type] and their bytes, one after the other."""
    import numpy as np

    plain = [np.ascontiguousarray(a) for a in arrays]
    return [[list(a.shape), str(a.dtype)] for a in plain], b"".join(a.tobytes() for a in plain)


def unpack_arrays(kinds: list[list[Any]], data: bytes) -> list[Any]:
    """The arrays that `pack_arrays` packed. Raises ValueError if the bytes are not as many as they say."""
    import numpy as np

    arrays, at = [], 0
    for shape, kind in kinds:
        dtype = np.dtype(kind)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(data[at : at + size], dtype).reshape(shape))
        at += size
    if at != len(data):
        raise ValueError(f"{len(data)} bytes of arrays that take {at}")
    return arrays


@lru_cache(maxsize=1)
def revision() -> str:
    """The content id of the agent's own source, as it was when it started: host and board must run the same one."""
    digest = hashlib.blake2b(digest_size=5)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
