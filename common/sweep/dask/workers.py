"""The workers of a Dask cluster: found, examined, and asked to do things.

A cluster needs nothing of ours installed: its workers import the repository from where it lies,
which must be a folder that they share with this machine, as must the results.
"""

from __future__ import annotations

import logging
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from common.base.errors import ConfigurationError
from common.base.paths import ROOT
from common.sweep.dask import remote
from common.sweep.dask.remote import Found

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 10  # seconds until a scheduler has answered


def _import() -> ModuleType:
    """The package `distributed`. Raises ConfigurationError if it is not installed."""
    try:
        import distributed
    except ImportError as error:
        raise ConfigurationError(
            f"--scheduler needs another package ({error}): pip install -r requirements-cluster.txt"
        ) from error
    # It speaks of every lost connection; what matters is said here.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


def connect(address: str) -> Client:
    """A client of the scheduler at `address`. Raises ConfigurationError if none answers."""
    distributed = _import()
    try:
        distributed.comm.get_address_host_port(address)  # a client would end badly without
        return distributed.Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"--scheduler {address}: no Dask scheduler answers there ({error}); start one with "
            "`dask scheduler`, which prints its address, such as tcp://10.0.0.5:8786"
        ) from error


def losses_allowed() -> int:
    """Workers that may be lost with a run before it counts as failed: Dask's own setting."""
    import dask

    return dask.config.get("distributed.scheduler.allowed-failures")


class Workers:
    """The workers that are fit to do runs, as of the last `look`.

    root: the results folder. gpu_wanted: whether the runs use a GPU where there is one. gpu:
    whether they do, as the first workers decide: none is done on a CPU because it came late.
    """

    def __init__(self, client: Client, root: Path, gpu_wanted: bool) -> None:
        self.client, self.root, self.gpu_wanted = client, root, gpu_wanted
        self.gpu = False
        self.fit: dict[str, Found] = {}
        self._unfit: set[str] = set()

    def look(self, first: bool = False) -> dict[str, str]:
        """Forget those that are gone and examine newcomers; says what is wrong with unfit ones.

        Raises ConfigurationError if the scheduler is not one for us.
        """
        present = self.client.nthreads()
        self.fit = {one: found for one, found in self.fit.items() if one in present}
        self._unfit.intersection_update(present)
        newcomers = [one for one in present if one not in self.fit and one not in self._unfit]
        if not newcomers:
            return {}
        problems = self._foreign(newcomers)
        newcomers = [one for one in newcomers if one not in problems]
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".cluster-") as sign:
            name = Path(sign.name).name
            answers = self.ask("look", newcomers, self.root, name, self.gpu_wanted)
        if first:
            found = [answer for answer in answers.values() if isinstance(answer, Found)]
            self.gpu = self.gpu_wanted and any(one.announced and one.gpus for one in found)
        for worker, answer in answers.items():
            if problem := self._problem(answer):
                problems[worker] = problem
            else:
                self.fit = {**self.fit, worker: answer}
        self._unfit.update(problems)
        return problems

    def places(self) -> int:
        """Runs at a time on all workers: one on each GPU, or a thread."""
        return sum(map(self.places_on, self.fit.values()))

    def places_on(self, found: Found) -> int:
        """Runs at a time on one of them."""
        return min(found.threads, found.announced) if self.gpu else found.threads

    def machines(self) -> set[str]:
        """The machines that they are on."""
        return {found.machine for found in self.fit.values()}

    def ask(self, name: str, workers: list[str], *arguments: object) -> dict[str, object]:
        """{worker: the answer of a function of `remote`, or the error}, aside from all tasks."""
        if not workers:
            return {}
        function, packed = sent(name, aside=True), pickle.dumps(arguments)
        return self.client.run(function, packed, workers=workers, on_error="return")

    def _foreign(self, workers: list[str]) -> dict[str, str]:
        """Those whose versions are not ours. Raises ConfigurationError if the scheduler's are not:
        functions travel as code, and the scheduler reads it."""
        versions = self.client.get_versions()
        here = _versions(versions["client"])
        advice = f"here is {here}; start it with this Python environment"
        if (there := _versions(versions["scheduler"])) != here:
            raise ConfigurationError(f"--scheduler: the scheduler has {there}, {advice}")
        found = {one: _versions(versions["workers"].get(one)) for one in workers}
        return {one: f"has {there}, {advice}" for one, there in found.items() if there != here}

    def _problem(self, found: Found | Exception) -> str | None:
        """Why a worker cannot carry out runs, and what would be right."""
        if not isinstance(found, Found):
            return (
                f"cannot import what is in {ROOT} ({type(found).__name__}: {found}); it needs that "
                "folder, shared with this machine, and this Python environment"
            )
        if found.read != remote.hash_of_files(*remote.RUN):
            return f"sees another version of {ROOT} than is here; let all share one folder"
        if found.imported != remote.IMPORTED:
            return f"has imported another version of {ROOT}/common/sweep; start it and this again"
        if found.trouble:
            return f"{self.root} {found.trouble}; choose a folder that all share with --results"
        return self._gpu_problem(found) if self.gpu_wanted else None

    def _gpu_problem(self, found: Found) -> str | None:
        seen = f"torch sees {len(found.gpus)} there"
        if found.announced > len(found.gpus):
            return f"announces GPU={found.announced}, but {seen}; start it with as many as it has"
        if found.gpus and not found.announced:
            return (
                f"announces no GPU, but {seen}; start it with --resources GPU={len(found.gpus)}, "
                "or run with -p device=cpu"
            )
        if self.gpu and not found.announced:
            return "has no GPU, but others have; stop it, or run with -p device=cpu"
        others = [one for one in self.fit.values() if one.machine == found.machine]
        if self.gpu and None in [one.visible for one in others] and found.visible is None:
            return (
                "would use the same GPU as another worker on its machine; start each with its own "
                "CUDA_VISIBLE_DEVICES, or one for all GPUs"
            )
        return None


def sent(name: str, aside: bool = False) -> Callable:
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
        function = getattr(importlib.import_module("common.sweep.dask.remote"), name)
        return function(worker or get_worker(), *pickle.loads(arguments))

    async def call_aside(arguments: bytes, dask_worker: object) -> object:
        import asyncio

        return await asyncio.to_thread(call, arguments, dask_worker)

    return call_aside if aside else call


def _versions(answer: dict | None) -> str:
    packages = (answer or {}).get("packages", {})
    python = ".".join(str(packages.get("python")).split(".")[:2])
    return f"Python {python} and distributed {packages.get('distributed')}"
