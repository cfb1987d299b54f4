"""Candidates trained in parallel, each on one thread in a process of its own making: a crash is a failure of one.

Results depend on candidate, data, plan and seed alone, never on which worker took a job or in what order.
"""

from __future__ import annotations

import base64
import os
import pickle
import queue
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwnas.accuracy.datasets.dataset import Dataset
from hwnas.accuracy.training import Training, TrainingPlan
from hwnas.core.interfaces import SearchSpace
from hwnas.core.measurement import Failure
from hwnas.core.workload import Candidate
from hwnas.digest import content_id, digest_bytes
from hwnas.errors import ConfigError, HwnasError
from hwnas.processes import Child, ChildCrashed, ChildError, ChildTimeout

IN_WORKER = "HWNAS_TRAINING_WORKER"
SETUP_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training: which candidate, how, from which seed, and up to which epoch (None: the whole plan)."""

    candidate: Candidate
    plan: TrainingPlan
    seed: int = 0
    until_epoch: int | None = None

    def key(self, dataset: Dataset) -> str:
        """Content id of what decides the result; the same for every `until_epoch`."""
        return training_key(self.candidate.id, dataset.digest, self.plan.digest, self.seed)


def training_key(candidate: str, dataset: str, plan: str, seed: int) -> str:
    """The id of a training, from candidate id, data set digest, plan digest and seed."""
    return content_id([candidate, dataset, plan, seed])


class TrainingPool:
    """Persistent single-thread training processes. A context manager; closing it ends them.

    `deadline_s` bounds one training. With a folder for `checkpoints`, a training that stopped (killed, or at its
    `until_epoch`) goes on from its last epoch, and the trained weights stay there.
    """

    def __init__(self, workers: int = 2, deadline_s: float = 600.0, checkpoints: Path | None = None) -> None:
        if workers < 1 or not deadline_s > 0:
            raise ConfigError("needs at least 1 worker and a deadline above 0 s", given=(workers, deadline_s))
        if os.environ.get(IN_WORKER):
            raise ConfigError(
                "this script starts a search when it is imported, which every training process does to find the "
                "space that it defines; put its last lines under: if __name__ == '__main__':"
            )
        self.workers, self.deadline_s, self.checkpoints = workers, deadline_s, checkpoints
        self._folder = tempfile.TemporaryDirectory(prefix="hwnas-training-")
        environment = {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            IN_WORKER: "1",
        }
        self._seats = [_Seat(Child("hwnas.accuracy.worker", environment)) for _ in range(workers)]
        self._spaces: dict[int, tuple[SearchSpace, str, dict[str, Any]]] = {}
        self._datasets: dict[str, dict[str, Any]] = {}
        self._running = False

    def run(
        self, space: SearchSpace, dataset: Dataset, jobs: Sequence[TrainingJob]
    ) -> Iterator[tuple[TrainingJob, Training | Failure]]:
        """Train every job; yields each with its result as soon as it has one, in no particular order.

        A job that raises, crashes its process or passes the deadline yields a Failure, and the others go on.
        Closing the iterator ends what is being trained. Raises ConfigError if the space cannot be sent to a process.
        """
        if self._running:
            raise ConfigError("this pool is already running jobs; let it finish or use another")
        setup = [self._space(space), self._dataset(dataset)]
        todo: queue.SimpleQueue[TrainingJob] = queue.SimpleQueue()
        for job in jobs:
            todo.put(job)
        done: queue.SimpleQueue[tuple[TrainingJob, Training | Failure | BaseException]] = queue.SimpleQueue()
        stop = threading.Event()

        def work(seat: _Seat) -> None:
            while not stop.is_set():
                try:
                    job = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((job, seat.train(setup, self._request(job, space, dataset), self.deadline_s)))
                except BaseException as error:  # raised again in the caller's thread
                    done.put((job, error))

        threads = [threading.Thread(target=work, args=(seat,), daemon=True) for seat in self._seats[: len(jobs)]]
        self._running = True
        try:
            for thread in threads:
                thread.start()
            for _ in jobs:
                job, result = done.get()
                if isinstance(result, BaseException):
                    raise result
                yield job, result
        finally:
            stop.set()
            for thread, seat in zip(threads, self._seats):
                while thread.is_alive():
                    seat.child.kill()
                    thread.join(0.05)
            self._running = False

    def checkpoint(self, job: TrainingJob, dataset: Dataset) -> Path | None:
        """Where the job's state and, when it is complete, its weights are kept; None without a folder."""
        return self.checkpoints / f"{job.key(dataset)}.npz" if self.checkpoints else None

    def start(self) -> None:
        """Start the processes now, without waiting: importing torch takes a second or two."""
        for seat in self._seats:
            threading.Thread(target=seat.warm, daemon=True).start()

    def close(self) -> None:
        """End the processes; safe to call twice."""
        for seat in self._seats:
            seat.close()
        self._folder.cleanup()

    def __enter__(self) -> TrainingPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, job: TrainingJob, space: SearchSpace, dataset: Dataset) -> dict[str, Any]:
        checkpoint = self.checkpoint(job, dataset)
        return {
            "do": "train",
            "space": self._spaces[id(space)][1],
            "dataset": dataset.digest,
            "candidate": [job.candidate.space, list(job.candidate.genotype)],
            "plan": job.plan.model_dump(mode="json"),
            "seed": job.seed,
            "until_epoch": job.until_epoch,
            "checkpoint": str(checkpoint.absolute()) if checkpoint else None,
        }

    def _space(self, space: SearchSpace) -> dict[str, Any]:
        if id(space) not in self._spaces:
            self._spaces[id(space)] = (space, *_sendable(space))
        return self._spaces[id(space)][2]

    def _dataset(self, dataset: Dataset) -> dict[str, Any]:
        if dataset.digest not in self._datasets:
            path = Path(self._folder.name) / f"{dataset.digest}.npz"
            dataset.write(path)
            self._datasets[dataset.digest] = {"do": "dataset", "key": dataset.digest, "path": str(path)}
        return self._datasets[dataset.digest]


