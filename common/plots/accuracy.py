"""Accuracy against sparsity: the suite's main figures.

The horizontal axis is the share of weights that remain, logarithmic and decreasing, as in Frankle
et al. 2021: 70, 40, 10 and 2 percent and a range down to 0.1 percent both read well on it. The
vertical axis of the first panels holds all of 0 to 100 percent; a close-up shows the top.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from common import datasets
from common.plots import style, tables
from common.reference import single_source

COLUMNS = 5  # panels side by side
CLOSE_UP = 25.0  # percentage points below the best that a close-up shows at most
CROWD = 8  # points on a line from which its markers are small
DOTS = 5  # runs per point up to which each is drawn

YARDSTICK = ("random", "")  # unmodified, it stands beside every other method
YARDSTICK_LOOK = {
    **{"color": style.colour("random"), "marker": style.marker("random")},
    **{"linestyle": "-", "linewidth": 1.0, "zorder": 2.5},
}

Panels = list[tuple[Axes, Axes]]  # (all of 0 to 100, close-up)


@style.styled
def accuracy_by_ablation(
    summary: pd.DataFrame,
    reference: pd.DataFrame | None = None,
    statistic: str = "test_accuracy",
) -> Figure:
    """Accuracy against weights remaining: a panel per method and its close-up, a line per ablation,
    and in all of them unmodified random pruning.

    summary: finished runs of one data set and model (contract columns), of which methods without an
    ablation have a panel only if none has one; reference: rows of one source
    (`common.reference.curves`), drawn in grey in the panel of their method; statistic:
    `test_accuracy` or `best_test_accuracy`. Lines are means over runs, bands run from the lowest to
    the highest, runs with a collapsed layer are crossed. Runs of sparsity 0 are the dense network.
    Raises ConfigurationError for an empty summary, several networks or sources, a reference for
    another network, or an unknown statistic.
    """
    pruned, dense, theirs = _parts(summary, statistic, reference)
    shown = _ablated(pruned) or tables.methods(pruned) or [("dense", "")]
    yardstick = _yardstick(pruned)
    drawn = pruned[_among(pruned, [*shown, YARDSTICK])]
    theirs = theirs[_among(theirs, shown)]
    figure, panels = _panels(len(shown))
    for pair, method in zip(panels, shown, strict=True):
        pair[0].set_title(style.method_label(*method), color=style.colour(method[0]), weight="bold")
        ours = tables.of(drawn, method)
        for axes in pair:
            for ablation in tables.ablations(tables.of(theirs, method)):
                _draw_reference(axes, tables.of(theirs, method, ablation), _look(ablation))
            if method != YARDSTICK and len(yardstick):
                _draw(axes, yardstick, statistic, YARDSTICK_LOOK)
            for ablation in reversed(tables.ablations(ours)):  # the unmodified method on top
                look = _look(ablation, style.colour(method[0]))
                _draw(axes, tables.of(ours, method, ablation), statistic, look)
    handles = [
        Line2D([], [], label=style.ablation_style(name)[0], **_look(name, "#404040"))
        for name in tables.ablations(drawn)
    ]
    if len(yardstick) and shown != [YARDSTICK]:
        handles.append(Line2D([], [], label="random pruning", **YARDSTICK_LOOK))
    return _finished(figure, panels, handles, drawn, dense, statistic, theirs)


@style.styled
def methods_together(
    summary: pd.DataFrame,
    ablations: Sequence[str] = ("none",),
    reference: pd.DataFrame | None = None,
    statistic: str = "test_accuracy",
) -> Figure:
    """Accuracy against weights remaining, all methods in one panel (and a close-up) per ablation;
    random pruning without it, if that is all there is. Arguments, marks and errors as for
    `accuracy_by_ablation`; also raises ConfigurationError for an ablation that was not run."""
    pruned, dense, theirs = _parts(summary, statistic, reference)
    for ablation in ablations:
        tables.check_ablation(pruned, ablation)
    yardstick = _yardstick(pruned)
    drawn = pruned[pruned["ablation"].isin(ablations)]
    theirs = theirs[theirs["ablation"].isin(ablations) & _among(theirs, tables.methods(drawn))]
    added = len(yardstick) and not _among(drawn, [YARDSTICK]).any()
    if added:
        drawn = pd.concat([yardstick, drawn])
    figure, panels = _panels(len(ablations))
    for pair, ablation in zip(panels, ablations, strict=True):
        title = style.ablation_style(ablation)[0]
        title = f"All methods, {title}" if len(ablations) == 1 else title
        pair[0].set_title(title, loc="left", weight="bold")
        for method, axes in itertools.product(tables.methods(drawn), pair):
            _draw_reference(axes, tables.of(theirs, method, ablation), _method_look(method))
            shown = "none" if added and method == YARDSTICK else ablation
            _draw(axes, tables.of(drawn, method, shown), statistic, _method_look(method))
    handles = []
    for method in tables.methods(drawn):
        unmodified = ", unmodified" if added and method == YARDSTICK else ""
        label = style.method_label(*method) + unmodified
        handles.append(Line2D([], [], label=label, **_method_look(method)))
    return _finished(figure, panels, handles, drawn, dense, statistic, theirs)


def remaining_axis(axes: Axes, densities: np.ndarray) -> None:
    """Make x the weights remaining in percent: logarithmic, decreasing, with readable ticks."""
    remaining = np.unique(np.round(100 * densities, 9))
    low, high = remaining.min(), remaining.max()
    margin = 1.25 if high > low else 2.0
    axes.set_xscale("log")
    axes.set_xlim(min(high * margin, 125), low / margin)
    gaps = np.diff(np.log10(remaining)) / np.log10(high * margin**2 / low)
    if len(remaining) <= 6 and (gaps > 0.09).all():
        ticks = remaining
    else:
        steps = (1, 2, 5) if high / low < 200 else (1,)
        ticks = [s * 10.0**e for e in range(-6, 3) for s in steps]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _parts(
    summary: pd.DataFrame, statistic: str, reference: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The summary's pruned runs, its dense ones, and the reference's rows, all checked."""
    runs = tables.one_statistic(summary, statistic)
    theirs = runs.iloc[:0] if reference is None else reference
    if len(theirs):
        single_source(theirs)
        tables.one_network(pd.concat([runs, theirs]))
    return runs[~tables.is_dense(runs)], runs[tables.is_dense(runs)], theirs


