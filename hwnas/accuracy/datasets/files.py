"""Data sets of the user's own: a NumPy archive, or a folder of images with one subfolder a class.

Both are hostile until checked: no pickle is opened, sizes are limited before memory is taken, and no link is
followed out of the folder.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwnas.accuracy.datasets.dataset import Dataset, Part, assemble, assemble_by_split, split
from hwnas.errors import ConfigError, DataError

MAX_BYTES = 2 << 30
"""Largest decoded size that is read into memory."""
MAX_PIXELS = 64_000_000
"""Largest single image that is decoded; a small file can claim to hold far more (a decompression bomb)."""
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp"})


def npz(path: str | Path, seed: int = 0) -> Dataset:
    """A data set from a NumPy .npz file with `x` (n x c x h x w, or n x h x w) and `y` (n), or with x_train y_train
    x_test y_test and perhaps x_val y_val; what is not given apart is split off by `seed`.

    Raises DataError if the file is missing, corrupt, too large, or not numbers that can be trained on.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file; a data set file is a NumPy .npz with arrays x and y", path=path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            wanted = _wanted(names, path)
            _check_sizes(archive, wanted, path)
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in wanted}
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"is not a readable .npz file ({error})", path=path) from error
    parts = {name: _part(arrays, name, path) for name in ("", "_train", "_val", "_test") if f"x{name}" in wanted}
    if "" in parts:
        return assemble_by_split(path.stem, parts[""].inputs, parts[""].labels, seed, str(path))
    train, test = parts["_train"], parts["_test"]
    if "_val" in parts:
        return assemble(path.stem, (train, parts["_val"], test), str(path))
    return _assemble_without_val(path.stem, train, test, seed, path)


def _wanted(names: set[str], path: Path) -> tuple[str, ...]:
    for group in (("x", "y"), ("x_train", "y_train", "x_test", "y_test")):
        if names.issuperset(group):
            with_val = "x_train" in group and names.issuperset(("x_val", "y_val"))
            return (*group, "x_val", "y_val") if with_val else group
    raise DataError(
        f"holds {', '.join(sorted(names)) or 'nothing'}; needed are x and y, or x_train, y_train, x_test and y_test",
        path=path,
    )


def _check_sizes(archive: zipfile.ZipFile, names: Sequence[str], path: Path) -> None:
    """Refuse an array whose header claims more than it holds, objects, or more than MAX_BYTES in all."""
    total = 0
    for name in names:
        with archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(member)
            else:
                raise DataError(f"array {name} is written in NumPy format {version}, expected 1.0 or 2.0", path=path)
        if dtype.hasobject:
            raise DataError(f"array {name} holds Python objects; only numbers are read", path=path)
        size = math.prod(shape) * dtype.itemsize
        if size > archive.getinfo(f"{name}.npy").file_size:
            raise DataError(f"array {name} claims {size} bytes, more than the file holds: it is cut off", path=path)
        # inputs are held as float32 after reading, whatever their type in the file
        total += max(size, 4 * math.prod(shape))
    if total > MAX_BYTES:
        raise DataError(f"would take {total >> 20} MiB in memory; the limit is {MAX_BYTES >> 20} MiB", path=path)


def _part(arrays: dict[str, np.ndarray], name: str, path: Path) -> Part:
    inputs, labels = arrays[f"x{name}"], arrays[f"y{name}"]
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    if inputs.ndim != 4:
        raise DataError(f"x{name} has shape {inputs.shape}; it must be n x c x h x w or n x h x w", path=path)
    return Part(inputs, labels)


def _assemble_without_val(name: str, train: Part, test: Part, seed: int, path: Path) -> Dataset:
    """Split the validation part off the training part (a fifth); the test part stays as it was given."""
    if train.labels.ndim != 1 or len(train.labels) != len(train.inputs):
        raise DataError(f"train has {len(train.inputs)} inputs and labels of shape {train.labels.shape}", path=path)
    try:
        rest, val, more_val = split(train.labels, seed, val_share=0.1, test_share=0.1)
    except DataError as error:
        raise DataError(str(error), path=path) from None
    held = np.concatenate([val, more_val])
    return assemble(
        name,
        (Part(train.inputs[rest], train.labels[rest]), Part(train.inputs[held], train.labels[held]), test),
        str(path),
    )


def folder(path: str | Path, size: int | Sequence[int] = 32, channels: int = 3, seed: int = 0) -> Dataset:
    """A data set from a folder with one subfolder of images a class, resized to `size` (h x w, or a square) pixels.

    Where the folder holds just `train` and `test` with the classes inside, that split is kept. Classes are numbered
    in the order of their names. Raises DataError for missing, corrupt, oversized or linked-away images.
    """
    root = Path(path)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if channels not in (1, 3) or not all(isinstance(s, int) and 1 <= s <= 4096 for s in (height, width)):
        raise ConfigError("size is 1 to 4096 pixels and channels 1 or 3", key="data.size", given=(size, channels))
    if not root.is_dir():
        raise DataError("no such folder; a data set folder has one subfolder of images for each class", path=root)
    top = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if top == ["test", "train"]:
        classes = _classes(root / "train")
        if _classes(root / "test") != classes:
            raise DataError(f"train has the classes {classes}, test {_classes(root / 'test')}", path=root)
        train, test = (_read(root, root / part, classes, height, width, channels) for part in ("train", "test"))
        return _assemble_without_val(root.name, train, test, seed, root)
    everything = _read(root, root, _classes(root), height, width, channels)
    return assemble_by_split(root.name, everything.inputs, everything.labels, seed, str(root))


def _classes(root: Path) -> list[str]:
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(classes) < 2:
        raise DataError(f"has {len(classes)} class subfolders; at least 2 are needed", path=root)
    return classes


def _read(root: Path, base: Path, classes: list[str], height: int, width: int, channels: int) -> Part:
    files, labels = [], []
    inside = root.resolve()
    for label, name in enumerate(classes):
        found = sorted(p for p in (base / name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"class {name!r} has no image ({', '.join(sorted(IMAGE_SUFFIXES))})", path=base / name)
        for file in found:
            if not file.resolve().is_relative_to(inside):
                raise DataError("links to outside of the data set's folder, which is not followed", path=file)
        files += found
        labels += [label] * len(found)
    total = 4 * len(files) * channels * height * width
    if total > MAX_BYTES:
        raise DataError(f"would take {total >> 20} MiB in memory; the limit is {MAX_BYTES >> 20} MiB", path=root)
    pixels = np.empty((len(files), channels, height, width), dtype=np.uint8)
    for row, file in zip(pixels, files):
        row[:] = _image(file, height, width, channels)
    return Part(pixels, np.array(labels))


def _image(file: Path, height: int, width: int, channels: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"is {image.width} x {image.height} pixels; the limit is {MAX_PIXELS // 1_000_000} M", path=file
                )
            small = image.convert("RGB" if channels == 3 else "L").resize((width, height), Image.Resampling.BILINEAR)
            values = np.asarray(small, dtype=np.uint8)
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"is not a readable image ({error})", path=file) from error
    return values.transpose(2, 0, 1) if channels == 3 else values[None]
