"""The training engine: learns, repeats exactly, resumes exactly, and says when it cannot go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from faulty_space import FaultySpace
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hwnas.accuracy.candidates import initialised
from hwnas.accuracy.checkpoint import Checkpoint
from hwnas.accuracy.datasets import load_dataset
from hwnas.accuracy.optimiser import AdamW
from hwnas.accuracy.training import Training, TrainingPlan, accuracy, one_cycle, shifted, train
from hwnas.errors import TrainingFailed

SPACE = FaultySpace()
PLAN = TrainingPlan(epochs=4, batch=100)
PLANS = [
    PLAN,
    PLAN.model_copy(update={"ema": 0.9, "augment": "shift"}),
    PLAN.model_copy(update={"patience": 2, "label_smoothing": 0.1}),
    PLAN.model_copy(update={"patience": 1, "ema": 0.5}),
    PLAN.model_copy(update={"fit_on": "train+val"}),
]


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def network(width=8, seed=0):
    return initialised(SPACE, SPACE.candidate(width), seed)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def timeless(record: Training) -> dict:
    return {k: getattr(record, k) for k in ("losses", "val_accuracies", "val_accuracy", "test_accuracy", "complete")}


def test_it_learns_and_keeps_every_epoch(digits):
    net = network()
    record = train(net, digits, TrainingPlan(epochs=6, batch=32, learning_rate=1e-2), seed=0)
    assert record.complete and record.epochs == 6 and len(record.val_accuracies) == 6
    assert record.val_accuracy > 0.85 and record.test_accuracy > 0.85 and record.losses[-1] < record.losses[0] / 2
    assert record.test_accuracy == accuracy(net, digits.test) and record.val_accuracy == accuracy(net, digits.val)
    assert record.seconds > 0
    assert next(net.parameters()).is_contiguous(), "the network comes back as exporters expect it"


@pytest.mark.parametrize("plan", PLANS)
def test_the_same_seed_gives_the_same_whatever_the_global_state(digits, plan):
    a, b, c = network(), network(), network()
    first = train(a, digits, plan, seed=3)
    torch.manual_seed(99)
    np.random.seed(5)
    threads = torch.get_num_threads()
    state = torch.random.get_rng_state()
    assert timeless(train(b, digits, plan, seed=3)) == timeless(first) and same(a, b)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    assert timeless(train(c, digits, plan, seed=4)) != timeless(first)


@pytest.mark.parametrize("plan", PLANS)
def test_stopping_at_every_epoch_changes_nothing(digits, plan, tmp_path):
    whole = network()
    expected = train(whole, digits, plan, seed=1)
    for epoch in range(1, plan.epochs + 1):
        part = network()  # a new process has nothing but the file
        record = train(part, digits, plan, 1, tmp_path / "c.npz", until_epoch=epoch)
        assert record.losses == expected.losses[: record.epochs]
        assert record.epochs == min(epoch, expected.epochs)
    assert timeless(record) == timeless(expected) and same(whole, part)
    seconds = record.seconds
    again = network()
    assert train(again, digits, plan, 1, tmp_path / "c.npz").seconds == seconds, "a complete one is not trained again"
    assert same(whole, again)


def test_plans_differ_in_what_they_do(digits):
    results = [timeless(train(network(), digits, plan, seed=0)) for plan in PLANS]
    assert len({json.dumps(r) for r in results}) == len(PLANS)
    assert results[-1]["val_accuracy"] is None and results[-1]["val_accuracies"] == ()
    assert len({p.digest for p in PLANS}) == len(PLANS)


def test_patience_stops_early_and_keeps_the_best(digits):
    plan = TrainingPlan(epochs=40, batch=32, learning_rate=0.1, patience=2)
    net = network(2)
    record = train(net, digits, plan, seed=0)
    assert record.complete and record.epochs < 40
    assert record.val_accuracies.index(max(record.val_accuracies)) == record.epochs - 3
    assert record.val_accuracy == max(record.val_accuracies) == accuracy(net, digits.val)
    assert record.test_accuracy == accuracy(net, digits.test)


def test_a_loss_that_is_no_number_is_a_failure(digits):
    with pytest.raises(TrainingFailed, match="the loss is nan in epoch 1 of 4"):
        train(initialised(SPACE, SPACE.candidate(4, "diverges"), 0), digits, PLAN, seed=0)


def test_impossible_plans_are_refused():
    with pytest.raises(ValidationError, match="patience needs a validation part"):
        TrainingPlan(patience=1, fit_on="train+val")
    for wrong in ({"epochs": 0}, {"batch": 1}, {"learning_rate": 0}, {"ema": 1.0}, {"optimizer": "sgd"}):
        with pytest.raises(ValidationError):
            TrainingPlan(**wrong)


def test_first_weights_depend_on_candidate_and_seed_alone():
    state = torch.random.get_rng_state()
    assert same(network(), network()) and not same(network(), network(seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_optimiser_is_torchs(digits):
    ours, theirs = network().to(memory_format=torch.channels_last), network()
    assert same(ours, theirs)
    mine = AdamW(ours, weight_decay=0.1)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.0, weight_decay=0.1)
    inputs, labels = torch.tensor(digits.train.inputs[:50]), torch.tensor(digits.train.labels[:50])
    for rate in (0.01, 0.02, 0.005, 0.001):
        mine.step(torch.nn.functional.cross_entropy(ours.eval()(inputs), labels), rate)
        reference.param_groups[0]["lr"] = rate
        reference.zero_grad()
        torch.nn.functional.cross_entropy(theirs.eval()(inputs), labels).backward()
        reference.step()
    assert not same(ours, network())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_parameters_that_nothing_uses_do_not_stop_training(digits):
    net = network()
    net.register_parameter("spare", torch.nn.Parameter(torch.ones(3)))
    assert train(net, digits, PLAN, seed=0).complete


@given(st.floats(0.01, 0.99), st.integers(1, 500))
def test_the_learning_rate_rises_then_falls_to_nothing(warmup, steps):
    rates = [one_cycle(step / steps, warmup) for step in range(steps + 1)]
    assert all(0 <= r <= 1 for r in rates) and rates[0] == pytest.approx(0.04) and rates[-1] == pytest.approx(0)
    top = int(np.argmax(rates))
    assert all(a <= b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 2**31))
def test_shifting_moves_each_sample_as_a_whole(height, width, seed):
    inputs = np.random.default_rng(seed).uniform(1, 2, (6, 2, height, width)).astype(np.float32)
    moved = shifted(inputs, np.random.default_rng(seed))
    assert moved.shape == inputs.shape
    for old, new in zip(inputs, moved):
        reach = [
            range(1) if side == 1 else range(-max(1, side // 14), max(1, side // 14) + 1) for side in (height, width)
        ]
        assert any((translated(old, y, x) == new).all() for y in reach[0] for x in reach[1])


def translated(sample: np.ndarray, down: int, right: int) -> np.ndarray:
    result = np.zeros_like(sample)
    h, w = sample.shape[1:]
    for y in range(h):
        for x in range(w):
            if 0 <= y - down < h and 0 <= x - right < w:
                result[:, y, x] = sample[:, y - down, x - right]
    return result


def test_bad_checkpoints_are_as_good_as_none(digits, tmp_path):
    file = tmp_path / "deep" / "c.npz"
    plain = timeless(train(network(), digits, PLAN, seed=0))
    train(network(), digits, PLAN, 0, file, until_epoch=2)
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"PK" + os.urandom(200), whole.replace(b"losses", b"lossez")):
        file.write_bytes(damaged)
        assert timeless(train(network(), digits, PLAN, 0, file)) == plain
    train(network(), digits, PLAN, 5, file, until_epoch=2)  # of another seed
    assert timeless(train(network(), digits, PLAN, 0, file)) == plain
    train(network(3), digits, PLAN, 0, file, until_epoch=2)  # of another network
    assert timeless(train(network(), digits, PLAN, 0, file)) == plain


def test_a_disk_that_takes_no_checkpoint_does_not_stop_training(digits, tmp_path):
    (tmp_path / "file").touch()
    record = train(network(), digits, PLAN, 0, tmp_path / "file" / "c.npz")
    assert record.complete


def test_tensors_of_every_kind_survive_a_checkpoint(tmp_path):
    tensors = {
        "float": torch.tensor([[1e-38, -3.3e38], [0.1, 7.0]]),
        "count": torch.tensor(2**40),
        "none": torch.zeros(0, 3),
        "double": torch.tensor([0.1], dtype=torch.float64),
    }
    Checkpoint(tmp_path / "c.npz", "key").save(tensors, Training(losses=(0.5,)))
    loaded, record = Checkpoint(tmp_path / "c.npz", "key").load()
    assert record == Training(losses=(0.5,)) and list(loaded) == list(tensors)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(loaded.values(), tensors.values()))
    assert Checkpoint(tmp_path / "c.npz", "another").load() is None
    assert list(tmp_path.iterdir()) == [tmp_path / "c.npz"]


PROGRAM = """
import json, sys
from faulty_space import FaultySpace
from hwnas.accuracy.candidates import initialised
from hwnas.accuracy.datasets import load_dataset
from hwnas.accuracy.training import TrainingPlan, train
from pathlib import Path
space = FaultySpace()
net = initialised(space, space.candidate(16), 0)
record = train(net, load_dataset("digits"), TrainingPlan(epochs=20, batch=32), 0, Path(sys.argv[1]))
print(json.dumps([record.losses, record.val_accuracies, record.test_accuracy]))
"""


def test_kill_minus_nine_at_any_moment_loses_nothing(digits, tmp_path):
    plain = train(network(16), digits, TrainingPlan(epochs=20, batch=32), 0)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "c.npz")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    for epochs in (2, 9):
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.poll() is None and stored_epochs(tmp_path / "c.npz") < epochs:
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert stored_epochs(tmp_path / "c.npz") >= 9
    output = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout
    losses, accuracies, test = json.loads(output)
    assert (tuple(losses), tuple(accuracies), test) == (plain.losses, plain.val_accuracies, plain.test_accuracy)


def stored_epochs(path: Path) -> int:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return len(json.loads(str(archive["meta"]))["record"]["losses"])
    except FileNotFoundError:
        return 0
