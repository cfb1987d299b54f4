"""Images: what is linked together, what is flashed when, and artifacts that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.core.artifact import LAYOUT, OBJECT, write_artifact
from hwnas.core.lab import Lab
from hwnas.core.workload import Artifact
from hwnas.errors import (
    DeviceError,
    NotMeasurable,
)
from hwnas.runners.firmware import FirmwareBoard, FirmwareRunner
from tests.runners.counting import M4, Counted, counting_board
from tests.runners.tiny import tiny, tiny_outputs


@pytest.fixture
def counted() -> Iterator[Counted]:
    board, station = counting_board()
    yield board, station
    board.close()


@pytest.fixture(scope="module")
def board() -> Iterator[FirmwareBoard]:
    board = FirmwareRunner(Lab()).open(M4)
    yield board
    board.close()


def test_flash_and_ram_are_told_of_a_network_that_is_alone_in_its_image(counted: Counted, tmp_path: Path) -> None:
    board, _ = counted
    a, b = tiny(tmp_path / "a", M4, "a_net"), tiny(tmp_path / "b", M4, "b_net")
    board.stage([a])
    memory = board.run(a, 3, 20.0).memory
    assert memory is not None
    assert memory["flash"] > memory["code"] + memory["constants"]
    assert memory["ram"] > memory["arena"] + memory["workspace"] + memory["stack"]
    board.stage([b, a])
    memory = board.run(b, 3, 20.0).memory
    assert memory is not None
    assert "flash" not in memory


def test_many_networks_are_flashed_once_and_a_reference_stays_on_board(counted: Counted, tmp_path: Path) -> None:
    board, station = counted
    reference = tiny(tmp_path / "reference", M4, "reference")
    first = [tiny(tmp_path / f"a{i}", M4, f"a{i}", work=100 + 10 * i) for i in range(8)]
    second = [tiny(tmp_path / f"b{i}", M4, f"b{i}") for i in range(4)]
    board.run(reference, 3, 20.0)
    assert station.flashed == 1
    board.stage(first)
    values = [board.run(a, 3, 20.0).metric("instructions") or 0 for a in first]
    assert values == sorted(values)
    assert values[0] < values[-1]
    board.run(reference, 3, 20.0)
    assert station.flashed == 2
    board.stage(second)
    for artifact in [reference, *second, reference]:
        board.run(artifact, 3, 20.0)
    assert station.flashed == 3
    board.stage(second)
    board.run(second[0], 3, 20.0)
    assert station.flashed == 3


def test_networks_of_one_name_run_all_the_same(board: FirmwareBoard, tmp_path: Path) -> None:
    x = np.arange(32, dtype=np.int8).reshape(1, 32)
    twins = [tiny(tmp_path / str(key), M4, "twin", key=key) for key in (1, 2)]
    board.stage(twins)
    for artifact, key in zip(twins, (1, 2)):
        assert board.outputs(artifact, [x], 20.0)[0].tolist() == tiny_outputs(x, key)[0].tolist()


def test_the_same_network_built_twice_is_on_board_once(counted: Counted, tmp_path: Path) -> None:
    board, station = counted
    twins = [tiny(tmp_path / name, M4, "same") for name in ("a", "b")]
    board.stage(twins)
    first, second = (board.run(artifact, 3, 20.0) for artifact in twins)
    assert first.instructions == second.instructions
    assert first.memory is not None and "flash" in first.memory
    assert station.flashed == 1


def test_an_artifact_that_was_built_anew_is_another_one(counted: Counted, tmp_path: Path) -> None:
    board, station = counted
    x = np.arange(32, dtype=np.int8).reshape(1, 32)
    artifact = tiny(tmp_path / "a", M4, key=1)
    board.stage([artifact])
    assert board.outputs(artifact, [x], 20.0)[0].tolist() == tiny_outputs(x, 1)[0].tolist()
    artifact = tiny(tmp_path / "a", M4, key=2)
    assert board.outputs(artifact, [x], 20.0)[0].tolist() == tiny_outputs(x, 2)[0].tolist()
    assert station.flashed == 2


def test_what_does_not_fit_fails_alone_and_with_the_numbers(counted: Counted, tmp_path: Path) -> None:
    board, station = counted
    wide = tiny(tmp_path / "wide", M4, "wide", arena=200 * 1024)
    heavy = tiny(tmp_path / "heavy", M4, "heavy", ballast=600 * 1024)
    fine = [tiny(tmp_path / f"fine{i}", M4, f"fine{i}") for i in range(3)]
    board.stage([wide, heavy, *fine])
    for artifact in fine:
        board.run(artifact, 3, 20.0)
    assert station.flashed == 1
    with pytest.raises(NotMeasurable, match=r"RAM needs [\d,]+ of 131,072 bytes"):
        board.run(wide, 3, 20.0)
    with pytest.raises(NotMeasurable, match=r"flash needs [\d,]+ of 524,288 bytes"):
        board.run(heavy, 3, 20.0)
    board.run(fine[0], 3, 20.0)
    assert station.flashed == 1


def test_more_than_one_image_where_one_is_too_small(counted: Counted, tmp_path: Path) -> None:
    board, station = counted
    artifacts = [tiny(tmp_path / f"n{i}", M4, f"n{i}", ballast=150 * 1024) for i in range(4)]
    board.stage(artifacts)
    for artifact in artifacts:
        board.run(artifact, 3, 20.0)
    assert station.flashed == 2


def test_sizes_that_lie_only_cost_a_second_link(counted: Counted, tmp_path: Path) -> None:
    from dataclasses import replace

    board, station = counted
    artifacts = [replace(tiny(tmp_path / f"n{i}", M4, f"n{i}", ballast=200 * 1024), flash_bytes=100) for i in range(4)]
    board.stage(artifacts)
    for artifact in artifacts:
        board.run(artifact, 3, 20.0)
    assert station.flashed == 2


def test_an_artifact_for_something_else_is_not_measurable(board: FirmwareBoard, tmp_path: Path) -> None:
    artifact = write_artifact(Artifact(str(tmp_path), "ort", "1", {}, "ort"))
    with pytest.raises(NotMeasurable, match=r"toolchain ort\) holds no object code for a microcontroller"):
        board.run(artifact, 3, 20.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symbol": "x; system()"}, "symbol"),
        ({"arena_bytes": -1}, "arena_bytes"),
        ({"inputs": [{"name": "x", "dtype": "complex64", "shape": [1], "offset": 0, "bytes": 8}]}, "dtype"),
        (
            {"inputs": [{"name": "x", "dtype": "int8", "shape": [1, 32], "layout": "NHWC", "offset": 0, "bytes": 32}]},
            "has 4 axes",
        ),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_damaged_layout_is_named(board: FirmwareBoard, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    artifact = tiny(tmp_path, M4)
    layout = tmp_path / LAYOUT
    layout.write_text(json.dumps({**json.loads(layout.read_text()), **change}))
    with pytest.raises(NotMeasurable, match=message):
        board.run(artifact, 3, 20.0)
    layout.write_text("{")
    with pytest.raises(NotMeasurable, match="damaged"):
        board.run(artifact, 3, 20.0)


def test_a_layout_that_does_not_describe_the_object_is_found_out(board: FirmwareBoard, tmp_path: Path) -> None:
    artifact = tiny(tmp_path, M4)
    layout = tmp_path / LAYOUT
    changed = json.loads(layout.read_text())
    changed["outputs"][0]["offset"] = 0
    layout.write_text(json.dumps(changed))
    with pytest.raises(DeviceError, match="on the board is not tiny"):
        board.run(artifact, 3, 20.0)


def test_an_object_that_cannot_be_linked_is_not_measurable(board: FirmwareBoard, tmp_path: Path) -> None:
    artifact = tiny(tmp_path, M4)
    (tmp_path / OBJECT).write_bytes(b"no object")
    with pytest.raises(NotMeasurable, match="cortex-m4-qemu cannot hold this network"):
        board.run(artifact, 3, 20.0)
