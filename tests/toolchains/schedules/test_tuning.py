"""Tuning finds, keeps and reads schedules again; nothing slower, wrong or spoilt is ever used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from hwnas.api.tuning import tunable
from hwnas.config import load_device
from hwnas.core.measurement import Fidelity
from hwnas.errors import ConfigError
from hwnas.tables.table import table_path
from hwnas.testing import small_network
from hwnas.toolchains.cache import ArtifactCache
from hwnas.toolchains.schedules import SCHEDULE, TUNED, tuned, tuning
from hwnas.toolchains.schedules.isa import isa_of
from hwnas.toolchains.schedules.objects import ObjectCache, link_library
from hwnas.toolchains.schedules.pipeline import fused
from hwnas.toolchains.schedules.traces import form_id, tiles_near, with_tile
from hwnas.toolchains.schedules.tuned import SUFFIX, Tuned, TunedSchedules, check_schedule, database_state
from hwnas.toolchains.schedules.tuning import Contest, Decided, Kernel, Planned, Tried, allotment, survey, tune
from hwnas.toolchains.tvm import TvmToolchain, cpu_target
from hwnas.toolchains.tvm import tuning as tune_device

KNOWN = Tuned("k", "conv", 8, 2e-6, 1e-6, {"tile": [1, 4, 2]})
HOST = {"threads": 1, "target": "native"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def network() -> ModelProto:
    found: ModelProto = small_network()
    return found


@pytest.fixture(scope="module")
def kernels(network: ModelProto) -> list[Kernel]:
    target = cpu_target(HOST)
    return survey([network], target, isa_of(target))


def convolution(kernels: list[Kernel]) -> Kernel:
    """The heaviest kernel whose tile could be another."""
    return next(kernel for kernel in kernels if list(tiles_near(kernel.function)))


def host_database(folder: Path) -> TunedSchedules:
    return TunedSchedules(str(cpu_target(HOST)), folder)


def outputs(network: ModelProto, folder: Path, database: TunedSchedules | None = None) -> tuple[Any, list[np.ndarray]]:
    """What was linked, and what the library computes."""
    import tvm
    from tvm import relax

    target = cpu_target(HOST)
    isa = isa_of(target)
    folder.mkdir(parents=True, exist_ok=True)
    module = fused(network, isa, target).module
    linked = link_library(
        module, target, folder / "n.so", kept=ObjectCache(folder / "objects"), isa=isa, tuned=database
    )
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "n.so")), tvm.cpu())
    shape = [d.dim_value for d in network.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = machine["main"](tvm.runtime.tensor(image))
    return linked, [np.asarray(x.numpy()) for x in ([found] if hasattr(found, "numpy") else found)]


def test_trials_are_kept_and_the_next_run_goes_on(
    network: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "LEAST_TRIALS", 4)
    target, database = cpu_target(HOST), host_database(tmp_path / "tuned")
    first = list(tune([network], target, 8, database))
    planned, decided = first[0], [event for event in first if isinstance(event, Decided)]
    assert isinstance(planned, Planned)
    assert planned.trials == 8
    assert [event.tuned.name for event in decided] == list(planned.kernels)
    assert sum(isinstance(event, Tried) for event in first) + sum(event.unspent for event in decided) >= 8
    for event in decided:
        assert host_database(tmp_path / "tuned").find(event.tuned.kernel) == event.tuned
        assert event.tuned.trials <= 8
    second = list(tune([network], target, 4, database, stop=lambda: True))
    again = second[0]
    assert isinstance(again, Planned)
    assert not set(again.kernels) & set(planned.kernels)
    assert len(second) == 1  # it was stopped before the first trial


def test_a_stopped_run_keeps_the_kernel_under_way(network: ModelProto, tmp_path: Path) -> None:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 2  # once before the first kernel, then after each trial

    database = host_database(tmp_path / "tuned")
    events = list(tune([network], cpu_target(HOST), 40, database, stop=stop))
    [decided] = [event for event in events if isinstance(event, Decided)]
    assert decided.tuned.trials == sum(isinstance(event, Tried) for event in events) == 2
    assert database.find(decided.tuned.kernel) == decided.tuned


def test_metaschedule_finds_schedules_that_compute_the_same(
    network: ModelProto, kernels: list[Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "tiles_near", lambda _: iter(()))
    monkeypatch.setattr(tuning, "LEAST_GAIN", -1e9)  # the best of few trials is kept although the rule is faster
    database = host_database(tmp_path / "tuned")
    [*_, decided] = tune([network], cpu_target(HOST), 3, database)
    assert isinstance(decided, Decided)
    assert decided.tuned.kind == "trace"
    plain, expected = outputs(network, tmp_path / "plain")
    linked, found = outputs(network, tmp_path / "linked", host_database(tmp_path / "tuned"))
    assert [t.kernel for t in linked.tuned] == [decided.tuned.kernel]
    assert not plain.tuned
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_other_tiles_compute_the_same_and_are_compiled_once(
    network: ModelProto, kernels: list[Kernel], tmp_path: Path
) -> None:
    from hwnas.toolchains.schedules.traces import under

    kernel, isa = convolution(kernels), isa_of(cpu_target(HOST))

    def fits(tile: list[int]) -> bool:
        try:
            under(kernel.function, {"tile": tile}, isa)
        except Exception:
            return False
        return True

    tile = next(tile for tile in tiles_near(kernel.function) if fits(tile))
    database = host_database(tmp_path / "tuned")
    database.keep(Tuned(kernel.id, kernel.name, 1, 2e-6, 1e-6, {"tile": tile}))
    linked, found = outputs(network, tmp_path / "a", database)
    assert [(t.kernel, t.schedule) for t in linked.tuned] == [(kernel.id, {"tile": tile})]
    again, _ = outputs(network, tmp_path / "a", database)
    plain, expected = outputs(network, tmp_path / "a")  # the same objects but for that one
    assert (again.compiled, plain.compiled, plain.tuned) == (0, 1, ())
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_slower_candidate_is_not_kept(kernels: list[Kernel]) -> None:
    target = cpu_target(HOST)
    isa = isa_of(target)
    kernel = convolution(kernels)
    contest = Contest(kernel, target, isa, None, 0)

    def unscheduled() -> Any:
        return kernel.function.with_attr("global_symbol", "main")

    slow = contest.attempt({"tile": [1, 1, 1]}, unscheduled)  # as TVM's defaults leave it
    assert slow.seconds is not None
    assert slow.seconds > kernel.each_s
    concluded = contest.conclude()
    assert (concluded.schedule, concluded.tuned_s, concluded.trials) == (None, None, 1)


def test_a_candidate_that_computes_something_else_is_not_kept(kernels: list[Kernel]) -> None:
    target = cpu_target(HOST)
    kernel = convolution(kernels)
    contest = Contest(kernel, target, isa_of(target), None, 0)
    from tvm import tirx

    nothing = kernel.function.with_attr("global_symbol", "main").with_body(tirx.Evaluate(tirx.const(0, "int32")))
    assert contest.attempt({"tile": [1, 1, 1]}, lambda: nothing).seconds is None
    assert contest.conclude().schedule is None


def test_a_schedule_that_does_not_fit_its_kernel_is_ignored_with_a_word(
    network: ModelProto, kernels: list[Kernel], tmp_path: Path
) -> None:
    database = host_database(tmp_path / "tuned")
    kernel = convolution(kernels)
    database.keep(replace(KNOWN, kernel=kernel.id, schedule={"tile": [4096] * 9}))
    linked, found = outputs(network, tmp_path / "a", database)
    assert linked.tuned == ()
    assert "does not fit and was ignored" in database.faults[0]
    _, expected = outputs(network, tmp_path / "a")
    np.testing.assert_array_equal(found[0], expected[0])
    with pytest.raises(ValueError, match="no tile in place of"):
        with_tile(kernel.function.with_attr("global_symbol", "main"), [1])


def test_kernels_of_one_form_have_one_schedule() -> None:
    from tests.toolchains.schedules.test_objects import kernel

    assert form_id(kernel(2.0, "ab")) == form_id(kernel(3.0, "cb"))  # another constant, other names of variables
    assert form_id(kernel(2.0, "ab")) != form_id(kernel(2.0, "ac"))  # a trace names blocks


# -- the database


@pytest.mark.parametrize("spoil", [
    lambda text: "", lambda text: text[:40], lambda text: "[]", lambda text: "null", lambda text: "[" * 5000,
    lambda text: text.replace("2e-06", "3e-06"), lambda text: text.replace('"id": "', '"id": "0'),
    lambda text: text + " " * tuned.MOST_BYTES,
])  # fmt: skip
def test_a_spoilt_entry_is_ignored_with_a_word(spoil: Any, tmp_path: Path) -> None:
    database = TunedSchedules("llvm", tmp_path)
    database.keep(KNOWN)
    assert database.find("k") == KNOWN
    [entry] = tmp_path.glob(f"*{SUFFIX}")
    entry.write_text(spoil(entry.read_text()))
    assert database.find("k") is None
    assert len(database.faults) == 1
    assert "was ignored" in database.faults[0]


@pytest.mark.parametrize("change", [
    {"trials": 0}, {"trials": True}, {"rule_s": -1.0}, {"rule_s": "1"}, {"tuned_s": None}, {"schedule": None},
    {"schedule": {"tile": []}}, {"schedule": {"tile": [0]}}, {"schedule": {"tile": [1.5]}}, {"schedule": {"trace": []}},
    {"schedule": {"tile": [1], "trace": [[], []]}}, {"name": 7}, {"extra": 1},
    {"schedule": {"trace": [[["UnsafeSetDType", [], [], []]], []]}},
    {"schedule": {"trace": [[["Annotate", ["b0"], ["pragma_import_llvm"], []]], []]}},
    {"schedule": {"trace": [[["GetLoops", "b0", [], []]], []]}},
    {"schedule": {"trace": [[["GetLoops", [], [], []]], [7]]}},
])  # fmt: skip
def test_an_entry_of_sound_id_and_hostile_content_is_ignored(change: dict[str, Any], tmp_path: Path) -> None:
    from hwnas.digest import content_id

    database = TunedSchedules("llvm", tmp_path)
    database.keep(KNOWN)
    [entry] = tmp_path.glob(f"*{SUFFIX}")
    body = {**json.loads(entry.read_text()), **change}
    del body["id"]
    entry.write_text(json.dumps({"id": content_id(body), **body}))
    assert database.find("k") is None
    assert database.faults


def test_entries_of_another_target_or_version_are_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TunedSchedules("llvm -mcpu=a", tmp_path).keep(KNOWN)
    assert TunedSchedules("llvm -mcpu=b", tmp_path).find("k") is None
    assert TunedSchedules("llvm -mcpu=a", tmp_path).find("k") == KNOWN
    monkeypatch.setattr(tuned, "VERSION", 99)
    assert TunedSchedules("llvm -mcpu=a", tmp_path).find("k") is None


def test_a_trace_may_only_consist_of_what_leaves_values_alone() -> None:
    check_schedule({"trace": [[["GetSBlock", [], ["c", "main"], ["b0"]], ["Annotate", ["b0"], ["meta_schedule.vectorize"], []]], [[0, [1, 2]]]]})  # fmt: skip
    for name in ("UnsafeHideBufferAccess", "TransformLayout", "Tensorize", "SetScope"):
        with pytest.raises(ValueError, match="is not allowed"):
            check_schedule({"trace": [[[name, [], [], []]], []]})


# -- trials


@given(
    st.integers(1, 500),
    st.lists(st.floats(1e-7, 1e-2), min_size=1, max_size=40).map(lambda x: sorted(x, reverse=True)),
    st.data(),
)
def test_trials_go_to_the_heaviest_kernels_and_to_new_ones_first(trials: int, seconds: list[float], data: Any) -> None:
    spent = data.draw(st.lists(st.sampled_from([0, 16, 64]), min_size=len(seconds), max_size=len(seconds)))
    shares = allotment(trials, seconds, spent)
    assert len(shares) == len(seconds)
    assert sum(shares) <= trials
    assert min(shares) >= 0
    assert sum(share > 0 for share in shares) <= max(1, trials // tuning.LEAST_TRIALS)
    chosen = [number for number, share in enumerate(shares) if share]
    if any(not spent[number] for number in chosen):
        assert all(not spent[number] for number in chosen)
        assert sum(shares) == trials
    fresh = allotment(trials, seconds, [0] * len(seconds))
    assert sum(fresh) == trials
    assert fresh[0] == max(fresh)  # the heaviest
    assert allotment(trials, seconds, [trials] * len(seconds)) == [0] * len(seconds)


def test_no_kernel_needs_no_trial() -> None:
    assert allotment(64, [], []) == []


# -- devices, artifacts and tables


def test_only_kernels_for_this_computer_can_be_tuned() -> None:
    host = load_device("host")
    assert tunable(host).tuned("tvm")
    assert not host.tuned("tvm")
    for device, toolchain, words in (
        ("host", "ort", "name --toolchain tvm"), ("rpi4b", None, "rpi4b is not this computer"),
        ("rpi4b-qemu", "tvm", "target: native"), ("cortex-m4-qemu", None, "has no toolchain tvm"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            tunable(load_device(device), toolchain)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tuned": "yes"}, "true or false"), ({"tuned": True, "target": "cross"}, "this computer's processor alone")],
)
def test_a_tuned_option_that_cannot_be_is_an_error(
    options: dict[str, Any], words: str, network: ModelProto, tmp_path: Path
) -> None:
    host = load_device("host")
    device = host.model_copy(update={"options": {"tvm": options}})
    with pytest.raises(ConfigError, match=words):
        TvmToolchain().build(network, device, tmp_path)


def test_artifacts_and_tables_of_tuned_schedules_are_told_apart(
    network: ModelProto, kernels: list[Kernel], tmp_path: Path
) -> None:
    host = load_device("host")
    device = tunable(host)
    before, state = ArtifactCache(tmp_path).key(b"n", TvmToolchain(), device), database_state()
    events = list(tune_device([network], device, 1))
    assert isinstance(events[-1], Decided)
    assert database_state() != state
    assert ArtifactCache(tmp_path).key(b"n", TvmToolchain(), device) != before
    kernel = kernels[0]
    host_database(tuned.tuned_folder()).keep(replace(KNOWN, kernel=kernel.id, schedule={"tile": [9] * 9}))
    artifact = TvmToolchain().build(network, device, tmp_path / "tuned-build")
    plain = TvmToolchain().build(network, host, tmp_path / "plain-build")
    assert (artifact.schedule, plain.schedule) == (TUNED, SCHEDULE)
    assert TUNED != SCHEDULE
    assert artifact.options["tuned"] is True
    assert "was ignored" in " ".join(artifact.code)
    assert plain.code == ()
    for protocol in (None, "sustained-60s"):
        paths = {table_path(tmp_path, "host", Fidelity.HARDWARE, "tvm", protocol, tuned) for tuned in (True, False)}
        assert len(paths) == 2
