"""The figures of the study of conservation."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from common.plots import style
from common.results.reference import METHODS
from common.studies.captions import (
    compression,
    depth_colours,
    depth_handles,
    grid,
    rows_of,
    strip,
    study_caption,
)

_KIND = ["method", "signed", "batchnorm"]


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
    figure, panels = grid(len(kinds), 2.1, shared=False)
    for axes, kind in zip(panels, kinds, strict=True):
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
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(mpl.ticker.LogLocator(numticks=4))
            axis.set_minor_locator(NullLocator())
        lost = rows_of(layers, _KIND, kind)["discrepancy_median"].median()
        told = "conserved" if lost < 1e-6 else f"median discrepancy {lost:.2g}"
        axes.text(0.97, 0.05, told, transform=axes.transAxes, fontsize=7.5, ha="right")
        axes.set_title(kind_label(*kind), color=style.colour(kind[0]), weight="bold", fontsize=9)
        axes.set_xlabel("into the unit" if axes.get_subplotspec().is_last_row() else "")
        axes.set_ylabel("out of the unit" if axes.get_subplotspec().is_first_col() else "")
    shown = len(rows_of(units, _KIND, kinds[0]))
    look = {"color": style.INK, "marker": "o", "ls": "none", "ms": 4}
    handles = [
        *depth_handles(names, list(hues.values())),
        Line2D([], [], color=style.GREY, lw=0.9, label="in = out"),
        Line2D([], [], **look | {"mfc": "none"}, label="opposite signs"),
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
    figure, panels = grid(len(kinds), 2.0, shared=False)
    for axes, kind in zip(panels, kinds, strict=True):
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
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(mpl.ticker.LogLocator(numticks=5))
            axis.set_minor_locator(NullLocator())
        found = rows_of(slopes, _KIND, kind)["slope"].iloc[0]
        told = {"transform": axes.transAxes, "fontsize": 7.5, "ha": "right"}
        axes.text(0.97, 0.9, f"slope {found:.2f}", **told)
        axes.set_title(kind_label(*kind), color=style.colour(kind[0]), weight="bold", fontsize=9)
        axes.set_xlabel("Weights in the layer" if axes.get_subplotspec().is_last_row() else "")
        axes.set_ylabel("Mean |score|" if axes.get_subplotspec().is_first_col() else "")
    line = Line2D([], [], color=style.GREY, lw=0.9, label="slope −1: inversely proportional")
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
        handles.append(Line2D([], [], label=kind_label(*kind), **look))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
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
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    looks = {
        "eval": {"color": style.colour("synflow"), "marker": "D", "label": "eval mode"},
        "train": {"color": style.ALARM, "marker": "o", "ls": "--", "label": "train mode"},
    }
    for axes, level in zip(panels, levels, strict=True):
        height = strip(axes, low)
        for mode, look in looks.items():
            part = table[(table["exponent"] == level) & (table["batchnorm"] == mode)]
            density = part.groupby("layer")["density"].agg(["mean", "min"]).reindex(names)
            x = np.arange(len(names))
            axes.plot(x, density["mean"].where(density["min"] > 0), ms=3.5, lw=1.3, **look)
            dead = x[density["min"] == 0]
            cross = style.COLLAPSED | {"color": look["color"]}
            middle = np.full(len(dead), height / 2)
            axes.plot(dead, middle, transform=axes.get_xaxis_transform(), **cross)
        axes.axhline(10.0**-level, **style.CHANCE)
        style.name_layers(axes, names)
        axes.set_title(f"Compression {compression(10.0**level)}", loc="left", weight="bold")
    panels[0].set_ylabel("Layer density")
    handles = [Line2D([], [], **look) for look in looks.values()]
    handles.append(Line2D([], [], label="whole network", **style.CHANCE))
    handles.append(Line2D([], [], label="no weight left", **style.COLLAPSED))
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
