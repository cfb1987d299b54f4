"""Several boards at once: each lane in a thread of its own, what they yield in one stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import TypeAlias

from hwnas.core.measurement import Context
from hwnas.errors import DeviceError
from hwnas.profiling.lane import Lane, Row
from hwnas.profiling.plan import Subject
from hwnas.tables.lines import Check

Item: TypeAlias = Context | Row | Check
Ask = Callable[[int], list[Subject]]
WAIT_S = 0.1
_Message: TypeAlias = "tuple[int, Item] | tuple[int, None] | tuple[int, BaseException]"


def side_by_side(
    lanes: Sequence[Lane],
    ask: Ask,
    stop: Callable[[], bool],
    lost: Callable[[int, DeviceError], None],
    left: Callable[[], int],
) -> Iterator[tuple[int, Item]]:
    """Sessions of every lane until `ask(number of the lane)` has no subjects left, in the order they yield.

    `ask` and `stop` are called in the caller's thread where there is one lane, else under a lock; the caller takes an
    item before its lane goes on. A board that is lost (a DeviceError) ends its lane: the rest of its session is given
    back to the others, and its error is raised in the end if none could take it. Any other error ends all lanes.
    """
    if len(lanes) == 1:
        yield from ((0, item) for item in _sessions(lanes[0], lambda: ask(0), stop))
        return
    yield from _threads(lanes, ask, stop, lost, left)


def _sessions(lane: Lane, ask: Callable[[], list[Subject]], stop: Callable[[], bool]) -> Iterator[Item]:
    subjects = ask()
    if subjects:
        lane.warm()
    while subjects:
        yield from lane.session(subjects, stop)
        subjects = ask()


def _threads(
    lanes: Sequence[Lane],
    ask: Ask,
    stop: Callable[[], bool],
    lost: Callable[[int, DeviceError], None],
    left: Callable[[], int],
) -> Iterator[tuple[int, Item]]:
    messages: Queue[_Message] = Queue()
    taken = [threading.Semaphore(0) for _ in lanes]
    lock, ended = threading.Condition(), threading.Event()
    busy: set[int] = set()

    def asked(number: int) -> list[Subject]:
        """The next session of a lane; one without work waits while others may still give theirs back."""
        with lock:
            busy.discard(number)
            while not ended.is_set():
                if subjects := ask(number):
                    busy.add(number)
                    return subjects
                if not busy or stop():
                    break
                lock.wait(WAIT_S)
            return []

    def stopped() -> bool:
        with lock:
            return ended.is_set() or stop()

    def work(number: int, lane: Lane) -> None:
        try:
            for item in _sessions(lane, lambda: asked(number), stopped):
                messages.put((number, item))
                if not ended.is_set():
                    taken[number].acquire()
            messages.put((number, None))
        except BaseException as error:
            messages.put((number, error))

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(lanes)]
    for thread in threads:
        thread.start()
    running, failed = len(threads), None
    try:
        while running:
            number, item = messages.get()
            if isinstance(item, BaseException):
                running, failed = running - 1, failed or item
                if isinstance(item, DeviceError):
                    with lock:
                        busy.discard(number)
                        lost(number, item)
                else:
                    ended.set()
            elif item is None:
                running -= 1
            else:
                with lock:  # the caller's plan and table are changed only while no lane asks
                    yield number, item
                taken[number].release()
        if failed is not None and (not isinstance(failed, DeviceError) or left()):
            raise failed
    finally:
        ended.set()
        for semaphore in taken:
            semaphore.release()  # nobody takes what a lane still yields
        for thread in threads:
            thread.join()
