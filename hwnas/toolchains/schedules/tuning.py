"""Tuning on top of the rules: the heaviest kernels of networks get trials, and a faster schedule is kept for each.

Half of a kernel's trials go to other tiles under its own rule, the rest to MetaSchedule on the unscheduled kernel
(Shao et al. 2022, "Tensor program optimization with probabilistic programs"). What is kept was read in turn with the
rule's code and is faster by more than `LEAST_GAIN`. Nothing is tuned unless somebody asks for it.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hwnas.graph.workloads import is_channels_last
from hwnas.toolchains.schedules import timing
from hwnas.toolchains.schedules.isa import Isa, isa_of
from hwnas.toolchains.schedules.objects import pass_options, with_content_names, without_reshapes
from hwnas.toolchains.schedules.pipeline import calls_of, fused
from hwnas.toolchains.schedules.rules import scheduled
from hwnas.toolchains.schedules.traces import form_id, of_trace, tiles_near, trace_of, under
from hwnas.toolchains.schedules.tuned import Tuned, TunedSchedules, check_schedule

if TYPE_CHECKING:
    from onnx import ModelProto

SHARE = 0.8
"""The heaviest kernels that take this share of the time are worth trials."""
MOST_KERNELS = 32
LEAST_TRIALS = 16
"""Fewer trials than this find little: rather fewer kernels at a time."""
LEAST_GAIN = 0.03
BATCH = 8
"""Trials between two trainings of MetaSchedule's model of costs."""
POPULATION, GENERATIONS = 64, 3
WARM_UP = 16
"""Trials, over all kernels, before the model of costs is believed."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A distinct kernel: the id of its form, its unscheduled PrimFunc, `calls` over all networks, seconds of each."""

    id: str
    name: str
    function: Any
    calls: int
    each_s: float

    @property
    def total_s(self) -> float:
        return self.calls * self.each_s


@dataclass(frozen=True, slots=True)
class Planned:
    """Which kernels get trials, out of how many, and how much of the networks' time they take.

    `ignored` says which entries of the database could not be used.
    """

    trials: int
    kernels: tuple[str, ...]
    distinct: int
    share: float
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate was built and timed; seconds of a call, None where it does not run or computes something else."""

    name: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Decided:
    """A kernel is through: what the database now says of it, and after how many trials less than were planned."""

    tuned: Tuned
    unspent: int


Event = Planned | Tried | Decided


def tune(
    networks: Sequence[ModelProto],
    target: Any,
    trials: int,
    database: TunedSchedules,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Spend up to so many trials on the heaviest kernels of networks; each result is kept before its event.

    Kernels that the database knows get trials only once all have some, and only those that are new to them. When
    `stop` says so, the kernel under way is concluded with what was tried. The target is this computer's processor.
    """
    isa = isa_of(target)
    kernels = survey(networks, target, isa, seed)
    known = [database.find(kernel.id) for kernel in kernels]
    shares = allotment(trials, [k.total_s for k in kernels], [0 if t is None else t.trials for t in known])
    chosen = [(kernel, share) for kernel, share in zip(kernels, shares) if share]
    total_s = sum(kernel.total_s for kernel in kernels)
    yield Planned(
        sum(shares),
        tuple(kernel.name for kernel, _ in chosen),
        len(kernels),
        sum(kernel.total_s for kernel, _ in chosen) / total_s if total_s else 0.0,
        tuple(database.faults),
    )
    with _model_of_costs(seed) as costs:
        for number, (kernel, share) in enumerate(chosen):
            if stop():
                return
            before = known[kernels.index(kernel)]
            contest = Contest(kernel, target, isa, before, seed + number)
            for attempt in candidates(kernel, target, isa, share, contest, costs, seed + number):
                yield attempt
                if stop():
                    break
            tuned = contest.conclude()
            database.keep(tuned)
            yield Decided(tuned, share - contest.tried)


