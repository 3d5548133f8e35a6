"""Filter pruning: norms falling to zero, what is left of the layers, and what that saves."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.base.errors import ConfigurationError
from common.plots import style, tables
from common.plots.accuracy import REMOVED, removed_axis
from common.plots.panels import entry, label_outside, panels
from common.structured import compared

PANELS = 6  # layers shown at most
KEPT, GONE, MASK = style.NEUTRAL, style.COLOURS["synflow"], style.COLOURS["SNIP"]
COSTS = {
    "parameters": "parameters",
    "flops": "multiply-adds",
    "file_bytes": "file",
    "latency_ms_1": "latency, 1 image",
    "latency_ms_128": "latency, 128 images",
}
SHARES = {"removed": REMOVED, "saved": "Multiply-adds saved (%)"}
TIMES = {
    "latency_ms_1": "Latency of 1 image (% of the whole network's)",
    "latency_ms_128": "Latency of 128 images (%)",
}
DASHES = ("-", "--", ":", "-.")  # of a variant's lines
CLOSE_UP = 4.0  # points below the best that are enlarged
WORST = 5.0  # points of accuracy lost that are still shown beside published changes
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
    figure, grid = panels(len(names), 3, 2.1, 0.9)
    for axes, name in zip(grid, names, strict=True):
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
    label_outside(grid, "Epoch", "Norm of a filter")
    style.legend_above(figure, [entry("stays", color=KEPT), entry("goes", color=GONE)])
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
    style.legend_above(figure, [*handles, entry("whole network", **style.DENSE)])
    return figure


@style.styled
def published_filters(
    published: pd.DataFrame, own: Sequence[tuple[str, float, float]] = (), about: str = ""
) -> Figure:
    """Accuracy gained or lost against the share of parameters removed, as others report it
    (`common.structured.published`), each with its network and data set, and in our own runs:
    (label, share removed, change in points), those of one label joined by a line. about: what the
    caption says of ours.
    """
    figure = style.new_figure(4.4)
    axes = figure.subplots()
    names = published["method"] + ": " + published["network"] + ", " + published["dataset"]
    changes = published["pruned_acc"] - published["baseline_acc"]
    points = list(zip(names, published["removed"], changes, strict=True))
    grey = {"linestyle": "none", "color": style.GREY, "markersize": 8, "mec": style.INK}
    looks = dict(zip(dict.fromkeys(names), itertools.cycle("sovDPX*^<>dhp"), strict=False))
    for label, marker in looks.items():
        line = [(100 * share, change) for name, share, change in points if name == label]
        look = grey | {"marker": marker, "zorder": 4}
        axes.plot(*zip(*sorted(line), strict=True), label=label, **look)
    hues: list[str] = []
    for label in dict.fromkeys(name for name, _, _ in own):
        line = [(100 * share, change) for name, share, change in own if name == label]
        variants = (look for name, *look in VARIANTS.values() if label.startswith(name))
        hue, marker = next(variants, (KEPT, style.marker("filter_lasso")))
        look = {"color": hue, "marker": marker, "linestyle": DASHES[hues.count(hue) % 4]}
        hues.append(hue)
        axes.plot(*zip(*sorted(line), strict=True), label=label, markersize=5, **look)
    shown = [(100 * share, change) for _, share, change in [*points, *own] if change >= -WORST]
    axes.axhline(0, **style.DENSE)
    below = len(shown) < len(points) + len(own)
    low, high = (pick(change for _, change in shown) for pick in (min, max))
    axes.set_xlim(min(share for share, _ in shown) - 5, 100)
    axes.set_ylim(-WORST if below else low - 0.3, high + 0.3)
    axes.set_xlabel("Parameters removed (%)")
    axes.set_ylabel("Change in accuracy (points)")
    style.legend_above(figure, axes.get_legend_handles_labels()[0])
    others = "Grey: as published, of other networks and data sets."
    cut = f"Losses of more than {WORST:g} points are below the axis." if below else ""
    style.write_caption(figure, others, about, cut)
    return figure


@style.styled
def filter_variants(summary: pd.DataFrame, cost: pd.DataFrame | None = None) -> Figure:
    """Test accuracy of a grid's filter-pruned networks, a line per variant and options: against the
    weights removed, against the multiply-adds saved, and, with a collected cost.csv, against the
    measured latencies, on every device.

    Lines are means over seeds, dots runs. Raises ConfigurationError for several networks or where
    there is no such run.
    """
    runs = compared.runs(tables.prepared(summary, ["dataset", "model", "run_id"]))
    if runs.empty:
        raise ConfigurationError("summary: no run of filter_lasso")
    tables.one_network(runs)
    best, worst = runs["test_accuracy"].max(), runs["test_accuracy"].min()
    near = (best - CLOSE_UP, best + CLOSE_UP / 10) if best - worst > CLOSE_UP else None
    panels = [(runs, SHARES, "", None)] + [(runs, SHARES, "Close-up", near)] * (near is not None)
    if cost is not None:
        for device, shares in compared.latencies(cost).groupby(level="device"):
            timed = runs.merge(shares.droplevel("device"), on="run_id", validate="one_to_one")
            panels.append((timed, TIMES, device + (", close-up" if near else ""), near))
    figure = style.new_figure(1.0 + 2.6 * len(panels))
    grid = figure.subplots(len(panels), 2, squeeze=False, sharey="row")
    looks = _looks(runs)
    for row, (table, columns, title, limits) in zip(grid, panels, strict=True):
        for axes, (column, label) in zip(row, columns.items(), strict=True):
            for key, (_, look) in looks.items():
                part = table[(table["variant"] == key[0]) & (table["options"] == key[1])]
                means = part.groupby("sparsity")[[column, "test_accuracy"]].mean()
                axes.plot(means[column], means["test_accuracy"], **look)
                dots = {"color": look["color"], "ms": 3, "alpha": 0.5}
                axes.plot(part[column], part["test_accuracy"], ".", **dots)
            axes.set_xlabel(label)
            if columns is SHARES:
                removed_axis(axes, table[column].to_numpy())
        row[0].set_ylabel(tables.ACCURACY_LABEL)
        row[0].set_title(title, loc="left")
        row[0].set_ylim(limits)
    style.legend_above(figure, [entry(name, **look) for name, look in looks.values()])
    before = ", ".join(sorted(compared.sparse_epochs(summary)))
    style.write_caption(
        figure,
        tables.caption(runs) + ".",
        f"Epochs are those of fine-tuning; before it {before} epochs of training, with the penalty "
        "if there is one. Lines: means over seeds; dots: runs.",
    )
    return figure


def _looks(runs: pd.DataFrame) -> dict[tuple[str, str], tuple[str, dict]]:
    """(variant, options) -> their name and how their line is drawn."""
    pairs = runs[["variant", "options"]].drop_duplicates().itertuples(index=False, name=None)
    found = {}
    for variant, options in sorted(
        pairs, key=lambda pair: (list(VARIANTS).index(pair[0]), pair[1])
    ):
        name, hue, marker = VARIANTS[variant]
        dashes = DASHES[sum(key[0] == variant for key in found) % 4]
        label = ", ".join(filter(None, (name, options)))
        found[variant, options] = label, {"color": hue, "marker": marker, "linestyle": dashes}
    return found
