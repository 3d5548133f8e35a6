"""The figures of the study of layer collapse.

A layer without a weight left has no place on a logarithmic axis: it is crossed in a strip below it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.plots import style
from common.plots.panels import (
    cross_out,
    entry,
    label_outside,
    logarithmic,
    panels,
    ticks_at,
)
from common.results.reference import METHODS
from common.studies.captions import (
    compression,
    depth_colours,
    depth_handles,
    rows_of,
    study_caption,
)

STRIP = 0.16  # of a panel's height, for layers without a weight
BEYOND = {"facecolor": "#e3e3e3", "edgecolor": "white", "hatch": "///", "lw": 0, "zorder": 0}
_LINE = ["method", "iterations", "images_per_class"]


@style.styled
def collapse_densities(layers: pd.DataFrame, summary: pd.DataFrame, suffix: str = "") -> Figure:
    """What each layer keeps as compression grows: a panel per method, a curve per layer, means over
    seeds.

    layers: method, iterations, images_per_class, seed, exponent, layer, size, kept; summary: their
    dataset, model, protocol, device and the number `prunable`. Crosses below: no weight left in at
    least one seed. Grey: compressions at which no method keeps a weight in every layer. suffix: of
    the panels' titles. The caption says which methods were measured less than the others.
    """
    names = list(dict.fromkeys(layers["layer"]))
    hues = depth_colours(len(names))
    top = summary["prunable"].max() / len(names)
    counts = layers.groupby(_LINE)["exponent"].nunique()
    lines = [line for line in _lines(layers) if counts[line] > 1]  # a point is no curve
    labels = line_labels(layers)
    figure, grid = panels(len(lines), 3, 2.15, 1.1)
    table = layers.assign(density=layers["kept"] / layers["size"], x=10.0 ** layers["exponent"])
    low = table.loc[table["density"] > 0, "density"].min() / 2
    for axes, line in zip(grid, lines, strict=True):
        part = rows_of(table, _LINE, line)
        means = part.groupby(["layer", "x"])["density"].agg(["mean", "min"]).reset_index()
        logarithmic(axes, low, 1.6, STRIP)
        for place, (name, hue) in enumerate(zip(names, hues, strict=True)):
            curve = means[means["layer"] == name]
            alive = curve[curve["min"] > 0]
            axes.plot(alive["x"], alive["mean"], ".-", color=hue, lw=1.1, ms=2.5)
            dead = curve.loc[curve["min"] == 0, "x"]
            level = STRIP * (1 - (place + 0.5) / len(names))
            cross_out(axes, dead, level, color=hue, markersize=2.6, mew=0.8)
        _compressions(axes, table["x"].max(), top)
        count = part["seed"].nunique()
        name, _, how = (labels[line] + suffix).partition(", ")
        hue = {"color": style.colour(line[0])}
        axes.set_title(name, loc="left", weight="bold", **hue)
        axes.set_title(how, loc="right", fontsize=7.5, **hue)
        seeds = f"{count} seed{'s' * (count > 1)}"
        axes.text(0.02, 0.04 + STRIP, seeds, transform=axes.transAxes, fontsize=7, color="#555555")
    label_outside(grid, "Compression", "Layer density")
    style.legend_above(figure, [*depth_handles(names, hues), _beyond_handle(top)])
    style.write_caption(figure, study_caption(summary), images_of(summary), coverage(summary))
    return figure


@style.styled
def critical_compression(critical: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """The highest compression without a collapsed layer, a row per method, a mark per seed.

    critical: of `common.studies.layer_collapse.critical`. The bar goes on to the next compression
    that was measured, at which a layer had collapsed: the true value lies on it.
    """
    top = float((summary["prunable"] / summary["layers"]).max())
    lines, labels = _lines(critical), line_labels(critical)
    figure = style.new_figure(1.5 + 0.34 * len(lines))
    axes = figure.subplots()
    for row, line in enumerate(reversed(lines)):
        part, hue = rows_of(critical, _LINE, line), style.colour(line[0])
        for place, (_, found) in zip(
            np.linspace(-0.18, 0.18, len(part)) if len(part) > 1 else [0.0],
            part.iterrows(),
            strict=True,
        ):
            beyond = found["collapsed"]
            if beyond == beyond:
                ends = [found["reached"], beyond]
                axes.plot(ends, [row + place] * 2, color=style.lighter(hue, 0.45), lw=2.2, zorder=2)
            axes.plot(found["reached"], row + place, style.marker(line[0]), color=hue, zorder=3)
    axes.set_yticks(range(len(lines)), [labels[line] for line in reversed(lines)])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    _compressions(axes, summary["compression"].max(), top)
    axes.set_xlabel("Critical compression: marks, the highest measured without a collapsed layer")
    told = "up to the next measured, where a layer had collapsed"
    bar = entry(told, color=style.lighter(style.INK, 0.45), lw=2.2)
    style.legend_above(figure, [bar, _beyond_handle(top)])
    style.write_caption(figure, study_caption(summary), images_of(summary), coverage(summary))
    return figure


@style.styled
def seed_agreement(
    agreement: pd.DataFrame, summary: pd.DataFrame, methods: Sequence[str], iterations: int = 100
) -> Figure:
    """How much the weights that layers keep differ between seeds, in units of sampling noise.

    agreement: of `common.studies.layer_collapse.agreement`; of `methods`, those with one round or
    `iterations` of them are drawn.
    """
    figure = style.new_figure(3.0)
    axes = figure.subplots()
    for method in methods:
        part = agreement[agreement["method"] == method]
        rounds = iterations if (part["iterations"] == iterations).any() else 1
        # Where one layer alone is left there is nothing to differ in.
        part = part[(part["iterations"] == rounds) & (part["noise"] > 0)]
        look = {"color": style.colour(method), "marker": style.marker(method)}
        axes.plot(10.0 ** part["exponent"], part["noise"], label=style.method_label(method), **look)
    axes.axhline(1, **style.CHANCE | {"label": "sampling noise alone"})
    axes.set(xscale="log", xlabel="Compression", ylabel="Deviation between seeds\n(binomial σ)")
    axes.set_ylim(bottom=0)
    style.legend_above(figure, axes.get_legend_handles_labels()[0])
    chosen = summary[summary["method"].isin(methods)]
    style.write_caption(figure, study_caption(chosen))
    return figure


def line_labels(table: pd.DataFrame) -> dict[tuple, str]:
    """(method, iterations, images_per_class) -> `SNIP, 10 rounds (1 image a class)`; the images
    only where a method was scored on different numbers of them."""
    found = {}
    for method, iterations, images in _lines(table):
        rounds = "one shot" if iterations == 1 else f"{iterations} rounds"
        told = "" if method in ("random", "magnitude") else f", {rounds}"
        if table.loc[table["method"] == method, "images_per_class"].nunique() > 1:
            told += f" ({images} image{'s' * (images > 1)} a class)"
        found[method, iterations, images] = style.method_label(method) + told
    return found


def images_of(table: pd.DataFrame) -> str:
    """The scoring images of the methods whose labels do not name them."""
    counts = table[table["images_per_class"] > 0].groupby("method")["images_per_class"].unique()
    alike = {m: int(n[0]) for m, n in counts.items() if len(n) == 1}
    told = [f"{style.method_label(m)} scored on {n} images of each class" for m, n in alike.items()]
    return ", ".join(told) + "." * bool(told)


def coverage(summary: pd.DataFrame) -> str:
    """Which methods were measured at fewer compressions or with fewer seeds than the others."""
    seeds = sorted(int(seed) for seed in summary["seed"].unique())
    counts = summary.groupby([*_LINE, "seed"])["exponent"].nunique()
    labels, told = line_labels(summary), []
    for line, label in labels.items():
        found = [int(counts.get((*line, seed), 0)) for seed in seeds]
        if min(found) < counts.max():
            told.append(f"{label}: {', '.join(map(str, found))}")
    if not told:
        return ""
    which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    most = counts.max()
    return f"Measured at fewer than {most} compressions ({which}): {'; '.join(told)}."


def _lines(table: pd.DataFrame) -> list[tuple]:
    """(method, iterations, images_per_class) in the suite's order."""
    found = set(table[_LINE].itertuples(index=False, name=None))
    order = style.ordered((line[0] for line in found), METHODS)
    return sorted(found, key=lambda l: (order.index(l[0]), l[1], -l[2]))


def _beyond_handle(top: float) -> Patch:
    look = {k: v for k, v in BEYOND.items() if k != "zorder"}
    return Patch(label=f"beyond {top:,.0f}: collapse unavoidable", **look)


def _compressions(axes: Axes, highest: float, top: float) -> None:
    """A logarithmic axis of compressions, with the region that no method can reach."""
    end = max(highest, top) * 1.8
    axes.set_xscale("log")
    axes.set_xlim(0.8, end)
    axes.axvspan(top, end, **BEYOND)
    ticks_at(axes.xaxis, [10.0**e for e in range(10) if 10.0**e <= end], compression)
