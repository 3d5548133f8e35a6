"""Accuracy against sparsity: the suite's main figures.

The horizontal axis is the share of weights removed, logarithmic in what stays, as in Frankle et al.
2021: 30, 60, 90 and 98 percent and a range up to 99.9 percent both read well on it. The vertical
axis of the first panels holds all of 0 to 100 percent; a close-up shows the top.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common import datasets
from common.plots import style, tables
from common.plots.panels import entry, ticks_at, title_method
from common.results.reference import single_source
from common.results.statistics import mean_interval

ACCURACY = "test_accuracy"
COLUMNS = 5  # panels side by side
CLOSE_UP = 25.0  # percentage points below the best that a close-up shows at most
CROWD = 8  # points on a line up to which each has its bar; more share a band, and are small
DOTS = 5  # runs per point up to which each is drawn
APART, ABREAST = 0.03, 0.13  # of the axis: between lines with bars, and all of them at most

YARDSTICK = ("random", "")  # unmodified, it stands beside every other method
YARDSTICK_LOOK = {
    **{"color": style.colour("random"), "marker": style.marker("random")},
    **{"linestyle": "-", "linewidth": 1.0, "zorder": 2.5},
}

REMOVED = "Weights removed (%)"
MARGIN = 0.12  # decades beside the outermost points

Panels = list[tuple[Axes, Axes]]  # (all of 0 to 100, close-up)


@style.styled
def accuracy_by_ablation(summary: pd.DataFrame, reference: pd.DataFrame | None = None) -> Figure:
    """Accuracy against weights removed: a panel per method and its close-up, a line per ablation,
    and in all of them unmodified random pruning.

    summary: finished runs of one data set and model (contract columns); methods without an ablation
    share the last panel, or have one each if no method has any; reference: rows of one source
    (`common.results.reference.curves`), drawn in grey in the panel of their method. Lines are means
    over seeds, bars (bands, along many points) their 95 percent t-intervals, dots single seeds;
    runs with a collapsed layer are crossed. Runs of sparsity 0 are the dense network. Raises
    ConfigurationError for an empty summary, several networks or sources, a reference for another
    network, or several runs of one seed in a cell.
    """
    pruned, dense, theirs = _parts(summary, reference)
    methods = tables.methods(pruned)
    shown = _ablated(pruned) or methods or [("dense", "")]
    others = [method for method in methods if method not in [*shown, YARDSTICK]]
    yardstick = _yardstick(pruned), YARDSTICK_LOOK
    theirs = theirs[_among(theirs, methods)]
    figure, panels = _panels(len(shown) + bool(others))
    for pair, method in zip(panels, shown, strict=False):
        title_method(pair[0], style.method_label(*method), method[0])
        ours, published = tables.of(pruned, method), tables.of(theirs, method)
        lines = [] if method == YARDSTICK else [yardstick]
        lines += [
            (tables.of(ours, method, ablation), _look(ablation, style.colour(method[0])))
            for ablation in reversed(tables.ablations(ours))  # the unmodified method on top
        ]
        for axes in pair:
            for ablation in tables.ablations(published):
                _draw_reference(axes, tables.of(published, method, ablation), _look(ablation))
            _draw_lines(axes, lines, pruned)
    if others:
        labels = [style.method_label(*method) for method in others]
        title = ", ".join(labels) if len(labels) <= 2 else "Other methods"
        panels[-1][0].set_title(title, weight="bold")
        lines = [(tables.of(pruned, method), style.method_look(method)) for method in others]
        for axes in panels[-1]:
            for method in others:
                _draw_reference(axes, tables.of(theirs, method, "none"), style.method_look(method))
            _draw_lines(axes, [yardstick, *lines], pruned)
    handles = [
        entry(style.ablation_style(name)[0], **_look(name, "#404040"))
        for name in tables.ablations(pruned)
    ]
    if len(yardstick[0]) and shown != [YARDSTICK]:
        handles.append(entry("random pruning", **YARDSTICK_LOOK))
    handles += [entry(style.method_label(*one), **style.method_look(one)) for one in others]
    return _finished(figure, panels, handles, pruned, dense, theirs)


@style.styled
def methods_together(
    summary: pd.DataFrame,
    ablations: Sequence[str] = ("none",),
    reference: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy against weights removed, all methods in one panel (and a close-up) per ablation;
    random pruning without it, if that is all there is. Arguments, marks and errors as for
    `accuracy_by_ablation`; also raises ConfigurationError for an ablation that was not run."""
    pruned, dense, theirs = _parts(summary, reference)
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
        lines = []
        for method in tables.methods(drawn):
            shown = "none" if added and method == YARDSTICK else ablation
            lines.append((tables.of(drawn, method, shown), style.method_look(method)))
        for axes in pair:
            for method in tables.methods(drawn):
                _draw_reference(
                    axes, tables.of(theirs, method, ablation), style.method_look(method)
                )
            _draw_lines(axes, lines, drawn)
    handles = []
    for method in tables.methods(drawn):
        unmodified = ", unmodified" if added and method == YARDSTICK else ""
        label = style.method_label(*method) + unmodified
        handles.append(entry(label, **style.method_look(method)))
    return _finished(figure, panels, handles, drawn, dense, theirs)


