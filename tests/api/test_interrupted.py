"""`kill -9` and Ctrl-C at any moment: what is recorded stays, and the run that goes on is the undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from hwnas import registry
from hwnas.accuracy.table import AccuracyTable
from hwnas.api.run import Run
from hwnas.api.settings import RunSettings
from hwnas.config import validate
from hwnas.errors import EXIT_INTERRUPTED, NoFeasibleCandidate
from hwnas.records import read_records
from hwnas.report.record import RunRecord
from hwnas.runners.fake import FakeRunner, Script
from hwnas.search.events import AccuracyKnown
from tests.api import small_run

KILLS = 10


def lines(path: Path) -> list[dict[str, Any]]:
    return read_records(path)[0] if path.exists() and path.stat().st_size else []


def with_the_same_measurements(finished: Path, folder: Path) -> None:
    """Give a new run what the device said in the finished one, and nothing else: no accuracy, no trial."""
    folder.mkdir()
    for name in ("run.json", "start.json", "predictor.json"):
        shutil.copy(finished / name, folder)
    shutil.copytree(finished / "tables", folder / "tables")
    head, *rest = (finished / "search-1.jsonl").read_text().splitlines(keepends=True)
    readings = [line for line in rest if "measured" in json.loads(line) and "trial" not in json.loads(line)]
    assert len(readings) == 6
    (folder / "search-1.jsonl").write_text(head + "".join(readings))


def trials(folder: Path) -> list[dict[str, Any]]:
    return [line["trial"] for line in lines(folder / "search-1.jsonl") if "trial" in line]


def test_killed_ten_times_a_run_ends_as_an_undisturbed_one(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with_the_same_measurements(finished, run)
    command = [*small_run.COMMAND, "search", str(finished.parent / "run.yaml"), "--out", str(run), "--resume"]
    rng = random.Random(4)
    accuracies: set[str] = set()
    journal: list[dict[str, Any]] = []
    grown, ended = 0, 0
    for _ in range(KILLS):
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=small_run.ENVIRONMENT)
        assert child.stderr is not None
        for line in child.stderr:  # start-up is the same each time, so the clock starts when the run does
            if line.startswith("search"):
                break
        time.sleep(rng.uniform(0.0, 4.0))
        ended += child.poll() == 0
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stderr.close()
        rows = {row.id for row in AccuracyTable.read(run / "accuracy.jsonl")}
        assert accuracies <= rows, "a training that was on disk is gone"
        now = lines(run / "search-1.jsonl")
        assert now[: len(journal)] == journal, "the journal was rewritten"
        grown += rows > accuracies or len(now) > len(journal)
        accuracies, journal = rows, now
    assert grown >= 2, "the kills came too early to test anything"
    assert ended <= KILLS // 2, "the kills came too late to test anything"
    done = subprocess.run(command, capture_output=True, text=True, env=small_run.ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert trials(run) == trials(finished)
    again, first = RunRecord.read(run / "record.json"), RunRecord.read(finished / "record.json")
    assert again.front == first.front
    assert [t.encoded for t in again.front_trials] == [t.encoded for t in first.front_trials]
    assert {f.encoded: f.val_accuracies for f in again.finalists} == {
        f.encoded: f.val_accuracies for f in first.finalists
    }
    assert again.winner is not None
    assert first.winner is not None
    assert (again.winner.encoded, again.winner.test_accuracy) == (first.winner.encoded, first.winner.test_accuracy)
    assert (run / "bundle" / "network.onnx").read_bytes() == (finished / "bundle" / "network.onnx").read_bytes()


def test_ctrl_c_is_exit_130_and_prints_the_command_that_goes_on(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with_the_same_measurements(finished, run)
    arguments = ["search", str(finished.parent / "run.yaml"), "--out", str(run), "--resume"]
    child = subprocess.Popen(
        [*small_run.COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=small_run.ENVIRONMENT
    )
    assert child.stderr is not None
    for line in child.stderr:
        if "%  s8k3" in line:  # the first accuracy
            break
    child.send_signal(signal.SIGINT)
    told = child.stderr.read()
    child.stderr.close()
    assert child.wait(60) == EXIT_INTERRUPTED
    assert f"hwnas search {finished.parent / 'run.yaml'} --out {run} --resume" in " ".join(told.split())
    assert "Traceback" not in told
    assert any("accuracy" in line for line in lines(run / "search-1.jsonl"))


def test_a_second_round_resumes_on_the_verdicts_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device said of the first finalists corrected the predictor; measured anew, it would correct otherwise."""
    slow = Script(
        latency_s=lambda a: (9 if "finalists" in a.path else 1) * 1e-9 * (a.flash_bytes or 0), noise=0.5
    )  # finalists take nine times what the same networks took in the search
    monkeypatch.setitem(registry.runners._loaded, "local", lambda: FakeRunner(slow))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    changes: dict[str, Any] = {
        "budget": {"latency": "40 us"}, "accuracy": {"queries": 3, "plan": {"epochs": 1}},
        "search": {"trials": 30, "device_measurements": 3},
        "verify": {"top": 1, "seeds": 1, "spacing": "0 s", "rounds": 2},
    }  # fmt: skip
    chosen = validate(RunSettings, small_run.settings(**changes))
    folder = tmp_path / "run"
    events = Run(chosen, folder).events()
    for event in events:
        if isinstance(event, AccuracyKnown) and (folder / "search-2.jsonl").exists() and event.count == 2:
            break
    events.close()
    before = (folder / "verdicts-1.json").read_bytes()
    recorded = lines(folder / "search-2.jsonl")
    assert recorded
    with pytest.raises(NoFeasibleCandidate, match="over latency by"):
        for _ in Run(chosen, folder).events():
            pass
    assert (folder / "verdicts-1.json").read_bytes() == before
    assert lines(folder / "search-2.jsonl")[: len(recorded)] == recorded
    assert (folder / "verdicts-2.json").exists()
