"""Where a training stands, on disk: tensors by name and the record so far, in one .npz file without pickle.

A checkpoint only ever saves time. One that is missing, cut off, or of another training is as good as none, and the
training starts over with the same result.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from hwnas.accuracy.training import Training


class Checkpoint:
    """One file, for the training that `key` names."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def save(self, tensors: dict[str, Tensor], record: Training) -> None:
        """Replace the file at once and whole: a kill at any moment leaves the old one or the new one.

        On a disk that is full or not writable the old one, or none, stays.
        """
        index = {name: [list(value.shape), str(value.dtype)[6:]] for name, value in tensors.items()}
        # all values in one array: an archive of hundreds of tiny ones takes ten times as long to write. Doubles hold
        # every float32 and every counter below 2**53 exactly
        flat = [value.detach().double().flatten().numpy() for value in tensors.values()]
        meta = json.dumps({"key": self.key, "record": asdict(record), "index": index})
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.draft")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                np.savez(file, meta=np.array(meta), values=np.concatenate(flat))
            draft.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()

    def load(self) -> tuple[dict[str, Tensor], Training] | None:
        """The tensors and record last saved; None if there is no readable checkpoint of this very training."""
        import torch

        from hwnas.accuracy.training import Training

        try:
            with np.load(self.path, allow_pickle=False) as archive:
                meta, values = json.loads(str(archive["meta"])), archive["values"]
            if meta["key"] != self.key:
                return None
            tensors, start = {}, 0
            for name, (shape, dtype) in meta["index"].items():
                stop = start + math.prod(shape)
                tensors[name] = torch.tensor(values[start:stop]).reshape(shape).to(getattr(torch, dtype))
                start = stop
            return tensors, Training.from_json(meta["record"])
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile):
            return None
