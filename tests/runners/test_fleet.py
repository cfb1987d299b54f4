"""Several emulated boards side by side: each measures what it would measure alone, and none disturbs another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hwnas.config import load_device
from hwnas.core.lab import Lab
from hwnas.core.workload import Artifact
from hwnas.errors import DeviceCrashed
from hwnas.runners.firmware import FirmwareRunner
from tests.runners.tiny import tiny, tiny_outputs

DEVICE = load_device("cortex-m4-qemu")
RUNNER = FirmwareRunner(Lab.model_validate({"emulated": {DEVICE.name: 3}}))
ROUNDS = 3


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    folder = tmp_path_factory.mktemp("networks")
    return [tiny(folder / f"n{i}", DEVICE, f"n{i}", work=1000 + 7919 * i, key=i + 1) for i in range(12)]


def profile(place: str, artifacts: list[Artifact]) -> dict[str, float]:
    """What a profiler does with one board: stage a batch, run each, ask for its health; then the next batch."""
    found: dict[str, float] = {}
    board = RUNNER.open(DEVICE, place)
    try:
        board.stage(artifacts)
        for _ in range(ROUNDS):
            for artifact in artifacts:
                board.health()
                value = board.run(artifact, 6, 30.0).metric("instructions")
                assert value is not None
                assert found.setdefault(artifact.path, value) == pytest.approx(value, abs=3)
    finally:
        board.close()
    return found


def test_three_boards_measure_what_one_measures(artifacts: list[Artifact]) -> None:
    places = RUNNER.places(DEVICE)
    alone = profile(places[0], artifacts)
    assert len(set(alone.values())) == len(artifacts)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(profile, places, [artifacts[i::3] for i in range(3)]))
    union = {path: value for part in together for path, value in part.items()}
    assert union.keys() == alone.keys()
    for path, value in union.items():
        assert value == pytest.approx(alone[path], rel=1e-4, abs=3)


def test_a_crash_on_one_board_is_none_of_the_others_business(artifacts: list[Artifact], tmp_path: Path) -> None:
    crash = tiny(tmp_path / "crash", DEVICE, "crash", kind="crash")
    x = np.arange(32, dtype=np.int8).reshape(1, 32)

    def crashing(place: str) -> int:
        board = RUNNER.open(DEVICE, place)
        crashes = 0
        try:
            for _ in range(4):
                try:
                    board.run(crash, 3, 30.0)
                except DeviceCrashed:
                    crashes += 1
        finally:
            board.close()
        return crashes

    def computing(place: str) -> bool:
        board = RUNNER.open(DEVICE, place)
        try:
            return all(
                board.outputs(artifacts[0], [x + np.int8(i)], 30.0)[0].tolist()
                == tiny_outputs(x + np.int8(i), 1)[0].tolist()
                for i in range(20)
            )
        finally:
            board.close()

    with ThreadPoolExecutor(3) as pool:
        crashes, first, second = (
            pool.submit(crashing, "qemu-1"), pool.submit(computing, "qemu-2"), pool.submit(computing, "qemu-3"),
        )  # fmt: skip
        assert crashes.result() == 4
        assert first.result() and second.result()
