"""python -m trials: batches of notebooks. Parses; the work is in `common.sweep`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from common.errors import ConfigurationError, NotebookError

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command. Returns its exit status: 0, 1 something failed, 2 bad input, 128 + n
    stopped by signal n."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, emoji=False)
    try:
        if "results" in options:
            from common.experiment import default_results

            options.results = options.results or default_results()
        return options.command(options, console)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NotebookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(options: argparse.Namespace, console: Console) -> int:
    """Carry out the runs of a grid that are not done."""
    from common.sweep import batch

    return batch.run(
        options.grid,
        options.parameters,
        results=options.results,
        jobs=options.jobs,
        per_gpu=options.per_gpu,
        time_budget=options.time_budget,
        scheduler=options.scheduler,
        dry_run=options.dry_run,
        console=console,
        again=f"python -m trials {shlex.join(sys.argv[1:])}",
    )


def status(options: argparse.Namespace, console: Console) -> int:
    """Say where the runs of a grid stand."""
    from common.sweep import batch, report

    _, jobs = batch.jobs_of(options.grid, options.parameters, options.results)
    report.show_status(jobs, console)
    return 0


def collect(options: argparse.Namespace, console: Console) -> int:
    """One table from all runs."""
    from common.sweep import report

    report.collect(_root(options), console, options.code_version)
    return 0


def figures(options: argparse.Namespace, console: Console) -> int:
    """Draw a grid's figures."""
    from common.sweep import report

    main_figure = report.draw(ROOT / "figures" / "figures.ipynb", _root(options), console)
    return 0 if main_figure else 1


def publish(options: argparse.Namespace, console: Console) -> int:
    """Make a grid's results those that the repository shows."""
    from common.sweep import publish

    if options.beside and options.reference:
        raise ConfigurationError("--reference: the figures are not drawn with --beside")
    if options.beside:
        publish.publish_beside(_root(options), console)
    else:
        publish.publish(_root(options), options.reference, console)
    return 0


def render(options: argparse.Namespace, console: Console) -> int:
    """Execute notebooks, each into a rendered copy beside it."""
    from common.sweep import grid, publish

    given = grid.overrides(options.parameters)
    if several := [name for name, values in given.items() if len(values) > 1]:
        raise ConfigurationError(f"-p {several[0]}: a notebook is executed with one value")
    parameters = {name: value for name, (value,) in given.items()}
    for notebook in options.notebooks:
        console.print(str(publish.render(notebook, parameters)), soft_wrap=True)
    return 0


def listing(options: argparse.Namespace, console: Console) -> int:
    """Say what there is to run."""
    from common import registry
    from common.protocols import PROTOCOLS
    from common.sweep import batch, grid
    from common.sweep import plan as plans

    notebooks = plans.notebooks(batch.TRIALS)
    console.print("[bold]methods[/bold] (variants)")
    for method in notebooks:
        variants = ", ".join(filter(None, registry.variants(method)))
        console.print(f"  {method}{f' ({variants})' if variants else ''}")
    console.print("[bold]protocols[/bold]")
    for protocol in PROTOCOLS.values():
        console.print(f"  {protocol.name}: {escape(protocol.source)}", soft_wrap=True)
    console.print("[bold]grids[/bold]")
    for name in grid.names(batch.GRIDS):
        found = grid.find(name, batch.GRIDS, notebooks)
        number = len(plans.plan(found, ROOT / "results" / name, notebooks))
        console.print(f"  {name}: {escape(found.title)}, {number} runs", soft_wrap=True)
    return 0


def doctor(options: argparse.Namespace, console: Console) -> int:
    """Say what this machine has."""
    from common.sweep import doctor

    return 0 if doctor.show(doctor.examine(options.results, options.data_dir), console) else 1


def bench(options: argparse.Namespace, console: Console) -> int:
    """Throughput and scoring times beside a bare PyTorch loop, as ratios."""
    from common import bench

    return bench.run(
        console,
        quick=options.quick,
        device=options.device,
        precision=options.precision,
        folder=options.results / "bench",
    )


def _root(options: argparse.Namespace) -> Path:
    """Where the grid's results lie; the grid is a name or the path of its file."""
    return options.results.resolve() / Path(options.grid).stem


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
                metavar="DIR",
                help="where results lie, a folder for each grid (default: results/ in the "
                "repository, or here where that cannot be written)",
            )
        return one

    several = "a parameter, or the method, of every run; a,b or [a, b]: each run with all"

    def add_parameters(one: argparse.ArgumentParser, help: str = several) -> None:
        one.add_argument(
            *("-p", "--parameter"),
            dest="parameters",
            action="append",
            default=[],
            metavar="name=value",
            help=help,
        )

    batch = add("run", run, "do the runs of a grid that are not done")
    add_parameters(batch)
    batch.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="runs at a time (default: what fits on the GPUs; one on a CPU, with all its threads)",
    )
    batch.add_argument(
        "--per-gpu",
        type=_positive,
        metavar="K",
        help="runs at a time on each GPU (default: as its memory allows)",
    )
    batch.add_argument(
        "--time-budget",
        metavar="TIME",
        help="11h30m: start no run that is not expected to end in time, and stop then",
    )
    batch.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster that does the runs"
    )
    batch.add_argument("--dry-run", action="store_true", help="list what would be done")
    add_parameters(add("status", status, "done, running, failed, left, expected time"))
    gathering = add("collect", collect, "one table from all runs")
    gathering.add_argument("--code-version", metavar="COMMIT", help="only runs of this commit")
    add("figures", figures, "draw a grid's figures")
    showing = add("publish", publish, "make a grid's results those that the repository shows")
    showing.add_argument("--reference", metavar="SOURCE", help="published curves to lay behind")
    showing.add_argument(
        "--beside",
        action="store_true",
        help="its tables and notebooks alone; the figures go on showing another grid",
    )
    rendering = commands.add_parser(
        "render", help="execute notebooks, into rendered copies", description=render.__doc__
    )
    rendering.set_defaults(command=render)
    add_parameters(rendering, "a parameter of the notebook")
    rendering.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    add("list", listing, "methods, variants, protocols, grids", grid=False)
    machine = add("doctor", doctor, "what this machine has", grid=False)
    machine.add_argument("--data-dir", metavar="DIR", help="where to look for data")
    speed = add("bench", bench, "throughput and scoring times as ratios to plain loops", grid=False)
    speed.add_argument("--quick", action="store_true", help="a small network, to see that it works")
    speed.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    speed.add_argument("--precision", default="auto", help="auto, float32, bfloat16, float16")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
