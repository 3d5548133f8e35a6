"""What the masks and the scores look like layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.base.errors import ConfigurationError
from common.plots import style, tables
from common.plots.panels import cross_out, entry, label_outside, logarithmic, panels, title_method

NAMED_OFF, OFF = 8, 1.5
PANELS = 4  # sparsities shown at most


@style.styled
def layer_densities(
    layers: pd.DataFrame,
    summary: pd.DataFrame | None = None,
    ablation: str = "none",
    method: str = "",
) -> Figure:
    """Share of weights that each layer keeps, logarithmic, from the input to the output.

    Without a summary, `layers` is one run's table, `method` its hue and label. With it: a line per
    method (mean over runs), a panel per sparsity; at most four, spread over those there are. A
    layer without a weight left has no place on a logarithmic axis: it is crossed in a strip below
    it. Raises ConfigurationError for an empty table, several networks, or an ablation that was not
    run.
    """
    if summary is None:
        rows, caption = tables.single_run(layers, "layers", method), []
    else:
        runs = tables.prepared(summary, ["dataset", "model", "seed", "run_id"])
        tables.one_network(runs)
        runs = _selected(runs, ablation)
        rows = tables.joined(layers, runs)
        caption = [tables.caption(runs) + f"; {style.ablation_style(ablation)[0]}."]
    names, methods = list(dict.fromkeys(rows["layer"])), tables.methods(rows)
    levels = sorted(rows["sparsity"].unique())
    dead = tables.methods(rows[rows["density"] == 0])
    columns = 1 if len(names) > style.NAMED else 3 if len(levels) == 3 else 2
    one_row = len(levels) <= columns
    figure, grid = panels(len(levels), columns, 2.3, 1.8 if one_row else 1.2)
    present = rows.loc[rows["density"] > 0, "density"]
    low = 0.01 if present.empty else present.min() / 1.6  # no weight is left anywhere
    strip = 0.03 + 0.05 * len(dead) if dead else 0.0
    for axes, level in zip(grid, levels, strict=True):
        part = rows[rows["sparsity"] == level]
        logarithmic(axes, low, 1.4, strip)
        for pair in methods:
            row = dead.index(pair) if pair in dead else 0
            place = strip * (1 - (row + 0.5) / max(len(dead), 1))
            _draw_densities(axes, tables.of(part, pair), names, place)
        axes.axhline(part["kept"].sum() / part["size"].sum(), **style.CHANCE)
        style.name_layers(axes, names)
        if summary is not None:
            axes.set_title(f"{style.percent(level)} removed", loc="left", weight="bold")
    label_outside(grid, y="Weights kept")
    handles = [
        entry(style.method_label(*pair), **style.method_look(pair)) for pair in methods if pair[0]
    ]
    handles.append(entry("whole network", **style.CHANCE))
    if dead:
        handles.append(entry("no weight left in the layer", **style.COLLAPSED))
        if rows.duplicated(["method", "variant", "sparsity", "layer"]).any():
            caption.append("Mean over runs; crossed: no weight left in at least one of them.")
    style.legend_above(figure, handles)
    style.write_caption(figure, *caption)
    return figure


@style.styled
def scores_by_layer_size(
    layers: pd.DataFrame, summary: pd.DataFrame | None = None, method: str = ""
) -> Figure:
    """Mean score of each layer against its number of weights, both logarithmic, a panel per method.

    The line is R / size: every layer's scores sum to the same R, as SynFlow's do (Tanaka et al.
    2020, theorem 2). R is the median of the layers'; those that lie off the line are named, as the
    first and the last. Negative means are drawn hollow by their absolute value; means of exactly
    zero are crossed at the lower edge. Without a summary, `layers` is one run's table, `method` its
    hue and title. With it: its unmodified runs at the sparsity nearest to 0.9. Raises
    ConfigurationError as `layer_densities` does.
    """
    if summary is None:
        rows, caption = tables.single_run(layers, "layers", method), []
    else:
        runs = tables.prepared(summary, ["dataset", "model", "seed", "run_id"])
        tables.one_network(runs)
        runs = _selected(runs, "none")
        level = tables.nearest(runs["sparsity"])
        runs = runs[runs["sparsity"] == level]
        rows = tables.joined(layers, runs)
        caption = [tables.caption(runs) + f"; {style.percent(level)} removed."]
    methods = tables.methods(rows)
    rest = 1.8 if len(methods) <= 3 else 1.2
    figure, grid = panels(len(methods), 3, 2.4, rest, shared=False)
    signed = False
    for axes, pair in zip(grid, methods, strict=True):
        part = tables.of(rows, pair).dropna(subset=["score_mean"])
        hue, size, mean = style.colour(pair[0]), part["size"], part["score_mean"]
        axes.set(xscale="log", yscale="log", xlabel="Weights in the layer", ylabel="Mean score")
        for chosen, face in ((mean > 0, hue), (mean < 0, "white")):
            look = {"marker": "o", "ls": "none", "mfc": face, "mec": hue, "alpha": 0.8}
            axes.plot(size[chosen], mean[chosen].abs(), **look)
        signed |= bool((mean < 0).any())
        edge = axes.get_xaxis_transform()
        axes.plot(size[mean == 0], 0 * size[mean == 0], transform=edge, **style.COLLAPSED)
        if (mean != 0).any():
            total = (size * mean.abs())[mean != 0].median()
            ends = np.array([size.min(), size.max()], dtype=float)
            axes.plot(ends, total / ends, color=style.GREY, lw=1.0, zorder=1)
        for place in _to_name(part) if len(methods) == 1 else ():
            _name_point(axes, part.iloc[place])
        if pair[0]:
            title_method(axes, style.method_label(*pair), pair[0])
    handles = [entry("R / size: every layer sums to R", color=style.GREY, lw=1.0)]
    if signed:
        hollow = {"marker": "o", "ls": "none", "mfc": "white", "mec": style.INK}
        handles.append(entry("negative mean (absolute value)", **hollow))
    style.legend_above(figure, handles)
    style.write_caption(figure, *caption)
    return figure


def _selected(runs: pd.DataFrame, ablation: str) -> pd.DataFrame:
    """The pruned runs of an ablation, at PANELS of its sparsities."""
    runs = runs[~tables.is_dense(runs) & (runs["ablation"] == ablation)]
    if runs.empty:
        raise ConfigurationError(f"ablation={ablation!r}: no pruned run with it")
    return runs[runs["sparsity"].isin(tables.spread(runs["sparsity"], PANELS))]


def _to_name(layers: pd.DataFrame) -> list[int]:
    """The places of the first layer, the last, and up to NAMED_OFF whose sum of scores is the
    farthest from the median of all, by a factor of more than OFF."""
    sums = (layers["size"] * layers["score_mean"].abs()).to_numpy()
    with np.errstate(divide="ignore"):
        off = np.abs(np.log(sums / np.median(sums[sums > 0]))) if sums.any() else 0 * sums
    farthest = np.argsort(-off)[:NAMED_OFF]
    return sorted({0, len(sums) - 1, *(int(n) for n in farthest if off[n] > np.log(OFF))})


def _name_point(axes: Axes, layer: pd.Series) -> None:
    """The layer's name beside its dot."""
    if not layer["score_mean"]:
        return
    look = {"textcoords": "offset points", "fontsize": 7.5, "color": style.INK, "va": "center"}
    name, place = layer["layer"].removesuffix(".weight"), (layer["size"], abs(layer["score_mean"]))
    axes.annotate(name, place, xytext=(8, 3), **look)


def _draw_densities(axes: Axes, part: pd.DataFrame, names: list[str], place: float) -> None:
    if part.empty:
        return
    look = style.method_look((part["method"].iloc[0], part["variant"].iloc[0]))
    density = part.groupby("layer")["density"].agg(["mean", "min"]).reindex(names)
    x = np.arange(len(names))
    size = 3.5 if len(names) <= style.NAMED else 1.5
    axes.plot(x, density["mean"].where(density["mean"] > 0), markersize=size, lw=1.3, **look)
    dead = x[density["min"] == 0]
    cross_out(axes, dead, place, color=look["color"], zorder=4, clip_on=False)
