"""python -m trials: batches of notebooks. Parses; the work is in `common.sweep` and
`common.commands`, which are imported by the command that needs them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem
from rich.console import Console
from rich.markup import escape

from common.base.bootstrap import require_docstrings
from common.base.errors import LONGEST, ConfigurationError, NotebookError, shown, unknown
from common.base.paths import GRIDS, ROOT, TRIALS, default_results, require_clone

PROGRAM = "trials" if Path(sys.argv[0]).stem == "trials" else "python -m trials"
COMPLETE = "_TRIALS_COMPLETE"  # the variable by which a shell asks for completions


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command. Returns its exit status: 0, 1 something failed, 2 bad input, 128 + n
    stopped by signal n. Raises SystemExit(2) for a command line that cannot be parsed."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        require_docstrings()
        status = cli.main(
            arguments, PROGRAM, COMPLETE, standalone_mode=False, obj={"arguments": arguments}
        )
        return status or 0
    except click.UsageError as error:
        if error.ctx:
            print(error.ctx.get_usage(), file=sys.stderr)
        print(f"error: {error.format_message()}", file=sys.stderr)
        raise SystemExit(2) from None
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except NotebookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, click.Abort):
        return 130


class Formatter(click.HelpFormatter):
    """Help as it was before click: `usage:` in small letters."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or "usage: ")


class Context(click.Context):
    formatter_class = Formatter


class Command(click.Command):
    context_class = Context


class Commands(click.Group):
    """A group that says which command was meant, and lists the commands in the order of a day."""

    context_class = Context
    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        known = not args or args[0] in self.commands or args[0].startswith("-")
        if not known and not ctx.resilient_parsing:
            raise click.UsageError(str(unknown("command", args[0], self.commands)), ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
def cli() -> None:
    """Batches of notebooks."""


# What may be asked for


def complete_grids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list:
    """The shipped grids, or files."""
    names = sorted(path.stem for path in GRIDS.glob("*.yaml") if path.stem.startswith(incomplete))
    return names or [CompletionItem(incomplete, type="file")]


def complete_notebooks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The folders of `trials/` that have a notebook."""
    found = sorted(path.stem for path in TRIALS.glob("*/*.ipynb") if path.stem == path.parent.name)
    return [name for name in found if name.startswith(incomplete)]


def complete_parameters(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of parameters."""
    from common.sweep.grid import keys

    return [CompletionItem(f"{name}=") for name in keys() if name.startswith(incomplete)]


def pairs(ctx: click.Context, param: click.Parameter, settings: tuple[str, ...]) -> list[str]:
    """Every setting is name=value. Raises ConfigurationError with what was meant."""
    for setting in settings:
        if "=" not in setting:
            given = ctx.obj["arguments"]
            following = given[given.index(setting) + 1 :] if setting in given else []
            value = following[0] if following and not following[0].startswith("-") else "value"
            meant = f": -p {setting}={value}"
            raise ConfigurationError(
                f"-p {shown(setting)}: write it as name=value, without a space"
                + meant * (len(meant) <= LONGEST)
            )
    return list(settings)


def positive(text: str) -> int:
    """A number from 1 on, of runs."""
    if not re.fullmatch("[1-9][0-9]{0,4}", text):
        raise click.BadParameter(f"{shown(text)} is not a number from 1 to 99999")
    return int(text)


def results_folder(ctx: click.Context, param: click.Parameter, folder: Path | None) -> Path:
    """Where results lie unless told otherwise."""
    folder = folder or default_results()
    try:
        folder.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ConfigurationError(f"--results {shown(str(folder))}: {error}") from error
    return folder


GRID = click.argument("grid", metavar="GRID", shell_complete=complete_grids)
RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    metavar="DIR",
    callback=results_folder,
    help="where results lie, a folder for each grid (default: results/ in the repository, or here "
    "where that cannot be written)",
)


def parameters(help: str) -> object:
    """The option -p."""
    return click.option(
        *("-p", "--parameter", "parameters"),
        multiple=True,
        metavar="name=value",
        callback=pairs,
        shell_complete=complete_parameters,
        help=help,
    )


