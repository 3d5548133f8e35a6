"""The figures of the studies of layer collapse and of conservation.

Layers are coloured by depth, from the input (dark) to the output (light); a layer without a weight
left has no place on a logarithmic axis and is crossed in a strip below it.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from common.plots import style
from common.reference import DATASETS, METHODS, MODELS

COLUMNS = 3
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
    figure, panels = _grid(len(lines), 2.15)
    table = layers.assign(density=layers["kept"] / layers["size"], x=10.0 ** layers["exponent"])
    low = table.loc[table["density"] > 0, "density"].min() / 2
    for axes, line in zip(panels, lines, strict=True):
        part = _of(table, line)
        means = part.groupby(["layer", "x"])["density"].agg(["mean", "min"]).reset_index()
        strip = _strip(axes, low)
        for place, (name, hue) in enumerate(zip(names, hues, strict=True)):
            curve = means[means["layer"] == name]
            alive = curve[curve["min"] > 0]
            axes.plot(alive["x"], alive["mean"], ".-", color=hue, lw=1.1, ms=2.5)
            dead = curve.loc[curve["min"] == 0, "x"]
            height = strip * (1 - (place + 0.5) / len(names))
            axes.plot(
                dead,
                np.full(len(dead), height),
                "x",
                color=hue,
                ms=2.6,
                mew=0.8,
                transform=axes.get_xaxis_transform(),
            )
        _compressions(axes, table["x"].max(), top)
        count = part["seed"].nunique()
        axes.set_title(labels[line] + suffix, color=style.colour(line[0]), weight="bold")
        seeds = f"{count} seed{'s' * (count > 1)}"
        axes.text(0.02, 0.04 + strip, seeds, transform=axes.transAxes, fontsize=7, color="#555555")
    for axes in panels:
        axes.set_xlabel("Compression" if axes.get_subplotspec().is_last_row() else "")
        axes.set_ylabel("Layer density" if axes.get_subplotspec().is_first_col() else "")
    style.legend_above(figure, [*_depth_handles(names, hues), _beyond_handle(top)])
    style.write_caption(figure, made_from(summary), images_of(summary), coverage(summary))
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
        part, hue = _of(critical, line), style.colour(line[0])
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
    bar = Line2D([], [], color=style.lighter(style.INK, 0.45), lw=2.2)
    bar.set_label("up to the next measured, where a layer had collapsed")
    style.legend_above(figure, [bar, _beyond_handle(top)])
    style.write_caption(figure, made_from(summary), images_of(summary), coverage(summary))
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
    style.write_caption(figure, made_from(chosen))
    return figure


@style.styled
def unit_conservation(units: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Scores that leave a hidden unit against those that enter it, a panel per kind of score.

    units: method, signed, batchnorm, layer, incoming, outgoing; layers: what they were drawn from,
    for the share of discrepancy and the caption. Absolute values; hollow where the two differ in
    sign. On the line a unit conserves.
    """
    names = list(dict.fromkeys(units["layer"]))
    hues = dict(zip(names, depth_colours(len(names)), strict=True))
    # SynFlow in train mode is shown with its signs, which say why it does not conserve.
    kinds = [kind for kind in _kinds(units) if kind != ("synflow", False, "train")]
    figure, panels = _grid(len(kinds), 2.1, shared=False)
    for axes, kind in zip(panels, kinds, strict=True):
        part = _of(units, kind, _KIND)
        into, out = part["incoming"].abs(), part["outgoing"].abs()
        ends = np.array([min(into.min(), out.min()) / 2, max(into.max(), out.max()) * 2])
        ends = np.maximum(ends, ends[1] * 1e-16)
        axes.plot(ends, ends, color=style.GREY, lw=0.9, zorder=1)
        differ = np.sign(part["incoming"]) != np.sign(part["outgoing"])
        for name, hue in hues.items():
            for chosen, face in ((~differ, hue), (differ, "none")):
                here = chosen & (part["layer"] == name)
                look = {"ls": "none", "marker": "o", "ms": 3.2, "mew": 0.7, "mec": hue}
                axes.plot(into[here], out[here], mfc=face, alpha=0.85, **look)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(mpl.ticker.LogLocator(numticks=4))
            axis.set_minor_locator(NullLocator())
        lost = _of(layers, kind, _KIND)["discrepancy_median"].median()
        told = "conserved" if lost < 1e-6 else f"median discrepancy {lost:.2g}"
        axes.text(0.97, 0.05, told, transform=axes.transAxes, fontsize=7.5, ha="right")
        axes.set_title(kind_label(*kind), color=style.colour(kind[0]), weight="bold", fontsize=9)
        axes.set_xlabel("into the unit" if axes.get_subplotspec().is_last_row() else "")
        axes.set_ylabel("out of the unit" if axes.get_subplotspec().is_first_col() else "")
    shown = len(_of(units, kinds[0], _KIND))
    look = {"color": style.INK, "marker": "o", "ls": "none", "ms": 4}
    handles = [
        *_depth_handles(names, list(hues.values())),
        Line2D([], [], color=style.GREY, lw=0.9, label="in = out"),
        Line2D([], [], **look | {"mfc": "none"}, label="opposite signs"),
    ]
    style.legend_above(figure, handles)
    style.write_caption(
        figure,
        made_from(layers[layers["seed"].isin(units["seed"])]),
        f"{shown} hidden units in each panel, drawn at random. Discrepancy: |in − out| / (|in| + "
        "|out|), over all units. " + scored_on(layers),
    )
    return figure


