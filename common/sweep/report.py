"""What came of a grid: its status, its failures, its collected tables."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.results import run_folder
from common.sweep import claims
from common.sweep.estimate import Estimate, in_words
from common.sweep.execute import run_notebook
from common.sweep.plan import Job
from common.sweep.progress import how_far

if TYPE_CHECKING:
    from common.results.collected import Keys

NAMED = 3  # runs that a message names before it counts the rest


@dataclass
class Status:
    """Where every run of a grid stands; failed holds the error's last line."""

    done: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    failed: dict[Job, str] = field(default_factory=dict)
    left: list[Job] = field(default_factory=list)


def look(jobs: list[Job]) -> Status:
    """Read the run folders, whoever is working on them."""
    status = Status()
    for job in jobs:
        attempt = None if run_folder.is_done(job.folder) else claims.last(job.folder)
        if run_folder.is_done(job.folder):
            status.done.append(job)
        elif attempt and attempt.under_way():
            status.running.append(job)
        elif attempt and attempt.state == "failed":
            status.failed[job] = attempt.error
        else:
            status.left.append(job)
    return status


def show_status(jobs: list[Job], console: Console, root: Path | None = None) -> None:
    """Print what is done, running, failed and left, and the time that the rest should take.

    root: the grid's folder; finished runs there that are none of the jobs are named.
    """
    status = look(jobs)
    estimate = Estimate()
    estimate.learn_from_folders(status.done)
    for job in status.running:
        console.print(f"running  {escape(job.name)}  {how_far(job.folder)}", soft_wrap=True)
    show_failures(status.failed, console)
    _show_uncaptured([*status.done, *status.running], console)
    console.print(
        f"{len(status.done)}/{len(jobs)} done, {len(status.running)} running, "
        f"{len(status.failed)} failed, {len(status.left)} left"
    )
    rest = [*status.running, *status.failed, *status.left]
    if rest:
        workers = max(1, len(status.running))
        seconds = estimate.total(rest)
        expected = in_words(seconds / workers) if seconds is not None else "unknown so far"
        console.print(f"Expected time for the rest, {workers} at a time: {expected}")
    if further := _others(root, jobs) if root else []:
        names = ", ".join(further[:NAMED])
        names += f" and {len(further) - NAMED} more" if len(further) > NAMED else ""
        runs = f"{len(further)} finished run{'s' * (len(further) > 1)}"
        console.print(
            f"Not counted, since of other parameters (-p name=value): {runs} in "
            f"{escape(str(root))}: {escape(names)}",
            soft_wrap=True,
        )


def _others(root: Path, jobs: list[Job]) -> list[str]:
    """The finished runs in `root` that are none of `jobs`, nor earlier results of one."""
    ours = {job.folder for job in jobs}
    found = sorted(path.parent for path in root.glob("*/*/summary.csv"))
    return [
        f"{folder.parent.name}/{folder.name}"
        for folder in found
        if folder not in ours and re.sub(r"\.\d+$", "", folder.name) == folder.name
    ]


def show_results(root: Path, console: Console, only: Keys | None = None) -> None:
    """Print the accuracies of the finished runs in `root`: a table for each setting, a row for each
    method and ablation, a column for each sparsity.

    only: (method, run_id) of the runs that count. Raises ConfigurationError if there is none.
    """
    from common.plots import accuracies, by_sparsity, settings
    from common.results import collected

    summary = collected.collect(root, only=only).summary
    for name, part in settings(summary).items():
        rows = by_sparsity(accuracies(part)).reset_index()
        seeds = part["seed"].nunique()
        counted = f"{len(part)} run{'s' * (len(part) > 1)}, seeds: {seeds}"
        console.print(f"{escape(name)}: test accuracy (%), {counted}", soft_wrap=True)
        table = Table(box=SIMPLE)
        for column in rows:
            table.add_column(escape(str(column)), no_wrap=True)
        for row in rows.itertuples(index=False):
            table.add_row(*(escape(str(value)) for value in row))
        console.print(table)


def show_failures(failed: Mapping[Job, str], console: Console) -> None:
    """For every failed run: its name, the error's last line, the notebook to open."""
    for job, error in failed.items():
        notebook = job.folder / "notebook.ipynb"
        if not notebook.is_file():  # it did not come so far
            notebook = notebook.with_name("log.txt")
        lines = (f"failed   {job.name}", error, os.path.relpath(notebook))
        console.print(escape("\n         ".join(lines)), soft_wrap=True)


def _show_uncaptured(jobs: list[Job], console: Console) -> None:
    """Runs that are slower than they could be, counted by reason."""
    reasons = Counter(run_folder.why_not_captured(job.folder) for job in jobs)
    for reason, runs in reasons.items():
        if reason:
            text = f"{runs} run{'s' * (runs > 1)} without a CUDA graph, only slower: {reason}"
            console.print(escape(text), soft_wrap=True)


def collect(
    root: Path, console: Console, code_version: str | None = None, only: Keys | None = None
) -> None:
    """One table each from all finished runs, those that only some trials leave among them, into
    `root`; says what was left out and why.

    code_version: only runs of this commit; only: (method, run_id) of those that count. Raises
    ConfigurationError if there is none.
    """
    from common.results import collected

    found = collected.collect(root, code_version, only)
    collected.write_collected(found, root)
    written = ", ".join(str(root / f"{name}.csv") for name in (*collected.TABLES, *found.more))
    console.print(f"{len(found.summary)} runs -> {written}", soft_wrap=True)
    versions = found.summary["code_version"].value_counts()
    if len(versions) > 1:
        counts = ", ".join(f"{count} of {version}" for version, count in versions.items())
        console.print(
            f"They are of several code versions: {escape(counts)}. "
            "--code-version COMMIT takes those of one.",
            soft_wrap=True,
        )
    _show_left_out(found.left_out, console)


def draw(
    notebook: Path,
    root: Path,
    console: Console,
    grid: str | None = None,
    parameters: Sequence[str] = (),
    only: Keys | None = None,
) -> Path | None:
    """Execute the figures notebook on the grid in `root` and name the files that it wrote; returns
    the main figure, None on failure.

    grid: its name or file, where that is not the folder's name; parameters: `name=value` of its
    runs; only: (method, run_id) of them. Raises ConfigurationError if no run is finished.
    """
    from common.results import collected

    _show_left_out(collected.collect(root, only=only).left_out, console)
    output = root / "figures"
    output.mkdir(exist_ok=True)
    before = _stamps(output)
    told = {
        "grid": grid or root.name,
        "parameters": shlex.join(parameters),
        "results_dir": str(root.parent),
        "output_dir": str(output),
    }
    failed = run_notebook(notebook, output / notebook.name, told, mark=f"{output} {os.getpid()}")
    figure = output / "accuracy.png"
    if failed is None and figure.is_file():
        written = [path for path, stamp in _stamps(output).items() if before.get(path) != stamp]
        for path in [figure, *(path for path in sorted(written) if path != figure)]:
            console.print(escape(str(path)), soft_wrap=True)
        return figure
    reason = failed.error if failed else f"the notebook drew no {figure.name}"
    console.print(f"figures failed: {escape(reason)}; see {output / notebook.name}", soft_wrap=True)
    return None


def _show_left_out(left_out: Iterable[tuple[Path, str]], console: Console) -> None:
    for folder, reason in left_out:
        console.print(f"left out: {escape(str(folder))}: {escape(reason)}", soft_wrap=True)


def _stamps(folder: Path) -> dict[Path, int]:
    """When each file of `folder` was written last, but what is left by the notebook's process."""
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".txt")
    return {path: path.stat().st_mtime_ns for path in files}
