"""`trials compare RUN RUN`: two finished runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.base.errors import ConfigurationError, shown
from common.results.run_folder import MASKS, is_done
from common.results.schema import EXACT

SHOWN = ("test_accuracy", "best_test_accuracy", "train_accuracy", "sparsity_actual")
SHOWN += ("effective_sparsity", "layers_collapsed", "parameters_kept")


def find(run: str, results: Path) -> Path:
    """The folder of a finished run: `run` itself, or METHOD/RUN_ID or GRID/METHOD/RUN_ID below
    `results`. Raises ConfigurationError if there is none, or several grids have one."""
    places = [Path(run), results / run, *sorted(results.glob(f"*/{run}"))]
    found = list(dict.fromkeys(path.resolve() for path in places if is_done(path)))
    if not found:
        raise ConfigurationError(
            f"{shown(run)} is no finished run: give its folder, or METHOD/RUN_ID below {results} "
            "(--results DIR)"
        )
    if len(found) > 1:
        raise ConfigurationError(
            f"{shown(run)} is a run of several grids; choose from: {', '.join(map(str, found))}"
        )
    return found[0]


def show(first: Path, second: Path, console: Console) -> None:
    """Print what differs in the parameters of two runs, their accuracies and layers."""
    console.print(parameters(first, second))
    console.print(outcomes(first, second))
    console.print(layers(first, second))
    missing = [str(folder) for folder in (first, second) if not (folder / MASKS).is_file()]
    if missing:
        console.print(
            f"No overlap of masks: {MASKS} is not in {escape(' nor in '.join(missing))}",
            soft_wrap=True,
        )


def overlaps(first: Path, second: Path) -> dict[str, float]:
    """Layer -> the Jaccard index of two runs' masks, weights that both keep over those that either
    keeps; empty where a run has left no masks, or they are of other networks."""
    if not all((folder / MASKS).is_file() for folder in (first, second)):
        return {}
    from common.pruning import load_masks

    ours, theirs = (load_masks(folder / MASKS) for folder in (first, second))
    if {n: m.shape for n, m in ours.items()} != {n: m.shape for n, m in theirs.items()}:
        return {}
    both = {name: int((mask & theirs[name]).sum()) for name, mask in ours.items()}
    either = {name: int((mask | theirs[name]).sum()) for name, mask in ours.items()}
    return {name: both[name] / either[name] if either[name] else 1.0 for name in ours}


def by_chance(first: float, second: float) -> float:
    """The Jaccard index that random masks of two densities come to, on average in large layers."""
    both = first * second
    either = first + second - both
    return both / either if either else 1.0


def parameters(first: Path, second: Path) -> Table:
    """The runs, and the parameters in which they differ."""
    told = [
        json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (first, second)
    ]
    values = [{"method": one["method"], **one["parameters"]} for one in told]
    names = [name for name in {**values[0], **values[1]} if name != "results_dir"]
    table = _table("", "first", "second")
    for name in names:
        ours, theirs = (one.get(name) for one in values)
        if name == "method" or ours != theirs:
            _row(table, name, ours, theirs)
    return table


def outcomes(first: Path, second: Path) -> Table:
    """Accuracies in percent, what was removed, and their differences, second less first."""
    ours, theirs = (
        pd.read_csv(folder / "summary.csv", **EXACT).iloc[0] for folder in (first, second)
    )
    table = _table("", "first", "second", "difference")
    for name in SHOWN:
        values = (ours[name], theirs[name], theirs[name] - ours[name])
        _row(table, name, *(f"{value:.6g}" for value in values))
    return table


def layers(first: Path, second: Path) -> Table:
    """The density of every layer in both runs, and how far their masks overlap.

    Layers are matched by name; one that a run does not have has no density there.
    """
    ours, theirs = (pd.read_csv(folder / "layers.csv", **EXACT) for folder in (first, second))
    both = ours.merge(theirs, on="layer", how="outer", suffixes=("", "_2"), sort=False)
    found = overlaps(first, second)
    headings = ("overlap", "by chance") if found else ()
    table = _table("layer", "density, first", "density, second", *headings)
    for row in both.itertuples():
        densities = [row.density, row.density_2]
        cells = [f"{value:.4f}" if pd.notna(value) else "" for value in densities]
        name = next((name for name in (row.layer, f"{row.layer}.weight") if name in found), None)
        if found and name:
            cells += [f"{found[name]:.4f}", f"{by_chance(*densities):.4f}"]
        _row(table, row.layer, *cells)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _row(table: Table, *values: object) -> None:
    table.add_row(*(escape(str(value)) for value in values))
