"""Filter pruning: norms falling to zero, what is left of the layers, and what that saves."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from common.errors import ConfigurationError
from common.plots import style, tables

PANELS = 6  # layers shown at most
KEPT, GONE, MASK = style.NEUTRAL, style.COLOURS["synflow"], style.COLOURS["SNIP"]
COSTS = {
    "parameters": "parameters",
    "flops": "multiply-adds",
    "file_bytes": "file",
    "latency_ms_1": "latency, 1 image",
    "latency_ms_128": "latency, 128 images",
}
# variant -> how it is drawn beside the others
VARIANTS = {
    "": ("group lasso, proximal", style.COLOURS["magnitude"], "o"),
    "subgradient": ("group lasso, subgradient", style.COLOURS["prospr"], "v"),
    "l1_filter": ("L1 norm (Li et al.)", style.COLOURS["grasp"], "s"),
    "unstructured": ("lasso on weights, mask", MASK, "D"),
}


@style.styled
def filter_norms(filters: pd.DataFrame) -> Figure:
    """The norm of every filter against the epoch, a panel per layer: columns of filters.csv.

    At most six layers, evenly spaced. Raises ConfigurationError for an empty table.
    """
    if filters.empty:
        raise ConfigurationError("filters: the table is empty, no norms of filters were recorded")
    names = list(dict.fromkeys(filters["layer"]))
    chosen = np.linspace(0, len(names) - 1, min(PANELS, len(names))).round().astype(int)
    names = [names[place] for place in chosen]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = style.new_figure(0.9 + 2.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(grid.flat, names, strict=False):
        part = filters[filters["layer"] == name]
        norms = part.pivot(index="filter", columns="epoch", values="norm")
        stays = part.groupby("filter")["kept"].first().to_numpy()
        epochs = norms.columns.to_numpy(float)
        for flags, hue in ((~stays, GONE), (stays, KEPT)):
            lines = [np.column_stack([epochs, row]) for row in norms.to_numpy()[flags]]
            thin = np.clip(12 / max(len(norms), 1), 0.12, 0.8)
            axes.add_collection(LineCollection(lines, colors=hue, linewidths=0.9, alpha=thin))
        vanished = int((norms.iloc[:, -1] == 0).sum())
        axes.set_title(f"{name}: {vanished} of {len(norms)} vanished", loc="left")
        axes.set_xlim(0, max(epochs.max(), 1))
        axes.set_ylim(0, 1.05 * filters["norm"].max())
        axes.set_ylabel("Norm of a filter" if axes.get_subplotspec().is_first_col() else "")
        axes.set_xlabel("Epoch" if axes.get_subplotspec().is_last_row() else "")
    handles = [Line2D([], [], color=KEPT, label="stays"), Line2D([], [], color=GONE, label="goes")]
    style.legend_above(figure, handles)
    return figure


@style.styled
def penalty(sparse: pd.DataFrame) -> Figure:
    """The penalty's value, how many of its groups are exactly zero, and the test accuracy, against
    the epoch: columns of sparse.csv."""
    figure = style.new_figure(2.7)
    left, middle, right = figure.subplots(1, 3)
    left.plot(sparse["epoch"], sparse["penalty"], ".-", color=style.NEUTRAL)
    left.set_ylabel("Penalty")
    middle.plot(sparse["epoch"], 100 * sparse["vanished"] / sparse["groups"], ".-", color=GONE)
    middle.set_ylabel("Groups that vanished (%)")
    right.plot(sparse["epoch"], sparse["test_accuracy"], ".-", color=style.NEUTRAL)
    right.set_ylabel("Test accuracy (%)")
    for axes in (left, middle, right):
        axes.set_xlabel("Epoch")
        axes.set_ylim(bottom=0)
    return figure


@style.styled
def filters_left(shapes: pd.DataFrame) -> Figure:
    """Filters of every layer before and after: columns of shapes.csv."""
    figure = style.new_figure(3.2)
    axes = figure.subplots()
    x = np.arange(len(shapes))
    axes.bar(x, shapes["filters"], color="#dddddd", label="before")
    axes.bar(x, shapes["filters_kept"], color=KEPT, label="left")
    counts = zip(x, shapes["filters"], shapes["filters_kept"], strict=True)
    for place, before, left in counts if len(shapes) <= style.NAMED else ():
        axes.annotate(f"{left}", (place, before), ha="center", va="bottom", fontsize=7.5)
    style.name_layers(axes, list(shapes["layer"]))
    axes.set_ylabel("Filters")
    style.legend_above(figure, axes.get_legend_handles_labels()[0])
    left, before = shapes["filters_kept"].sum(), shapes["filters"].sum()
    style.write_caption(figure, f"{left:,} of {before:,} filters are left.")
    return figure


@style.styled
def cost_beside_mask(cost: pd.DataFrame) -> Figure:
    """What the small network and an unstructured mask of as many weights cost, as shares of the
    whole network, a panel per device: columns of cost.csv."""
    devices = list(dict.fromkeys(cost["device"]))
    figure = style.new_figure(0.8 + 2.6 * len(devices))
    hues, width = {"filters removed": KEPT, "unstructured mask": MASK}, 0.36
    for axes, device in zip(
        figure.subplots(len(devices), 1, squeeze=False).flat, devices, strict=True
    ):
        table = cost[cost["device"] == device].set_index("network")[list(COSTS)]
        shares = 100 * table / table.iloc[0]
        shown = [name for name in hues if name in shares.index]
        for place, name in enumerate(shown):
            x = np.arange(len(COSTS)) + (place - (len(shown) - 1) / 2) * width
            axes.bar(x, shares.loc[name], width * 0.94, color=hues[name])
            for at, value in zip(x, shares.loc[name], strict=True):
                axes.annotate(f"{value:.0f}%", (at, value), ha="center", va="bottom", fontsize=8)
        axes.axhline(100, **style.DENSE)
        axes.set_xticks(range(len(COSTS)), list(COSTS.values()))
        axes.set_ylim(0, 1.15 * max(100, shares.to_numpy().max()))
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("Share of the whole network (%)")
        axes.set_title(device, loc="left")
    handles = [Patch(color=hue, label=name) for name, hue in hues.items() if name in cost.values]
    style.legend_above(figure, [*handles, Line2D([], [], label="whole network", **style.DENSE)])
    return figure


@style.styled
def published_filters(
    published: pd.DataFrame, own: Sequence[tuple[str, float, float]] = ()
) -> Figure:
    """Accuracy gained or lost against the share of parameters removed, as others report it
    (`common.structured.published`) and in our own runs: (label, share removed, change in points).
    """
    figure = style.new_figure(3.0)
    axes = figure.subplots()
    others = published["pruned_acc"] - published["baseline_acc"]
    points = list(zip(published["method"], published["removed"], others, strict=True))
    for marker, (label, share, change) in zip("sov^DPX*", [*points, *own], strict=False):
        mine = (label, share, change) in own
        look = {"color": style.COLOURS["magnitude"] if mine else style.GREY, "markersize": 7}
        axes.plot(100 * share, change, marker, label=label, **look)
    axes.axhline(0, **style.DENSE)
    axes.set_xlim(0, 100)
    axes.margins(y=0.25)
    axes.set_xlabel("Parameters removed (%)")
    axes.set_ylabel("Change in accuracy (points)")
    style.legend_above(figure, axes.get_legend_handles_labels()[0])
    return figure


@style.styled
def filter_variants(summary: pd.DataFrame) -> Figure:
    """Test accuracy of a grid's filter-pruned networks, a line per variant and penalty: against the
    weights left, and against the multiply-adds that are carried out.

    A mask's zeros are multiplied like any other number, so its multiply-adds stay. Means over
    seeds. Raises ConfigurationError for several networks or where there is no such run.
    """
    runs = tables.prepared(summary, ["dataset", "model", "run_id"])
    runs = runs[runs["method"] == "filter_lasso"]
    if runs.empty:
        raise ConfigurationError("summary: no run of filter_lasso")
    tables.one_network(runs)
    # A collected variant is followed by the options that are not the default: `+penalty-0.1`.
    first = runs["variant"].str.split("+").str[0]
    runs = runs.assign(variant=first.where(first.isin(VARIANTS), ""))
    whole = runs["variant"] == "unstructured"
    runs = runs.assign(
        left=100 * (1 - runs["sparsity_actual"]),
        work=(100 * runs["flops_sparse"] / runs["flops_dense"]).mask(whole, 100.0),
        penalty=[_penalty(name) for name in runs["run_id"]],
    )
    figure = style.new_figure(3.6)
    panels = figure.subplots(1, 2, sharey=True)
    handles = []
    for (variant, strength), part in runs.groupby(["variant", "penalty"], sort=False):
        name, hue, marker = VARIANTS[variant]
        strengths = list(runs.loc[runs["variant"] == variant, "penalty"].unique())
        dashes = ("-", "--", ":", "-.")[strengths.index(strength) % 4]
        label = f"{name}, λ = {strength}" if strength else name
        look = {"color": hue, "marker": marker, "linestyle": dashes}
        means = part.groupby("sparsity")[["left", "work", "test_accuracy"]].mean()
        for axes, column in zip(panels, ("left", "work"), strict=True):
            axes.plot(means[column], means["test_accuracy"], **look)
        handles.append(Line2D([], [], label=label, **look))
    for axes, label in zip(
        panels, ("Weights left (%)", "Multiply-adds carried out (%)"), strict=True
    ):
        axes.set_xscale("log")
        style.plain_log_ticks(axes.xaxis)
        axes.set_xlabel(label)
    panels[0].set_ylabel(tables.STATISTICS["test_accuracy"])
    style.legend_above(figure, handles)
    style.write_caption(figure, tables.described(runs) + ".")
    return figure


def _penalty(run_id: str) -> str:
    """The penalty as it stands in a run's name; empty for the default."""
    found = re.search(r"_penalty-([0-9.e+-]+)(?:_|$)", run_id)
    return found[1] if found else ""
