"""Times on a machine that others use as well: interleaved in one process, compared as ratios.

Whatever disturbs one reading disturbs its neighbours of the other engines too; the smallest readings were hardly
disturbed at all. A lock file keeps two benches from timing at once.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import math
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np

READING_S = 4e-4
"""A reading lasts at least this long; a network that is faster runs several times in it."""

CALM = 1.06


@dataclass(frozen=True)
class Times:
    """Seconds of one run: the smallest reading and the readings of all rounds."""

    least_s: float
    rounds_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return median(self.rounds_s)


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int = 40,
    least_s: float = 1.0,
    most_s: float = 15.0,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, Times]:
    """Time each function in turn, `rounds` times over and until `least_s` have passed.

    While even the middle reading of one is well above its least, someone else uses the processor: it goes on, for at
    most `most_s`. The clock is that of this thread, which stands still while others have the processor; give
    `time.perf_counter` for runs of several threads.
    """
    often = {name: _repeats(run) for name, run in runs.items()}
    readings: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    for i in itertools.count():
        passed_s = time.perf_counter() - began
        if i >= rounds and passed_s > least_s and (passed_s > most_s or (i % rounds == 0 and _calm(readings))):
            break
        for name, run in runs.items():
            times = range(often[name])
            start = clock()
            for _ in times:
                run()
            readings[name].append((clock() - start) / len(times))
    return {name: Times(min(values), tuple(values)) for name, values in readings.items()}


def _calm(readings: Mapping[str, Sequence[float]]) -> bool:
    return all(median(values) < CALM * min(values) for values in readings.values())


def least_ratio(ours: Times, theirs: Times) -> float:
    """How the least disturbed readings compare."""
    return ours.least_s / theirs.least_s


def median_ratio(ours: Times, theirs: Times) -> float:
    """The median of the ratios of neighbouring readings."""
    return median(a / b for a, b in zip(ours.rounds_s, theirs.rounds_s))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(v) for v in values) / len(values))


@contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Hold a lock file while timing; without one, do nothing."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _repeats(run: Callable[[], object]) -> int:
    for _ in range(3):
        run()
    start = time.perf_counter()
    run()
    return max(1, math.ceil(READING_S / max(time.perf_counter() - start, 1e-7)))


_PEAK = r"""
#ifdef __AVX512F__
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float vector __attribute__((vector_size(LANES * 4)));
enum { CHAINS = 12 };
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define START(i) vector s##i = a * (float)i;
#define STEP(i) s##i = s##i * a + b; __asm__ volatile("" : "+v"(s##i));
#define ADD(i) + s##i[0]

double flops_per_round(void) { return 2.0 * LANES * CHAINS; }

float rounds(long count, float start)
{
    vector a = {0}, b = {0};

    a += start;
    b += start * 1e-3f;
    EACH(START)
    for (long n = 0; n < count; n++) {
        EACH(STEP)
    }
    return 0 EACH(ADD);
}
"""


@lru_cache(maxsize=1)
def peak_flops() -> float:
    """Floating-point operations per second of independent fused multiply-adds on one core, measured now."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "peak.c", Path(folder) / "peak.so"
        source.write_text(_PEAK)
        flags = ("-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-o", str(library))
        subprocess.run(("gcc", *flags, str(source)), check=True)
        code = ctypes.CDLL(str(library))
    code.flops_per_round.restype = ctypes.c_double
    code.rounds.restype, code.rounds.argtypes = ctypes.c_float, (ctypes.c_long, ctypes.c_float)
    count, took = 20_000, []
    for _ in range(100):
        start = time.perf_counter()
        code.rounds(count, 0.5)
        took.append(time.perf_counter() - start)
    return float(np.float64(code.flops_per_round()) * count / min(took))
