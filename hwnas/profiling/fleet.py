"""Several boards at once: each lane in a thread of its own, what they yield in one stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import TypeAlias

from hwnas.core.measurement import Context
from hwnas.profiling.lane import Lane, Row
from hwnas.profiling.plan import Subject
from hwnas.tables.lines import Check

Item: TypeAlias = Context | Row | Check
Ask = Callable[[int], list[Subject]]
_Message: TypeAlias = "tuple[int, Item] | tuple[int, None] | tuple[int, BaseException]"


def side_by_side(lanes: Sequence[Lane], ask: Ask, stop: Callable[[], bool]) -> Iterator[tuple[int, Item]]:
    """Sessions of every lane until `ask(number of the lane)` has no subjects left, in the order they yield.

    `ask` and `stop` are called in the caller's thread where there is one lane, else under a lock; the caller takes an
    item before its lane goes on. One lane that fails ends all; its error is raised once the others have stopped.
    """
    if len(lanes) == 1:
        yield from ((0, item) for item in _sessions(lanes[0], lambda: ask(0), stop))
        return
    yield from _threads(lanes, ask, stop)


def _sessions(lane: Lane, ask: Callable[[], list[Subject]], stop: Callable[[], bool]) -> Iterator[Item]:
    subjects = ask()
    if subjects:
        lane.warm()
    while subjects:
        yield from lane.session(subjects, stop)
        subjects = ask()


def _threads(lanes: Sequence[Lane], ask: Ask, stop: Callable[[], bool]) -> Iterator[tuple[int, Item]]:
    messages: Queue[_Message] = Queue()
    taken = [threading.Semaphore(0) for _ in lanes]
    lock, ended = threading.Lock(), threading.Event()

    def asked(number: int) -> list[Subject]:
        with lock:
            return [] if ended.is_set() else ask(number)

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
                ended.set()
            elif item is None:
                running -= 1
            else:
                with lock:  # the caller's plan and table are changed only while no lane asks
                    yield number, item
                taken[number].release()
        if failed is not None:
            raise failed
    finally:
        ended.set()
        for semaphore in taken:
            semaphore.release()  # nobody takes what a lane still yields
        for thread in threads:
            thread.join()