def removed_axis(axes: Axes, removed: np.ndarray) -> None:
    """Make x the weights removed in percent, logarithmic in those that stay, with readable ticks.

    removed: every value that is drawn, below 100.
    """
    stay = 100 - np.unique(np.round(removed, 9))
    low, high = stay.min(), stay.max()
    margin = 10**MARGIN if high > low else 2.0
    axes.set_xscale("function", functions=(_decades, lambda decades: 100 - 10.0**-decades))
    axes.set_xlim(100 - min(high * margin, 125), 100 - low / margin)
    gaps = -np.diff(np.log10(stay)) / np.log10(high * margin**2 / low)
    if len(stay) <= 6 and (gaps > 0.09).all():
        ticks = stay
    else:
        steps = (1, 2, 5) if high / low < 200 else (1,)
        ticks = [s * 10.0**e for e in range(-6, 3) for s in steps]
    ticks_at(axes.xaxis, [100 - tick for tick in ticks], "{:.6g}".format)


def _decades(removed: np.ndarray) -> np.ndarray:
    """Decades that the weights were thinned by, from percent removed."""
    return -np.log10(np.maximum(100 - np.asarray(removed, dtype=float), 1e-9))


def _parts(
    summary: pd.DataFrame, reference: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The summary's pruned runs, its dense ones, and the reference's rows, all checked."""
    runs = tables.one_accuracy(summary)
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
    rows = -(-count // COLUMNS)
    columns = -(-count // rows)
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


def _draw_lines(axes: Axes, lines: list[tuple[pd.DataFrame, dict]], every: pd.DataFrame) -> None:
    """Lines of (runs, look), side by side where they have bars, so that none hides another.

    every: the runs that make the axis.
    """
    lines = [(runs, look) for runs, look in lines if len(runs)]
    decades = np.ptp(_decades(100 * every["sparsity"])) + 2 * MARGIN
    step = min(APART, ABREAST / max(len(lines), 1)) * decades if _has_bars(every) else 0.0
    for place, (runs, look) in enumerate(lines):
        steps = (len(lines) - 1) / 2 - place
        _draw(axes, runs, look, 10 ** (step * steps))


def _draw(axes: Axes, runs: pd.DataFrame, look: dict, shift: float) -> None:
    """A line, and what is known of its spread; shift: a factor on the weights that stay."""
    points = tables.curve(runs, ACCURACY)
    x, few = 100 * (1 - (1 - points["sparsity"]) * shift), len(points) <= CROWD
    axes.plot(x, points["mean"], **{"markersize": 4.5 if few else 3, "zorder": 3} | look)
    removed, hue = 100 * (1 - (1 - runs["sparsity"]) * shift), look["color"]
    several = points["n"] > 1
    if few:
        bars = points[several]
        axes.vlines(x[several], bars["low"], bars["high"], color=hue, lw=0.8, zorder=2.9)
    elif several.any():
        axes.fill_between(x, points["low"], points["high"], color=hue, alpha=0.2, lw=0)
    if 1 < points["n"].max() <= DOTS:
        axes.plot(removed, runs[ACCURACY], ".", ms=4.5, mew=0, color=hue)
    if "layers_collapsed" in runs:
        cut = runs["layers_collapsed"] > 0
        axes.plot(removed[cut], runs.loc[cut, ACCURACY], **style.COLLAPSED, zorder=4)


def _draw_reference(axes: Axes, rows: pd.DataFrame, look: dict) -> None:
    rows = rows[~tables.is_dense(rows)]
    look = look | {"color": style.GREY, "lw": 1.0, "mfc": "white", "zorder": 1.5}
    look["ms"] = 3.5 if len(rows) <= CROWD else 2.5
    axes.plot(100 * rows["sparsity"], rows[ACCURACY], **look)


def _finished(
    figure: Figure,
    panels: Panels,
    handles: list[Line2D],
    pruned: pd.DataFrame,
    dense: pd.DataFrame,
    theirs: pd.DataFrame,
) -> Figure:
    """Levels, axes, legend and caption."""
    runs = pd.concat([pruned, dense])
    values, ours = runs[ACCURACY], runs[ACCURACY].max()
    # Curves of another schedule may lie far above; ours are what is enlarged.
    near = theirs[ACCURACY] <= ours + CLOSE_UP / 4
    values = pd.concat([values, theirs.loc[near & ~tables.is_dense(theirs), ACCURACY]])
    best = values.max()
    lowest = values[values >= ours - CLOSE_UP].min()
    levels = []
    if len(dense):
        reached = mean_interval(dense.groupby("seed")[ACCURACY].mean())
        levels.append((reached.mean, style.DENSE | {"label": "dense network"}))
    chance = 100 / datasets.DATASETS[runs["dataset"].iloc[0]].classes
    levels.append((chance, style.CHANCE | {"label": f"chance ({chance:g}%)"}))
    removed = 100 * (pruned if len(pruned) else runs)["sparsity"].to_numpy()
    for pair in panels:
        for axes in pair:
            removed_axis(axes, removed)
            for level, look in levels:
                axes.axhline(level, **look)
            if len(dense) and reached.n > 1:
                axes.axhspan(reached.low, reached.high, color=style.INK, alpha=0.08, lw=0)
        for axes in pair if len(panels) == 1 else pair[1:]:
            axes.set_xlabel(REMOVED)
            axes.tick_params(labelbottom=True)
        pair[0].set_ylim(0, 102)
        pair[1].set_ylim(lowest - 1, best + 1)
    for full, close in panels:
        if full.get_subplotspec().is_first_col():
            full.set_ylabel(tables.ACCURACY_LABEL)
            close.set_ylabel("Close-up (%)")
    handles += [entry(**look) for _, look in levels]
    if "layers_collapsed" in runs and (runs["layers_collapsed"] > 0).any():
        handles.append(entry("a layer has collapsed", **style.COLLAPSED))
    source = single_source(theirs) if len(theirs) else None
    if source:
        handles.append(entry(source.name, color=style.GREY, lw=1))
    style.legend_above(figure, handles)
    style.write_caption(
        figure,
        tables.caption(runs) + ".",
        _spread_told(pruned, dense),
        f"Grey: {source.name}: {source.caution}." if source else "",
    )
    return figure


def _spread_told(pruned: pd.DataFrame, dense: pd.DataFrame) -> str:
    """What the caption says of bars, bands and dots; nothing for one seed throughout."""
    seeds = pruned.groupby(["method", "variant", "ablation", "sparsity"]).size()
    if not (seeds > 1).any():
        return ""
    few = _has_bars(pruned)
    told = f"Lines: mean over seeds; {'bars' if few else 'bands'}: its 95 percent t-interval"
    told += ", grey for the dense network" if dense["seed"].nunique() > 1 else ""
    told += "; dots: single seeds" if seeds.max() <= DOTS else ""
    told += "; lines at one sparsity stand side by side" if few else ""
    return told + ("; one seed has no bar." if few and (seeds == 1).any() else ".")


def _has_bars(runs: pd.DataFrame) -> bool:
    """Whether there are replicates, and few enough sparsities to give each its bar."""
    cell = ["method", "variant", "ablation", "sparsity"]
    return runs["sparsity"].nunique() <= CROWD and runs.duplicated(cell).any()
