"""Children: a crash, a hang and an exception are answers; none outlives its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwnas.processes import Child, ChildCrashed, ChildError, ChildTimeout

MODULE = """
import ctypes, os, time
from hwnas.processes import serve

def answer(request):
    match request["do"]:
        case "echo": return {"got": request["value"], "pid": os.getpid()}
        case "raise": raise ValueError("no such thing")
        case "hang": ctypes.PyDLL(None).sleep(60)  # native code that holds the interpreter's lock
        case "crash": ctypes.string_at(0)
        case "exit": os._exit(7)
        case "print": print("noise " * 1000); return {"got": "quiet"}

if __name__ == "__main__":
    serve(answer)
"""


@pytest.fixture
def child(tmp_path: Path) -> Child:
    (tmp_path / "echo_child.py").write_text(MODULE)
    child = Child("echo_child", {"PYTHONPATH": str(tmp_path)})
    yield child
    child.close()


def test_it_answers(child: Child) -> None:
    assert child.request({"do": "echo", "value": [1, "ä"]}, 30)["got"] == [1, "ä"]
    assert child.request({"do": "print"}, 30) == {"got": "quiet"}


def test_an_exception_is_an_answer_and_the_process_stays(child: Child) -> None:
    pid = child.request({"do": "echo", "value": 0}, 30)["pid"]
    with pytest.raises(ChildError, match="no such thing") as caught:
        child.request({"do": "raise"}, 30)
    assert caught.value.kind == "ValueError"
    assert child.request({"do": "echo", "value": 0}, 30)["pid"] == pid


@pytest.mark.parametrize(("what", "message"), [("crash", "SIGSEGV"), ("exit", "status 7")])
def test_a_crash_is_named_and_the_next_request_starts_anew(child: Child, what: str, message: str) -> None:
    with pytest.raises(ChildCrashed, match=message):
        child.request({"do": what}, 30)
    assert child.request({"do": "echo", "value": 1}, 30)["got"] == 1


def test_a_hang_ends_at_the_deadline(child: Child) -> None:
    child.request({"do": "echo", "value": 0}, 30)
    start = time.monotonic()
    with pytest.raises(ChildTimeout, match=r"within 0\.3 s"):
        child.request({"do": "hang"}, 0.3)
    assert time.monotonic() - start < 5
    assert child.request({"do": "echo", "value": 2}, 30)["got"] == 2


PARENT = """
import sys
from hwnas.processes import Child
child = Child("echo_child")
print(child.request({"do": "echo", "value": 0}, 30)["pid"], flush=True)
child.request({"do": "hang"}, 60)
"""


def test_a_hung_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "echo_child.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
