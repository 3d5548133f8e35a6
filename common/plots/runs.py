"""How the runs went: training curves, and what they cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy

from common.plots import style, tables
from common.plots.panels import entry

LABELS = {"test_accuracy": "Test accuracy (%)", "train_loss": "Training loss"}
COSTS = ("epochs", "prune_seconds", "train_seconds")
FEW = 12  # epochs up to which each has its mark
MARKS = 8  # marks on a longer line
APART = 1.6  # points between lines that coincide
THIN = {"linewidth": 1.2, "markersize": 3.8}


@style.styled
def training_curves(
    epochs: pd.DataFrame,
    summary: pd.DataFrame | None = None,
    sparsity: float = 0.9,
    method: str = "",
) -> Figure:
    """Test accuracy and training loss (logarithmic) against epoch.

    What was not trained at all has no curve, and is said in words. Without a summary, `epochs` is
    one run's table, `method` its hue. With it: a row of panels per ablation, for each method the
    mean over seeds and from the lowest to the highest of them, at the sparsity nearest to
    `sparsity`, the dense network in black. Raises ConfigurationError for an empty table or several
    networks.
    """
    trained = epochs["epoch"].max() > 0
    if summary is None:
        run = tables.single_run(epochs, "epochs", method)
        if not trained:
            accuracy = run["test_accuracy"].iloc[0]
            return style.sentence(f"Not trained: {accuracy:.1f} % test accuracy, as it was pruned.")
        figure = style.new_figure(3.1)
        look = {"color": style.colour(run["method"].iloc[0]), "marker": ".", "linewidth": 1.2}
        for axes, column in zip(figure.subplots(1, 2), LABELS, strict=True):
            _draw(axes, [(run, look)], column)
            if column == "test_accuracy":
                axes.set_ylim(0, 102)
        return figure
    runs = tables.prepared(summary, ["dataset", "model", "seed", "run_id"])
    tables.one_network(runs)
    level = tables.nearest(runs["sparsity"], sparsity)
    runs = runs[(runs["sparsity"] == level) | tables.is_dense(runs)]
    if not trained:
        return style.sentence("No training curves: no run was trained (epochs=0).")
    rows = tables.joined(epochs[epochs["epoch"] > 0], runs)  # before that all networks guess
    pruned, dense = rows[~tables.is_dense(rows)], rows[tables.is_dense(rows)]
    shown = tables.ablations(pruned) or ["none"]
    figure = style.new_figure(0.9 + 2.2 * len(shown))
    grid = figure.subplots(len(shown), 2, squeeze=False, sharex=True)
    for axes in grid[1:, 1]:
        axes.sharey(grid[0, 1])
    for pair, ablation in zip(grid, shown, strict=True):
        part = pruned[pruned["ablation"] == ablation]
        lines = [(dense, style.DENSE)] if len(dense) else []
        for method in tables.methods(part):
            lines.append((tables.of(part, method), style.method_look(method) | THIN))
        for axes, column in zip(pair, LABELS, strict=True):
            _draw(axes, lines, column)
            axes.set_xlabel("Epoch" if ablation == shown[-1] else "")
        pair[0].set_title(style.ablation_style(ablation)[0], loc="left", weight="bold")
    handles = [
        entry(style.method_label(*method), **style.method_look(method) | THIN)
        for method in tables.methods(pruned)
    ]
    if len(dense):
        handles.append(entry("dense network", **style.DENSE))
    style.legend_above(figure, handles)
    shares = (
        f"{style.percent(level)} of the weights removed. Lines: mean over seeds; bands: from the "
    )
    shares += "lowest to the highest. Lines that coincide stand side by side."
    style.write_caption(figure, tables.caption(runs) + ".", shares)
    return figure


@style.styled
def cost(summary: pd.DataFrame) -> Figure:
    """What scoring and masking take, per method: seconds, and epochs of the same run's training; a
    row of panels per device, a dot per run, a bar at the median.

    Training takes as long under every mask. Raises ConfigurationError for an empty summary or
    several networks.
    """
    runs = tables.prepared(summary, ["dataset", "model", "device", *COSTS])
    tables.one_network(runs)
    pruned = runs[~tables.is_dense(runs)]
    trained = pruned["train_seconds"] / pruned["epochs"]  # inf where nothing was trained
    values = {
        "Scoring and masking (s)": pruned["prune_seconds"],
        "The same in epochs of training": pruned["prune_seconds"] / trained.where(trained > 0),
    }
    values = {label: column for label, column in values.items() if (column > 0).any()}
    if not values:
        return style.sentence("No times: nothing was pruned.")
    methods, devices = tables.methods(pruned), sorted(pruned["device"].unique())
    figure = style.new_figure(0.9 + len(devices) * (0.7 + 0.3 * len(methods)))
    grid = figure.subplots(
        max(len(devices), 1), len(values), sharex="col", sharey=True, squeeze=False
    )
    for row, device in zip(grid, devices, strict=False):
        there = pruned[pruned["device"] == device]
        row[0].set_title(device, loc="left")
        for axes, column in zip(row, values.values(), strict=True):
            for height, method in enumerate(methods):
                found = column[tables.of(there, method).index].dropna()
                _dots(axes, found[found > 0], height, style.colour(method[0]))
            axes.set_xscale("log")
    for axes, label in zip(grid[-1], values, strict=True):
        axes.set_xlabel(label)
        style.plain_log_ticks(axes.xaxis)
    grid[0, 0].set_yticks(range(len(methods)), [style.method_label(*pair) for pair in methods])
    grid[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    style.write_caption(
        figure,
        tables.caption(runs) + ".",
        "Dots: runs; bar: their median. Other work on the machine shows in the seconds, and hardly "
        "in the epochs, which the same run was trained for on the same machine.",
    )
    return figure


def _dots(axes: Axes, values: pd.Series, height: float, hue: str) -> None:
    # Fixed offsets: dots of equal runs stay apart, and the figure stays the same.
    offsets = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [0.0] * len(values)
    axes.plot(values, height + np.asarray(offsets), ".", color=hue, ms=4, alpha=0.6)
    if len(values):
        axes.plot([values.median()], [height], "|", color=hue, ms=16, mew=2.2)


def _draw(axes: Axes, lines: list[tuple[pd.DataFrame, dict]], column: str) -> None:
    """Lines of (epochs of runs that differ in their seed, look); those that coincide stand side by
    side."""
    drawn: list[pd.Series] = []
    for place, (runs, look) in enumerate(lines):
        seeds = runs.dropna(subset=[column]).groupby("epoch")[column]
        values = seeds.mean()
        if values.empty:  # no training, no loss
            continue
        few, step = len(values) <= FEW, max(len(values) // MARKS, 1)
        beside = sum(_coincide(values, other, column) for other in drawn)
        drawn.append(values)
        aside = offset_copy(axes.transData, axes.figure, y=APART * beside, units="points")
        marks = {"markevery": 1 if few else (place % step, step)}
        if look.get("marker") == "." and not few:
            look = look | {"marker": None}
        axes.plot(values.index, values, transform=aside, **marks | look)
        axes.fill_between(
            values.index, seeds.min(), seeds.max(), color=look["color"], alpha=0.15, linewidth=0
        )
        axes.update_datalim(np.column_stack([values.index, values]))  # not from what lies aside
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(LABELS[column])
    axes.autoscale_view()
    if column == "train_loss" and drawn:
        axes.set_yscale("log")
        style.plain_log_ticks(axes.yaxis)


def _coincide(values: pd.Series, other: pd.Series, column: str) -> bool:
    """Whether two lines cannot be told apart: a tenth of a point of accuracy, a 500th of a loss."""
    near = {"atol": 0.1, "rtol": 0} if column == "test_accuracy" else {"rtol": 0.002}
    return values.index.equals(other.index) and np.allclose(values, other, **near)
