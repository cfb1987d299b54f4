"""Three emulated boards that take a board's time, against one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.bench_fleet import BOARDS, profiled, same, write_lab


@pytest.mark.timing
def test_three_boards_are_faster_and_fill_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_LAB", str(write_lab(tmp_path)))
    profiled(BOARDS, tmp_path / "built", paced=False)  # so that nothing is compiled below
    one, alone = profiled(1, tmp_path / "one", paced=True)
    three, together = profiled(BOARDS, tmp_path / "three", paced=True)
    assert same(alone, together)
    assert one / three >= 1.8, f"{one:.1f} s alone, {three:.1f} s together"
