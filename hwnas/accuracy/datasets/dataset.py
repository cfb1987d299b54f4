"""The value that every data set is: three disjoint, normalised, checked parts and a digest of their content.

Loaders live beside it; this module holds what they share: checks, the seeded split, normalisation and naming.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import registry
from hwnas.digest import ID_BYTES
from hwnas.errors import ConfigError, DataError

VAL_SHARE = 0.16
TEST_SHARE = 0.2
"""Shares that `split` gives to validation and test: 5,000 samples become 3,200 + 800 + 1,000."""

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a data set: inputs n x c x h x w (float32) and labels n (int64, 0 .. classes - 1), read-only."""

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A classification data set whose `train`, `val` and `test` are disjoint.

    Candidates train on `train` and are compared on `val`; finalists train on both and are judged once, on `test`.
    `mean` and `std` (one per channel, of the raw training inputs) are what the inputs were normalised with:
    normalised = (raw - mean) / std. `input_shape` is 1 x c x h x w; `digest` is over the content of all parts.
    """

    name: str
    train: Part
    val: Part
    test: Part
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        state = hashlib.blake2b(digest_size=ID_BYTES)
        state.update(f"{self.classes}".encode())
        for part in (self.train, self.val, self.test):
            for array in (part.inputs, part.labels):
                array.flags.writeable = False
                state.update(f"{array.dtype}{array.shape}".encode())
                state.update(np.ascontiguousarray(array).data)
        object.__setattr__(self, "digest", state.hexdigest())

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as a network takes it, 1 x c x h x w."""
        return (1, *self.train.inputs.shape[1:])

    @property
    def train_val(self) -> Part:
        """Training and validation part as one, what finalists train on."""
        return Part(
            np.concatenate([self.train.inputs, self.val.inputs]), np.concatenate([self.train.labels, self.val.labels])
        )

    def write(self, path: Path) -> None:
        """Write all of it to a NumPy archive that `read` takes."""
        arrays = {f"x_{name}": getattr(self, name).inputs for name in PARTS}
        arrays |= {f"y_{name}": getattr(self, name).labels for name in PARTS}
        facts = {"name": self.name, "classes": self.classes, "mean": self.mean, "std": self.std}
        np.savez(path, facts=np.array(json.dumps(facts)), **arrays)

    @classmethod
    def read(cls, path: Path) -> Dataset:
        """Read what `write` wrote, ready normalised."""
        with np.load(path, allow_pickle=False) as archive:
            facts = json.loads(str(archive["facts"]))
            parts = {name: Part(archive[f"x_{name}"], archive[f"y_{name}"]) for name in PARTS}
        mean, std = tuple(facts["mean"]), tuple(facts["std"])
        return cls(name=facts["name"], classes=facts["classes"], mean=mean, std=std, **parts)


def assemble(name: str, parts: tuple[Part, Part, Part], where: str | None = None) -> Dataset:
    """A checked, normalised data set from raw (train, val, test).

    Raises DataError, naming `where` the data came from, if anything about it cannot be trained on: shapes that
    differ, values that are not finite, labels that are not 0 .. k - 1 with every class in the training part.
    """
    for part_name, part in zip(PARTS, parts):
        _check_part(part, part_name, parts[0], where)
    classes = int(max(part.labels.max() for part in parts)) + 1
    missing = sorted(set(range(classes)) - set(np.unique(parts[0].labels).tolist()))
    if classes < 2 or missing:
        what = f"classes {missing[:5]} have no training sample" if missing else "there is only one class"
        raise DataError(f"{what}; labels must be 0 .. k - 1 with every class in the training part", path=where)
    raw = parts[0].inputs.astype(np.float64)
    mean, std = raw.mean(axis=(0, 2, 3)), raw.std(axis=(0, 2, 3))
    if not (std > 0).all():
        raise DataError(f"channel {int(np.argmin(std))} is constant in the training part: nothing to learn", path=where)
    shape = (1, -1, 1, 1)
    train, val, test = (
        Part(
            np.ascontiguousarray(((p.inputs - mean.reshape(shape)) / std.reshape(shape)).astype(np.float32)),
            np.ascontiguousarray(p.labels.astype(np.int64)),
        )
        for p in parts
    )
    return Dataset(name, train, val, test, classes, tuple(map(float, mean)), tuple(map(float, std)))