def _ablated(pruned: pd.DataFrame) -> list[tuple[str, str]]:
    """The methods of which an ablation was run."""
    return tables.methods(pruned[pruned["ablation"] != "none"])


def _yardstick(pruned: pd.DataFrame) -> pd.DataFrame:
    return tables.of(pruned, YARDSTICK, "none")


def _among(rows: pd.DataFrame, methods: list[tuple[str, str]]) -> pd.Series:
    """Which rows are of these (method, variant)."""
    pairs = zip(rows["method"], rows["variant"], strict=True)
    return pd.Series([pair in methods for pair in pairs], rows.index, dtype=bool)


def _panels(count: int) -> tuple[Figure, Panels]:
    """Pairs of panels: side by side for one, otherwise the close-up below; COLUMNS in a row."""
    if count == 1:
        figure = style.new_figure(3.9)
        full, close = figure.subplots(1, 2)
        return figure, [(full, close)]
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    figure = style.new_figure(1.1 + 3.9 * rows)
    shared = {"sharex": True, "sharey": "row", "squeeze": False}
    grid = figure.subplots(2 * rows, columns, height_ratios=[3, 2] * rows, **shared)
    pairs = [(grid[2 * r, c], grid[2 * r + 1, c]) for r in range(rows) for c in range(columns)]
    for full, close in pairs[count:]:
        full.remove()
        close.remove()
    return figure, pairs[:count]


def _look(ablation: str, hue: str = style.GREY) -> dict:
    _, dashes, marker, share = style.ablation_style(ablation)
    return {"color": style.lighter(hue, share), "linestyle": dashes, "marker": marker}


