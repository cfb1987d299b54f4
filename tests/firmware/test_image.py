"""Building images: sizes, linker scripts, what fits and what does not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hwnas import config
from hwnas.core.device import Device
from hwnas.errors import BuildError, ConfigError, DataError
from hwnas.firmware import image as images
from hwnas.firmware.image import (
    compile_network,
    compiler_flags,
    firmware_id,
    link_image,
    network_flags,
    write_binary,
)
from hwnas.firmware.linker import linker_script
from hwnas.firmware.sizes import object_bytes, sections

SMALL = Path(__file__).parent / "small_networks.c"
MICROCONTROLLERS = sorted(n for n in config.device_files() if config.load_device(n).mcu is not None)


@pytest.fixture(scope="module")
def m4() -> Device:
    return config.load_device("cortex-m4-qemu")


def test_the_emulated_and_the_real_boards_are_here() -> None:
    assert {"cortex-m3-qemu", "cortex-m4-qemu", "cortex-m7-qemu", "cortex-m55-qemu"} <= set(MICROCONTROLLERS)
    real = {n for n in MICROCONTROLLERS if config.load_device(n).emulator is None}
    assert real >= {"nucleo-f446re", "nrf52840-dk", "pico2"}
    assert all(config.load_device(n).fidelity == "hardware" for n in real)


@pytest.mark.parametrize("name", MICROCONTROLLERS)
@pytest.mark.parametrize("faults", [False, True])
def test_every_board_gets_an_image(name: str, faults: bool, tmp_path: Path) -> None:
    device = config.load_device(name)
    network = compile_network(SMALL, device, tmp_path)
    image = link_image(device, [(network, "net_bytes"), (network, "net_floats")], tmp_path / "image",
                       arena_bytes=1000, workspace_bytes=40, faults=faults)  # fmt: skip
    memory = image.memory
    assert memory["arena"] == 1008 and memory["workspace"] == 48 and memory["stack"] == 4096
    assert 0 <= memory["ram"] - memory["arena"] - memory["workspace"] - memory["stack"] - memory["firmware_ram"] <= 32
    assert memory["firmware_flash"] < memory["flash"] < memory["firmware_flash"] + 2000
    assert memory["firmware_flash"] <= 16 * 1024 and memory["firmware_ram"] <= 2560  # it must stay small
    by_name = {s.name: s for s in sections(image.elf)}
    flash, ram = device.memory("flash"), device.memory("ram")
    assert flash is not None and ram is not None
    assert by_name[".text"].address == flash.address
    assert by_name[".stack"].address == ram.address  # a stack that runs over leaves the RAM
    assert by_name[".arena"].address % 16 == by_name[".workspace"].address % 16 == 0
    assert len(write_binary(image).read_bytes()) == memory["flash"]


def test_an_image_without_networks_links(m4: Device, tmp_path: Path) -> None:
    image = link_image(m4, [], tmp_path, arena_bytes=0, workspace_bytes=0)
    assert image.memory["flash"] == image.memory["firmware_flash"]


def test_the_image_id_is_that_of_the_content(m4: Device, tmp_path: Path) -> None:
    network = compile_network(SMALL, m4, tmp_path)

    def linked(symbol: str = "net_bytes", arena: int = 128, faults: bool = False) -> bytes:
        return link_image(
            m4, [(network, symbol)], tmp_path / "i", arena_bytes=arena, workspace_bytes=40, faults=faults
        ).image_id

    first = linked()
    assert len(first) == 10
    assert first == linked()
    assert len({first, linked("net_floats"), linked(arena=256), linked(faults=True)}) == 4
    assert (
        images.link_image(m4, [(network, "net_bytes")], tmp_path / "i", arena_bytes=128, workspace_bytes=40).image_id
        == first
    )
    assert first in (tmp_path / "i" / "image.elf").read_bytes()


def test_too_much_ram_is_said_in_numbers(tmp_path: Path, m4: Device) -> None:
    network = compile_network(SMALL, m4, tmp_path)
    with pytest.raises(BuildError, match="does not fit cortex-m4-qemu: RAM needs") as caught:
        link_image(m4, [(network, "net_bytes")], tmp_path, arena_bytes=130_000, workspace_bytes=4096)
    found = re.search(r"RAM needs ([\d,]+) of 131,072 bytes \(([\d,]+) over\): arena 130,000, workspace 4,096, "
                      r"stack 4,096, firmware ([\d,]+)", caught.value.log)  # fmt: skip
    assert found, caught.value.log
    needed, over, firmware = (int(group.replace(",", "")) for group in found.groups())
    assert needed - over == 131_072
    assert 0 <= needed - (130_000 + 4096 + 4096 + firmware) <= 32
    assert caught.value.stage == "link" and "flash" not in caught.value.log
    fits = link_image(m4, [(network, "net_bytes")], tmp_path, arena_bytes=130_000 - over - 16, workspace_bytes=4096)
    assert fits.memory["ram"] <= 131_072


def test_too_much_flash_is_said_in_numbers(tmp_path: Path, m4: Device) -> None:
    source = tmp_path / "large.c"
    source.write_text('#include "hwnas_network.h"\nconst uint8_t weights[600000] = {1};\n'
                      "static int32_t run(uint8_t *a, uint8_t *w) { (void)w; a[0] = ((const volatile uint8_t *)weights)[a[0]]; return 0; }\n"
                      'static const hwnas_kernel kernels[] = {{"k", run}};\n'
                      'const hwnas_network large = {"large", 16, 0, 0, 0, 1, 0, 0, kernels};\n')  # fmt: skip
    network = compile_network(source, m4, tmp_path)
    assert object_bytes(network)["constants"] >= 600_000
    with pytest.raises(
        BuildError, match=r"flash needs 6\d\d,\d{3} of 524,288 bytes \([\d,]+ over\): networks 600,\d{3}, firmware"
    ) as caught:
        link_image(m4, [(network, "large")], tmp_path, arena_bytes=130_000, workspace_bytes=4096)
    assert "RAM needs" in caught.value.log  # both at once


def test_sizes_of_an_object(tmp_path: Path, m4: Device) -> None:
    source = tmp_path / "sizes.c"
    source.write_text(
        "const int table[100] = {1};\nint counts[50] = {2};\nint zeros[25];\nint f(int x) { return table[x] + 1; }\n"
    )
    used = object_bytes(compile_network(source, m4, tmp_path))
    assert used["constants"] == 400 and used["data"] == 200 and used["zeroed"] == 100
    assert 4 <= used["code"] <= 32


def test_an_object_of_64_bits_is_sized_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "x.c").write_text(
        "const int table[100] = {1};\nint counts[50] = {2};\nint zeros[25];\nint f(int x) { return table[x] + 1; }\n"
    )
    command = ["gcc", "-Os", "-g", "-fno-asynchronous-unwind-tables", "-c", "x.c", "-o", "x.o"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    used = object_bytes(tmp_path / "x.o")
    assert used["data"] == 200 and used["zeroed"] == 100
    assert 400 <= used["constants"] <= 464, "a note of the compiler's at most beside the table"
    assert 4 <= used["code"] <= 32


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(80), b"no ELF at all" * 20])
def test_what_is_no_elf_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.o: is not"):
        object_bytes(path)


def test_a_truncated_elf_file_is_named(tmp_path: Path, m4: Device) -> None:
    whole = compile_network(SMALL, m4, tmp_path).read_bytes()
    (tmp_path / "x.o").write_bytes(whole[:-20])
    with pytest.raises(DataError, match="truncated"):
        sections(tmp_path / "x.o")
    with pytest.raises(DataError, match="cannot be read"):
        sections(tmp_path / "missing.o")


def test_flags_come_from_the_device() -> None:
    m3, m7, m55 = (config.load_device(f"cortex-{core}-qemu") for core in ("m3", "m7", "m55"))
    assert {"-mcpu=cortex-m3", "-mfloat-abi=soft", "-DHWNAS_CLOCK_HZ=25000000u"} < set(compiler_flags(m3))
    assert {"-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-O3", "-ffp-contract=off"} < set(
        network_flags(m7)
    )
    assert "-mfpu=auto" in network_flags(m55)
    assert "-DHWNAS_FAULTS" in compiler_flags(m3, faults=True) and "-DHWNAS_FAULTS" not in compiler_flags(m3)


def test_the_linker_script_has_the_devices_memories() -> None:
    script = linker_script(config.load_device("nucleo-f446re"))
    assert re.search(r"FLASH \(rx\)\s+: ORIGIN = 0x08000000, LENGTH = 524288", script)
    assert re.search(r"RAM\s+\(rwx\)\s+: ORIGIN = 0x20000000, LENGTH = 131072", script)


@pytest.mark.parametrize("use", [linker_script, compiler_flags, network_flags])
def test_a_computer_gets_no_image(use: object) -> None:
    with pytest.raises(ConfigError, match="host is not a microcontroller"):
        use(config.load_device("host"))  # type: ignore[operator]


def test_the_compilers_log_is_the_error(tmp_path: Path, m4: Device) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int f(void) { return nonsense; }\n")
    with pytest.raises(BuildError, match="'nonsense' undeclared") as caught:
        compile_network(source, m4, tmp_path)
    assert caught.value.stage == "compile"


def test_a_missing_compiler_is_named_with_its_package(
    tmp_path: Path, m4: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="arm-none-eabi-gcc is not installed: apt-get install gcc-arm-none-eabi"):
        compile_network(SMALL, m4, tmp_path)


def test_what_cannot_be_linked_is_named(tmp_path: Path, m4: Device) -> None:
    network = compile_network(SMALL, m4, tmp_path)
    with pytest.raises(BuildError, match="undefined reference to `net_nowhere'"):
        link_image(m4, [(network, "net_nowhere")], tmp_path, arena_bytes=16, workspace_bytes=0)
    with pytest.raises(BuildError, match="'x; }' is not the name of a C object"):
        link_image(m4, [(network, "x; }")], tmp_path, arena_bytes=16, workspace_bytes=0)
    with pytest.raises(BuildError, match=r"none\.o cannot be read"):
        link_image(m4, [(tmp_path / "none.o", "net_bytes")], tmp_path, arena_bytes=16, workspace_bytes=0)


def test_the_firmware_is_compiled_once(tmp_path: Path, m4: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    link_image(m4, [], tmp_path / "a", arena_bytes=16, workspace_bytes=0)
    (cached,) = (tmp_path / "cache" / "firmware").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in cached.iterdir()}
    assert "frame.o" in before
    link_image(m4, [], tmp_path / "b", arena_bytes=16, workspace_bytes=0)
    assert {path.name: path.stat().st_mtime_ns for path in cached.iterdir()} == before
    assert list(cached.parent.iterdir()) == [cached]


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, m4: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="cannot be made .*; name another folder in HWNAS_CACHE"):
        link_image(m4, [], tmp_path / "a", arena_bytes=16, workspace_bytes=0)


def test_an_incomplete_cache_is_made_anew(tmp_path: Path, m4: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "cache" / "firmware" / firmware_id(m4)
    broken.mkdir(parents=True)
    (broken / "frame.o").write_text("nonsense")
    assert link_image(m4, [], tmp_path / "a", arena_bytes=16, workspace_bytes=0).memory["firmware_ram"] > 0


def test_the_firmware_id_is_that_of_sources_and_flags(m4: Device) -> None:
    m3 = config.load_device("cortex-m3-qemu")
    assert len({firmware_id(m4), firmware_id(m4, faults=True), firmware_id(m3)}) == 3
    assert firmware_id(m4) == firmware_id(m4)


def test_a_device_that_cannot_hold_the_firmware_is_named(
    tmp_path: Path, m4: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_CACHE", str(tmp_path / "cache"))
    small = tuple(m.model_copy(update={"size": 4096.0}) if m.use == "flash" else m for m in m4.memories)
    with pytest.raises(BuildError, match=r"cannot even hold the firmware: it exceeds flash by [\d,]+ bytes"):
        link_image(m4.model_copy(update={"memories": small}), [], tmp_path, arena_bytes=16, workspace_bytes=0)
