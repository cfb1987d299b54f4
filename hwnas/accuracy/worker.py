"""The process that trains candidates for a `TrainingPool`: `python -m hwnas.accuracy.worker`, one thread, one at a time.

It is sent spaces and data sets once, then jobs that refer to them by key. A space comes as a pickle, through a
private pipe from its own parent and never by way of a file, because a space may be any class of the user's.
"""

from __future__ import annotations

import base64
import pickle
import runpy
import sys
import types
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwnas.accuracy.candidates import initialised
from hwnas.accuracy.datasets.dataset import Dataset
from hwnas.accuracy.training import TrainingPlan, train
from hwnas.core.interfaces import SearchSpace
from hwnas.core.measurement import Failure
from hwnas.core.workload import Candidate
from hwnas.processes import serve


class Worker:
    """What one process remembers between requests."""

    def __init__(self) -> None:
        self._spaces: dict[str, SearchSpace] = {}
        self._datasets: dict[str, Dataset] = {}

    def answer(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """Do one request: ping, learn a space or a data set, or train."""
        match request["do"]:
            case "space":
                if request["main"]:
                    _import_main(request["main"])
                self._spaces[request["key"]] = pickle.loads(base64.b64decode(request["pickle"]))  # noqa: S301
            case "dataset":
                self._datasets[request["key"]] = Dataset.read(Path(request["path"]))
            case "train":
                return self._train(request)
        return {}

    def _train(self, request: dict[str, Any]) -> Mapping[str, Any]:
        space, dataset = self._spaces[request["space"]], self._datasets[request["dataset"]]
        candidate = Candidate(request["candidate"][0], tuple(request["candidate"][1]))
        try:
            network = initialised(space, candidate, request["seed"])
        except Exception as error:
            return {"failure": asdict(Failure("build", type(error).__name__, str(error) or repr(error)))}
        checkpoint = Path(request["checkpoint"]) if request["checkpoint"] else None
        plan = TrainingPlan.model_validate(request["plan"])
        result = train(network, dataset, plan, request["seed"], checkpoint, request["until_epoch"])
        return {"training": asdict(result)}


def _import_main(path: str) -> None:
    """Make the caller's script importable as __main__, where a space of the user's may be defined."""
    if "__hwnas_main__" not in sys.modules:
        module = types.ModuleType("__hwnas_main__")
        module.__dict__.update(runpy.run_path(path, run_name="__hwnas_main__"))
        sys.modules["__main__"] = sys.modules["__hwnas_main__"] = module


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    serve(Worker().answer)
