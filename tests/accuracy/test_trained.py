"""Accuracy by training: parallel, recorded, never paid twice, and a failure of one is a failure of one."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from faulty_space import FaultySpace

from hwnas.accuracy import pool as pools
from hwnas.accuracy.candidates import initialised
from hwnas.accuracy.datasets import load_dataset
from hwnas.accuracy.pool import TrainingJob, TrainingPool
from hwnas.accuracy.table import AccuracyTable
from hwnas.accuracy.trained import TrainedAccuracy
from hwnas.accuracy.training import Training, TrainingPlan, accuracy, train
from hwnas.core.measurement import Failure
from hwnas.core.workload import Candidate
from hwnas.errors import ConfigError, TrainingFailed

SPACE = FaultySpace()
PLAN = TrainingPlan(epochs=2, batch=100)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with TrainingPool(2, checkpoints=tmp_path_factory.mktemp("checkpoints")) as shared:
        shared.start()
        yield shared


def alone(digits, candidate: Candidate, seed: int = 0, plan: TrainingPlan = PLAN) -> Training:
    return train(initialised(SPACE, candidate, seed), digits, plan, seed)


def test_results_are_those_of_training_alone(digits, pool):
    candidates = [SPACE.candidate(w) for w in (3, 9, 5)]
    jobs = [TrainingJob(c, PLAN, seed) for c in candidates for seed in (0, 1)]
    found = {(job.candidate, job.seed): result for job, result in pool.run(SPACE, digits, jobs)}
    assert len(found) == 6
    for (candidate, seed), result in found.items():
        expected = alone(digits, candidate, seed)
        assert (result.losses, result.val_accuracies, result.test_accuracy) == (
            expected.losses,
            expected.val_accuracies,
            expected.test_accuracy,
        )


def test_faults_are_failures_of_their_candidate(digits):
    with TrainingPool(2, deadline_s=8.0) as pool:
        jobs = [
            TrainingJob(SPACE.candidate(2, fault), PLAN) for fault in ("raises", "dies", "hangs", "diverges", "none")
        ]
        found = {SPACE.encode(job.candidate)[3:]: result for job, result in pool.run(SPACE, digits, jobs)}
    assert found["raises"] == Failure("build", "RuntimeError", "no such network")
    assert found["dies"].stage == "run" and "status 7" in found["dies"].message
    assert "deadline of 8 s" in found["hangs"].message
    assert found["diverges"].error == "TrainingFailed" and "loss is nan" in found["diverges"].message
    assert found["none"].complete


def test_no_training_is_paid_twice(digits, pool, tmp_path):
    candidates = [SPACE.candidate(w) for w in (4, 6, 4)]
    path = tmp_path / "a.jsonl"
    with AccuracyTable.open(path) as table:
        trained = TrainedAccuracy(SPACE, digits, PLAN, table, pool)
        first = trained(candidates)
        assert len(table) == 2 and first[0] == first[2] == alone(digits, candidates[0]).val_accuracy
        assert list(trained.events(candidates)) == []
    with AccuracyTable.open(path) as table:  # another day
        again = TrainedAccuracy(SPACE, digits, PLAN, table, pool)
        assert again(candidates) == first and len(table) == 2
        assert not np.isnan(again([SPACE.candidate(7)])[0]) and len(table) == 3


def test_failures_are_rows_and_nan(digits, pool):
    table = AccuracyTable()
    trained = TrainedAccuracy(SPACE, digits, PLAN, table, pool)
    bad = SPACE.candidate(3, "raises")
    values = trained([SPACE.candidate(3), bad])
    assert values[0] > 0 and math.isnan(values[1]) and len(table) == 2
    assert list(trained.events([bad])) == [], "a failure counts as a result"
    with pytest.raises(TrainingFailed, match="w3-raises could not be trained: no such network"):
        trained.network(bad)


def test_one_epoch_first_and_the_rest_later_at_no_extra_cost(digits, pool):
    table, candidate = AccuracyTable(), SPACE.candidate(11)
    trained = TrainedAccuracy(SPACE, digits, PLAN, table, pool)
    (part,) = trained.rows([candidate], until_epoch=1)
    assert part.epochs == 1 and not part.result.complete and part.result.test_accuracy is None
    assert list(trained.events([candidate], until_epoch=1)) == []
    (whole,) = trained.rows([candidate])
    assert whole.result.losses == alone(digits, candidate).losses and whole.result.complete
    assert whole.result.seconds > part.result.seconds, "the second epoch was added to the first"
    assert trained.rows([candidate], until_epoch=1) == [whole]


def test_trained_networks_come_from_their_checkpoints(digits, pool):
    table, candidate = AccuracyTable(), SPACE.candidate(12)
    trained = TrainedAccuracy(SPACE, digits, PLAN, table, pool, seed=2)
    (row,) = trained.rows([candidate])
    network = trained.network(candidate)
    assert not network.training and accuracy(network, digits.test) == row.result.test_accuracy
    other = trained.network(candidate, seed=8)  # never trained: trained here and now
    assert accuracy(other, digits.test) == alone(digits, candidate, 8).test_accuracy


def test_rows_come_in_the_order_asked(digits, pool):
    trained = TrainedAccuracy(SPACE, digits, PLAN, AccuracyTable(), pool)
    candidates = [SPACE.candidate(w) for w in (13, 2, 7)]
    rows = trained.rows(candidates, seeds=(1, 0))
    assert [(r.text, r.seed) for r in rows] == [(SPACE.encode(c), s) for c in candidates for s in (1, 0)]


def test_closing_midway_ends_what_runs_and_the_pool_goes_on(digits):
    before = threading.active_count()  # other tests of this process may have left some
    with TrainingPool(2) as pool:
        jobs = [
            TrainingJob(SPACE.candidate(1), PLAN),
            *[TrainingJob(SPACE.candidate(2, "hangs"), PLAN, s) for s in range(3)],
        ]
        run = pool.run(SPACE, digits, jobs)
        assert isinstance(next(run)[1], Training)
        with pytest.raises(ConfigError, match="already running"):
            next(pool.run(SPACE, digits, jobs))
        started = time.monotonic()
        run.close()
        assert time.monotonic() - started < 5
        ((_, result),) = pool.run(SPACE, digits, jobs[:1])
        assert result.complete
    assert threading.active_count() <= before + 8


def test_data_of_another_shape_is_refused(digits, pool):
    other = load_dataset("mnist-5k")
    with pytest.raises(ConfigError, match=r"inputs \(1, 1, 28, 28\) in 10 classes, but the space makes networks"):
        TrainedAccuracy(SPACE, other, PLAN, AccuracyTable(), pool)
    finalists = PLAN.model_copy(update={"fit_on": "train+val"})
    trained = TrainedAccuracy(SPACE, digits, finalists, AccuracyTable(), pool)
    with pytest.raises(ConfigError, match="compared on the validation part"):
        trained([SPACE.candidate(2)])
    (row,) = trained.rows([SPACE.candidate(2)])
    assert row.result.test_accuracy > 0 and math.isnan(row.accuracy)


def test_impossible_pools_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="at least 1 worker"):
        TrainingPool(0)
    monkeypatch.setenv(pools.IN_WORKER, "1")
    with pytest.raises(ConfigError, match="if __name__ == '__main__'"):
        TrainingPool()


def test_spaces_that_cannot_be_sent_are_refused(digits, pool):
    class Local(FaultySpace):
        pass

    with pytest.raises(ConfigError, match="cannot be sent to a training process"):
        next(pool.run(Local(), digits, [TrainingJob(SPACE.candidate(1), PLAN)]))


SCRIPT = """
import sys
from pathlib import Path
from faulty_space import FaultySpace
from hwnas.accuracy.datasets import load_dataset
from hwnas.accuracy.pool import TrainingJob, TrainingPool
from hwnas.accuracy.training import TrainingPlan

