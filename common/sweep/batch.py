"""A whole batch, as `python -m trials run` and trials/run_all.ipynb do it."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from common.base.errors import ConfigurationError, shown, unknown
from common.base.files import make_writable
from common.base.paths import GRIDS, TRIALS, default_results
from common.base.version import code_version, is_commit
from common.datasets import folders
from common.results.run_folder import is_done
from common.runs import experiment
from common.runs.options import whole
from common.sweep import earlier, grid, plan, report, slots
from common.sweep.loop import Ended, Sweep
from common.sweep.plan import Job
from common.sweep.pool import Local, Pool

if TYPE_CHECKING:
    from common.results.collected import Keys


def jobs_of(name: str, parameters: Sequence[str], results: Path) -> tuple[Path, list[Job]]:
    """(the grid's results folder, all its runs, done or not), everything validated.

    name: of a grid, or the path of its file. parameters: `name=value` for every run. Raises
    ConfigurationError.
    """
    root, runs = runs_of(name, parameters, results)
    notebooks = plan.notebooks(TRIALS)
    return root, [plan.job(run, notebooks[run.method]) for run in runs]


def runs_of(
    name: str, parameters: Sequence[str], results: Path
) -> tuple[Path, list[experiment.Experiment]]:
    """As `jobs_of`, the runs before they are jobs: without torch, which takes seconds."""
    notebooks = plan.notebooks(TRIALS)
    found = grid.find(name, GRIDS, notebooks)
    root = results.resolve() / found.name
    runs = plan.experiments(found, root, grid.overrides(parameters))
    notebooks = plan.notebooks(TRIALS)  # those of methods from outside among them by now
    for run in runs:
        if run.method not in notebooks:
            raise unknown("-p method", run.method, notebooks)
    return root, runs


def keys_of(name: str, parameters: Sequence[str] = ()) -> Keys | None:
    """(method, run_id) of the grid's runs; None for a name that is no grid's, whose folder holds
    what it holds. Raises ConfigurationError as `jobs_of` does."""
    if not name.endswith((".yaml", ".yml")) and name not in grid.names(GRIDS):
        return None
    return {(run.method, run.run_id) for run in runs_of(name, parameters, default_results())[1]}


def run(
    name: str,
    parameters: Sequence[str] = (),
    *,
    results: Path,
    jobs: int | None = None,
    per_gpu: int | None = None,
    time_budget: str | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
    console: Console | None = None,
    again: str = "the same call",
    program: str | None = None,
) -> int:
    """Carry out the runs of a grid that are not done; returns the exit status (`Ended.status`).

    name, parameters: as `jobs_of`. jobs: runs at a time; per_gpu: on each GPU. time_budget: such as
    11h30m. scheduler: the address of a Dask cluster that does the runs. again: what continues the
    batch, for the messages; program: the command that draws its figures. Raises ConfigurationError
    before any work starts.
    """
    begun = time.monotonic()
    console = console or Console(highlight=False, emoji=False)
    jobs, per_gpu = whole("jobs", jobs, least=1), whole("per_gpu", per_gpu, least=1)
    deadline = begun + (seconds(time_budget) if time_budget else math.inf)
    root, runs = runs_of(name, parameters, results)
    todo = [run for run in runs if not is_done(run.folder)]
    if dry_run:
        for run in todo:
            console.print(escape(f"{run.method}/{run.run_id}"), soft_wrap=True)
        console.print(
            f"{len(runs)} runs, {len(runs) - len(todo)} done, {len(todo)} left; none started"
        )
        return 0
    if todo:
        since = make_writable(root, "choose a folder with --results")
        for folder in {run.data_dir for run in todo}:
            folders.home(folder)
        if not is_commit(version := code_version()):
            console.print(
                f"These runs could not be published: their code_version is {version} "
                "(+ is a change that is not committed)",
                soft_wrap=True,
            )
        # What follows imports torch, which takes seconds.
        console.print(f"{escape(name)}: preparing {len(todo)} of {len(runs)} runs", soft_wrap=True)
    notebooks = plan.notebooks(TRIALS)
    every = [plan.job(run, notebooks[run.method]) for run in runs] if todo else []
    left = [job for job in every if not is_done(job.folder)]
    if left:
        if found := earlier.take_over(left):
            console.print(f"Done in an earlier session, whose results were found: {found}")
        left = [job for job in left if not is_done(job.folder)]
    if not left:
        console.print(f"All {len(runs)} runs are done.")
        _show_results(root, runs, console)
        _show_next(name, parameters, results, console, program)
        return 0
    plan.check_data(left)
    gpus = grid.find(name, GRIDS, notebooks).gpus
    pool = _pool(left, root, jobs, per_gpu, scheduler, gpus)
    console.print(
        f"{name}: {len(every)} runs, {len(every) - len(left)} done before; "
        f"{pool.capacity()} at a time; results in {escape(str(root))}",
        soft_wrap=True,
    )
    ended = Sweep(every, since, console, deadline).run(pool)
    report.show_failures(ended.failed, console)
    console.print(escape(_verdict(ended, len(every), time_budget, again)), soft_wrap=True)
    if ended.done:
        _show_results(root, runs, console)
        _show_next(name, parameters, results, console, program)
    return ended.status


def _show_results(root: Path, runs: Sequence[experiment.Experiment], console: Console) -> None:
    report.show_results(root, console, {(run.method, run.run_id) for run in runs})


def _show_next(
    name: str, parameters: Sequence[str], results: Path, console: Console, program: str | None
) -> None:
    """The command that comes next."""
    if program:
        told = [word for setting in parameters for word in ("-p", setting)]
        if results.resolve() != default_results().resolve():
            told += ["--results", str(results)]
        command = shlex.join(["figures", name, *told])
        console.print(f"Next, its figures: {program} {escape(command)}", soft_wrap=True)


def settings(text: object) -> list[str]:
    """`method=SNIP seed=0,1`, as a notebook has them -> ["method=SNIP", "seed=0,1"]. Raises
    ConfigurationError."""
    try:
        return shlex.split(text if isinstance(text, str) else "'")
    except ValueError as error:  # a quotation that does not end
        raise ConfigurationError(
            f"parameters={shown(text)}: write name=value with spaces between, in one text, such as "
            '"method=SNIP,synflow seed=0,1"'
        ) from error


def seconds(time_budget: str) -> float:
    """`11h30m`, `1d`, `90m`, `1.5h`, `45s` -> seconds. Raises ConfigurationError."""
    import pandas as pd

    try:
        found = pd.Timedelta(time_budget.lower()).total_seconds()
    except ValueError:
        found = 0.0
    if not found >= 1:  # a number without a unit counts nanoseconds
        raise ConfigurationError(
            f"time budget {shown(time_budget)}: write hours, minutes or seconds, such as 11h30m "
            "or 90m"
        )
    return found


def _pool(
    jobs: list[Job],
    root: Path,
    number: int | None,
    per_gpu: int | None,
    scheduler: str | None,
    gpus: int,
) -> Pool:
    devices = [job.parameters["device"] for job in jobs]
    if scheduler:
        if per_gpu:
            raise ConfigurationError(
                "--per-gpu: on a cluster the workers say how many GPUs they have "
                "(--resources GPU=1); start several on a GPU for several runs"
            )
        if gpus > 1:
            raise ConfigurationError(f"gpus: {gpus} is for one machine, not for a cluster")
        from common.sweep.dask.cluster import Cluster

        return Cluster(scheduler, root, number, devices)
    most = max(job.memory for job in jobs)
    return Local(slots.slots(devices, number, per_gpu, most, gpus))


def _verdict(ended: Ended, total: int, time_budget: str | None, again: str) -> str:
    """What is to be known at the end, and what to do next."""
    done = f"{ended.done} of {total} runs are done"
    if ended.signal:
        return f"Stopped by {ended.signal.name}: {done}, nothing is lost. To continue: {again}"
    if ended.trouble:
        return f"Gave up: {ended.trouble}. {done}. Mend that; to continue: {again}"
    failed = f", {len(ended.failed)} failed" if ended.failed else ""
    if ended.out_of_time:
        return (
            f"The time budget of {time_budget} is used up: {done}{failed}, {len(ended.unfinished)} "
            f"left. To continue: {again}"
        )
    if ended.failed:
        return f"{done}{failed}. To try these again: {again}"
    return f"All {total} runs are done."
