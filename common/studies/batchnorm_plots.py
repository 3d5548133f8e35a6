"""The figures of the variances at BatchNorm's inputs and of what becomes of them in training."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from common import datasets
from common.plots import style
from common.plots.panels import draw_positive, entry, label_outside, logarithmic, title_method
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
_STRIP = 0.15  # of a panel's height, for variances of zero


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
    low, top = values[values > 0].min() / 3, 3 * values.max()
    for line, model in zip(grid, models, strict=True):
        for axes, method in zip(line, methods, strict=True):
            logarithmic(axes, low, top, _STRIP, "{:.0e}".format, most=7, nothing="zero")
            part = rows_of(table, ("model", "method"), (model, method))
            names = list(dict.fromkeys(part["layer"]))
            lines = list(itertools.product(DASHES, sparsities))
            for place, (procedure, sparsity) in enumerate(lines):
                here = rows_of(part, ("procedure", "sparsity"), (procedure, sparsity))
                median = here.groupby("layer")["variance"].median().reindex(names)
                look = {"color": style.lighter(style.colour(method), shares[sparsity])}
                look |= {"ls": DASHES[procedure][1], "marker": "o", "ms": 2, "lw": 1.2}
                height = _STRIP * (place + 0.5) / len(lines)
                draw_positive(axes, np.arange(1, len(names) + 1), median, height, **look)
            axes.axhline(table["epsilon"].iloc[0], **EPSILON)
            title_method(axes, f"{style.method_label(method)}, {MODELS.get(model, model)}", method)
            axes.xaxis.set_major_locator(FixedLocator(range(1, len(names) + 1, 4)))
    label_outside(grid.flat, "BatchNorm layer, input to output", "Variance of inputs")
    handles = [
        entry(f"{style.percent(s)} removed", color=style.lighter(style.INK, shares[s]))
        for s in sparsities
    ]
    for label, dashes in DASHES.values():
        handles.append(entry(label, color=style.INK, ls=dashes, lw=1.3))
    handles.append(entry("BatchNorm's epsilon", **EPSILON))
    handles.append(entry("variance 0", **style.COLLAPSED | {"markersize": 4}))
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
    label_outside(grid.flat, "Step", "Right (%)")
    handles = [
        entry(f"{style.method_label(m)}, {DASHES[p][0]}{TREATED[t][0]}", **_trained(m, p, t))
        for m, p, t in keys
    ]
    handles.append(entry(f"chance ({chance:g}%)", **style.CHANCE))
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
