"""The figures of the study of conservation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from common.plots import style
from common.plots.panels import (
    cross_out,
    entry,
    few_powers,
    label_outside,
    logarithmic,
    panels,
    title_method,
)
from common.results.reference import METHODS
from common.studies.captions import (
    compression,
    depth_colours,
    depth_handles,
    rows_of,
    study_caption,
)

_KIND = ["method", "signed", "batchnorm"]
_STRIP = 0.16  # of a panel's height, for layers without a weight


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
    figure, grid = panels(len(kinds), 3, 2.1, 1.1, shared=False)
    for axes, kind in zip(grid, kinds, strict=True):
        part = rows_of(units, _KIND, kind)
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
        few_powers(axes.xaxis, 4)
        few_powers(axes.yaxis, 4)
        lost = rows_of(layers, _KIND, kind)["discrepancy_median"].median()
        told = "conserved" if lost < 1e-6 else f"median discrepancy {lost:.2g}"
        axes.text(0.97, 0.05, told, transform=axes.transAxes, fontsize=7.5, ha="right")
        title_method(axes, kind_label(*kind), kind[0], fontsize=9)
    label_outside(grid, "into the unit", "out of the unit")
    shown = len(rows_of(units, _KIND, kinds[0]))
    handles = [
        *depth_handles(names, list(hues.values())),
        entry("in = out", color=style.GREY, lw=0.9),
        entry("opposite signs", color=style.INK, marker="o", ls="none", ms=4, mfc="none"),
    ]
    style.legend_above(figure, handles)
    style.write_caption(
        figure,
        study_caption(layers[layers["seed"].isin(units["seed"])]),
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
    figure, grid = panels(len(kinds), 3, 2.0, 1.1, shared=False)
    for axes, kind in zip(grid, kinds, strict=True):
        part = rows_of(layers, _KIND, kind)
        size, mean = part["size"], part["mean_absolute"]
        for name, hue in hues.items():
            here = part["layer"] == name
            axes.plot(size[here], mean[here], "o", color=hue, ms=3.8, alpha=0.9)
        ends = np.array([size.min(), size.max()], dtype=float)
        axes.plot(ends, (size * mean).median() / ends, color=style.GREY, lw=0.9, zorder=1)
        axes.set(xscale="log", yscale="log")
        low, high = mean.min(), mean.max()
        axes.set_ylim(low / 4, max(high * 4, low * 1e3))
        few_powers(axes.xaxis, 5)
        few_powers(axes.yaxis, 5)
        found = rows_of(slopes, _KIND, kind)["slope"].iloc[0]
        told = {"transform": axes.transAxes, "fontsize": 7.5, "ha": "right"}
        axes.text(0.97, 0.9, f"slope {found:.2f}", **told)
        title_method(axes, kind_label(*kind), kind[0], fontsize=9)
    label_outside(grid, "Weights in the layer", "Mean |score|")
    line = entry("slope −1: inversely proportional", color=style.GREY, lw=0.9)
    style.legend_above(figure, [*depth_handles(names, list(hues.values())), line])
    style.write_caption(figure, study_caption(layers), scored_on(layers))
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
        part = rows_of(layers, _KIND, kind)
        part = part.pivot_table(index="layer", columns="seed", values="total")
        share = (part.reindex(names) / part.loc[names[-1]]).abs().mean(axis=1)
        dashes = "-" if kind[2] == "eval" else "--"
        look = {"color": style.colour(kind[0]), "marker": style.marker(kind[0]), "ls": dashes}
        axes.plot(range(len(names)), share.clip(lower=1e-18), **look)
        handles.append(entry(kind_label(*kind), **look))
    axes.set_yscale("log")
    few_powers(axes.yaxis, 7)
    axes.set_ylabel("|sum of the layer's scores|\nover the last layer's")
    style.name_layers(axes, names)
    style.legend_above(figure, handles)
    style.write_caption(figure, study_caption(layers), scored_on(layers))
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
    grid = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    looks = {
        "eval": {"color": style.colour("synflow"), "marker": "D", "label": "eval mode"},
        "train": {"color": style.ALARM, "marker": "o", "ls": "--", "label": "train mode"},
    }
    x = np.arange(len(names))
    for axes, level in zip(grid, levels, strict=True):
        logarithmic(axes, low, 1.6, _STRIP)
        for mode, look in looks.items():
            part = rows_of(table, ["exponent", "batchnorm"], (level, mode))
            density = part.groupby("layer")["density"].agg(["mean", "min"]).reindex(names)
            axes.plot(x, density["mean"].where(density["min"] > 0), ms=3.5, lw=1.3, **look)
            cross_out(axes, x[density["min"] == 0], _STRIP / 2, color=look["color"])
        axes.axhline(10.0**-level, **style.CHANCE)
        style.name_layers(axes, names)
        axes.set_title(f"Compression {compression(10.0**level)}", loc="left", weight="bold")
    grid[0].set_ylabel("Layer density")
    handles = [entry(**look) for look in looks.values()]
    handles.append(entry("whole network", **style.CHANCE))
    handles.append(entry("no weight left", **style.COLLAPSED))
    style.legend_above(figure, handles)
    style.write_caption(figure, study_caption(pruned), "SynFlow in 100 rounds.")
    return figure


def scored_on(layers: pd.DataFrame) -> str:
    """On how many images the scores were taken that need some."""
    images = sorted(int(count) for count in layers["images"].unique() if count)
    return f"SNIP and GraSP scored on {' or '.join(map(str, images))} images." if images else ""


def kind_label(method: str, signed: bool, batchnorm: str) -> str:
    """`SNIP, signed, BN in train mode`."""
    sign = {("SNIP", True): ", signed", ("synflow", True): ", signed"}.get(
        (method, bool(signed)), ""
    )
    return style.method_label(method) + sign + (f", BN {batchnorm}" if batchnorm != "none" else "")


def _kinds(table: pd.DataFrame) -> list[tuple]:
    found = set(table[_KIND].itertuples(index=False, name=None))
    order = list(METHODS)
    return sorted(found, key=lambda k: (order.index(k[0]), k[2] != "eval", not k[1]))
