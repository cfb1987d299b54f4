"""Three emulated boards against one: the same space profiled, into the same table, in how much less time.

Paced boards take the time that a board of their clock would (virtual time does not run ahead of real time); the others
run as fast as this computer's cores let them, and share those with each other. What is compiled comes from the cache
(the first, uncounted pass fills it), so that boards are compared.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from hwnas import api
from hwnas.core.device import Device
from hwnas.tables.table import LatencyTable

DEVICE, BOARDS, PAIRS = "cortex-m7-qemu", 3, 3


def device(paced: bool) -> Device:
    """The device, its boards paced or not."""
    found = api.load_device(DEVICE)
    assert found.emulator is not None
    return found.model_copy(update={"emulator": found.emulator.model_copy(update={"paced": paced})})


def profiled(boards: int, folder: Path, *, paced: bool) -> tuple[float, dict[str, float]]:
    """Seconds, and subject -> instructions."""
    todo = api.plan_profile(
        device(paced),
        api.load_space("mbconv-micro"),
        tables=folder,
        precision="int8",
        boards=boards,
    )
    began = time.monotonic()
    for _ in todo.events():
        pass
    return time.monotonic() - began, LatencyTable.read(todo.table).values()


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    """Whether two tables hold the same subjects with the same counts, but for a tick."""
    return a.keys() == b.keys() and all(abs(b[k] - v) <= 40 for k, v in a.items())


def write_lab(folder: Path) -> Path:
    """A lab file that allows BOARDS emulated boards."""
    lab = folder / "lab.yaml"
    lab.write_text(f"schema: 1\nemulated: {{{DEVICE}: {BOARDS}}}\n")
    return lab


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        os.environ["HWNAS_LAB"] = str(write_lab(scratch))
        profiled(BOARDS, scratch / "first", paced=False)
        print(f"{'boards':>8} {'one board':>10} {f'{BOARDS} boards':>10} {'ratio':>6}  same table")
        for paced in (True, False):
            for pair in range(PAIRS):
                one, alone = profiled(1, scratch / f"one-{paced}-{pair}", paced=paced)
                three, together = profiled(BOARDS, scratch / f"three-{paced}-{pair}", paced=paced)
                kind = "paced" if paced else "unpaced"
                told = f"{same(alone, together)} ({len(alone)} subjects)"
                print(f"{kind:>8} {one:>8.1f} s {three:>8.1f} s {one / three:>6.2f}  {told}")


if __name__ == "__main__":
    main()
