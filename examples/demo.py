"""make demo: a digit classifier that fits a latency and a flash budget, measured on this computer.

The same as `hwnas search examples/demo.yaml --out demo-out` and `hwnas verify demo-out/bundle`, and then the question
how good the search is, answered on networks that were all trained before (see regret.py).
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import regret

from hwnas.api import load_space
from hwnas.api.bundles import check_bundle
from hwnas.api.run import Run
from hwnas.api.settings import load_run
from hwnas.cli.main import guarded
from hwnas.cli.render import log, out
from hwnas.cli.search import follow, print_checks, print_outcome
from hwnas.core.interfaces import BatchSpace
from hwnas.report.record import Regret

FOLDER = Path("demo-out")


def main() -> None:
    start = time.monotonic()
    if (FOLDER / "record.json").exists():
        shutil.rmtree(FOLDER)  # a finished demo starts anew, an interrupted one goes on
    run = Run(load_run(Path(__file__).with_name("demo.yaml")), FOLDER)
    space = load_space(regret.SPACE)
    assert isinstance(space, BatchSpace)
    known = regret.read(regret.TABLE, space)
    replayed = regret.replay(known, space)
    rows = [
        Regret(strategy=r.strategy, mean_regret_points=r.mean, runs=len(r.points), queries=regret.SETTINGS.queries)
        for r in replayed
    ]
    record = follow(run, rows)
    print_outcome(record, FOLDER)
    log.print("\n[bold]the bundle, run again in a fresh process[/]")
    checks = check_bundle(FOLDER / "bundle")
    print_checks(checks, json=False)
    out.print()
    regret.report(known, replayed)
    out.print(f"\n{time.monotonic() - start:.0f} s in all. Open {FOLDER / 'report.html'}")
    if not all(c.kept for c in checks):
        sys.exit(1)


if __name__ == "__main__":
    guarded(main)
