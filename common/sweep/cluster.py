"""A pool on other machines: the workers of an existing Dask cluster carry out the runs.

The cluster needs nothing of ours installed: its workers import the repository from where it lies,
which must be a folder that they share with this machine, as must the results.
"""

from __future__ import annotations

import logging
import math
import pickle
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from common.errors import ConfigurationError
from common.sweep import remote
from common.sweep.execute import ROOT, Outcome
from common.sweep.job import Job
from common.sweep.remote import Found

TIMEOUT = 10  # seconds until a scheduler has answered
LOOK = 2.0  # seconds between looks at which workers there are

log = logging.getLogger(__name__)


class Cluster:
    """Dask workers, as many runs at a time as they have threads, or GPUs if they announce them.

    Workers may come and go: newcomers are examined and then get runs; the runs of a lost worker
    are done by another. When this process ends, in whatever way, so do its runs.
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
        self._anywhere = set(devices) <= {"auto", "cuda"}
        self._alone = alone
        self._sweep = uuid.uuid4().hex
        self._client = None
        self._workers: dict[str, Found] = {}
        self._unfit: set[str] = set()
        self._under_way: dict[Future[Outcome], tuple[Future[Outcome], list[str]]] = {}
        self._closing = threading.Event()
        if not alone:
            self._connect()

    def capacity(self) -> int:
        """Runs at a time with the workers there are. Raises ConnectionError when the scheduler is
        lost."""
        if self._client is None:
            self._connect()
        if self._client.status == "closed":
            raise ConnectionError(f"the scheduler at {self._address} is gone")
        workers = list(self._workers.values())
        places = (
            len({one.machine for one in workers}) if self._alone else sum(map(self._at, workers))
        )
        return min(places, self._runs or math.inf)

    def submit(self, job: Job, since: float) -> Future[Outcome]:
        """Carry out the job on a worker, as `execute` does; `stopped` if no worker is left."""
        promised: Future[Outcome] = Future()
        allowed = self._allowed()
        if not allowed:
            promised.set_result(Outcome("stopped"))
            return promised
        task = self._executor.submit(
            _sent("carry_out"),
            pickle.dumps((job, since, self._gpu, self._sweep)),
            workers=allowed,
            resources={remote.GPU: 1} if self._gpu else None,
        )
        self._under_way[task] = promised, allowed
        task.add_done_callback(self._settle)
        return promised

    def alone(self) -> Cluster | None:
        """One run on a machine; None if that is so already."""
        machines = {one.machine for one in self._workers.values()}
        if self._alone or sum(map(self._at, self._workers.values())) <= len(machines):
            return None
        devices = ("auto",) if self._anywhere else ("cpu",)
        return Cluster(self._address, self._root, self._runs, devices, alone=True)

    def close(self) -> None:
        """End the runs under way with everything they started, wait for that, and let the workers
        go."""
        self._closing.set()
        if self._client is None:
            return
        for task in list(self._under_way):
            task.cancel()
        if self._client.status == "running":
            with suppress(OSError):  # the scheduler went away just now
                self._ask("end", list(self._workers), self._sweep)
        self._client.close()

    def _connect(self) -> None:
        distributed = _import()
        try:
            distributed.comm.get_address_host_port(self._address)
            self._client = distributed.Client(self._address, timeout=TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"--scheduler {self._address}: no Dask scheduler answers there ({error}); start one "
                "with `dask scheduler`, which prints its address, such as tcp://10.0.0.5:8786"
            ) from error
        try:
            self._executor = self._client.get_executor(pure=False)
            workers = list(self._client.nthreads())
            if not workers:
                raise ConfigurationError(
                    f"--scheduler {self._address}: the scheduler has no workers yet; start some "
                    f"with `dask worker {self._address}`"
                )
            self._gpu = False
            if problems := self._examine(workers):
                raise ConfigurationError(
                    "; ".join(f"worker {one}: {text}" for one, text in problems.items())
                )
        except BaseException:
            self._client.close()
            raise
        threading.Thread(target=self._watch, daemon=True, name="cluster").start()

    def _examine(self, workers: list[str]) -> dict[str, str]:
        """Look at workers, take in those that are fit, and say what is wrong with the others."""
        problems = self._foreign(workers)
        workers = [one for one in workers if one not in problems]
        with tempfile.NamedTemporaryFile(dir=self._root, prefix=".cluster-") as sign:
            name = Path(sign.name).name
            answers = self._ask("look", workers, self._root, name, self._anywhere)
        found = {one: answer for one, answer in answers.items() if isinstance(answer, Found)}
        if not self._workers:
            self._gpu = self._anywhere and any(one.announced for one in found.values())
        for worker, answer in answers.items():
            if worker not in found:
                problems[worker] = (
                    f"cannot import {ROOT} ({type(answer).__name__}: {answer}); it needs that "
                    "folder and this Python environment"
                )
            elif problem := self._problem(found[worker]):
                problems[worker] = problem
            else:
                self._workers = {**self._workers, worker: found[worker]}
        return problems

    def _foreign(self, workers: list[str]) -> dict[str, str]:
        """Those whose versions are not ours. Raises ConfigurationError if the scheduler's are not:
        functions are sent as code, through the scheduler."""
        versions = self._client.get_versions()
        here = _versions(versions["client"])
        if (there := _versions(versions["scheduler"])) != here:
            raise ConfigurationError(
                f"--scheduler {self._address}: the scheduler has {there}, here is {here}; start it "
                "with this Python environment"
            )
        return {
            one: f"has {there}, here is {here}; start it with this Python environment"
            for one in workers
            if (there := _versions(versions["workers"].get(one))) != here
        }

    def _problem(self, found: Found) -> str | None:
        """Why a worker cannot carry out runs, and what would be right."""
        if (found.code, found.notebooks) != (remote.CODE, remote.digest("trials", "*.ipynb")):
            return (
                f"has imported another version of {ROOT} than is here now; let it see the same "
                "folder, and start it again after the code has changed"
            )
        if found.trouble:
            return f"{self._root} {found.trouble}; name a folder that all machines share with --results"
        if not self._anywhere:
            return None
        seen = f"torch sees {len(found.gpus)} GPUs there"
        if found.announced > len(found.gpus):
            return f"announces {found.announced} GPUs, but {seen}; start it with as many as it has"
        if found.gpus and not found.announced:
            return (
                f"announces no GPU, but {seen}; start it with --resources GPU={len(found.gpus)}, "
                "or run with -p device=cpu"
            )
        if self._gpu and not found.announced:
            return "has no GPU, but others have; stop it, or run with -p device=cpu"
        if (
            self._gpu
            and found.visible is None
            and any(
                one.machine == found.machine and one.visible is None
                for one in self._workers.values()
            )
        ):
            return (
                "would use the same GPU as another worker on its machine; start each with its own "
                "CUDA_VISIBLE_DEVICES, or one for all GPUs"
            )
        return None

    def _watch(self) -> None:
        """Follow the workers as they come and go."""
        while not self._closing.wait(LOOK) and self._client.status != "closed":
            try:
                present = set(self._client.nthreads())
                self._workers = {one: at for one, at in self._workers.items() if one in present}
                problems = self._examine(sorted(present - {*self._workers, *self._unfit}))
            except Exception as error:  # the connection is lost, or another try will tell
                log.debug("%s", error)
                continue
            for worker, problem in problems.items():
                log.warning("worker %s is left out: %s", worker, problem)
            self._unfit.update(problems)
            for task, (_, allowed) in list(self._under_way.items()):
                if not present.intersection(allowed):  # no worker will ever take it
                    task.cancel()

    def _settle(self, task: Future[Outcome]) -> None:
        promised, _ = self._under_way.pop(task)
        if task.cancelled():  # by us, or because the scheduler is lost
            promised.set_result(Outcome("stopped"))
        elif (error := task.exception()) is None:
            promised.set_result(task.result())
        elif isinstance(error, _import().KilledWorker):
            times = error.allowed_failures + 1
            promised.set_result(
                Outcome(
                    "failed", f"{times} workers died with the run, the last: {error.last_worker}"
                )
            )
        else:
            promised.set_exception(error)

    def _at(self, found: Found) -> int:
        """Runs at a time on a worker."""
        return min(found.threads, found.announced) if self._gpu else found.threads

    def _allowed(self) -> list[str]:
        """The workers that may take the next run."""
        workers = dict(self._workers)
        if not self._alone:
            return list(workers)
        taken = {one for _, allowed in list(self._under_way.values()) for one in allowed}
        busy = {workers[one].machine for one in taken if one in workers}
        return [one for one, found in workers.items() if found.machine not in busy][:1]

    def _ask(self, name: str, workers: list[str], *arguments: object) -> dict[str, object]:
        """{worker: the answer of a function of `remote`, or the error}, aside from all tasks."""
        if not workers:
            return {}
        answers = self._client.run(
            _sent(name, aside=True), pickle.dumps(arguments), workers=workers, on_error="return"
        )
        return dict(answers)


def _import() -> ModuleType:
    try:
        import distributed
    except ImportError as error:
        raise ConfigurationError(
            f"--scheduler needs another package ({error}): pip install -r requirements-cluster.txt"
        ) from error
    # It speaks of every lost connection; what matters is said here.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    return distributed


def _versions(answer: dict | None) -> str:
    packages = (answer or {}).get("packages", {})
    python = ".".join(str(packages.get("python")).split(".")[:2])
    return f"Python {python} and distributed {packages.get('distributed')}"


def _sent(name: str, aside: bool = False) -> Callable:
    """A function of `remote`, to be called with pickled arguments where only Dask is known.

    Being local functions these travel as code, not by a name that neither scheduler nor worker
    could import. aside: for `Client.run`; else for a task.
    """
    root = str(ROOT)

    def call(arguments: bytes, worker: object = None) -> object:
        import importlib
        import pickle
        import sys

        from distributed import get_worker

        if root not in sys.path:
            sys.path.insert(0, root)
        function = getattr(importlib.import_module("common.sweep.remote"), name)
        return function(worker or get_worker(), *pickle.loads(arguments))

    async def call_aside(arguments: bytes, dask_worker: object) -> object:
        import asyncio

        return await asyncio.to_thread(call, arguments, dask_worker)

    return call_aside if aside else call
