"""`hwnas profile --tune`: progress of the tuning, what it found, and Ctrl-C that keeps it."""

from __future__ import annotations

import json as jsonlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

from rich.markup import escape

from hwnas.api.pieces import Profile
from hwnas.api.tuning import tune
from hwnas.cli.render import log, progress
from hwnas.toolchains.schedules.tuning import Decided, Event, Planned, Tried
from hwnas.units import show


def tune_first(todo: Profile, trials: int, json: bool) -> None:
    """Tune a profile's networks and say what came of it. Raises KeyboardInterrupt once what was found is kept."""
    found: list[Decided] = []
    with interruptible() as interrupted, progress("trials") as bar:
        task = bar.add_task(f"{todo.device.name} / tuning", total=trials)
        for event in tune(todo, trials, interrupted):
            if json:
                print(jsonlib.dumps(tuning_json(event)), flush=True)
            match event:
                case Planned():
                    bar.update(task, total=event.trials)
                    log.print(planned(event))
                    for fault in event.ignored:
                        log.print("[yellow]note:[/]", escape(fault))
                case Tried():
                    bar.advance(task)
                case Decided():
                    bar.advance(task, event.unspent)
                    found.append(event)
    for event in found:
        if event.tuned.tuned_s is not None:
            before, after = event.tuned.rule_s, event.tuned.tuned_s
            gain = f"{show(before, 'time')} to {show(after, 'time')} by {event.tuned.kind}"
            log.print(f"  {escape(event.tuned.name)}: {gain}")
    if found:
        faster = sum(event.tuned.tuned_s is not None for event in found)
        log.print(f"tuned {len(found)} kernels: {faster} faster, {len(found) - faster} stay with their rule")
    if interrupted():
        raise KeyboardInterrupt


def planned(event: Planned) -> str:
    """What is going to be tuned, for people."""
    if not event.trials:
        return (
            f"nothing to tune: the heaviest of {event.distinct} kernels had as many trials before; name more trials "
            "to search further"
        )
    return (
        f"tuning {len(event.kernels)} of {event.distinct} kernels, {event.share:.0%} of the time, "
        f"with {event.trials} trials"
    )


def tuning_json(event: Event) -> dict[str, Any]:
    """An event of the tuning as JSON."""
    match event:
        case Planned():
            return {"event": "planned", **asdict(event)}
        case Tried():
            return {"event": "tried", **asdict(event)}
        case Decided():
            told = {key: value for key, value in asdict(event.tuned).items() if key != "schedule"}
            return {"event": "tuned", **told, "kind": event.tuned.kind}


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """While it lasts, Ctrl-C is noted for whoever asks; a second one interrupts at once."""
    pressed = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
