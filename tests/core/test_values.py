"""Candidates, measurements, trials and artifacts: ids follow content, and nothing is made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.core.artifact import DESCRIPTION, read_artifact, write_artifact
from hwnas.core.measurement import Failure, Measurement, Samples
from hwnas.core.trial import SearchResult, Trial, pareto_front
from hwnas.core.workload import Artifact, Candidate, Network, Workload
from hwnas.digest import content_id
from hwnas.errors import DataError


def test_ids_follow_content_in_every_process() -> None:
    code = "from hwnas.core.workload import *; print(Candidate('s', (1, 2)).id, Workload(b'x', 'Conv').id)"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert there == [Candidate("s", (1, 2)).id, Workload(b"x", "Conv").id]
    assert Candidate("s", (1, 2)).id != Candidate("t", (1, 2)).id
    assert Network("n", "d", {"a": 1}).id != Network("n", "d", {"a": 2}).id
    assert Measurement("s", "c", Samples((1.0,)), "t").id != Measurement("s", "c", Samples((1.0, 1.0)), "t").id


def test_not_a_number_has_no_id() -> None:
    with pytest.raises(ValueError, match="JSON"):
        content_id({"value": float("nan")})


def test_what_was_not_measured_is_none() -> None:
    samples = Samples(latency_s=(3.0, 1.0, 2.0))
    assert samples.metric("latency") == 2.0
    assert samples.metric("energy") is None
    assert Samples(cycles=(5, 7, 9)).metric("latency") is None
    assert not Measurement("s", "c", Failure("run", "DeviceTimeout", "late"), "t").ok


def trial(number: int, accuracy: float | None, latency: float, over: float = -1.0) -> Trial:
    return Trial(
        number, Candidate("s", (number,)), f"c{number}", accuracy, estimates={"latency": (latency, latency)},
        violations={"latency": over},
    )  # fmt: skip


def test_a_front_holds_what_nothing_dominates() -> None:
    trials = (
        trial(0, 0.9, 3.0), trial(1, 0.8, 1.0), trial(2, 0.7, 2.0), trial(3, 0.9, 3.0), trial(4, None, 0.1),
        trial(5, 0.99, 0.1, over=0.2),
    )  # fmt: skip
    assert [t.number for t in pareto_front(trials, ("latency",))] == [1, 0]
    assert SearchResult(trials, (), {}).best == trials[0]
    assert SearchResult((trials[5],), (), {}).best is None


points = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([1.0, 2.0, 3.0])), max_size=12)


@given(points)
def test_every_trial_is_dominated_by_the_front_or_on_it(values: list[tuple[float, float]]) -> None:
    trials = tuple(trial(i, a, s) for i, (a, s) in enumerate(values))
    front = [(t.accuracy, t.value("latency")) for t in pareto_front(trials, ("latency",))]
    assert len(set(front)) == len(front)
    for a, s in values:
        assert any(fa >= a and fs <= s for fa, fs in front)  # type: ignore[operator]
    for a, s in front:
        better = [(fa, fs) for fa, fs in front if fa >= a and fs <= s and (fa, fs) != (a, s)]  # type: ignore[operator]
        assert not better


def test_a_measurement_speaks_before_an_estimate() -> None:
    known = Trial(0, Candidate("s", ()), "c", estimates={"latency": (1.0, 2.0)}, measured={"latency": 1.5})
    assert known.value("latency") == 1.5
    assert known.value("energy") is None


def test_an_artifact_describes_itself(tmp_path: Path) -> None:
    artifact = write_artifact(Artifact(str(tmp_path), "ort", "1", {"threads": 1}, "s", 12, ("Conv",)))
    assert read_artifact(tmp_path) == artifact
    for text in ("", "[]", '{"toolchain": "ort"}', '{"uncovered": [], "nonsense": 1}'):
        (tmp_path / DESCRIPTION).write_text(text)
        with pytest.raises(DataError, match="is not an artifact"):
            read_artifact(tmp_path)
    with pytest.raises(DataError, match="is not an artifact"):
        read_artifact(tmp_path / "gone")
