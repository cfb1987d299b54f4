"""The firmware's core, built for this computer with sanitizers: unit tests in C, shared vectors, and a seeded fuzz."""

from __future__ import annotations

import json
import random
import subprocess
import zlib
from pathlib import Path

import pytest

from hwnas.config import data_folder
from hwnas.firmware.frames import Frame, encode

FIRMWARE = data_folder("firmware")
OF_THE_BOARD = {"serial.c", "main.c"}  # the fake board stands in for these
CORE = sorted(path for path in (FIRMWARE / "core").glob("*.c") if path.name not in OF_THE_BOARD)
FAKE = [FIRMWARE / "tests" / "fake_port.c", FIRMWARE / "tests" / "fake_image.c"]
FLAGS = ["-std=gnu11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wall", "-Wextra",
         "-Werror", "-Wshadow", *(f"-I{FIRMWARE / name}" for name in ("core", "include", "tests"))]  # fmt: skip


def built(name: str, into: Path, *more: str, sources: list[Path] | None = None) -> Path:
    """A test program, with the core and the fake board unless other sources are named."""
    program = into / name
    used = [*CORE, *FAKE] if sources is None else sources
    command = ["gcc", *FLAGS, *more, *map(str, used), str(FIRMWARE / "tests" / f"{name}.c"), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def frame_filter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = [FIRMWARE / "core" / name for name in ("frame.c", "crc32.c")]
    return built("frame_filter", tmp_path_factory.mktemp("c"), sources=sources)


def filtered(program: Path, lines: list[str]) -> list[str]:
    done = subprocess.run([program], input="\n".join(lines) + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("name", "faults"), [("test_requests", False), ("test_requests", True), ("test_text", False)])
def test_unit_tests_in_c(name: str, faults: bool, tmp_path: Path) -> None:
    done = subprocess.run([built(name, tmp_path, *(["-DHWNAS_FAULTS"] * faults))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name.removeprefix('test_')} ok\n"


def test_decoder_and_dispatcher_survive_hostile_bytes(tmp_path: Path) -> None:
    program = built("fuzz", tmp_path)
    for seed in range(20):
        done = subprocess.run([program, str(seed), "1000000"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"seed {seed}: {done.stderr}"
        taken, answered = (int(word) for word in done.stdout.split() if word.isdigit())
        assert taken >= 1_000_000 and answered > 1000  # it does get past the CRC


def test_crc_is_that_of_zlib(frame_filter: Path) -> None:
    rng = random.Random(0)
    pieces = [rng.randbytes(n) for n in (0, 1, 2, 5, 240, 5000)]
    assert filtered(frame_filter, [f"c {p.hex()}" for p in pieces]) == [f"{zlib.crc32(p):08x}" for p in pieces]


def test_frames_are_those_of_python(frame_filter: Path) -> None:
    rng = random.Random(1)
    frames = [Frame(rng.randrange(256), rng.randrange(256), bytes(rng.choice((0, 0, 1, 255)) for _ in range(n)))
              for n in range(241)]  # fmt: skip
    encoded = filtered(frame_filter, [f"e {bytes([f.seq, f.op]).hex()}{f.body.hex()}" for f in frames])
    assert encoded == [encode(f).hex() for f in frames]
    decoded = filtered(frame_filter, [f"d {line}" for line in encoded])
    assert decoded == [f"{bytes([f.seq, f.op]).hex()}{f.body.hex()} " for f in frames]


def test_shared_vectors(frame_filter: Path) -> None:
    vectors = json.loads((FIRMWARE / "vectors.json").read_text())

    def content(frame: dict[str, object]) -> str:
        return f"{frame['seq']:02x}{frame['op']:02x}{frame['body']}"

    frames = vectors["frames"]
    assert len(frames) >= 10
    assert filtered(frame_filter, [f"e {content(f)}" for f in frames]) == [f["frame"] for f in frames]
    assert filtered(frame_filter, [f"d {f['frame']}" for f in frames]) == [f"{content(f)} " for f in frames]
    corrupt = vectors["corrupt"]
    assert len(corrupt) >= 5
    assert filtered(frame_filter, [f"d 00{c['bytes']}00" for c in corrupt]) == [""] * len(corrupt)
    by_name = {f["name"]: content(f) for f in frames}
    for stream in vectors["streams"]:
        expected = "".join(f"{by_name[name]} " for name in stream["frames"])
        assert filtered(frame_filter, [f"d {stream['bytes']}"]) == [expected], stream["name"]