SEVERAL = parameters(
    "a parameter, or the method, of every run; a,b or [a, b]: each run with all",
)


def console() -> Console:
    """Where commands print."""
    return Console(highlight=False, emoji=False)


def root_of(results: Path, grid: str) -> Path:
    """Where the grid's results lie; the grid is a name or the path of its file."""
    return results.resolve() / Path(grid).stem


# Commands


@cli.command(short_help="do the runs of a grid that are not done")
@GRID
@RESULTS
@SEVERAL
@click.option(
    "--jobs",
    type=positive,
    metavar="N",
    help="runs at a time (default: what fits on the GPUs; one on a CPU, with all its threads)",
)
@click.option(
    "--per-gpu",
    type=positive,
    metavar="K",
    help="runs at a time on each GPU (default: as its memory allows)",
)
@click.option(
    "--time-budget",
    metavar="TIME",
    help="11h30m: start no run that is not expected to end in time, and stop then",
)
@click.option("--scheduler", metavar="ADDRESS", help="of a Dask cluster that does the runs")
@click.option("--dry-run", is_flag=True, help="list what would be done")
@click.pass_context
def run(ctx: click.Context, grid: str, parameters: list[str], **options: object) -> int:
    """Carry out the runs of a grid that are not done."""
    from common.sweep import batch

    again = f"{PROGRAM} {shlex.join(ctx.obj['arguments'])}"
    return batch.run(grid, parameters, **options, console=console(), again=again, program=PROGRAM)


@cli.command(short_help="done, running, failed, left, expected time")
@GRID
@RESULTS
@SEVERAL
def status(grid: str, results: Path, parameters: list[str]) -> None:
    """Say where the runs of a grid stand."""
    from common.sweep import batch, report

    root, jobs = batch.jobs_of(grid, parameters, results)
    report.show_status(jobs, console(), root)


@cli.command("results", short_help="the table of accuracies")
@GRID
@RESULTS
@SEVERAL
def show_results(grid: str, results: Path, parameters: list[str]) -> None:
    """Print the table of accuracies of a grid's finished runs."""
    from common.sweep import batch, report

    report.show_results(root_of(results, grid), console(), batch.keys_of(grid, parameters))


@cli.command(short_help="two runs side by side")
@click.argument("runs", nargs=2, metavar="RUN RUN")
@RESULTS
def compare(runs: tuple[str, str], results: Path) -> None:
    """Two runs side by side: accuracy, layer densities, overlap of masks.

    A run is its folder, or METHOD/RUN_ID or GRID/METHOD/RUN_ID below --results.
    """
    from common.commands import compare

    compare.show(*(compare.find(run, results) for run in runs), console())


@cli.group(short_help="the masks that a run has kept")
def masks() -> None:
    """The masks that a run has kept."""


@masks.command(short_help="for other code: masks, or the pruned network")
@click.argument("run", metavar="RUN")
@RESULTS
@click.option(
    "--as",
    "form",
    type=click.Choice(["safetensors", "torch_prune", "state_dict"]),
    default="safetensors",
    show_default=True,
    help="a boolean tensor for each mask; the state of the network under torch.nn.utils.prune; the "
    "state of the sparse network. All are safetensors files, and load_masks reads each",
)
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="default: here")
def export(run: str, results: Path, form: str, to: Path | None) -> None:
    """Write the masks of a run, or the network that it started to train, into a file.

    A run is its folder, or METHOD/RUN_ID or GRID/METHOD/RUN_ID below --results.
    """
    from common.commands import compare, masks

    path = masks.export(compare.find(run, results), form, to)
    console().print(str(path), soft_wrap=True)


@cli.command(short_help="one table from all runs")
@GRID
@RESULTS
@SEVERAL
@click.option("--code-version", metavar="COMMIT", help="only runs of this commit")
def collect(grid: str, results: Path, parameters: list[str], code_version: str | None) -> None:
    """One table from all runs of a grid; others in its folder are named and left out."""
    from common.sweep import batch, report

    only = batch.keys_of(grid, parameters)
    report.collect(root_of(results, grid), console(), code_version, only)