def survey(networks: Sequence[ModelProto], target: Any, isa: Isa, seed: int = 0) -> list[Kernel]:
    """The distinct kernels of networks with their time under the rules, the heaviest first."""
    calls: Counter[str] = Counter()
    functions: dict[str, tuple[str, Any]] = {}
    for network in networks:
        lowered = fused(network, isa, target, "NHWC" if is_channels_last(network) else "NCHW")
        module, names = with_content_names(without_reshapes(lowered.module))
        ids = {symbol: form_id(module[symbol]) for symbol in names}
        for symbol, count in calls_of(module).items():
            if symbol in ids:
                calls[ids[symbol]] += count
        functions.update({ids[symbol]: (name, module[symbol]) for symbol, name in names.items()})
    found = []
    for form, (name, function) in functions.items():
        rule = ruled(function, target, isa)
        given = timing.arguments(function, seed)
        each_s = timing.quick_seconds(rule, given)
        found.append(Kernel(form, name, function, calls[form], each_s))
    return sorted(found, key=lambda kernel: (-kernel.total_s, kernel.id))


def ruled(function: Any, target: Any, isa: Isa) -> timing.Compiled:
    """A kernel compiled as its rule has it, which is what tuning has to beat."""
    by_rule, _ = scheduled(function.with_attr("global_symbol", "main"), isa)
    return timing.compiled(by_rule, target, pass_options(target))