class _Seat:
    """One child process and what it has been sent; used by one thread at a time."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._knows: set[str] = set()
        self._lock = threading.Lock()

    def warm(self) -> None:
        with self._lock:
            try:
                self.child.request({"do": "ping"}, SETUP_TIMEOUT_S)
            except HwnasError:
                self._knows.clear()  # the first job will meet the same error and report it

    def train(self, setup: Sequence[dict[str, Any]], request: dict[str, Any], deadline_s: float) -> Training | Failure:
        with self._lock:
            try:
                for message in setup:
                    if message["key"] not in self._knows:
                        self._tell(message)
                answer = self.child.request(request, deadline_s)
            except ChildError as error:
                return Failure("run", error.kind, str(error))
            except ChildTimeout:
                self._knows.clear()
                return Failure(
                    "run", "TrainingFailed", f"the training did not end within its deadline of {deadline_s:g} s"
                )
            except ChildCrashed as error:
                self._knows.clear()
                return Failure("run", "TrainingFailed", str(error))
        if "failure" in answer:
            return Failure(**answer["failure"])
        return Training.from_json(answer["training"])

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self.child.request(message, SETUP_TIMEOUT_S)
        except ChildError as error:  # it would be the same for every job
            raise ConfigError(f"the training process cannot load the {message['do']}: {error.kind}: {error}") from error
        self._knows.add(message["key"])

    def close(self) -> None:
        self.child.kill()
        with self._lock:
            self.child.close()


def _sendable(space: SearchSpace) -> tuple[str, dict[str, Any]]:
    """The space's key and the message that gives it to a worker."""
    name = type(space).__qualname__
    try:
        pickled = pickle.dumps(space)
    except Exception as error:
        raise ConfigError(f"space {name} cannot be sent to a training process: {error}", given=name) from error
    main = None
    if b"__main__" in pickled:
        main = getattr(sys.modules["__main__"], "__file__", None)
        if main is None:
            raise ConfigError(
                f"space {name} is defined in an interactive session, where training processes cannot find it; "
                "put it into a module (a .py file) and import it from there"
            )
        main = str(Path(main).absolute())
    key = digest_bytes(pickled)
    return key, {"do": "space", "key": key, "pickle": base64.b64encode(pickled).decode(), "main": main}