def _check_part(part: Part, name: str, first: Part, where: str | None) -> None:
    inputs, labels = part.inputs, part.labels
    if inputs.ndim != 4:
        raise DataError(f"{name} inputs must be n x c x h x w, not of shape {inputs.shape}", path=where)
    if inputs.dtype.kind not in "fiub":
        raise DataError(f"{name} inputs must be numbers, not {inputs.dtype}", path=where)
    if inputs.shape[1:] != first.inputs.shape[1:] or 0 in inputs.shape[1:]:
        raise DataError(f"{name} inputs have shape {inputs.shape}, training {first.inputs.shape}", path=where)
    if labels.ndim != 1 or len(labels) != len(inputs):
        raise DataError(f"{name} has {len(inputs)} inputs and labels of shape {labels.shape}", path=where)
    if len(labels) < 2:
        raise DataError(f"{name} has {len(labels)} samples; at least 2 are needed", path=where)
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name} labels must be integers, not {labels.dtype}", path=where)
    if int(labels.min()) < 0:
        raise DataError(f"{name} has a negative label ({int(labels.min())}); labels are 0 .. k - 1", path=where)
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        bad = int((~np.isfinite(inputs)).sum())
        raise DataError(f"{name} inputs hold {bad} values that are NaN or infinite", path=where)


def split(
    labels: np.ndarray, seed: int, val_share: float = VAL_SHARE, test_share: float = TEST_SHARE
) -> tuple[np.ndarray, ...]:
    """Disjoint indices (train, val, test) that cover all n labels, every class in the same shares, seeded.

    Raises DataError if a class has too few samples to be in every part.
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        n_test, n_val = round(test_share * len(of_class)), round(val_share * len(of_class))
        if min(n_test, n_val, len(of_class) - n_test - n_val) < 1:
            raise DataError(f"class {label} has {len(of_class)} samples, too few for training, validation and test")
        cuts = np.split(of_class, [n_test, n_test + n_val])
        for part, chosen in zip(parts, (cuts[2], cuts[1], cuts[0])):
            part.append(chosen)
    return tuple(rng.permutation(np.concatenate(part)) for part in parts)


def assemble_by_split(
    name: str, inputs: np.ndarray, labels: np.ndarray, seed: int, where: str | None = None
) -> Dataset:
    """A data set whose parts are drawn by `split` from n x c x h x w inputs and n labels. Raises DataError."""
    _check_part(Part(inputs, labels), "all", Part(inputs, labels), where)
    try:
        train, val, test = (Part(inputs[i], labels[i]) for i in split(labels, seed))
    except DataError as error:
        raise DataError(str(error), path=where) from None
    return assemble(name, (train, val, test), where)


def load_dataset(spec: str | Mapping[str, Any]) -> Dataset:
    """The data set of a name ('mnist-5k'), 'npz:FILE', 'folder:DIR', or a mapping {use: NAME, option: value}.

    Raises ConfigError for a name or option nobody knows, DataError for data that is missing or corrupt.
    """
    if isinstance(spec, str):
        name, colon, path = spec.partition(":")
        options: dict[str, Any] = {"path": path} if colon else {}
    else:
        options = dict(spec)
        name = options.pop("use", None)
    if not isinstance(name, str):
        raise ConfigError("a data set needs a name, as in {use: mnist-5k}", key="data.use", given=name)
    loader = registry.datasets.load(name)
    signature = inspect.signature(loader)
    for key in options:
        if key not in signature.parameters:
            raise ConfigError(
                f"data set {name!r} has no option {key!r}", key="data", given=key, allowed=signature.parameters
            )
    needed = [k for k, p in signature.parameters.items() if p.default is p.empty and k not in options]
    if needed:
        raise ConfigError(f"data set {name!r} needs the option {needed[0]!r}", key="data", given=dict(options))
    dataset = loader(**options)
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"the loader of data set {name!r} returned {type(dataset).__name__}, not a Dataset")
    return dataset
