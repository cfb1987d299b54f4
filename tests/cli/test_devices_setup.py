"""`hwnas devices setup`: what it shows, what it does over ssh, and what it says when it cannot."""

from __future__ import annotations

import io
import os
import shlex
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from hwnas.config import load_device
from hwnas.errors import EXIT_BUILD, EXIT_DEVICE, EXIT_USAGE, ConfigError
from hwnas.runners.board_setup import BoardSetup
from hwnas.runners.rootfs import AGENT_PARENT
from tests.cli.conftest import Cli

SSH = """#!/bin/sh
# Writes down what it was asked, and answers as a board would.
n=$(ls {folder} | grep -c command)
for word in "$@"; do last=$word; done
printf '%s\\n' "$@" > {folder}/arguments
printf '%s' "$last" > {folder}/command-$n
cat > {folder}/input-$n
{answer}
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that notes what ssh got; `answer` of `fake_ssh` is what it then does."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    fake_ssh(tmp_path, "exit 0")
    return tmp_path


def fake_ssh(folder: Path, answer: str) -> None:
    path = folder / "bin" / "ssh"
    path.write_text(SSH.format(folder=folder / "notes", answer=answer))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_dry_run_shows_everything_and_touches_nothing(cli: Cli, ssh: Path) -> None:
    ran = cli("devices", "setup", "rpi4b", "--ssh", "pi@board", "--dry-run", "--port", "9123")
    assert ran.code == 0
    assert not list((ssh / "notes").iterdir())
    for part in ("apache-tvm==0.27.0.post1", "apache-tvm-ffi==0.1.14.post1", "systemctl --user", "--bind 127.0.0.1",
                 "--port 9123", "--key rpi4b", "ssh -N", "-R 127.0.0.1:9190:127.0.0.1:9190",
                 "-L 127.0.0.1:9123:127.0.0.1:9123", "rpc: [{device: rpi4b"):  # fmt: skip
        assert part in ran.out, part
    assert "0.0.0.0" not in ran.out
    for line in ran.out.splitlines():
        if line.startswith("ssh -o"):
            *_, command = shlex.split(line)
            assert subprocess.run(["sh", "-n", "-c", command]).returncode == 0


def test_it_sets_a_board_up(cli: Cli, ssh: Path) -> None:
    ran = cli("devices", "setup", "rpi5", "--ssh", "pi@board", "--yes")
    assert ran.code == 0, ran.err
    commands = sorted((ssh / "notes").glob("command-*"))
    assert len(commands) == 6
    arguments = (ssh / "notes" / "arguments").read_text().splitlines()
    assert "BatchMode=yes" in arguments
    assert "pi@board" in arguments
    with tarfile.open(ssh / "notes" / "input-2") as archive:
        assert {m.name for m in archive} == {f"agent/{p.name}" for p in (AGENT_PARENT / "agent").glob("*.py")}
    unit = (ssh / "notes" / "input-4").read_text()
    assert "--bind 127.0.0.1 --port 9091 --tracker 127.0.0.1:9190 --key rpi5" in unit
    assert "ssh -N" in ran.out


def test_what_is_copied_is_an_agent_that_starts(cli: Cli, ssh: Path, tmp_path: Path) -> None:
    """The copy step and the check step, run by a shell as the board would run them."""
    cli("devices", "setup", "rpi5", "--ssh", "pi@board", "--yes")
    home = tmp_path / "home"
    (home / ".local" / "share" / "hwnas" / "venv" / "bin").mkdir(parents=True)
    (home / ".local" / "share" / "hwnas" / "venv" / "bin" / "python").symlink_to(sys.executable)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "VIRTUAL_ENV": sys.prefix,
                   "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    for step in (2, 3):
        command = (ssh / "notes" / f"command-{step}").read_text().replace("PYTHONPATH=", "PYTHONPATH=$PYTHONPATH:")
        given = (ssh / "notes" / f"input-{step}").read_bytes()
        done = subprocess.run(["sh", "-c", command], input=given, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"agent ")


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        ("echo 'Permission denied (publickey).' >&2; exit 255", EXIT_DEVICE, "reached without a password: Permission.*ssh-copy-id"),
        ("echo 'no module named venv' >&2; exit 1", EXIT_BUILD, "look at the board: on pi@board, status 1: no module"),
    ],
)  # fmt: skip
def test_a_board_that_cannot_be_set_up_says_why(cli: Cli, ssh: Path, answer: str, code: int, message: str) -> None:
    fake_ssh(ssh, answer)
    ran = cli("devices", "setup", "rpi4b", "--ssh", "pi@board", "--yes")
    assert ran.code == code
    import re

    assert re.search(message, ran.err), ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("host",), "runner 'local' needs no set-up"),
        (("rpi4b",), "say which board, such as --ssh pi@raspberrypi"),
        (("rpi4b", "--ssh", "-oProxyCommand=evil", "--yes"), "is not an ssh address"),
        (("rpi4b", "--ssh", "pi@board; rm -rf /", "--yes"), "is not an ssh address"),
        (("rpi4b-qemu", "--ssh", "pi@board"), "is not a board that is reached over ssh"),
        (("rpi4c",), "did you mean rpi4b"),
    ],
)
def test_wrong_words_are_answered(cli: Cli, ssh: Path, words: tuple[str, ...], message: str) -> None:
    ran = cli("devices", "setup", *words)
    assert ran.code == EXIT_USAGE
    assert message in ran.err
    assert not list((ssh / "notes").iterdir())


@pytest.mark.parametrize("said", ["n\n", ""])
def test_nothing_is_done_without_a_yes(cli: Cli, ssh: Path, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    ran = cli("devices", "setup", "rpi4b", "--ssh", "pi@board")
    assert ran.code == 1
    assert not list((ssh / "notes").iterdir())


def test_the_emulated_board_shows_commands_and_sizes(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    ran = cli("devices", "setup", "rpi4b-qemu", "--dry-run")
    assert ran.code == 0
    for part in (str(tmp_path), "debootstrap --arch=arm64 --foreign", "pip download", "gcc -std=c11", "MB"):
        assert part in ran.out
    assert not (tmp_path / "cache").exists()


def test_an_address_with_a_port_of_its_own_is_for_the_ssh_configuration() -> None:
    with pytest.raises(ConfigError, match="is not an ssh address"):
        BoardSetup(load_device("rpi4b"), "ssh://pi@board/")
