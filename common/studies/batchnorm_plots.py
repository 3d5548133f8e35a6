"""The figures of the variances at BatchNorm's inputs and of what becomes of them in training."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from common import datasets
from common.plots import style
from common.results.reference import METHODS, MODELS
from common.studies.captions import rows_of, study_caption

DASHES = {"unmodified": ("unmodified", "-"), "inverted": ("scores inverted", "--")}
# What was done before training -> (label, dashes, marker, its face).
TREATED = {
    "none": ("", "-", "o", ""),
    "epsilon": (", negligible epsilon", "--", "s", "white"),
    "rescaled": (", layers rescaled", "-.", "^", ""),
}
EPSILON = {"color": style.ALARM, "linestyle": "-", "linewidth": 1.2}
_DEAD = 0.15  # height of the strip for variances of zero


@style.styled
def batchnorm_variances(table: pd.DataFrame) -> Figure:
    """The variance at the input of each BatchNorm layer, input to output: a row per network, a
    column per method, a line per sparsity and procedure; epsilon is the line across.

    table: signal.csv of the inversion study; of several seeds the median is drawn. Crosses below:
    a variance of zero.
    """
    models = list(dict.fromkeys(table["model"]))
    methods = [name for name in METHODS if name in set(table["method"])]
    sparsities = sorted(table["sparsity"].unique())
    shares = dict(zip(sparsities, np.linspace(0.35, 1, len(sparsities)), strict=True))
    figure = style.new_figure(1.3 + 2.1 * len(models))
    grid = figure.subplots(len(models), len(methods), squeeze=False, sharex="row", sharey=True)
    values = table["variance"]
    for line, model in zip(grid, models, strict=True):
        for axes, method in zip(line, methods, strict=True):
            _decades(axes, values[values > 0].min(), values.max())
            part = rows_of(table, ("model", "method"), (model, method))
            names = list(dict.fromkeys(part["layer"]))
            lines = list(itertools.product(DASHES, sparsities))
            for place, (procedure, sparsity) in enumerate(lines):
                here = rows_of(part, ("procedure", "sparsity"), (procedure, sparsity))
                median = here.groupby("layer")["variance"].median().reindex(names)
                hue = style.lighter(style.colour(method), shares[sparsity])
                _draw(axes, median, hue, DASHES[procedure][1], (place + 0.5) / len(lines))
            axes.axhline(table["epsilon"].iloc[0], **EPSILON)
            axes.set_title(
                f"{style.method_label(method)}, {MODELS.get(model, model)}",
                color=style.colour(method),
                weight="bold",
            )
            axes.xaxis.set_major_locator(FixedLocator(range(1, len(names) + 1, 4)))
        line[0].set_ylabel("Variance of inputs")
    for axes in grid[-1]:
        axes.set_xlabel("BatchNorm layer, input to output")
    handles = [
        Line2D(
            [], [], color=style.lighter(style.INK, shares[s]), label=f"{style.percent(s)} removed"
        )
        for s in sparsities
    ]
    for label, dashes in DASHES.values():
        handles.append(Line2D([], [], color=style.INK, ls=dashes, lw=1.3, label=label))
    handles.append(Line2D([], [], label="BatchNorm's epsilon", **EPSILON))
    handles.append(Line2D([], [], label="variance 0", **style.COLLAPSED | {"markersize": 4}))
    style.legend_above(figure, handles)
    one = table["seed"].nunique() == 1
    style.write_caption(
        figure,
        *(study_caption(table[table["model"] == model]) for model in models),
        f"Before training, in train mode and float32, {table['images'].iloc[0]} training images. "
        f"Median over a layer's channels{'' if one else ', and of these over the seeds'}; "
        "zero: most of its channels receive nothing. "
        f"Code {', '.join(sorted(table['code_version'].unique()))}.",
    )
    return figure


@style.styled
def treated_training(table: pd.DataFrame) -> Figure:
    """Images right during the first steps of training, those trained on and the test images, a row
    per sparsity: a line for each mask and what was done before training.

    table: signal_training.csv of the inversion study.
    """
    sparsities = sorted(table["sparsity"].unique(), reverse=True)
    chance = 100 / datasets.DATASETS[table["dataset"].iloc[0]].classes
    keys = list(table.groupby(["method", "procedure", "treatment"], sort=False).groups)
    figure = style.new_figure(1.5 + 2.1 * len(sparsities))
    grid = figure.subplots(len(sparsities), 2, squeeze=False, sharex=True, sharey=True)
    columns = {"train_accuracy": "Training images", "test_accuracy": "Test images"}
    for line, sparsity in zip(grid, sparsities, strict=True):
        for axes, (column, title) in zip(line, columns.items(), strict=True):
            part = table[table["sparsity"] == sparsity].dropna(subset=column)
            for key, rows in part.groupby(["method", "procedure", "treatment"], sort=False):
                curve = rows.groupby("step")[column].mean()
                axes.plot(curve.index, curve, **_trained(*key))
            axes.axhline(chance, **style.CHANCE)
            axes.set_title(f"{title}, {style.percent(sparsity)} removed", loc="left", weight="bold")
            axes.set_ylim(bottom=0)
        line[0].set_ylabel("Right (%)")
    for axes in grid[-1]:
        axes.set_xlabel("Step")
    handles = [
        Line2D(
            [],
            [],
            label=f"{style.method_label(m)}, {DASHES[p][0]}{TREATED[t][0]}",
            **_trained(m, p, t),
        )
        for m, p, t in keys
    ]
    handles.append(Line2D([], [], label=f"chance ({chance:g}%)", **style.CHANCE))
    style.legend_above(figure, handles)
    first = table.iloc[0]
    style.write_caption(
        figure,
        study_caption(table),
        f"{first['batch_size']} images a step at the protocol's first learning rate, "
        f"{first['precision']}. Training images: of the steps since the dot before; test images: "
        f"the first {first['test_images']:,}.",
    )
    return figure


def _trained(method: str, procedure: str, treatment: str) -> dict:
    _, dashes, marker, face = TREATED[treatment]
    hue = style.colour(method)
    look = {"color": hue, "ls": dashes, "marker": marker, "ms": 4.5, "lw": 1.3, "mfc": face or hue}
    if procedure == "unmodified":
        return look | {"lw": 2.4, "alpha": 0.45}
    return look | ({"ms": 7, "lw": 2} if treatment == "none" else {})


def _decades(axes: Axes, low: float, high: float) -> None:
    """A log axis over these variances, and a strip below for zeros."""
    low, high = low / 3, high * 3
    bottom = low / (high / low) ** (_DEAD / (1 - _DEAD))
    axes.set_yscale("log")
    axes.set_ylim(bottom, high)
    axes.axhspan(bottom, low, color=style.ALARM, alpha=0.1, lw=0, zorder=0)
    powers = range(int(np.ceil(np.log10(low))), int(np.log10(high)) + 1)
    axes.yaxis.set_major_locator(FixedLocator([10.0**e for e in powers[:: -(-len(powers) // 7)]]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    if axes.get_subplotspec().is_first_col():
        look = {"color": style.ALARM, "fontsize": 7, "ha": "right", "va": "center"}
        axes.text(-0.03, _DEAD / 2, "zero", transform=axes.transAxes, **look)


def _draw(axes: Axes, values: pd.Series, hue: tuple, dashes: str, place: float) -> None:
    x = np.arange(1, len(values) + 1)
    axes.plot(x, values.where(values > 0), color=hue, ls=dashes, marker="o", ms=2, lw=1.2)
    dead = x[(values == 0).to_numpy()]
    cross = style.COLLAPSED | {"color": hue, "markersize": 3.5, "mew": 1}
    height = np.full(len(dead), _DEAD * place)
    axes.plot(dead, height, transform=axes.get_xaxis_transform(), **cross)
