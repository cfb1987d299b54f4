"""A search that is killed without warning, again and again, ends as the one that was left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

KILLS = 20
SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small_search import Formula, Outside, accuracy_of, events_of
from hwnas.search.journal import trial_json
from hwnas.digest import canonical_json

def slow(candidates):
    for candidate in candidates:
        time.sleep(0.02)
        yield accuracy_of(candidate)

events = events_of(Outside(), Path(sys.argv[2]), strategy="evolution", accuracy=slow, seed=2, estimator=Formula(),
                   accuracy_queries=40, device_measurements=60)
next(events)
print("ready", flush=True)
*_, last = events
result = last.result
print(canonical_json({"trials": [trial_json(t) for t in result.trials], "front": [t.number for t in result.front]}))
"""


def started(journal: Path) -> subprocess.Popen[str]:
    """The search in a process of its own, from where its loop begins."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(journal)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_twenty_times_it_ends_the_same(tmp_path: Path) -> None:
    whole = started(tmp_path / "whole.jsonl")
    expected, _ = whole.communicate(timeout=60)
    assert whole.returncode == 0

    rng, journal, sizes = np.random.default_rng(0), tmp_path / "killed.jsonl", []
    for _ in range(KILLS):
        process = started(journal)
        try:
            process.communicate(timeout=float(rng.uniform(0.0, 0.2)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        sizes.append(journal.stat().st_size if journal.exists() else 0)
    assert sizes == sorted(sizes), "what was recorded stays recorded"
    assert len(set(sizes)) > 5, "the kills came too early or too late to mean anything"

    last = started(journal)
    found, _ = last.communicate(timeout=60)
    assert last.returncode == 0
    assert found == expected
    assert journal.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
