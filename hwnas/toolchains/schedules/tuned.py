"""The database of tuned schedules: what tuning found for a kernel on this kind of processor, found again by content.

One JSON file for each kernel, shared by all networks and processes. What is read is checked down to the instructions
that a schedule is made of: they can tile, order, inline and vectorise, and never change what a kernel computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hwnas.config import cache_folder
from hwnas.digest import content_id
from hwnas.records import write_atomically
from hwnas.toolchains.schedules import VERSION

SCHEMA = 1
SUFFIX = ".json"
MOST_BYTES = 2**20
MOST_TILE = 4096
INSTRUCTIONS = frozenset({
    "GetSBlock", "GetLoops", "GetChildBlocks", "GetProducers", "GetConsumers", "GetOutputBlocks", "SamplePerfectTile",
    "SamplePartitionedTile", "SampleCategorical", "SampleComputeLocation", "Split", "Fuse", "Reorder", "AddUnitLoop",
    "Parallel", "Vectorize", "Unroll", "ComputeAt", "ReverseComputeAt", "ComputeInline", "ReverseComputeInline",
    "CacheRead", "CacheWrite", "RFactor", "DecomposeReduction", "Annotate", "Unannotate", "EnterPostproc",
})  # fmt: skip
"""What a trace may consist of: every one of them leaves the values that a kernel computes as they are."""
ANNOTATIONS = ("meta_schedule.", "pragma_auto_unroll_max_step", "pragma_unroll_explicit")
"""How annotations begin that a trace may make; others, such as one that imports code, it may not."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `trials` found for a kernel: seconds of a call under its rule and under `schedule`.

    A schedule is {"tile": numbers} for the rule's own code with other tiles, or {"trace": instructions and decisions}
    of MetaSchedule; None, and with it `tuned_s`, where nothing was faster than the rule.
    """

    kernel: str
    name: str
    trials: int
    rule_s: float
    tuned_s: float | None = None
    schedule: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """The content id of the schedule."""
        return content_id(self.schedule)

    @property
    def kind(self) -> str:
        """Which of the two it is, "tile" or "trace"; "rule" where nothing was faster."""
        return next(iter(self.schedule or {"rule": None}))


class TunedSchedules:
    """Entries for one TVM target, this TVM and this version of the rules; `faults` says which could not be used."""

    def __init__(self, target: str, folder: Path | None = None) -> None:
        self._folder = folder or tuned_folder()
        self._shared = {"target": target, "tvm": version("apache-tvm"), "rules": VERSION, "schema": SCHEMA}
        self.faults: list[str] = []

    def find(self, kernel: str) -> Tuned | None:
        """The entry of a kernel; None if there is none, or, noted in `faults`, none that is sound."""
        path = self._path(kernel)
        try:
            with path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except OSError:
            return None
        try:
            if len(text) > MOST_BYTES:
                raise ValueError(f"is larger than {MOST_BYTES} bytes")
            return self._parsed(json.loads(text), kernel)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            words = " ".join(str(error).split())[:200]
            self.faults.append(f"{path.name} is no tuned schedule and was ignored ({words})")
            return None

    def keep(self, tuned: Tuned) -> None:
        """Keep an entry, in place of what the kernel had. Raises OSError where the folder cannot be written."""
        body = {**self._shared, **asdict(tuned)}
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._path(tuned.kernel), json.dumps({"id": content_id(body), **body}) + "\n")

    def _path(self, kernel: str) -> Path:
        return self._folder / (content_id([kernel, self._shared]) + SUFFIX)

    def _parsed(self, document: Any, kernel: str) -> Tuned:
        body = {key: value for key, value in document.items() if key != "id"}
        if document["id"] != content_id(body):
            raise ValueError("its content is not what its id says")
        if {key: body.pop(key) for key in self._shared} != self._shared or body["kernel"] != kernel:
            raise ValueError("it is of another kernel, target or version")
        if body.keys() != {field.name for field in fields(Tuned)}:
            raise ValueError("it has other fields")
        found = Tuned(**body)
        check_entry(found)
        return found


def tuned_folder() -> Path:
    """Where the database is, in the cache folder."""
    return cache_folder() / "tuned"


def database_state(folder: Path | None = None) -> str:
    """A content id of all that the database holds: an artifact that was built with less is built anew."""
    try:
        entries = sorted((folder or tuned_folder()).glob(f"*{SUFFIX}"))
        return content_id([[entry.name, entry.stat().st_mtime_ns, entry.stat().st_size] for entry in entries])
    except OSError:
        return content_id([])


def check_entry(found: Tuned) -> None:
    """Raises ValueError for an entry whose fields are not what they have to be."""
    if not all(isinstance(text, str) and len(text) <= 500 for text in (found.kernel, found.name)):
        raise ValueError("kernel and name have to be text")
    if not _is_count(found.trials, 10**9) or not _is_duration(found.rule_s):
        raise ValueError("trials and rule_s have to be positive")
    if (found.schedule is None) != (found.tuned_s is None):
        raise ValueError("schedule and tuned_s go together")
    if found.schedule is not None:
        if not _is_duration(found.tuned_s):
            raise ValueError("tuned_s has to be positive")
        check_schedule(found.schedule)


def check_schedule(schedule: Any) -> None:
    """Raises ValueError for anything but a tile or a trace of known instructions."""
    match schedule:
        case {"tile": [*sizes], **rest} if not rest and sizes and all(_is_count(size, MOST_TILE) for size in sizes):
            return
        case {"trace": [[*instructions], [*decisions]], **rest} if not rest and instructions:
            for instruction in instructions:
                _check_instruction(instruction)
            if any(not isinstance(pair, list) or len(pair) != 2 or not _is_count(pair[0] + 1) for pair in decisions):
                raise ValueError("a decision has to be a pair of an instruction's number and what was decided")
        case _:
            raise ValueError("a schedule is a tile or a trace")


def _check_instruction(instruction: Any) -> None:
    match instruction:
        case [str(name), list(), [*attributes], list()] if name in INSTRUCTIONS:
            if name in ("Annotate", "Unannotate"):
                key = attributes[0] if attributes else None
                if not isinstance(key, str) or not key.startswith(ANNOTATIONS):
                    raise ValueError(f"an annotation {str(key)[:60]!r} is not allowed")
        case [str(name), *_]:
            raise ValueError(f"an instruction {name[:60]!r} is not allowed, or not of this form")
        case _:
            raise ValueError("an instruction is a name, its inputs, attributes and outputs")


def _is_count(value: Any, most: int = 10**9) -> bool:
    return type(value) is int and 0 < value <= most


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def named(found: Sequence[Tuned]) -> tuple[str, ...]:
    """What an artifact says of the tuned kernels that it has, sorted: name, kind and id of the schedule."""
    return tuple(sorted(f"{tuned.name}: {tuned.kind} {tuned.id}" for tuned in found))
