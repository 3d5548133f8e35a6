"""The figures of the inversion study: right and faulty procedures side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common import datasets
from common.plots import style
from common.plots.panels import draw_positive, entry, label_outside, logarithmic, title_method
from common.results.reference import METHODS
from common.studies.captions import compression, depth_colours, study_caption

# What was done -> (label, dashes, marker); faults are drawn in one alarming colour.
PROCEDURES: dict[str, tuple[str, object, str]] = {
    "unmodified": ("unmodified", "-", "o"),
    "inverted": ("properly inverted", (0, (1, 1.2)), "D"),
    "empty_list": ("fault: an empty mask list", "--", "s"),
    "batchnorm": ("fault: BatchNorm weights among the scores", "--", "^"),
    "reciprocal": ("fault: 1/score", "--", "v"),
}
_STRIP = 0.12  # of a panel's height, for layers with nothing


@style.styled
def procedures_by_layer(layers: pd.DataFrame, outcomes: pd.DataFrame, sparsity: float) -> Figure:
    """Layer by layer, a column per method: weights kept, BatchNorm weights kept, and the norm of
    the gradient that reaches the kept weights; a line per procedure.

    layers: method, procedure, sparsity, seed, layer, size, kept, norms, norms_kept, gradient_norm;
    outcomes: where they were measured. Crosses below: nothing (none kept, no gradient).
    """
    rows = layers[layers["sparsity"] == sparsity]
    names = list(dict.fromkeys(rows["layer"]))
    methods = [name for name in METHODS if name in set(rows["method"])]
    figure = style.new_figure(7.6)
    grid = figure.subplots(3, len(methods), squeeze=False, sharex=True, sharey="row")
    rows = rows.assign(
        density=rows["kept"] / rows["size"],
        norm_density=(rows["norms_kept"] / rows["norms"]).where(rows["norms"] > 0),
    )
    titles = ("Weights kept", "BatchNorm weights kept", "Gradient norm")
    columns = ("density", "norm_density", "gradient_norm")
    shown = [p for p in PROCEDURES if p in set(rows["procedure"])]
    for column, method in zip(grid.T, methods, strict=True):
        part = rows[rows["method"] == method]
        for axes, value in zip(column, columns, strict=True):
            positive = rows.loc[rows[value] > 0, value]
            low, top = positive.min() / 1.6, positive.max() * 1.6
            logarithmic(axes, low, top, _STRIP, "{:.4g}".format, most=6)
            for place, procedure in enumerate(shown):
                here = part[part["procedure"] == procedure]
                mean = here.groupby("layer")[value].mean().reindex(names)
                height = _STRIP * (1 - (place + 0.5) / len(shown))
                x = np.arange(len(names))
                draw_positive(axes, x, mean, height, **_look(method, procedure))
        style.name_layers(column[-1], names)
        title_method(column[0], style.method_label(method), method)
    for axes, title in zip(grid[:, 0], titles, strict=True):
        axes.set_ylabel(title)
    handles = [entry(PROCEDURES[p][0], **_look("", p)) for p in shown]
    handles.append(entry("nothing", **style.COLLAPSED))
    style.legend_above(figure, handles)
    made = outcomes[outcomes["sparsity"] == sparsity]
    style.write_caption(
        figure,
        study_caption(made),
        f"{style.percent(sparsity)} asked to be removed. Gradient of the loss on ten scoring "
        "images of each class, before training.",
    )
    return figure


@style.styled
def inversion_rounds(table: pd.DataFrame, layers: list[str], seed: int = 0) -> Figure:
    """The share of each layer that SynFlow's rounds leave, a row per procedure and a column per
    compression. table: rounds.csv of the study; layers: its columns of layers, input to output;
    round 0 is the dense network. Crosses: a layer without a weight; dot and number: what the last
    round leaves of the first layer."""
    table = table[table["seed"] == seed]
    exponents = sorted(table["exponent"].unique())
    procedures = [p for p in PROCEDURES if p in set(table["procedure"])]
    hues = depth_colours(len(layers))
    figure = style.new_figure(1.3 + 2.3 * len(procedures))
    grid = figure.subplots(len(procedures), len(exponents), squeeze=False, sharex=True, sharey=True)
    for line, procedure in zip(grid, procedures, strict=True):
        for axes, exponent in zip(line, exponents, strict=True):
            part = table[(table["procedure"] == procedure) & (table["exponent"] == exponent)]
            part = part.sort_values("round")
            dense = part[layers].iloc[0]
            for place, (name, hue) in reversed(list(enumerate(zip(layers, hues, strict=True)))):
                share = 100 * part[name] / dense[name]
                first = place == 0
                look = {"lw": 1.5 if first else 0.8, "alpha": 1 if first else 0.65}
                axes.plot(part["round"], share, color=hue, zorder=4 if first else 2, **look)
                dead = part.loc[part[name] == 0, "round"]
                height = np.full(len(dead), -6 - 1.1 * place)
                axes.plot(dead, height, "x", color=hue, ms=2.6, mew=0.8)
            axes.plot(part["round"], 100 * part["density"], **style.CHANCE)
            _note_end(axes, part["round"].iloc[-1], part[layers[0]].iloc[-1], dense[layers[0]])
            label = "Fault: 0/0" if procedure == "reciprocal" else "Proper inversion"
            removed = style.percent(round(1 - 10.0**-exponent, 3))
            title = f"{label}, {compression(10.0**exponent)} ({removed} removed)"
            colour = style.ALARM if procedure == "reciprocal" else style.INK
            axes.set_title(title, loc="left", color=colour, weight="bold", fontsize=9)
            axes.axhspan(-24, -3, color=style.ALARM, alpha=0.1, lw=0, zorder=0)
            axes.set_ylim(-24, 104)
            axes.set_yticks([-13, 0, 50, 100], ["none", "0%", "50%", "100%"])
    label_outside(grid.flat, "Round", "Layer density")
    picks = sorted({0, len(layers) // 2, len(layers) - 1})
    handles = [entry(layers[i], color=hues[i]) for i in picks]
    handles.append(entry("asked for, whole network", **style.CHANCE))
    handles.append(entry("no weight left", **style.COLLAPSED | {"markersize": 3.5, "mew": 1}))
    style.legend_above(figure, handles)
    style.write_caption(figure, study_caption(table), "SynFlow, 100 rounds.")
    return figure


@style.styled
def procedure_training(training: pd.DataFrame, sparsity: float) -> Figure:
    """Test accuracy in the first steps of training, a panel per method, a line per procedure."""
    rows = training[training["sparsity"] == sparsity]
    methods = [name for name in METHODS if name in set(rows["method"])]
    figure = style.new_figure(3.6)
    grid = figure.subplots(1, len(methods), squeeze=False, sharey=True, sharex=True)[0]
    shown = [p for p in PROCEDURES if p in set(rows["procedure"])]
    chance = 100 / datasets.DATASETS[rows["dataset"].iloc[0]].classes
    for axes, method in zip(grid, methods, strict=True):
        for procedure in shown:
            part = rows[(rows["method"] == method) & (rows["procedure"] == procedure)]
            curve = part.groupby("step")["test_accuracy"].mean()
            axes.plot(curve.index, curve, **_look(method, procedure))
        axes.axhline(chance, **style.CHANCE)
        title_method(axes, style.method_label(method), method)
        axes.set_ylim(bottom=0)
    label_outside(grid, "Step", "Test accuracy (%)")
    handles = [entry(PROCEDURES[p][0], **_look("", p)) for p in shown]
    handles.append(entry(f"chance ({chance:g}%)", **style.CHANCE))
    style.legend_above(figure, handles)
    first = rows.iloc[0]
    style.write_caption(
        figure,
        study_caption(rows),
        f"{style.percent(sparsity)} asked to be removed; {rows['step'].max()} steps of "
        f"{first['batch_size']} images at the protocol's first learning rate; accuracy on the "
        f"first {first['test_images']:,} test images; {first['precision']}.",
    )
    return figure


def _note_end(axes: Axes, last: int, kept: int, size: int) -> None:
    """What the last round leaves of the first layer."""
    share = 100 * kept / size
    axes.plot(last, share, "o", color=depth_colours(2)[0], ms=5, zorder=5)
    axes.annotate(
        f"{kept:,} of {size:,}",
        (last, share),
        xytext=(-7, 6 if share < 50 else -9),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        weight="bold",
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2},
    )


def _look(method: str, procedure: str) -> dict:
    _, dashes, marker = PROCEDURES[procedure]
    fault = procedure not in ("unmodified", "inverted")
    hue = style.ALARM if fault else style.colour(method) if method else style.INK
    return {"color": hue, "ls": dashes, "marker": marker, "ms": 3.5, "lw": 1.3}
