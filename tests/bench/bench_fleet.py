"""Three emulated boards against one: the same space profiled, with the same table, in how much less time.

What is compiled comes from the cache both times (the first, uncounted pass fills it), so that boards are compared.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from hwnas import api
from hwnas.tables.table import LatencyTable

DEVICE, BOARDS, PAIRS = "cortex-m7-qemu", 3, 3


def profiled(boards: int, folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds, and subject -> instructions."""
    todo = api.plan_profile(
        api.load_device(DEVICE), api.load_space("mbconv-micro"), tables=folder, precision="int8", boards=boards
    )
    began = time.monotonic()
    for _ in todo.events():
        pass
    return time.monotonic() - began, LatencyTable.read(todo.table).values()


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        lab = Path(scratch) / "lab.yaml"
        lab.write_text(f"schema: 1\nemulated: {{{DEVICE}: {BOARDS}}}\n")
        os.environ["HWNAS_LAB"] = str(lab)
        profiled(BOARDS, Path(scratch) / "first")
        print(f"{'pair':>4} {'one board':>10} {f'{BOARDS} boards':>10} {'ratio':>6}  same table")
        for pair in range(PAIRS):
            one, alone = profiled(1, Path(scratch) / f"one-{pair}")
            three, together = profiled(BOARDS, Path(scratch) / f"three-{pair}")
            same = alone.keys() == together.keys() and all(
                abs(together[k] / v - 1) <= 1e-3 for k, v in alone.items()
            )
            print(f"{pair + 1:>4} {one:>8.1f} s {three:>8.1f} s {one / three:>6.2f}  {same} ({len(alone)} subjects)")


if __name__ == "__main__":
    main()