@cli.command(short_help="draw a grid's figures")
@GRID
@RESULTS
@SEVERAL
def figures(grid: str, results: Path, parameters: list[str]) -> int:
    """Draw a grid's figures; other runs in its folder are named and left out."""
    from common.sweep import batch, report

    notebook, root = ROOT / "figures" / "figures.ipynb", root_of(results, grid)
    told = (grid, parameters, batch.keys_of(grid, parameters))
    return 0 if report.draw(notebook, root, console(), *told) else 1


@cli.command(short_help="one notebook, its parameters checked")
@click.argument("name", metavar="METHOD", shell_complete=complete_notebooks)
@RESULTS
@parameters("a parameter of the notebook")
def notebook(name: str, results: Path, parameters: list[str]) -> int:
    """Execute the notebook of a method or a study; the executed copy lies with its results."""
    from common.commands import one_notebook

    return one_notebook.run(name, parameters, results, console())


@cli.command(short_help="a method from outside, put through the sanity checks")
@click.argument("score", metavar="FILE[:NAME]")
@RESULTS
@SEVERAL
@click.option(
    "--grid",
    default="check",
    metavar="GRID",
    shell_complete=complete_grids,
    help="whose networks, data, sparsities and seeds (default: check, on digits)",
)
@click.option("--iterations", type=positive, metavar="N", help="rounds of scoring and pruning")
@click.option("--schedule", metavar="NAME", help="of the rounds: exponential, linear")
@click.option("--scope", metavar="NAME", help="of the ranking: global, uniform, erk, smart_ratio")
@click.option("--images-per-class", type=int, metavar="N", help="that it scores on")
@click.option("--jobs", type=positive, metavar="N", help="runs at a time, as of `run`")
@click.option("--time-budget", metavar="TIME", help="11h30m, as of `run`")
@click.option("--scheduler", metavar="ADDRESS", help="of a Dask cluster, as of `run`")
@click.pass_context
def check(
    ctx: click.Context,
    score: str,
    results: Path,
    parameters: list[str],
    grid: str,
    jobs: int | None,
    time_budget: str | None,
    scheduler: str | None,
    **method: object,
) -> int:
    """Put a method from outside through the sanity checks; ends in a page with the verdict.

    FILE holds its score, a function of (model, context); or it is an entry point of the group
    trials.methods. Exit status 0: well made, 1: it is not, 2: it cannot be had.
    """
    from common.commands import check

    again = f"{PROGRAM} {shlex.join(ctx.obj['arguments'])}"
    batch = {"jobs": jobs, "time_budget": time_budget, "scheduler": scheduler, "again": again}
    return check.run(score, grid, parameters, results, console(), method=method, **batch)


@cli.command(short_help="make a grid's results those that the repository shows")
@GRID
@RESULTS
@SEVERAL
@click.option("--reference", metavar="SOURCE", help="published curves to lay behind")
@click.option(
    "--beside",
    is_flag=True,
    help="its tables and notebooks alone; the figures go on showing another grid",
)
def publish(
    grid: str, results: Path, parameters: list[str], reference: str | None, beside: bool
) -> None:
    """Make a grid's results those that the repository shows."""
    from common.commands import publish
    from common.sweep import batch

    if beside and reference:
        raise ConfigurationError("--reference: the figures are not drawn with --beside")
    require_clone()
    root, only = root_of(results, grid), batch.keys_of(grid, parameters)
    if beside:
        publish.publish_beside(root, console(), only=only)
    else:
        publish.publish(root, reference, console(), only=only)


