"""How the runs went: training curves, and what they cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.plots import style, tables


@style.styled
def training_curves(
    epochs: pd.DataFrame,
    summary: pd.DataFrame | None = None,
    sparsity: float = 0.9,
    method: str = "",
) -> Figure:
    """Test accuracy and training loss (logarithmic) against epoch.

    What was not trained at all has no curve, and is said in words. Without a summary, `epochs` is
    one run's table, `method` its hue. With it: a row of panels per
    ablation, a line per method and run, at the sparsity nearest to `sparsity`, the dense runs in
    black. Raises ConfigurationError for an empty table or several networks.
    """
    trained = epochs["epoch"].max() > 0
    if summary is None:
        run = tables.single_run(epochs, "epochs", method)
        if not trained:
            accuracy = run["test_accuracy"].iloc[0]
            return style.sentence(f"Not trained: {accuracy:.1f} % test accuracy, as it was pruned.")
        figure = style.new_figure(3.1)
        for axes, column in zip(
            figure.subplots(1, 2), ("test_accuracy", "train_loss"), strict=True
        ):
            _draw(axes, run, column, style.colour(run["method"].iloc[0]))
        return figure
    runs = tables.prepared(summary, ["dataset", "model", "seed", "run_id"])
    tables.one_network(runs)
    level = tables.nearest(runs["sparsity"], sparsity)
    runs = runs[(runs["sparsity"] == level) | tables.is_dense(runs)]
    rows = tables.joined(epochs, runs)
    if not trained:
        return style.sentence("No training curves: no run was trained (epochs=0).")
    pruned, dense = rows[~tables.is_dense(rows)], rows[tables.is_dense(rows)]
    shown = tables.ablations(pruned) or ["none"]
    figure = style.new_figure(0.9 + 2.2 * len(shown))
    grid = figure.subplots(len(shown), 2, squeeze=False, sharex=True, sharey="col")
    for pair, ablation in zip(grid, shown, strict=True):
        for axes, column in zip(pair, ("test_accuracy", "train_loss"), strict=True):
            for _, run in dense.groupby(["method", "run_id"]):
                _draw(axes, run, column, style.INK, linewidth=0.9)
            part = pruned[pruned["ablation"] == ablation]
            for name, variant in tables.methods(part):
                for _, run in tables.of(part, (name, variant)).groupby("run_id"):
                    dashes = "--" if variant else "-"
                    _draw(axes, run, column, style.colour(name), linestyle=dashes)
            axes.set_xlabel("Epoch" if ablation == shown[-1] else "")
        pair[0].set_title(style.ablation_style(ablation)[0], loc="left", weight="bold")
    handles = [
        Line2D([], [], color=style.colour(m), ls="--" if v else "-", label=style.method_label(m, v))
        for m, v in tables.methods(pruned)
    ]
    if len(dense):
        handles.append(Line2D([], [], label="dense network", **style.DENSE))
    style.legend_above(figure, handles)
    shares = f"{style.percent(level)} of the weights removed; one line per run."
    style.write_caption(figure, tables.described(runs) + ".", shares)
    return figure


@style.styled
def cost(summary: pd.DataFrame) -> Figure:
    """Seconds to prune, seconds to train and training throughput, per method: a dot per run, a bar
    at the median. Raises ConfigurationError for an empty summary or several networks."""
    columns = {
        "prune_seconds": "Scoring and masking (s)",
        "train_seconds": "Training (s)",
        "images_per_second": "Images trained per second",
    }
    runs = tables.prepared(summary, ["dataset", "model", *columns])
    tables.one_network(runs)
    pruned = runs[~tables.is_dense(runs)]
    groups = [
        (style.method_label(*method), style.colour(method[0]), tables.of(pruned, method))
        for method in tables.methods(pruned)
    ]
    if len(dense := runs[tables.is_dense(runs)]):
        groups.insert(0, ("Dense network", style.INK, dense))
    if not runs["images_per_second"].max() > 0:  # nothing was trained: epochs=0
        columns = {"prune_seconds": columns["prune_seconds"]}
    figure = style.new_figure(1.2 + 0.34 * len(groups))
    for axes, (column, label) in zip(
        figure.subplots(1, len(columns), sharey=True, squeeze=False)[0],
        columns.items(),
        strict=True,
    ):
        for height, (name, hue, rows) in enumerate(groups):
            values = rows[column].dropna()
            if name == "Dense network" and column == "prune_seconds":
                continue
            # Fixed offsets: dots of equal runs stay apart, and the figure stays the same.
            offsets = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [0.0]
            axes.plot(values, height + np.asarray(offsets), ".", color=hue, ms=4, alpha=0.6)
            axes.plot([values.median()], [height], "|", color=hue, ms=16, mew=2.2)
        axes.set_xlabel(label)
        if column == "prune_seconds" and (pruned[column] > 0).any():
            axes.set_xscale("log")
            style.plain_log_ticks(axes.xaxis)
        else:
            axes.set_xlim(0, 1.08 * runs[column].max())
    axes.set_yticks(range(len(groups)), [name for name, _, _ in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    style.write_caption(
        figure,
        tables.described(runs) + ".",
        "Dots: runs; bar: their median. Other work on the machine shows in them.",
    )
    return figure


def _draw(axes: Axes, run: pd.DataFrame, column: str, hue: str, **look: object) -> None:
    run = run.sort_values("epoch").dropna(subset=[column])
    look = {"linewidth": 1.2, **look}
    few = "." if len(run) <= 12 else None
    axes.plot(run["epoch"], run[column], color=hue, marker=few, **look)
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if column == "test_accuracy":
        axes.set_ylabel("Test accuracy (%)")
        axes.set_ylim(0, 102)
    else:
        axes.set_ylabel("Training loss")
        axes.set_yscale("log")
        style.plain_log_ticks(axes.yaxis)
