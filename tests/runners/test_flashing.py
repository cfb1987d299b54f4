"""Commands of a lab file: filled in, run without a shell, ended by their deadline, and quoted when they fail."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from hwnas.errors import ConfigError, DeviceTimeout, DeviceUnavailable
from hwnas.runners.flashing import CommandFailed, fill, names_in, run_command


def test_placeholders_are_filled_in_and_nothing_else_is() -> None:
    template = ("pyocd", "flash", "-u", "{serial}", "{elf}", "--x={elf}", "{}", "{0}", "$HOME", "{serial.__class__}")
    values = {"elf": "/a b/{serial}.elf", "serial": "0672"}
    assert fill(template, values) == [
        "pyocd", "flash", "-u", "0672", "/a b/{serial}.elf", "--x=/a b/{serial}.elf", "{}", "{0}", "$HOME",
        "{serial.__class__}",
    ]  # fmt: skip
    assert names_in(template) == {"serial", "elf"}


def test_an_unknown_placeholder_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"\{efl\}: no such placeholder \(did you mean elf\?\)"):
        fill(("flash", "{efl}"), {"elf": "x", "serial": "y"})


def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    said = run_command([sys.executable, "-c", "import sys; print(sys.argv[1:])", "; touch x", "$(id)"], 20, "flashing")
    assert said.strip() == str(["; touch x", "$(id)"])


def test_a_missing_program_is_named() -> None:
    with pytest.raises(DeviceUnavailable, match="flashing b1: there is no program 'no-such-flasher'; install it"):
        run_command(["no-such-flasher"], 1, "flashing b1")


def test_the_output_of_a_command_that_fails_is_in_the_error() -> None:
    program = "import sys; print('x' * 5000); print('no probe connected', file=sys.stderr); sys.exit(3)"
    with pytest.raises(CommandFailed, match=r"(?s)ended with status 3.*no probe connected") as error:
        run_command([sys.executable, "-c", program], 20, "flashing b1")
    assert len(str(error.value)) < 2200
    with pytest.raises(CommandFailed, match="status 1 and said nothing"):
        run_command([sys.executable, "-c", "raise SystemExit(1)"], 20, "flashing b1")


def test_a_command_ends_at_its_deadline_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    program = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print('erasing', flush=True); time.sleep(60)\n"
    )
    began = time.monotonic()
    with pytest.raises(DeviceTimeout, match="flashing b1: no end within 0.5 s: erasing"):
        run_command([sys.executable, "-c", program], 0.5, "flashing b1")
    assert time.monotonic() - began < 2
    time.sleep(2)
    assert not alive.exists()
