"""What a Dask worker does for a sweep on another machine. `cluster` sends it here."""

from __future__ import annotations

import functools
import hashlib
import os
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.base.files import write_probe
from common.base.paths import ROOT
from common.sweep import processes, slots
from common.sweep.execute import POLL, Outcome, execute
from common.sweep.plan import Job

if TYPE_CHECKING:
    from distributed import Worker

GPU = "GPU"  # the resource that workers announce and runs ask for
PATIENCE = 30.0  # seconds that runs have to end
SHARED = 5.0  # seconds until a new file is seen on another machine


def hash_of_files(*patterns: str) -> str:
    """Of the names and contents of the repository's files that match."""
    content = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        content.update(f"{path.relative_to(ROOT)}\n".encode())
        content.update(path.read_bytes())
    return content.hexdigest()


IMPORTED = hash_of_files(
    "common/sweep/**/*.py"
)  # as they are in this process, whatever they are later
RUN = ("common/**/*.py", "trials/*/*.ipynb")  # what a run reads


@dataclass(frozen=True)
class Found:
    """What is to be known of a worker before it gets runs.

    imported, read: digests of code. threads: tasks at a time. announced: GPUs, as resources; gpus:
    those that torch sees there, if asked for; visible: CUDA_VISIBLE_DEVICES. trouble: why results
    cannot be left there.
    """

    machine: str
    imported: str
    read: str
    threads: int
    announced: int
    gpus: list[str]
    visible: str | None
    trouble: str | None


def look(worker: Worker, results: Path, sign: str, gpus: bool) -> Found:
    """Look around on this worker; `sign` is the name of a file that the sweep put in `results`."""
    return Found(
        machine=processes.machine(),
        imported=IMPORTED,
        read=hash_of_files(*RUN),
        threads=worker.state.nthreads,
        announced=_announced(worker),
        gpus=_gpus() if gpus else [],
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        trouble=_trouble(results, sign),
    )


def carry_out(worker: Worker, job: Job, since: float, gpu: bool, sweep: str) -> Outcome:
    """`execute` the job in a place of its own on this worker; `stopped` if it is no longer wanted.

    gpu: on one of the GPUs that the worker announces. sweep: see `end`.
    """
    stop = _Unwanted(worker, sweep)
    if stop.is_set():
        return Outcome("stopped")
    _under_way.add(stop)
    try:
        places = _places(worker.state.nthreads, _announced(worker) if gpu else None)
        place = places.get()  # an unwanted run may still be ending there
        try:
            return execute(job, since, stop, place.environment)
        finally:
            places.put(place)
    finally:
        _under_way.discard(stop)


def end(worker: Worker, sweep: str) -> None:
    """End what `sweep` has under way on this worker, and wait for that."""
    _ended.add(sweep)
    deadline = time.monotonic() + PATIENCE
    while any(one.sweep == sweep for one in tuple(_under_way)) and time.monotonic() < deadline:
        time.sleep(POLL)


class _Unwanted:
    """Set when the current task's result interests nobody any more: its sweep has ended, in
    whatever way, or the worker is about to."""

    def __init__(self, worker: Worker, sweep: str) -> None:
        self.sweep = sweep
        self._worker, self._key = worker, worker.get_current_task()

    def is_set(self) -> bool:
        # The scheduler takes a task back when its client cancels it, or is gone.
        task = self._worker.state.tasks.get(self._key)
        wanted = task is not None and task.state in ("executing", "long-running")
        at_work = self._worker.status.name in ("running", "paused")
        return self.sweep in _ended or not wanted or not at_work


_under_way: set[_Unwanted] = set()
_ended: set[str] = set()


@functools.cache
def _places(threads: int, gpus: int | None) -> queue.SimpleQueue[slots.Slot]:
    """Where this worker's runs are carried out: on its GPUs, one run on each; else one a thread."""
    names = None if gpus is None else _gpus()[:gpus]
    places = slots.slots(["cpu"], threads if names is None else len(names))
    free: queue.SimpleQueue[slots.Slot] = queue.SimpleQueue()
    for number, place in enumerate(places):
        own = {} if names is None else {"CUDA_VISIBLE_DEVICES": names[number]}
        free.put(slots.Slot({**place.environment, **own}))
    return free


@functools.cache
def _gpus() -> list[str]:
    return [gpu.name for gpu in slots.find_gpus()]


def _announced(worker: Worker) -> int:
    return int(worker.state.total_resources.get(GPU, 0))


def _trouble(results: Path, sign: str) -> str | None:
    if not results.is_dir():
        return "is not there"
    deadline = time.monotonic() + SHARED
    while not (results / sign).exists():
        if time.monotonic() > deadline:
            return "is another folder there than here"
        time.sleep(POLL)
    try:
        write_probe(results)
    except OSError as error:
        return f"cannot be written there ({error.strerror})"
    return None
