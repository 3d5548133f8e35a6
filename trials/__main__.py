"""python -m trials: batches of notebooks. Parses; the work is in `common.sweep`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from common.errors import ConfigurationError

if TYPE_CHECKING:
    from common.sweep.job import Job

TRIALS = Path(__file__).resolve().parent
ROOT = TRIALS.parent
GRIDS = TRIALS / "grids"


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command. Returns its exit status: 0, 1 something failed, 2 bad input, 128 + n
    stopped by signal n."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, emoji=False)
    try:
        return options.command(options, console)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run(options: argparse.Namespace, console: Console) -> int:
    """Carry out the runs of a grid that are not done."""
    from common.results import is_done
    from common.sweep import plan as plans
    from common.sweep import report, slots
    from common.sweep.run import sweep

    root, jobs = _plan(options)
    left = [job for job in jobs if not is_done(job.folder)]
    if options.dry_run:
        for job in left:
            console.print(escape(job.name), soft_wrap=True)
        console.print(
            f"{len(jobs)} runs, {len(jobs) - len(left)} done, {len(left)} left; none started"
        )
        return 0
    if not left:
        console.print(f"All {len(jobs)} runs are done.")
        return 0
    since = plans.check_writable(root)
    plans.check_data(left)
    places = slots.slots((job.parameters["device"] for job in left), options.jobs, options.per_gpu)
    console.print(
        f"{options.grid}: {len(jobs)} runs, {len(jobs) - len(left)} done before; "
        f"{len(places)} at a time; results in {escape(str(root))}",
        soft_wrap=True,
    )
    ended = sweep(jobs, slots.local_executor(places), len(places), since, console)
    report.show_failures(ended.failed, console)
    again = f"python -m trials {shlex.join(sys.argv[1:])}"
    if ended.signal:
        console.print(
            f"Stopped by {ended.signal.name}: {ended.done} of {len(jobs)} runs are done, nothing "
            f"of them is lost. To continue: {escape(again)}",
            soft_wrap=True,
        )
    elif ended.failed:
        console.print(
            f"{ended.done} of {len(jobs)} runs are done, {len(ended.failed)} failed. "
            f"To try these again: {escape(again)}",
            soft_wrap=True,
        )
    else:
        console.print(f"All {len(jobs)} runs are done.")
    return ended.status


def status(options: argparse.Namespace, console: Console) -> int:
    """Say where the runs of a grid stand."""
    from common.sweep import report

    report.show_status(_plan(options)[1], console)
    return 0


def collect(options: argparse.Namespace, console: Console) -> int:
    """One table from all runs."""
    from common.sweep import report

    report.collect(_root(options), console)
    return 0


def figures(options: argparse.Namespace, console: Console) -> int:
    """Draw a grid's figures."""
    from common.sweep import report

    main_figure = report.draw(ROOT / "figures" / "figures.ipynb", _root(options), console)
    return 0 if main_figure else 1


def listing(options: argparse.Namespace, console: Console) -> int:
    """Say what there is to run."""
    from common.protocols import PROTOCOLS
    from common.pruning import METHODS
    from common.sweep import grid
    from common.sweep import plan as plans

    notebooks = plans.notebooks(TRIALS)
    console.print("[bold]methods[/bold] (variants)")
    for method in notebooks:
        variants = ", ".join(name for name in METHODS.get(method, {}) if name)
        console.print(f"  {method}{f' ({variants})' if variants else ''}")
    console.print("[bold]protocols[/bold]")
    for protocol in PROTOCOLS.values():
        console.print(f"  {protocol.name}: {escape(protocol.source)}", soft_wrap=True)
    console.print("[bold]grids[/bold]")
    for name in grid.names(GRIDS):
        found = grid.find(name, GRIDS, notebooks)
        number = len(plans.plan(found, ROOT / "results" / name, notebooks))
        console.print(f"  {name}: {escape(found.title)}, {number} runs", soft_wrap=True)
    return 0


def doctor(options: argparse.Namespace, console: Console) -> int:
    """Say what this machine has."""
    from common.sweep import doctor

    return 0 if doctor.show(doctor.examine(options.results, options.data_dir), console) else 1


def _root(options: argparse.Namespace) -> Path:
    """Where the grid's results lie; the grid is a name or the path of its file."""
    return options.results.resolve() / Path(options.grid).stem


def _plan(options: argparse.Namespace) -> tuple[Path, list[Job]]:
    from common.sweep import grid
    from common.sweep import plan as plans

    notebooks = plans.notebooks(TRIALS)
    found = grid.find(options.grid, GRIDS, notebooks)
    root = _root(options)
    return root, plans.plan(found, root, notebooks, grid.overrides(options.parameters))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trials", description="Batches of notebooks.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: object, help: str, grid: bool = True) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help, description=command.__doc__)
        one.set_defaults(command=command)
        if grid:
            one.add_argument("grid", metavar="GRID", help="a name (see list) or a YAML file's path")
        if name != "list":
            one.add_argument(
                "--results",
                type=Path,
                default=ROOT / "results",
                metavar="DIR",
                help="where results lie, a folder for each grid (default: results/ here)",
            )
        return one

    def add_parameters(one: argparse.ArgumentParser) -> None:
        one.add_argument(
            *("-p", "--parameter"),
            dest="parameters",
            action="append",
            default=[],
            metavar="name=value",
            help="a parameter, or the method, of every run; a,b or [a, b]: each run with all",
        )

    batch = add("run", run, "do the runs of a grid that are not done")
    add_parameters(batch)
    workers = batch.add_mutually_exclusive_group()
    workers.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="runs at a time, sharing the cores and GPUs (default: one on each GPU, one on a CPU)",
    )
    workers.add_argument(
        "--per-gpu", type=_positive, metavar="K", help="runs at a time on each GPU"
    )
    batch.add_argument("--dry-run", action="store_true", help="list what would be done")
    add_parameters(add("status", status, "done, running, failed, left, expected time"))
    add("collect", collect, "one table from all runs")
    add("figures", figures, "draw a grid's figures")
    add("list", listing, "methods, variants, protocols, grids", grid=False)
    machine = add("doctor", doctor, "what this machine has", grid=False)
    machine.add_argument("--data-dir", metavar="DIR", help="where to look for data")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
