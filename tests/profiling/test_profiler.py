"""The profiling loop on a scripted device, and `kill -9` on the real one."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas import api
from hwnas.core.device import Device
from hwnas.core.interfaces import Loop, Runner
from hwnas.core.measurement import EnergyWindow, Failure, Fidelity, Samples
from hwnas.core.workload import Workload
from hwnas.errors import ConfigError, DeviceQuarantined, DeviceUnavailable, TableConflict
from hwnas.predictors.features import features
from hwnas.profiling.measure import EnergyMeter, measure, sustained
from hwnas.profiling.plan import Plan, cover
from hwnas.profiling.profiler import Checked, Finished, Measured, Profiler
from hwnas.profiling.subjects import network_subjects, reference_workload, space_subjects
from hwnas.runners.fake import FakeRunner, Script
from hwnas.tables.table import LatencyTable
from hwnas.testing import small_network
from hwnas.toolchains.ort import OrtToolchain


@pytest.fixture
def device() -> Device:
    device = api.load_device("host")
    return device.model_copy(update={"protocol": device.protocol.model_copy(update={"session": 3})})


def plan(done: frozenset[str] = frozenset(), limit: int | None = None) -> Plan:
    subjects = network_subjects("small", small_network(), "ort")
    return Plan(subjects.frequency, subjects.by_id, subjects.networks, features=features, done=done, limit=limit)


def run(device: Device, runner: Runner, path: Path, todo: Plan | None = None) -> list[object]:
    profiler = Profiler(device, OrtToolchain(), runner, reference_workload(device), workers=1)
    return list(profiler.run(todo or plan(), path))


def test_every_subject_gets_a_row_that_is_on_disk_before_its_event(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    profiler = Profiler(device, OrtToolchain(), FakeRunner(), reference_workload(device), workers=1)
    seen = 0
    for event in profiler.run(plan(), path):
        if isinstance(event, Measured):
            seen += 1
            assert len(LatencyTable.read(path).measurements) == seen
    table = LatencyTable.read(path)
    assert seen == len(table.workloads) + 1
    assert len(table.values()) == seen
    assert all(check.passed for check in table.checks.values())


@pytest.mark.parametrize("fault", ["timeout", "crash", "corrupt"])
def test_a_fault_is_a_failure_row_and_the_loop_goes_on(device: Device, tmp_path: Path, fault: str) -> None:
    events = run(device, FakeRunner(Script(faults={2: fault})), tmp_path / "t.jsonl")  # type: ignore[dict-item]
    rows = [e.row for e in events if isinstance(e, Measured)]
    failures = [r.result for r in rows if isinstance(r.result, Failure)]
    assert [f.stage for f in failures] == ["run"]
    assert len(rows) - 1 == len(LatencyTable.read(tmp_path / "t.jsonl").values())


def test_a_board_that_keeps_failing_is_quarantined_with_its_first_cause(device: Device, tmp_path: Path) -> None:
    device = device.model_copy(update={"protocol": device.protocol.model_copy(update={"failures_in_a_row": 2})})
    with pytest.raises(DeviceQuarantined, match="2 failures in a row"):
        run(device, FakeRunner(Script(faults=dict.fromkeys(range(1, 9), "crash"))), tmp_path / "t.jsonl")
    assert LatencyTable.read(tmp_path / "t.jsonl").failures()


def test_drift_turns_rows_into_failures_and_measures_again_in_vain(device: Device, tmp_path: Path) -> None:
    events = run(device, FakeRunner(Script(drift=0.2)), tmp_path / "t.jsonl")
    table = LatencyTable.read(tmp_path / "t.jsonl")
    assert table.values() == {}
    assert {f.stage for f in table.failures().values()} == {"check"}
    checks = [e for e in events if isinstance(e, Checked)]
    assert not any(c.check.passed for c in checks)
    assert checks[0].given_back == sum(isinstance(e, Measured) for e in events[: events.index(checks[0])])
    assert checks[-1].given_back == 0  # after three sessions, drifting is the answer
    assert isinstance(events[-1], Finished)


def test_resuming_measures_only_what_is_missing(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    profiler = Profiler(device, OrtToolchain(), FakeRunner(), reference_workload(device), workers=1)
    events = profiler.run(plan(), path)
    done = {e.row.subject for e in itertools.islice((e for e in events if isinstance(e, Measured)), 2)}
    events.close()  # type: ignore[attr-defined]
    again = run(device, FakeRunner(), path, plan(done=frozenset(LatencyTable.read(path).values())))
    assert done.isdisjoint({e.row.subject for e in again if isinstance(e, Measured)})
    table = LatencyTable.read(path)
    assert set(table.values()) == {*table.workloads, *table.networks}


def test_a_table_of_another_machine_is_refused(device: Device, tmp_path: Path) -> None:
    run(device, FakeRunner(), tmp_path / "t.jsonl")
    from hwnas.runners.local import LocalRunner

    with pytest.raises(TableConflict, match="machine"):
        run(device, LocalRunner(), tmp_path / "t.jsonl")


def test_the_time_given_is_kept(device: Device, tmp_path: Path) -> None:
    ticks = itertools.count()
    profiler = Profiler(
        device, OrtToolchain(), FakeRunner(), reference_workload(device), workers=1, clock=lambda: float(next(ticks))
    )
    events = list(profiler.run(plan(), tmp_path / "t.jsonl", for_s=3))
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "time"
    assert events[-1].rows < plan().left


def test_noise_costs_readings_and_quiet_saves_them(device: Device, tmp_path: Path) -> None:
    from hwnas.toolchains.builder import build_one

    artifact = build_one("ort", small_network(), device, tmp_path / "a")
    quiet = measure(FakeRunner(Script(noise=0.001)).open(device), artifact, device.protocol)
    loud = measure(FakeRunner(Script(noise=0.5)).open(device), artifact, device.protocol)
    assert len(quiet.latency_s) == device.protocol.min_readings
    assert len(loud.latency_s) == device.protocol.max_readings


def test_every_prefix_of_a_cover_reaches_further_than_chance() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4)) * [10, 1, 1, 1]
    order = cover(x, np.ones(200), rng)
    assert sorted(order) == list(range(200))

    def reach(chosen: list[int]) -> float:
        scaled = x / x.std(0)
        return float(max(min(np.linalg.norm(a - scaled[c]) for c in chosen) for a in scaled))

    chance = np.mean([reach(rng.permutation(200)[:20].tolist()) for _ in range(5)])
    assert reach(order[:20]) < 0.8 * chance


def test_the_plan_covers_then_asks_where_the_predictor_is_unsure(device: Device) -> None:
    subjects = space_subjects(api.load_space("mbconv-micro"), "ort", 0)
    todo = Plan(subjects.frequency, subjects.by_id, limit=20, features=features, seed=0)
    covering = todo.ask(12)
    assert todo.left == 8
    worst = next(w for w in subjects.frequency if w.id not in {s.id for s in covering})

    def unsure(workloads: list[Workload]) -> np.ndarray:
        return np.array([1e9 if w.id == worst.id else 0.0 for w in workloads])

    assert todo.ask(1, unsure)[0].id == worst.id  # type: ignore[arg-type]


PROFILE = """
import sys
from pathlib import Path
from hwnas import api
from hwnas.testing import small_network
todo = api.plan_profile(api.load_device("host"), small_network(8), tables=Path(sys.argv[1]), toolchain="ort")
for event in todo.events():
    print("event", flush=True)