@style.styled
def layer_conservation(layers: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Mean absolute score of a layer against its number of weights, a panel per kind of score.

    slopes: of `common.studies.conservation.slopes`. The line has slope -1: size times mean is the
    same for every layer.
    """
    names = list(dict.fromkeys(layers["layer"]))
    hues = dict(zip(names, depth_colours(len(names)), strict=True))
    # A sign does not show in absolute values.
    kinds = [k for k in _kinds(layers) if (k[0] == "grasp" and k[2] == "train") or not k[1]]
    figure, panels = _grid(len(kinds), 2.0, shared=False)
    for axes, kind in zip(panels, kinds, strict=True):
        part = _of(layers, kind, _KIND)
        size, mean = part["size"], part["mean_absolute"]
        for name, hue in hues.items():
            here = part["layer"] == name
            axes.plot(size[here], mean[here], "o", color=hue, ms=3.8, alpha=0.9)
        ends = np.array([size.min(), size.max()], dtype=float)
        axes.plot(ends, (size * mean).median() / ends, color=style.GREY, lw=0.9, zorder=1)
        axes.set(xscale="log", yscale="log")
        low, high = mean.min(), mean.max()
        axes.set_ylim(low / 4, max(high * 4, low * 1e3))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(mpl.ticker.LogLocator(numticks=5))
            axis.set_minor_locator(NullLocator())
        found = _of(slopes, kind, _KIND)["slope"].iloc[0]
        told = {"transform": axes.transAxes, "fontsize": 7.5, "ha": "right"}
        axes.text(0.97, 0.9, f"slope {found:.2f}", **told)
        axes.set_title(kind_label(*kind), color=style.colour(kind[0]), weight="bold", fontsize=9)
        axes.set_xlabel("Weights in the layer" if axes.get_subplotspec().is_last_row() else "")
        axes.set_ylabel("Mean |score|" if axes.get_subplotspec().is_first_col() else "")
    line = Line2D([], [], color=style.GREY, lw=0.9, label="slope −1: inversely proportional")
    style.legend_above(figure, [*_depth_handles(names, list(hues.values())), line])
    style.write_caption(figure, made_from(layers), scored_on(layers))
    return figure


@style.styled
def layer_totals(layers: pd.DataFrame) -> Figure:
    """The sum of a layer's scores as a share of the last layer's, for the scores that are of the
    form w dR/dw; mean over seeds of the absolute share. A flat line at 1 is conservation."""
    names = list(dict.fromkeys(layers["layer"]))
    kinds = [k for k in _kinds(layers) if k[1] or k == ("synflow", False, "eval")]
    figure = style.new_figure(3.7)
    axes = figure.subplots()
    handles = []
    for kind in kinds:
        part = _of(layers, kind, _KIND).pivot_table(index="layer", columns="seed", values="total")
        share = (part.reindex(names) / part.loc[names[-1]]).abs().mean(axis=1)
        dashes = "-" if kind[2] == "eval" else "--"
        look = {"color": style.colour(kind[0]), "marker": style.marker(kind[0]), "ls": dashes}
        axes.plot(range(len(names)), share.clip(lower=1e-18), **look)
        handles.append(Line2D([], [], label=kind_label(*kind), **look))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("|sum of the layer's scores|\nover the last layer's")
    style.name_layers(axes, names)
    style.legend_above(figure, handles)
    style.write_caption(figure, made_from(layers), scored_on(layers))
    return figure


@style.styled
def batchnorm_modes(pruned: pd.DataFrame) -> Figure:
    """Layerwise densities of SynFlow scored with BatchNorm in eval and in train mode, a panel per
    compression. pruned: batchnorm, exponent, seed, layer, size, kept; mean over seeds."""
    names = list(dict.fromkeys(pruned["layer"]))
    levels = sorted(pruned["exponent"].unique())
    table = pruned.assign(density=pruned["kept"] / pruned["size"])
    low = table.loc[table["density"] > 0, "density"].min() / 2
    figure = style.new_figure(3.3)
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    looks = {
        "eval": {"color": style.colour("synflow"), "marker": "D", "label": "eval mode"},
        "train": {"color": style.ALARM, "marker": "o", "ls": "--", "label": "train mode"},
    }
    for axes, level in zip(panels, levels, strict=True):
        strip = _strip(axes, low)
        for mode, look in looks.items():
            part = table[(table["exponent"] == level) & (table["batchnorm"] == mode)]
            density = part.groupby("layer")["density"].agg(["mean", "min"]).reindex(names)
            x = np.arange(len(names))
            axes.plot(x, density["mean"].where(density["min"] > 0), ms=3.5, lw=1.3, **look)
            dead = x[density["min"] == 0]
            cross = style.COLLAPSED | {"color": look["color"]}
            heights = np.full(len(dead), strip / 2)
            axes.plot(dead, heights, transform=axes.get_xaxis_transform(), **cross)
        axes.axhline(10.0**-level, **style.CHANCE)
        style.name_layers(axes, names)
        axes.set_title(f"Compression {compression(10.0**level)}", loc="left", weight="bold")
    panels[0].set_ylabel("Layer density")
    handles = [Line2D([], [], **look) for look in looks.values()]
    handles.append(Line2D([], [], label="whole network", **style.CHANCE))
    handles.append(Line2D([], [], label="no weight left", **style.COLLAPSED))
    style.legend_above(figure, handles)
    style.write_caption(figure, made_from(pruned), "SynFlow in 100 rounds.")
    return figure


def made_from(table: pd.DataFrame) -> str:
    """Network, data set, protocol, seeds and hardware of a study's rows."""

    def value(column: str, names: dict[str, str]) -> str:
        return ", ".join(sorted(names.get(str(v), str(v)) for v in table[column].unique()))

    seeds = sorted(int(seed) for seed in table["seed"].unique())
    shown = ", ".join(map(str, seeds))
    counted = f"{len(seeds)} seeds ({shown})" if len(seeds) > 1 else f"1 seed ({shown})"
    versions = value("torch_version", {})
    return (
        f"{value('model', MODELS)} on {value('dataset', DATASETS)}; protocol "
        f"{value('protocol', {})}; {counted}; {value('device', {})}; torch {versions}."
    )


def coverage(summary: pd.DataFrame) -> str:
    """Which methods were measured at fewer compressions or with fewer seeds than the others."""
    every, seeds = summary["exponent"].nunique(), sorted(summary["seed"].unique())
    told, labels = [], line_labels(summary)
    for line in _lines(summary):
        part = _of(summary, line)
        counts = [part.loc[part["seed"] == seed, "exponent"].nunique() for seed in seeds]
        if min(counts) < every:
            told.append(f"{labels[line]}: {', '.join(map(str, counts))}")
    if not told:
        return ""
    which = "seed" if len(seeds) == 1 else "seeds"
    return (
        f"Measured at fewer than {every} compressions ({which} {', '.join(map(str, seeds))}): "
        f"{'; '.join(told)}."
    )


def scored_on(layers: pd.DataFrame) -> str:
    """On how many images the scores were taken that need some."""
    images = sorted(int(count) for count in layers["images"].unique() if count)
    return f"SNIP and GraSP scored on {' or '.join(map(str, images))} images." if images else ""


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


def kind_label(method: str, signed: bool, batchnorm: str) -> str:
    """`SNIP, signed, BN in train mode`."""
    sign = {("SNIP", True): ", signed", ("synflow", True): ", signed"}.get(
        (method, bool(signed)), ""
    )
    return style.method_label(method) + sign + (f", BN {batchnorm}" if batchnorm != "none" else "")


def compression(value: float) -> str:
    """1000 -> `10^3`, in mathematical type; small ones with what digits they need."""
    exponent = np.log10(value)
    return f"$10^{{{exponent:.4g}}}$"


def depth_colours(count: int) -> list[tuple]:
    """A colour for each of `count` layers, input to output."""
    return [tuple(c) for c in mpl.colormaps["viridis"](np.linspace(0, 0.92, count))]


_KIND = ["method", "signed", "batchnorm"]


def _depth_handles(names: Sequence[str], hues: Sequence[tuple]) -> list[Line2D]:
    picks = sorted({0, len(names) // 2, len(names) - 1})
    return [Line2D([], [], color=hues[i], marker="o", ms=3, label=names[i]) for i in picks]


def _beyond_handle(top: float) -> Patch:
    look = {k: v for k, v in BEYOND.items() if k != "zorder"}
    return Patch(label=f"beyond {top:,.0f}: collapse unavoidable", **look)


def _lines(table: pd.DataFrame) -> list[tuple]:
    """(method, iterations, images_per_class) in the suite's order."""
    found = set(table[_LINE].itertuples(index=False, name=None))
    order = list(METHODS)
    return sorted(found, key=lambda l: (order.index(l[0]), l[1], -l[2]))


def _kinds(table: pd.DataFrame) -> list[tuple]:
    found = set(table[_KIND].itertuples(index=False, name=None))
    order = list(METHODS)
    return sorted(found, key=lambda k: (order.index(k[0]), k[2] != "eval", not k[1]))


def _of(table: pd.DataFrame, key: tuple, columns: Sequence[str] = tuple(_LINE)) -> pd.DataFrame:
    return table[(table[list(columns)] == pd.Series(key, index=list(columns))).all(axis=1)]


def _grid(count: int, height: float, shared: bool = True) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = style.new_figure(1.1 + height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in grid.flat[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def _strip(axes: Axes, low: float, height: float = 0.16) -> float:
    """A log axis for densities from `low` with a strip below for crosses; returns its height."""
    top = 1.6
    bottom = low / (top / low) ** (height / (1 - height))
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    axes.axhspan(bottom, low, color=style.ALARM, alpha=0.1, lw=0, zorder=0)
    axes.yaxis.set_major_locator(FixedLocator([10.0**e for e in range(-9, 1) if 10.0**e >= low]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    look = {"color": style.ALARM, "fontsize": 7, "ha": "right", "va": "center"}
    if axes.get_subplotspec().is_first_col():
        axes.text(-0.015, height / 2, "none", transform=axes.transAxes, **look)
    return height


def _compressions(axes: Axes, highest: float, top: float) -> None:
    """A logarithmic axis of compressions, with the region that no method can reach."""
    end = max(highest, top) * 1.8
    axes.set_xscale("log")
    axes.set_xlim(0.8, end)
    axes.axvspan(top, end, **BEYOND)
    axes.xaxis.set_major_locator(FixedLocator([10.0**e for e in range(10) if 10.0**e <= end]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compression(value)))
