"""TFLite files in LiteRT: floats in ONNX's order go in and come out; what is broken is an error and not our end."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import DeviceCrashed, DeviceError, DeviceTimeout, DeviceUnavailable
from hwnas.graph.session import open_session
from hwnas.graph.tflite import tflite_bytes
from hwnas.graph.tflite.flat import Scale, Tensor, TfliteFile
from hwnas.processes import Child
from hwnas.profiling.subjects import untrained
from hwnas.registry import spaces
from hwnas.runners import litert
from hwnas.runners.litert import run_tflite

DEADLINE_S = 60.0
IMAGE = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)


def written(file: TfliteFile, folder: Path) -> Path:
    path = folder / "network.tflite"
    path.write_bytes(file.serialised())
    return path


def relu(scale: float = 0.1, shape: tuple[int, ...] = (1, 2, 3, 4), dtype: str = "int8") -> TfliteFile:
    """The smallest file: an input in channels-last order and its positive part."""
    file = TfliteFile()
    file.inputs = [file.add(Tensor("image", shape, dtype, Scale.of(scale, -28)))]
    file.outputs = [file.add(Tensor("positive", shape, dtype, Scale.of(scale, -28)))]
    file.call("RELU", file.inputs, file.outputs[0])
    return file


def slow(folder: Path) -> Path:
    """A convolution of 27 G multiply-accumulates: seconds on one core."""
    file, one = TfliteFile(), Scale.of(0.1, 0)
    file.inputs = [file.add(Tensor("image", (1, 512, 512, 64), "int8", one))]
    file.outputs = [file.add(Tensor("result", (1, 512, 512, 64), "int8", one))]
    weights = np.ones((64, 5, 5, 64), np.int8)
    scales = Scale(np.full(64, 0.1, np.float32), np.zeros(64, np.int64))
    operands = [
        file.inputs[0],
        file.add(Tensor("weights", weights.shape, "int8", scales, weights)),
        file.add(Tensor("bias", (64,), "int32", scales, np.zeros(64, np.int32))),
    ]
    file.call("CONV_2D", operands, file.outputs[0], "Conv2DOptions", Padding=0, StrideH=1, StrideW=1,
              DilationHFactor=1, DilationWFactor=1)  # fmt: skip
    return written(file, folder)


def test_it_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    space = spaces.load("mbconv-micro")()
    network = untrained(space, space.sample(np.random.default_rng(0)), "int8")
    path = tmp_path / "network.tflite"
    path.write_bytes(tflite_bytes(network))
    [ours] = run_tflite(path, [IMAGE], DEADLINE_S)
    [theirs] = open_session(network.SerializeToString(), {"threads": 1, "graph_optimization": "none"}).run(
        None, {"x0": IMAGE}
    )
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2 * 2.0**-5  # two steps


def test_floats_are_quantised_by_the_files_scale_and_images_come_back_in_onnx_order(tmp_path: Path) -> None:
    x = np.linspace(-12, 30, 24).astype(np.float32).reshape(1, 4, 2, 3)
    [y] = run_tflite(written(relu(), tmp_path), [x], DEADLINE_S)
    expected = np.clip(np.rint(x / np.float32(0.1)), 0, 155) * np.float32(0.1)  # -28 is zero, 127 the largest
    assert y.shape == x.shape and np.allclose(y, expected, atol=1e-6)


def test_stored_integers_are_taken_as_they_are(tmp_path: Path) -> None:
    path = written(relu(), tmp_path)
    stored = np.arange(24, dtype=np.uint8).reshape(1, 4, 2, 3) + 90
    [signed] = run_tflite(path, [(stored.astype(np.int16) - 128).astype(np.int8)], DEADLINE_S)
    [unsigned] = run_tflite(path, [stored], DEADLINE_S)
    assert np.array_equal(signed, unsigned)
    assert np.allclose(signed, np.maximum(stored.astype(float) - 100, 0) * 0.1, atol=1e-6)


def test_tensors_that_are_no_images_keep_their_order(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    [y] = run_tflite(written(relu(shape=(1, 2, 3)), tmp_path), [x], DEADLINE_S)
    assert np.allclose(x, y, atol=1e-6)


def test_a_file_that_was_written_anew_is_loaded_anew(tmp_path: Path) -> None:
    x = np.full((1, 4, 2, 3), 2.0, np.float32)
    for scale in (0.1, 0.01, 0.5):  # 155 steps of 0.01 are the largest it holds
        [y] = run_tflite(written(relu(scale), tmp_path), [x], DEADLINE_S)
        assert y.max() == pytest.approx(min(2.0, 155 * scale), abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "it takes 1 inputs, 0 were given"),
        ([np.zeros((1, 4, 2, 3), np.float32)] * 2, "it takes 1 inputs, 2 were given"),
        ([np.zeros((1, 4, 3, 2), np.float32)],
         r"its input 'image' is of shape \(1, 2, 3, 4\), \(1, 3, 2, 4\) was given \(channels last\)"),
        ([np.zeros((1, 4, 2, 3), np.int32)], "takes floats or 8-bit integers, not int32"),
        ([np.full((1, 4, 2, 3), np.nan, np.float32)], "was given numbers that are not finite"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_told(inputs: list[np.ndarray], said: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=f"LiteRT cannot run network.tflite: .*{said}"):
        run_tflite(written(relu(), tmp_path), inputs, DEADLINE_S)


def test_a_file_of_floats_is_refused(tmp_path: Path) -> None:
    file = TfliteFile()
    file.inputs = [file.add(Tensor("image", (1, 4), "float32"))]
    file.outputs = [file.add(Tensor("positive", (1, 4), "float32"))]
    file.call("RELU", file.inputs, file.outputs[0])
    with pytest.raises(DeviceError, match="its tensor 'image' is not of 8 bits with one scale"):
        run_tflite(written(file, tmp_path), [np.zeros((1, 4), np.float32)], DEADLINE_S)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"there is no file .*absent\.tflite"):
        run_tflite(tmp_path / "absent.tflite", [], DEADLINE_S)


def test_litert_that_is_not_installed_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DeviceUnavailable, match=r'ai-edge-litert: pip install "hwnas\[npu\]"'):
        run_tflite(written(relu(), tmp_path), [], DEADLINE_S)


def test_broken_files_are_errors_and_the_next_file_runs(tmp_path: Path) -> None:
    whole = relu().serialised()
    rng = np.random.default_rng(0)
    broken = [b"", b"TFL3", b"\x00" * 1000, whole[: len(whole) // 2], whole[:-8]]
    for _ in range(40):
        data = bytearray(whole)
        for i in rng.integers(0, len(data), 6):
            data[i] = int(rng.integers(0, 256))
        broken.append(bytes(data))
    refused = 0
    for data in broken:
        (tmp_path / "broken.tflite").write_bytes(data)
        try:
            run_tflite(tmp_path / "broken.tflite", [np.zeros((1, 4, 2, 3), np.float32)], DEADLINE_S)
        except DeviceError:
            refused += 1
    assert refused > 20
    [y] = run_tflite(written(relu(), tmp_path), [np.ones((1, 4, 2, 3), np.float32)], DEADLINE_S)
    assert np.allclose(y, 1)


def test_a_run_beyond_its_deadline_is_ended(tmp_path: Path) -> None:
    with pytest.raises(DeviceTimeout, match=r"LiteRT gave no answer within 0\.2 s"):
        run_tflite(slow(tmp_path), [np.ones((1, 64, 512, 512), np.int8)], 0.2)
    [y] = run_tflite(written(relu(), tmp_path), [np.ones((1, 4, 2, 3), np.float32)], DEADLINE_S)
    assert np.allclose(y, 1)


def test_an_interpreter_that_ends_is_an_error_and_the_next_file_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child("hwnas.runners.litert_worker")
    monkeypatch.setattr(litert, "_child", child)
    try:
        run_tflite(written(relu(), tmp_path), [np.ones((1, 4, 2, 3), np.float32)], DEADLINE_S)
        threading.Timer(0.3, child.kill).start()
        with pytest.raises(DeviceCrashed, match=r"LiteRT did not survive network\.tflite: .* SIGKILL"):
            run_tflite(slow(tmp_path), [np.ones((1, 64, 512, 512), np.int8)], DEADLINE_S)
        [y] = run_tflite(written(relu(), tmp_path), [np.ones((1, 4, 2, 3), np.float32)], DEADLINE_S)
        assert np.allclose(y, 1)
    finally:
        child.close()
