"""The figures of the schedule_length study: differences against the length of the training, ours
beside others'.

One logarithmic axis of epochs for all panels of a figure. A point of ours is trainings of that
length, theirs are points along one long training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.plots import style
from common.plots.panels import entry, ticks_at
from common.plots.tables import network_name
from common.results.reference import MODELS, SCHEDULES
from common.studies.captions import study_caption

APART = 1.07  # neighbouring intervals, and
LABELS_APART = 1.4  # labels on the axis: as factors of epochs
MARGIN = 0.15  # of the height, beyond the points; longer intervals are cut
CLOSE_UP = 20.0  # points below zero from which on others' curves are cut off
ZERO = {"color": style.INK, "linewidth": 0.8, "zorder": 1}
THEIRS = {"linewidth": 1.2, "markersize": 4, "mfc": "white", "zorder": 3}


@style.styled
def shuffling_against_length(
    runs: pd.DataFrame, effects: pd.DataFrame, published: pd.DataFrame, sparsity: float = 0.9
) -> Figure:
    """The accuracy of shuffled masks less that of the unmodified, against epochs: a panel for our
    runs with intervals, and one for each published network, without.

    runs: rows of the summary, for the caption; effects: rows of `paired_differences` of them, in
    points; published: source, model, method, sparsity, epoch, difference, of which the line is
    `sparsity` and dots are the other sparsities.
    """
    models = list(dict.fromkeys(published["model"]))
    figure, grid = _panels(1 + len(models))
    _draw_ours(grid[0], effects)
    grid[0].set_title(_network(runs), loc="left", weight="bold")
    main = published["sparsity"] == sparsity
    for axes, model in zip(grid[1:], models, strict=True):
        for method, rows in published[published["model"] == model].groupby("method", sort=False):
            other, line = rows[~main[rows.index]], rows[main[rows.index]].sort_values("epoch")
            hue = style.lighter(style.colour(method), 0.5)
            axes.plot(other["epoch"], other["difference"], ".", ms=3.5, color=hue, zorder=2)
            look = style.method_look((method, ""))
            axes.plot(line["epoch"], line["difference"], **look, **THEIRS)
        axes.set_title(MODELS.get(model, model), loc="left", weight="bold")
    _finish(grid, effects, published, "Shuffled less unmodified (points)")
    others = ", ".join(map(style.percent, sorted(set(published.loc[~main, "sparsity"]))))
    lines = f"Lines: {style.percent(sparsity)} removed; dots: {others}."
    methods = [(method, "") for method in [*effects["method"], *published["method"]]]
    _legend_and_caption(figure, methods, runs, effects, published, lines)
    return figure


@style.styled
def methods_against_length(
    runs: pd.DataFrame, differences: pd.DataFrame, published: pd.DataFrame
) -> Figure:
    """The accuracy of each method less random pruning's, against epochs: a panel for our runs with
    intervals, and one for each sparsity of the published ones, without.

    runs, differences: as for `shuffling_against_length`; published: source, model, sparsity, epoch,
    method, variant, difference. Published points far below are cut off, and named in the caption.
    """
    shares = sorted(published["sparsity"].unique())
    figure, grid = _panels(1 + len(shares))
    _draw_ours(grid[0], differences)
    grid[0].set_title(_network(runs), loc="left", weight="bold")
    near = published[published["difference"] >= -CLOSE_UP]
    for axes, share in zip(grid[1:], shares, strict=True):
        rows = near[near["sparsity"] == share].sort_values("epoch")
        for method, part in rows.groupby(["method", "variant"], sort=False):
            axes.plot(part["epoch"], part["difference"], **style.method_look(method), **THEIRS)
        model = published["model"].iloc[0]
        title = f"{MODELS.get(model, model)}, {style.percent(share)} removed"
        axes.set_title(title, loc="left", weight="bold")
    _finish(grid, differences, near, "Unmodified less random (points)")
    theirs = zip(published["method"], published["variant"], strict=True)
    methods = [*((method, "") for method in differences["method"]), *theirs]
    _legend_and_caption(figure, methods, runs, differences, published, _cut_off(published))
    return figure


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = style.new_figure(3.9)
    return figure, figure.subplots(1, count, sharey=True, squeeze=False).ravel()


def _draw_ours(axes: Axes, differences: pd.DataFrame) -> None:
    """Means with their intervals, side by side; a single seed has a hollow mark."""
    methods = style.ordered(differences["method"], style.COLOURS)
    for place, method in enumerate(methods):
        rows = differences[differences["method"] == method].sort_values("epochs")
        x = rows["epochs"] * APART ** (place - (len(methods) - 1) / 2)
        look = {**style.method_look((method, "")), "linestyle": "none", "zorder": 4}
        axes.plot(x, rows["mean"], color=look["color"], lw=1.2, zorder=3)
        alone = rows["n"] == 1
        axes.plot(x[alone], rows["mean"][alone], **look, mfc="white")
        x, rows = x[~alone], rows[~alone]
        reach = (rows["mean"] - rows["low"], rows["high"] - rows["mean"])
        axes.errorbar(x, rows["mean"], reach, **look, capsize=2.5, elinewidth=1)


def _finish(
    grid: Sequence[Axes], differences: pd.DataFrame, published: pd.DataFrame, label: str
) -> None:
    """Axes: the same everywhere, with ticks where there are points."""
    ours, theirs = set(differences["epochs"]), set(published["epoch"])
    low, high = min(ours | theirs), max(ours | theirs)
    for axes in grid:
        axes.axhline(0, **ZERO)
        axes.set_xscale("log")
        axes.set_xlim(low / 1.25, high * 1.25)
        ticks_at(axes.xaxis, _apart(ours if axes is grid[0] else theirs), "{:g}".format)
        axes.set_xlabel("After epoch, of one training")
    grid[0].set_xlabel("Epochs of the training")
    grid[0].set_ylabel(label)
    grid[0].set_ylim(*_limits(differences, published))


def _limits(differences: pd.DataFrame, published: pd.DataFrame) -> tuple[float, float]:
    """All points and some room, whatever the intervals of two seeds may be."""
    points = pd.concat([differences["mean"], published["difference"]])
    low, high = min(points.min(), 0), max(points.max(), 0)
    room = MARGIN * (high - low)
    return low - room, high + room


def _apart(epochs: Iterable[int]) -> list[int]:
    """Those that leave room for their labels on a logarithmic axis."""
    shown: list[int] = []
    for epoch in sorted(epochs):
        if not shown or epoch >= LABELS_APART * shown[-1]:
            shown.append(epoch)
    return shown


def _network(runs: pd.DataFrame) -> str:
    return network_name(*runs[["model", "dataset"]].iloc[0])


def _legend_and_caption(
    figure: Figure,
    methods: Iterable[tuple[str, str]],
    runs: pd.DataFrame,
    differences: pd.DataFrame,
    published: pd.DataFrame,
    more: str,
) -> None:
    place = {name: at for at, name in enumerate(style.COLOURS)}
    shown = sorted(set(methods), key=lambda method: (place[method[0]], method[1]))
    handles = [entry(style.method_label(*m), lw=1.2, **style.method_look(m)) for m in shown]
    style.legend_above(figure, handles)
    lengths = ", ".join(map(str, sorted(runs["epochs"].unique())))
    code = ", ".join(sorted(runs["code_version"].unique()))
    low, high = figure.axes[0].get_ylim()
    long = (differences["low"] < low).any() or (differences["high"] > high).any()
    cut = ", cut where they leave the panel" if long else ""
    source = SCHEDULES[published["source"].iloc[0]]
    style.write_caption(
        figure,
        f"Left, ours: {study_caption(runs)} {len(runs)} runs of {lengths} epochs, "
        f"{style.percent(runs['sparsity'].iloc[0])} removed; code {code}. Points: trainings of "
        f"that length; bars: 95% intervals of paired differences over seeds{cut}; hollow: one "
        "seed, no interval.",
        f"Right, {source.name}: {source.caution}. {more}",
    )


def _cut_off(published: pd.DataFrame) -> str:
    """Which published points lie below the axis."""
    below = published[published["difference"] < -CLOSE_UP]
    told = [
        f"{style.method_label(method, variant)} at {style.percent(share)} removed, "
        f"{part['difference'].min():.1f} to {part['difference'].max():.1f} points"
        for (method, variant, share), part in below.groupby(["method", "variant", "sparsity"])
    ]
    return f"Below the axes: {'; '.join(told)}." if told else ""
