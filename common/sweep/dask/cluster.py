"""A pool on other machines: the workers of an existing Dask cluster carry out the runs."""

from __future__ import annotations

import logging
import math
import pickle
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from common.base.errors import ConfigurationError
from common.sweep.dask import remote
from common.sweep.dask.workers import Workers, connect, losses_allowed, sent
from common.sweep.execute import Outcome
from common.sweep.plan import Job

LOOK = 2.0  # seconds between looks at which workers there are

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """A job that a worker has got, and who waits for its outcome."""

    job: Job
    promised: Future[Outcome]
    worker: str


class Cluster:
    """As many runs at a time as Dask's workers have threads, or GPUs if they announce them.

    Workers may come and go: newcomers are examined and then get runs; the runs of a lost worker
    are done by another, unless that happens to one too often. When this process ends, in whatever
    way, so do its runs.
    """

    def __init__(
        self,
        address: str,
        root: Path,
        runs: int | None = None,
        devices: Iterable[str] = ("auto",),
        alone: bool = False,
    ) -> None:
        """Connect to the scheduler at `address` and examine its workers. Raises ConfigurationError.

        root: the results folder. runs: at most so many at a time. devices: values of the runs'
        parameter. alone: one run on a machine; connects when it is first used.
        """
        self._address, self._root, self._runs = address, root, runs
        self._devices, self._alone = tuple(devices), alone
        self._sweep = uuid.uuid4().hex
        self._under_way: dict[Future[Outcome], _Run] = {}
        self._lost: Counter[Job] = Counter()
        self._closing = threading.Event()
        self._workers: Workers | None = None
        if not alone:
            self._workers = self._connect()

    def capacity(self) -> int:
        """Runs at a time with the workers there are. Raises ConnectionError once the scheduler is
        gone."""
        if self._workers is None:
            self._workers = self._connect()
        if self._workers.client.status == "closed":
            raise ConnectionError(f"the scheduler at {self._address} is gone")
        if not self._connected():
            return 0
        places = len(self._workers.machines()) if self._alone else self._workers.places()
        return min(places, self._runs or math.inf)

    def submit(self, job: Job, since: float) -> Future[Outcome]:
        """Carry out the job on a worker, as `execute` does; `stopped` if none is left for it."""
        promised: Future[Outcome] = Future()
        if (worker := self._choose()) is None:
            promised.set_result(Outcome("stopped"))
            return promised
        gpu = self._workers.gpu
        executor = self._workers.client.get_executor(
            pure=False, workers=[worker], resources={remote.GPU: 1} if gpu else None
        )
        task = executor.submit(sent("carry_out"), pickle.dumps((job, since, gpu, self._sweep)))
        self._under_way[task] = _Run(job, promised, worker)
        task.add_done_callback(self._settle)
        return promised

    def retry_pool(self) -> Cluster | None:
        """One run on a machine; None if that is so already."""
        if self._alone or self._workers.places() <= len(self._workers.machines()):
            return None
        return Cluster(self._address, self._root, self._runs, self._devices, alone=True)

    def close(self) -> None:
        """End the runs under way with everything they started, wait for that, and let the workers
        go."""
        self._closing.set()
        if self._workers is None:
            return
        if self._connected():
            for task in list(self._under_way):
                task.cancel()
            with suppress(OSError):  # the scheduler went away just now
                self._workers.ask("end", list(self._workers.fit), self._sweep)
        self._workers.client.close()

    def _connected(self) -> bool:
        """Not so for some seconds after the connection was lost; it may come back."""
        return self._workers.client.status == "running"

    def _connect(self) -> Workers:
        client = connect(self._address)
        workers = Workers(client, self._root, gpu_wanted=set(self._devices) <= {"auto", "cuda"})
        try:
            problems = workers.look(first=True)
            if problems:
                texts = [f"worker {one} {problem}" for one, problem in problems.items()]
                raise ConfigurationError("; ".join(texts))
            if not workers.fit:
                raise ConfigurationError(
                    f"--scheduler {self._address}: it has no workers yet; start some with "
                    f"`dask worker {self._address}`"
                )
        except BaseException:
            client.close()
            raise
        threading.Thread(target=self._watch, args=[workers], daemon=True, name="cluster").start()
        return workers

    def _watch(self, workers: Workers) -> None:
        """Follow the workers as they come and go."""
        while not self._closing.wait(LOOK) and workers.client.status != "closed":
            try:
                problems = workers.look()
            except Exception as error:  # the connection is lost; it may come back
                log.debug("%s", error)
                continue
            for worker, problem in problems.items():
                log.warning("left out: worker %s %s", worker, problem)
            for task, run in list(self._under_way.items()):
                if run.worker not in workers.fit:
                    self._lost[run.job] += 1
                    task.cancel()

    def _choose(self) -> str | None:
        """The worker with the most free places. The scheduler would not always find it: counting
        threads, it leaves GPUs idle."""
        workers = self._workers
        fit = dict(workers.fit) if self._connected() else {}
        taken = Counter(run.worker for run in list(self._under_way.values()))
        if self._alone:
            busy = {fit[one].machine for one in taken if one in fit}
            return next((one for one, found in fit.items() if found.machine not in busy), None)
        free = {one: workers.places_on(found) - taken[one] for one, found in fit.items()}
        best = max(free, key=free.get, default=None)
        return best if best and free[best] > 0 else None

    def _settle(self, task: Future[Outcome]) -> None:
        run = self._under_way.pop(task)
        losses = self._lost[run.job]
        if not task.cancelled():
            if error := task.exception():
                run.promised.set_exception(error)
            else:
                run.promised.set_result(task.result())
        elif losses > losses_allowed():
            error = f"{losses} workers were lost with it, the last at {run.worker}"
            run.promised.set_result(Outcome("failed", error))
        else:  # its worker is lost, or the scheduler is, or we are closing
            run.promised.set_result(Outcome("stopped"))