def allotment(trials: int, seconds: Sequence[float], spent: Sequence[int]) -> list[int]:
    """How many trials each kernel gets: in proportion to its time, the heaviest `SHARE` of it only.

    Kernels without trials come first, at most as many as get `LEAST_TRIALS` each; once there is none, every kernel
    gets what its proportion is more than was spent on it. `seconds` and `spent` are of n kernels, heaviest first.
    """
    shares, total, covered = [0] * len(seconds), sum(seconds), 0.0
    heavy = []
    for number, each in enumerate(seconds[:MOST_KERNELS]):
        if covered >= SHARE * total:
            break
        heavy.append(number)
        covered += each
    fresh = [number for number in heavy if not spent[number]]
    chosen = (fresh or heavy)[: max(1, trials // LEAST_TRIALS)]
    weight = sum(seconds[number] for number in chosen)
    if not weight:
        return shares
    exact = {number: trials * seconds[number] / weight for number in chosen}
    for number in chosen:
        shares[number] = int(exact[number])
    rest = sorted(chosen, key=lambda number: (shares[number] - exact[number], number))
    for number in rest[: trials - sum(shares)]:
        shares[number] += 1
    return [max(0, share - (0 if number in fresh else spent[number])) for number, share in enumerate(shares)]


class Contest:
    """One kernel's candidates against its rule's code: each is timed once, the best ones then in turn with the rule."""

    FINALISTS = 3

    def __init__(self, kernel: Kernel, target: Any, isa: Isa, before: Tuned | None, seed: int) -> None:
        self._kernel, self._target, self._seed, self._before = kernel, target, seed, before
        self._rule = ruled(kernel.function, target, isa)
        self._given = timing.arguments(kernel.function, seed)
        self._best: list[tuple[float, int, dict[str, Any], timing.Compiled]] = []
        self.tried = 0
        if before is not None and before.schedule is not None:
            self._enter(dict(before.schedule), lambda: under(kernel.function, before.schedule or {}, isa))

    def attempt(self, schedule: dict[str, Any], make: Callable[[], Any]) -> Tried:
        """Build and time a candidate; `make` gives its scheduled PrimFunc."""
        taken = self._enter(schedule, make)
        self.tried += taken is not None
        return Tried(self._kernel.name, taken)

    def _enter(self, schedule: dict[str, Any], make: Callable[[], Any]) -> float | None:
        try:
            check_schedule(schedule)
            made = timing.compiled(make(), self._target, pass_options(self._target))
            taken = timing.quick_seconds(made, self._given, self._kernel.each_s)
        except Exception:  # of many classes; a tile that does not fit is no news
            return None
        worst = self._best[-1][0] if len(self._best) == self.FINALISTS else float("inf")
        if taken < worst:
            if not timing.agree(self._rule, made, self._kernel.function, self._seed):
                return None
            self._best = sorted([*self._best, (taken, self.tried, schedule, made)], key=lambda one: one[:2])
            del self._best[self.FINALISTS :]
        return taken

    def conclude(self) -> Tuned:
        """The kernel's new entry: the fastest finalist, if it is faster than the rule's code read in turn with it."""
        trials = self.tried + (self._before.trials if self._before else 0)
        found = Tuned(self._kernel.id, self._kernel.name, max(1, trials), self._kernel.each_s)
        gain = LEAST_GAIN
        for _, _, schedule, made in self._best:
            rule_s, made_s = timing.in_turn(self._rule, made, self._given)
            if 1 - made_s / rule_s > gain:
                gain = 1 - made_s / rule_s
                found = Tuned(found.kernel, found.name, found.trials, rule_s, made_s, schedule)
        return found


def candidates(
    kernel: Kernel, target: Any, isa: Isa, trials: int, contest: Contest, costs: Any, seed: int
) -> Iterator[Tried]:
    """Try a kernel's candidates one by one: other tiles of its rule first, then what MetaSchedule proposes."""
    for tile in tiles_near(kernel.function):
        if contest.tried >= trials // 2:
            break
        schedule = {"tile": tile}
        tried = contest.attempt(schedule, lambda schedule=schedule: under(kernel.function, schedule, isa))  # type: ignore[misc]
        if tried.seconds is not None:  # a tile that does not fit took no time
            yield tried
    yield from proposals(kernel, target, isa, trials - contest.tried, contest, costs, seed)


def proposals(
    kernel: Kernel, target: Any, isa: Isa, trials: int, contest: Contest, costs: Any, seed: int
) -> Iterator[Tried]:
    """MetaSchedule's evolutionary search from the unscheduled kernel; none where its rules find no schedule.

    One thread searches: with several, the order in which they draw would decide the result.
    """
    from tvm.s_tir import meta_schedule as ms

    database = ms.database.MemoryDatabase()
    try:
        context = _context(kernel, target, seed)
        spaces = context.generate_design_space()
        context.pre_tuning(trials, BATCH, spaces, database, costs)
    except Exception:  # a kernel of a form that its rules do not know
        return
    workload = database.commit_workload(context.mod)
    left = trials
    try:
        while left > 0 and (batch := context.generate_measure_candidates()):
            results = []
            for candidate in list(batch)[:left]:
                tried = contest.attempt(
                    {"trace": trace_of(candidate.sch)},
                    lambda candidate=candidate: of_trace(candidate.sch, isa),  # type: ignore[misc]
                )
                left -= 1
                if tried.seconds is None:
                    results.append(ms.runner.RunnerResult(None, "does not run"))
                else:
                    results.append(ms.runner.RunnerResult([tried.seconds], None))
                    record = [candidate.sch.trace, workload, [tried.seconds], target, candidate.args_info]
                    database.commit_tuning_record(ms.database.TuningRecord(*record))
                yield tried
            context.notify_runner_results(batch, results)
            costs.update(context, batch, results)
    finally:
        context.post_tuning()


def _context(kernel: Kernel, target: Any, seed: int) -> Any:
    from tvm.s_tir import meta_schedule as ms

    quiet = logging.getLogger("hwnas.tuning")
    quiet.setLevel(logging.CRITICAL)
    # Layouts are the network's, weights are packed already: what would rewrite them is left out.
    after = [p for p in ms.postproc.Postproc.create("llvm") if type(p).__name__ != "RewriteLayout"]
    with _without_intrinsics():
        return ms.TuneContext(
            mod=kernel.function.with_attrs({"global_symbol": "main", "tirx.noalias": True}),
            target=target,
            space_generator=ms.space_generator.PostOrderApply(sch_rules="llvm", postprocs=after, mutator_probs="llvm"),
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=POPULATION, init_min_unmeasured=BATCH, genetic_num_iters=GENERATIONS
            ),
            task_name=kernel.name,
            rand_state=seed % (2**31 - 1) + 1,
            num_threads=1,
            logger=quiet,
        )


@contextmanager
def _without_intrinsics() -> Iterator[None]:
    """A TuneContext loads the tensor intrinsics of every processor, which takes many seconds; we use none of them."""
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _model_of_costs(seed: int) -> Iterator[Any]:
    """MetaSchedule's boosted trees, shared by all kernels; they draw from numpy's global state, which is put back."""
    import numpy as np
    from tvm.s_tir import meta_schedule as ms

    state = np.random.get_state()  # noqa: NPY002 (the state that XGBModel draws from)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield ms.cost_model.XGBModel(num_warmup_samples=WARM_UP, num_tuning_cores=1, verbose_eval=0)
    finally:
        np.random.set_state(state)  # noqa: NPY002