def _method_look(method: tuple[str, str]) -> dict:
    look = {"color": style.colour(method[0]), "marker": style.marker(method[0])}
    return look | {"linestyle": "--" if method[1] else "-"}


def _draw(axes: Axes, runs: pd.DataFrame, statistic: str, look: dict) -> None:
    points = tables.curve(runs, statistic)
    x = 100 * (1 - points["sparsity"])
    size = 4.5 if len(x) <= CROWD else 3
    axes.plot(x, points["mean"], **{"markersize": size, "zorder": 3} | look)
    remaining, hue = 100 * (1 - runs["sparsity"]), look["color"]
    if (points["n"] > 1).any():
        axes.fill_between(x, points["low"], points["high"], color=hue, alpha=0.2, lw=0)
        if points["n"].max() <= DOTS:
            axes.plot(remaining, runs[statistic], ".", ms=2.5, color=hue)
    if "layers_collapsed" in runs:
        cut = runs["layers_collapsed"] > 0
        axes.plot(remaining[cut], runs.loc[cut, statistic], **style.COLLAPSED, zorder=4)


def _draw_reference(axes: Axes, rows: pd.DataFrame, look: dict) -> None:
    rows = rows[~tables.is_dense(rows)]
    look = look | {"color": style.GREY, "lw": 1.0, "mfc": "white", "zorder": 1.5}
    look["ms"] = 3.5 if len(rows) <= CROWD else 2.5
    axes.plot(100 * (1 - rows["sparsity"]), rows["test_accuracy"], **look)


def _finished(
    figure: Figure,
    panels: Panels,
    handles: list[Line2D],
    pruned: pd.DataFrame,
    dense: pd.DataFrame,
    statistic: str,
    theirs: pd.DataFrame,
) -> Figure:
    """Levels, axes, legend and caption."""
    runs = pd.concat([pruned, dense])
    values, ours = runs[statistic], runs[statistic].max()
    # Curves of another schedule may lie far above; ours are what is enlarged.
    near = theirs["test_accuracy"] <= ours + CLOSE_UP / 4
    values = pd.concat([values, theirs.loc[near & ~tables.is_dense(theirs), "test_accuracy"]])
    best = values.max()
    lowest = values[values >= ours - CLOSE_UP].min()
    levels = []
    if len(dense):
        levels.append((dense[statistic].mean(), style.DENSE | {"label": "dense network"}))
    chance = 100 / datasets.DATASETS[runs["dataset"].iloc[0]].classes
    levels.append((chance, style.CHANCE | {"label": f"chance ({chance:g}%)"}))
    densities = 1 - (pruned if len(pruned) else runs)["sparsity"].to_numpy()
    for pair in panels:
        for axes in pair:
            remaining_axis(axes, densities)
            for level, look in levels:
                axes.axhline(level, **look)
        for axes in pair if len(panels) == 1 else pair[1:]:
            axes.set_xlabel("Weights remaining (%)")
            axes.tick_params(labelbottom=True)
        pair[0].set_ylim(0, 102)
        pair[1].set_ylim(lowest - 1, best + 1)
    for full, close in panels[::COLUMNS]:
        full.set_ylabel(tables.STATISTICS[statistic])
        close.set_ylabel("Close-up (%)")
    handles += [Line2D([], [], **look) for _, look in levels]
    if "layers_collapsed" in runs and (runs["layers_collapsed"] > 0).any():
        handles.append(Line2D([], [], label="a layer has collapsed", **style.COLLAPSED))
    source = single_source(theirs) if len(theirs) else None
    if source:
        handles.append(Line2D([], [], color=style.GREY, lw=1, label=source.name))
    style.legend_above(figure, handles)
    style.write_caption(
        figure,
        tables.described(runs) + ".",
        "Lines: mean over seeds; bands: its 95 percent t-interval." if _repeated(pruned) else "",
        f"Grey: {source.name}: {source.caution}." if source else "",
    )
    return figure


def _repeated(runs: pd.DataFrame) -> bool:
    return runs.duplicated(["method", "variant", "ablation", "sparsity"]).any()