class Mine(FaultySpace):
    name = id = "mine"

def main():
    with TrainingPool(1) as pool:
        job = TrainingJob(Mine().candidate(2), TrainingPlan(epochs=1))
        for _, result in pool.run(Mine(), load_dataset("digits"), [job]):
            print("trained", result.epochs)

{call}
"""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("if __name__ == '__main__':\n    main()", "trained 1"),
        ("main()", "put its last lines under: if __name__ == '__main__'"),
    ],
)
def test_a_space_may_be_defined_in_the_users_script(tmp_path, call, expected):
    script = tmp_path / "search.py"
    script.write_text(SCRIPT.format(call=call))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=90)
    assert expected in done.stdout + done.stderr


def test_a_space_of_an_interactive_session_cannot_be_found(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.format(call="main()")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert "defined in an interactive session" in done.stderr and done.returncode == 1


INTERRUPTED = """
import os, sys
from pathlib import Path
from faulty_space import FaultySpace
from hwnas.accuracy.datasets import load_dataset
from hwnas.accuracy.pool import TrainingPool
from hwnas.accuracy.table import AccuracyTable
from hwnas.accuracy.trained import TrainedAccuracy
from hwnas.accuracy.training import TrainingPlan

space = FaultySpace()
with AccuracyTable.open(Path(sys.argv[1])) as table, TrainingPool(2) as pool:
    trained = TrainedAccuracy(space, load_dataset("digits"), TrainingPlan(epochs=1), table, pool)
    for _ in trained.events([space.candidate(3), space.candidate(1, "hangs"), space.candidate(2, "hangs")]):
        print(*(seat.child._process.pid for seat in pool._seats), flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopping_the_search_ends_its_processes_and_keeps_its_rows(tmp_path, how):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "a.jsonl")]
    search = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in search.stdout.readline().split()]
    assert len(workers) == 2 and all(is_running(pid) for pid in workers)
    search.send_signal(how)
    _, errors = search.communicate(timeout=20)
    assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_running(pid) for pid in workers)
    assert [row.text for row in AccuracyTable.read(tmp_path / "a.jsonl")] == ["w3-none"]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