@cli.command(short_help="execute notebooks, into rendered.ipynb")
@click.argument(
    "notebooks", nargs=-1, required=True, metavar="NOTEBOOK...", type=click.Path(path_type=Path)
)
@parameters("a parameter of the notebook")
@click.option(
    "--text",
    is_flag=True,
    help="carry prose and imports over into the copy, where nothing else has changed",
)
def render(notebooks: tuple[Path, ...], parameters: list[str], text: bool) -> None:
    """Execute notebooks, each into a rendered.ipynb beside it; or only carry their prose over."""
    from common.commands import notebooks as copies
    from common.commands import publish

    if text:
        for path in notebooks:
            changed = copies.refresh(path)
            console().print(f"{path}: {'text carried over' if changed else 'as it was'}")
        return
    for path in notebooks:
        console().print(str(publish.render(path, parameters)), soft_wrap=True)


@cli.command(short_help="write the choices of the notebooks' forms")
def forms() -> None:
    """Write what there is to choose into the notebooks' forms and the table of methods."""
    from common.commands import notebooks

    for path in notebooks.write_forms():
        console().print(str(path.relative_to(ROOT)), soft_wrap=True)


@cli.command(short_help="set the repository's address, everywhere")
@click.argument("url", metavar="URL")
def address(url: str) -> None:
    """Write the repository's address into pyproject.toml, CITATION.cff, and the set-up cells and
    badges of all notebooks; with "" take it out.

    URL: https://github.com/you/name
    """
    from common.commands import address, notebooks

    address.write(url)
    changed = notebooks.write_forms()
    console().print(
        f"{url or 'no address'}: pyproject.toml, CITATION.cff, {len(changed)} notebooks"
    )


@cli.command(short_help="a new method: its score, its notebook, its registration")
@click.argument("name", metavar="NAME")
def new(name: str) -> None:
    """Begin a method: a score to write, registered, with a notebook that tells its story."""
    from common.commands import new_method

    written = new_method.create(name)
    for path in written:
        console().print(str(path.relative_to(ROOT)), soft_wrap=True)
    console().print(
        f"Write its score in {written[0].relative_to(ROOT)}, tell its story in the notebook, and "
        f"run it beside random: {PROGRAM} run quick -p method=random,{name}",
        soft_wrap=True,
        markup=False,
    )


@cli.command("list", short_help="methods, variants, protocols, grids")
def listing() -> None:
    """Say what there is to run."""
    from common.runs import registry
    from common.sweep import grid, plan
    from common.training.protocols import PROTOCOLS

    out = console()
    notebooks = plan.notebooks(TRIALS)
    out.print("[bold]methods[/bold] (variants)")
    for method in notebooks:
        variants = ", ".join(filter(None, registry.variants(method)))
        out.print(f"  {method}{f' ({variants})' if variants else ''}")
    out.print("[bold]protocols[/bold]")
    for protocol in PROTOCOLS.values():
        out.print(f"  {protocol.name}: {escape(protocol.source)}", soft_wrap=True)
    out.print("[bold]grids[/bold]")
    for name in grid.names(GRIDS):
        found = grid.find(name, GRIDS, notebooks)
        number = len(plan.experiments(found, ROOT / "results" / name))
        out.print(f"  {name}: {escape(found.title)}, {number} runs", soft_wrap=True)


@cli.command(short_help="what this machine has")
@RESULTS
@click.option("--data-dir", metavar="DIR", help="where to look for data")
def doctor(results: Path, data_dir: str | None) -> int:
    """Say what this machine has."""
    from common.commands import doctor

    return 0 if doctor.show(doctor.examine(results, data_dir), console()) else 1


@cli.command(short_help="throughput and scoring times as ratios to plain loops")
@RESULTS
@click.option("--quick", is_flag=True, help="a small network, to see that it works")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N")
@click.option("--precision", default="auto", help="auto, float32, bfloat16, float16")
def bench(results: Path, quick: bool, device: str, precision: str) -> int:
    """Throughput and scoring times beside a bare PyTorch loop, as ratios."""
    from common.commands import bench

    return bench.run(
        console(), quick=quick, device=device, precision=precision, folder=results / "bench"
    )


if __name__ == "__main__":
    sys.exit(main())