"""


@pytest.mark.xdist_group("timing")
def test_killed_at_random_and_resumed_the_table_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "host" / "hardware-ort.jsonl"
    rng = random.Random(0)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", PROFILE, str(tmp_path)]
    held: set[str] = set()
    for _ in range(20):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 4)):
            child.stdout.readline()
        time.sleep(rng.random() * 0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if path.exists() and path.read_bytes():
            rows = set(LatencyTable.read(path).measurements)
            assert held <= rows, "a row that was on disk is gone"
            held = rows
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    table = LatencyTable.read(path)
    assert set(table.values()) == {*table.workloads, *table.networks}
    assert all(isinstance(r.result, Samples) for r in table.measurements.values())
    undisturbed = network_subjects("network", small_network(8), "ort")
    assert set(table.workloads) == set(undisturbed.known)


def test_several_boards_share_the_work_and_each_row_names_its_board(device: Device, tmp_path: Path) -> None:
    runner = FakeRunner(Script(places=("a", "b", "c")))
    profiler = Profiler(device, OrtToolchain(), runner, reference_workload(device), places=runner.places(device))
    events = list(profiler.run(plan(), tmp_path / "t.jsonl"))
    rows = [e.row for e in events if isinstance(e, Measured)]
    table = LatencyTable.read(tmp_path / "t.jsonl")
    assert {r.subject for r in rows} == {*table.workloads, *table.networks}
    assert len(rows) == len({r.subject for r in rows})
    assert len({table.contexts[r.context].board for r in rows}) > 1
    assert [e.left for e in events if isinstance(e, Measured)][-1] == 0
    assert isinstance(events[-1], Finished)


def test_boards_that_are_all_lost_end_the_profile_and_keep_the_rows(device: Device, tmp_path: Path) -> None:
    device = device.model_copy(update={"protocol": device.protocol.model_copy(update={"failures_in_a_row": 1})})
    runner = FakeRunner(Script(places=("a", "b"), faults={2: "crash"}))
    profiler = Profiler(device, OrtToolchain(), runner, reference_workload(device), places=("a", "b"))
    with pytest.raises(DeviceQuarantined):
        list(profiler.run(plan(), tmp_path / "t.jsonl"))
    assert LatencyTable.read(tmp_path / "t.jsonl").measurements


def test_the_work_of_a_lost_board_is_done_by_the_others(device: Device, tmp_path: Path) -> None:
    class OneFails(FakeRunner):
        def open(self, device: Device, place: str | None = None) -> Any:
            self.script.faults = {2: "crash"} if place == "a" else {}
            return FakeRunner(replace(self.script)).open(device, place)

    device = device.model_copy(update={"protocol": device.protocol.model_copy(update={"failures_in_a_row": 1})})
    runner = OneFails(Script(places=("a", "b")))
    profiler = Profiler(device, OrtToolchain(), runner, reference_workload(device), places=("a", "b"))
    list(profiler.run(plan(), tmp_path / "t.jsonl"))
    table = LatencyTable.read(tmp_path / "t.jsonl")
    assert set(table.values()) == {*table.workloads, *table.networks}


def test_a_board_that_is_not_fit_at_the_end_fails_its_session(device: Device, tmp_path: Path) -> None:
    count = len(plan().ask(99)) + 2
    runner = FakeRunner(Script(complaints={count - 1: ("throttled",)}))
    device = device.model_copy(update={"protocol": device.protocol.model_copy(update={"session": 99})})
    events = run(device, runner, tmp_path / "t.jsonl")
    assert [e.check.passed for e in events if isinstance(e, Checked)] == [False, True]
    assert LatencyTable.read(tmp_path / "t.jsonl").values()


def test_a_board_that_is_not_fit_at_the_start_is_said_to_be_so(device: Device, tmp_path: Path) -> None:
    runner = FakeRunner(Script(complaints={0: ("throttled",)}))
    with pytest.raises(DeviceUnavailable, match="throttled.*--resume"):
        run(device, runner, tmp_path / "t.jsonl")


def test_closing_stops_every_board(device: Device, tmp_path: Path) -> None:
    runner = FakeRunner(Script(places=("a", "b")))
    profiler = Profiler(device, OrtToolchain(), runner, reference_workload(device), places=("a", "b"))
    events = profiler.run(plan(), tmp_path / "t.jsonl")
    next(e for e in events if isinstance(e, Measured))
    events.close()  # type: ignore[attr-defined]
    assert len(LatencyTable.read(tmp_path / "t.jsonl").measurements) == 1


def test_a_throttled_board_gives_failures_of_stage_check(device: Device, tmp_path: Path) -> None:
    runner = FakeRunner(Script(complaints={2: ("throttled: 84 degrees",)}))
    events = run(device, runner, tmp_path / "t.jsonl")
    failed = [e.row.result for e in events if isinstance(e, Measured) and isinstance(e.row.result, Failure)]
    assert failed
    assert {f.stage for f in failed} == {"check"}
    assert "throttled: 84 degrees" in failed[0].message


def test_a_sustained_table_holds_95th_percentiles_and_mixes_with_no_other(device: Device, tmp_path: Path) -> None:
    hot = sustained(device, heat_s=0.01)
    run(hot, FakeRunner(), tmp_path / "t.jsonl")
    table = LatencyTable.read(tmp_path / "t.jsonl")
    row = next(r for r in table.measurements.values() if isinstance(r.result, Samples))
    assert isinstance(row.result, Samples)
    readings = sorted(row.result.latency_s)
    assert len(readings) >= 40
    assert table.values()[row.subject] == readings[-(len(readings) // 20) - 1] > row.result.metric("latency")
    with pytest.raises(TableConflict, match="protocol"):
        run(device, FakeRunner(), tmp_path / "t.jsonl")


def test_energy_of_another_fidelity_is_refused(device: Device, tmp_path: Path) -> None:
    profiler = Profiler(
        device, OrtToolchain(), FakeRunner(), reference_workload(device),
        meter=lambda _: EnergyMeter(SteadyMeter(Fidelity.MODEL), device.protocol, lambda _: None),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="fidelity model, the device is hardware"):
        list(profiler.run(plan(), tmp_path / "t.jsonl"))


def test_energy_stands_beside_the_readings_and_is_net_of_idle(device: Device, tmp_path: Path) -> None:
    meter = SteadyMeter(Fidelity.HARDWARE)
    profiler = Profiler(
        device, OrtToolchain(), FakeRunner(), reference_workload(device),
        meter=lambda _: EnergyMeter(meter, device.protocol, lambda _: None),
    )  # fmt: skip
    list(profiler.run(plan(), tmp_path / "t.jsonl"))
    table = LatencyTable.read(tmp_path / "t.jsonl")
    latency, energy = table.values("latency"), table.values("energy")
    assert set(energy) == set(latency)
    for subject, joules in energy.items():
        assert joules == pytest.approx(2.0 * latency[subject], rel=0.05)  # 3 W under load, 1 W idle
    assert meter.closed


class SteadyMeter:
    """Three watts under load and one idle, whatever runs."""

    name = "steady"

    def __init__(self, fidelity: Fidelity) -> None:
        self.fidelity, self.closed = fidelity, False

    def open(self) -> None:
        """Nothing to take hold of."""

    @contextlib.contextmanager
    def record(self) -> Iterator[SteadyMeter]:
        yield self

    def window(self, loop: Loop, idle_s: float, least_samples: int) -> EnergyWindow:
        seconds = loop.ended_s - loop.began_s
        return EnergyWindow(3.0 * seconds, 1.0, seconds, loop.runs, 1000, rails=("all",))

    def close(self) -> None:
        self.closed = True
