"""Links: every kind of line that a lab file can name, opened exclusively, with deadlines and named errors."""

from __future__ import annotations

import os
import pty
import socket
import time
import tty
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import serial.tools.list_ports

from hwnas.errors import ConfigError, DeviceUnavailable
from hwnas.runners.links import LinkLost, SerialLink, find_serial


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    for end in (master, slave):
        try:
            os.close(end)
        except OSError:
            pass


def test_bytes_go_both_ways_through_a_terminal(terminal: tuple[int, str]) -> None:
    master, path = terminal
    link = SerialLink(path, 115_200)
    assert link.byte_s == pytest.approx(10 / 115_200)
    every = bytes(range(256))
    link.send(every)
    assert os.read(master, 1000) == every
    os.write(master, every)
    received = b""
    while len(received) < 256:
        received += link.receive(1.0)
    assert received == every
    link.close()


def test_a_wait_ends_at_its_deadline(terminal: tuple[int, str]) -> None:
    link = SerialLink(terminal[1], 115_200)
    began = time.monotonic()
    assert link.receive(0.1) == b""
    assert 0.09 < time.monotonic() - began < 1.0
    assert link.receive(-1.0) == b""
    link.close()


def test_a_port_is_opened_by_one_program_alone(terminal: tuple[int, str]) -> None:
    link = SerialLink(terminal[1], 115_200)
    with pytest.raises(DeviceUnavailable, match=r"cannot be opened: .*is another program using it\?"):
        SerialLink(terminal[1], 115_200)
    link.close()
    SerialLink(terminal[1], 115_200).close()


def test_a_port_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceUnavailable, match="/dev/serial/by-id/usb-nobody cannot be opened"):
        SerialLink("/dev/serial/by-id/usb-nobody", 115_200)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DeviceUnavailable, match=f"socket://127.0.0.1:{port} cannot be opened"):
        SerialLink(f"socket://127.0.0.1:{port}", 115_200)


def test_a_line_that_goes_away_is_lost(terminal: tuple[int, str]) -> None:
    master, path = terminal
    link = SerialLink(path, 115_200)
    os.close(master)
    with pytest.raises(LinkLost, match="is gone"):
        link.receive(1.0)
    with pytest.raises(LinkLost, match="is gone"):
        link.send(b"x")
    link.close()


def test_a_socket_that_is_closed_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = SerialLink(f"socket://127.0.0.1:{server.getsockname()[1]}", 115_200)
        other, _ = server.accept()
        link.send(b"ping")
        assert other.recv(10) == b"ping"
        other.sendall(b"pong")
        assert link.receive(1.0) == b"pong"
        other.close()
        with pytest.raises(LinkLost, match="the other end closed it"):
            link.receive(1.0)
        link.close()


def test_a_terminal_and_a_socket_have_no_modem_lines(terminal: tuple[int, str]) -> None:
    link = SerialLink(terminal[1], 115_200)
    assert not link.pulse_reset()
    link.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = SerialLink(f"socket://127.0.0.1:{server.getsockname()[1]}", 115_200)
        assert not link.pulse_reset()
        link.close()


def test_modem_lines_are_pulsed(terminal: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    link = SerialLink(terminal[1], 115_200)
    seen: list[tuple[str, bool]] = []
    kind = type(link._port)
    monkeypatch.setattr(kind, "dtr", property(lambda self: True, lambda self, level: seen.append(("dtr", level))))
    monkeypatch.setattr(kind, "rts", property(lambda self: True, lambda self, level: seen.append(("rts", level))))
    assert link.pulse_reset()
    assert seen == [("dtr", False), ("rts", True), ("rts", False), ("dtr", True)]
    link.close()


def test_a_board_is_found_by_its_usb_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [
        SimpleNamespace(serial_number="0672FF", device="/dev/ttyACM3"),
        SimpleNamespace(serial_number=None, device="/dev/ttyS0"),
    ]
    monkeypatch.setattr(serial.tools.list_ports, "comports", lambda: ports)
    assert find_serial("usb:0672FF") == "/dev/ttyACM3"
    with pytest.raises(
        DeviceUnavailable, match=r"no USB serial port has the number '9' \(there are: 0672FF at /dev/tty"
    ):
        find_serial("usb:9")
    ports.clear()
    with pytest.raises(DeviceUnavailable, match=r"\(there are: none\)"):
        find_serial("usb:9")


def test_lines_are_named_in_three_ways() -> None:
    for where in ("/dev/serial/by-id/usb-x", "socket://127.0.0.1:4000", "socket://lab-pc.local:1"):
        assert find_serial(where) == where
    for wrong in ("ttyACM0", "COM3", "rfc2217://lab:4000", "loop://", "spy:///dev/ttyS0"):
        with pytest.raises(ConfigError, match="must be a device path, usb:SERIALNUMBER or socket://host:port"):
            find_serial(wrong)
    for wrong in ("socket://", "socket://lab", "socket://lab:port", "socket://lab:1/?logging=debug"):
        with pytest.raises(ConfigError, match="write socket://host:port"):
            find_serial(wrong)
