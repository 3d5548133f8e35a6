"""The figures of lottery tickets: a run's levels, its weights, and many runs beside each other.

The horizontal axis is the share of weights removed, as in the suite's main figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from common.base.errors import ConfigurationError, unknown
from common.plots import style, tables
from common.plots.accuracy import REMOVED, removed_axis
from common.plots.panels import entry
from common.results.reference import SOURCES
from common.results.statistics import paired_differences
from common.results.words import judged

SAMPLE = 1 << 16  # weights that a histogram is made of
BANDS = 4  # lines up to which each has a band; more have their runs' dots
CLOSE_UP = 5.0  # points below the best that are enlarged where the axis spans twice that
CLOSEST = 4.0  # percentage points that an axis spans at least
PANELS = {
    "test_accuracy": "Test accuracy (%)",
    "early_stop_iteration": "Early-stopping iteration",
}
# What a figure compares, and how it shows each value: (label, colour, line style, marker).
LOOKS: dict[str, dict[str, tuple[str, str, object, str]]] = {
    "retrain": {
        "rewind_weights": ("weights rewound", "#0072B2", "-", "o"),
        "rewind_learning_rate": ("learning rate rewound", "#D55E00", "--", "s"),
        "fine_tune": ("fine-tuned", "#009E73", "-.", "^"),
        "reinit": ("drawn anew", "#8c8c8c", ":", "D"),
    },
    "ablation": {
        "none": ("ticket", "#0072B2", "-", "o"),
        "shuffle": ("mask shuffled", "#E69F00", "--", "s"),
        "reinit": ("weights redrawn", "#D55E00", "-.", "^"),
        "shuffle+reinit": ("both", "#5D3A9B", ":", "D"),
        "invert": ("largest removed", "#8c8c8c", ":", "P"),
    },
    "init": {
        "kaiming_normal": ("Kaiming normal", "#0072B2", "-", "o"),
        "kaiming_uniform": ("Kaiming uniform", "#0072B2", "--", "s"),
        "xavier_normal": ("Xavier normal", "#D55E00", "-", "o"),
        "xavier_uniform": ("Xavier uniform", "#D55E00", "--", "s"),
        "lecun_normal": ("LeCun normal", "#009E73", "-", "o"),
        "lecun_uniform": ("LeCun uniform", "#009E73", "--", "s"),
        "orthogonal": ("orthogonal", "#1a1a1a", "-", "D"),
    },
}


@style.styled
def ticket_levels(levels: pd.DataFrame, method: str = "lottery_ticket") -> Figure:
    """One run, level by level (columns of levels.csv): test accuracy and early-stopping iteration
    against the weights removed. The first point is the dense network."""
    if levels.empty:
        raise ConfigurationError("levels: the table is empty, nothing to draw")
    figure = style.new_figure(3.1)
    for axes, (column, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        x, hue = 100 * levels["sparsity"], style.colour(method)
        axes.plot(x, levels[column], style.marker(method), ls="-", color=hue)
        axes.axhline(levels[column].iloc[0], **style.DENSE)
        removed_axis(axes, 100 * levels["sparsity"].to_numpy())
        axes.set_xlabel(REMOVED)
        axes.set_ylabel(label)
        low, high = axes.get_ylim()
        if column == "test_accuracy" and high - low < CLOSEST:  # a few images are no difference
            axes.set_ylim((low + high - CLOSEST) / 2, (low + high + CLOSEST) / 2)
        elif column != "test_accuracy":
            axes.set_ylim(0, 1.05 * max(levels[column].max(), 1))
    style.legend_above(figure, [entry("dense network", **style.DENSE)])
    return figure


@style.styled
def kept_weights(
    initial: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    method: str = "lottery_ticket",
) -> Figure:
    """Where the kept weights lie: of the initial values and of the trained ones, each in standard
    deviations of its layer at initialisation.

    initial, trained: {parameter name: tensor}, of which those with a mask count. Histograms are
    scaled to densities; the kept weights' one to their share is in the caption.
    """
    values: dict[str, list[Tensor]] = {"initial": [], "trained": []}
    flags = []
    for name, mask in masks.items():
        scale = initial[name].std()
        values["initial"].append((initial[name] / scale).flatten())
        values["trained"].append((trained[name] / scale).flatten())
        flags.append(mask.cpu().flatten())
    kept = torch.cat(flags)
    step = max(1, len(kept) // SAMPLE)
    figure = style.new_figure(3.1)
    titles = {"initial": "At initialisation", "trained": "After the dense training"}
    for axes, (kind, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        every = torch.cat(values[kind])
        limit = float(every.abs()[::step].quantile(0.999))
        bins = np.linspace(-limit, limit, 80)
        look = {"bins": bins, "density": True, "histtype": "stepfilled"}
        axes.hist(every[::step].numpy(), color="#d0d0d0", **look)
        look["histtype"] = "step"
        few = max(1, int(kept.sum()) // SAMPLE)
        axes.hist(every[kept][::few].numpy(), color=style.colour(method), lw=1.5, **look)
        axes.set_title(title, loc="left", weight="bold")
        axes.set_xlabel("Weight (standard deviations of its layer at the start)")
        axes.set_yticks([])
    handles = [
        entry("all weights", color="#d0d0d0", lw=6),
        entry("kept weights", color=style.colour(method)),
    ]
    style.legend_above(figure, handles)
    share = style.percent(float(kept.double().mean()))
    style.write_caption(figure, f"{share} of the weights are kept; each area is 1.")
    return figure


@style.styled
def tickets_compared(levels: pd.DataFrame, by: str, least: float = 0.0) -> Figure:
    """Accuracy and early-stopping iteration against weights removed, a line per value of `by`.

    levels: of `collect_levels`, of one network and data set. by: `ablation`, `retrain` or `init`.
    Lines are means over seeds, bands their 95 percent t-intervals; of more than four lines the
    single runs are dots instead; where all early-stopping iterations are equal, that panel is left
    out. least: the sparsity from which on levels are shown. Raises ConfigurationError for an empty
    table, several networks or an unknown `by`.
    """
    points = _points(levels, by)
    tables.one_network(points)
    shown = _shown(points, least)
    dense = points[points["level"] == 0]
    panels = list(PANELS.items())
    if shown["early_stop_iteration"].nunique() == 1:  # the last one everywhere: it says nothing
        panels.pop()
    best = shown["test_accuracy"].max()
    if best - shown["test_accuracy"].min() > 2 * CLOSE_UP:
        panels.insert(1, ("test_accuracy", "Close-up (%)"))
    figure = style.new_figure(3.7)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (column, label) in zip(grid, panels, strict=True):
        for value, look in LOOKS[by].items():
            rows = shown[shown[by] == value]
            if len(rows):
                _draw(axes, rows, column, look, band=shown[by].nunique() <= BANDS)
        if len(dense):
            axes.axhline(dense[column].mean(), **style.DENSE)
        removed_axis(axes, 100 * shown["sparsity"].to_numpy())
        axes.set_xlabel(REMOVED)
        axes.set_ylabel(label)
        if label.startswith("Close-up"):
            axes.set_ylim(best - CLOSE_UP, best + CLOSE_UP / 15)
        else:
            _within(axes, column)
    handles = [_handle(look) for value, look in LOOKS[by].items() if (shown[by] == value).any()]
    handles.append(entry("dense network", **style.DENSE))
    style.legend_above(figure, handles)
    early = panels[-1][0] == "early_stop_iteration"
    iterations = "Iterations from the rewinding point to the lowest test loss." * early
    bands = shown[by].nunique() <= BANDS
    style.write_caption(figure, *_caption(points, bands), iterations)
    return figure


def tickets_table(levels: pd.DataFrame, by: str, least: float = 0.0) -> pd.DataFrame:
    """Rows: weights removed in percent; columns: the values of `by`; cells: `mean ± std (n)` of
    the last epoch's test accuracy in percent. Only the rows that have all of them, if there are
    any. Arguments and errors as `tickets_compared`."""
    shown = _shown(_points(levels, by), least)
    shown = shown.assign(removed=(100 * shown["sparsity"]).round(2))
    cells = (
        shown.groupby(["removed", by])["test_accuracy"].apply(tables.cell).unstack(fill_value="")
    )
    table = cells[[value for value in LOOKS[by] if value in cells]]
    whole = (table != "").all(axis=1)
    table = table[whole] if whole.any() else table
    return table.rename(columns={value: look[0] for value, look in LOOKS[by].items()})


def ticket_differences(
    levels: pd.DataFrame, by: str, baseline: str, least: float = 0.0
) -> pd.DataFrame:
    """Test accuracy less that of the value `baseline` of `by`, as sparse and of the same seed: rows
    of `words.judged` with the column `shown`, the value of `by` in words. Arguments and errors as
    `tickets_compared`."""
    shown = _shown(_points(levels, by), least)
    rows = judged(paired_differences(shown, (by,), (baseline,)))
    return rows.assign(shown=rows[by].map({value: look[0] for value, look in LOOKS[by].items()}))


@style.styled
def retraining_compared(levels: pd.DataFrame | None, published: pd.DataFrame) -> Figure:
    """Fine-tuning, rewound weights, rewound learning rate and drawn-anew ones beside what Renda et
    al. published.

    levels: ours, of `collect_levels` (several networks may be in it), or None; published: rows of
    `reference.retraining`. A panel per network and data set on which ours were retrained in
    several ways, one row of them for one-shot and one for iterative pruning; where both are of one
    network, theirs are thin and hollow.
    """
    parts = {}
    if levels is not None and len(levels):
        points = _points(levels, "retrain")
        points = points[(points["level"] > 0) & (points["ablation"] == "none")]
        points["how"] = np.where(points["levels"] == 1, "one-shot", "iterative")
        for key, part in points.groupby(["model", "dataset"]):
            if part["retrain"].nunique() > 1:
                parts[key] = part
    networks = dict.fromkeys([*parts, *zip(published["model"], published["dataset"], strict=True)])
    ways = [
        how
        for how in ("one-shot", "iterative")
        if (published["how"] == how).any() or any((p["how"] == how).any() for p in parts.values())
    ]
    figure = style.new_figure(1.2 + 2.7 * len(ways))
    grid = figure.subplots(len(ways), len(networks), squeeze=False)
    for row, how in zip(grid, ways, strict=True):
        for axes, (model, dataset) in zip(row, networks, strict=True):
            of = (published["model"] == model) & (published["dataset"] == dataset)
            theirs = published[of & (published["how"] == how)]
            ours = parts.get((model, dataset), theirs.iloc[:0])
            ours = ours[ours["how"] == how]
            for retrain, look in LOOKS["retrain"].items():
                rows = theirs[theirs["retrain"] == retrain].sort_values("sparsity")
                thin = {"lw": 0.9, "ms": 3, "mfc": "white", "alpha": 0.9}
                axes.plot(100 * rows["sparsity"], rows["test_accuracy"], **_look(look), **thin)
                rows = ours[ours["retrain"] == retrain]
                if len(rows):
                    _draw(axes, rows, "test_accuracy", look)
            everything = pd.concat([theirs["sparsity"], ours["sparsity"]])
            if everything.empty:
                axes.remove()
                continue
            removed_axis(axes, 100 * everything.to_numpy())
            _within(axes, "test_accuracy")
            name = tables.network_name(model, dataset)
            axes.set_title(f"{name}, {how}", loc="left", weight="bold", fontsize=9)
            axes.set_xlabel(REMOVED)
            axes.set_ylabel(PANELS["test_accuracy"] if axes in grid[:, 0] else "")
    handles = [_handle(look) for look in LOOKS["retrain"].values()]
    source = SOURCES["renda2020"]
    theirs = {"color": style.INK, "lw": 0.9, "marker": "o", "ms": 3, "mfc": "white"}
    handles.append(entry(source.name, **theirs))
    style.legend_above(figure, handles)
    ours = _caption(pd.concat(parts.values())) if parts else ()
    style.write_caption(figure, *ours, f"{source.name}: {source.caution}.")
    return figure


def _points(levels: pd.DataFrame, by: str) -> pd.DataFrame:
    """A row per level that was measured, once each: levels that several runs share count once, and
    of a run with an ablation only its last level, which alone has it."""
    if by not in LOOKS:
        raise unknown("by", by, LOOKS)
    if levels.empty:
        raise ConfigurationError("levels: no finished run to draw")
    rows = levels[(levels["ablation"] == "none") | levels["final"]].copy()
    # A run that ends at 5.5% and one that passes by at 5.498% are one point.
    rows["sparsity"] = rows["sparsity"].round(4)
    rows = rows.sort_values("final", ascending=False, kind="stable")
    same = ["dataset", "model", "protocol", "epochs", "seed", "init", "retrain", "rewind_epoch"]
    one_shot = rows["levels"].eq(1)
    return rows.assign(one_shot=one_shot).drop_duplicates(
        [*same, "ablation", "level", "sparsity", "one_shot"]
    )


def _shown(points: pd.DataFrame, least: float) -> pd.DataFrame:
    shown = points[(points["sparsity"] >= least - 1e-9) & (points["level"] > 0)]
    if shown.empty:
        raise ConfigurationError(f"levels: none with at least {least:g} of the weights removed")
    return shown


def _draw(axes: Axes, rows: pd.DataFrame, column: str, look: tuple, band: bool = True) -> None:
    points = tables.curve(rows, column)
    x = 100 * points["sparsity"]
    axes.plot(x, points["mean"], **_look(look), ms=4, zorder=3)
    if band and (points["n"] > 1).any():
        axes.fill_between(x, points["low"], points["high"], color=look[1], alpha=0.15, lw=0)
    elif not band:
        axes.plot(100 * rows["sparsity"], rows[column], ".", ms=2, color=look[1], alpha=0.5)


def _within(axes: Axes, column: str) -> None:
    """No axis goes on where nothing can be, though an interval does."""
    low, high = axes.get_ylim()
    top = 100.5 if column == "test_accuracy" else high
    axes.set_ylim(max(low, 0), min(high, top))


def _look(look: Sequence) -> dict:
    return {"color": look[1], "linestyle": look[2], "marker": look[3]}


def _handle(look: Sequence) -> Artist:
    return entry(look[0], **_look(look))


def _caption(points: pd.DataFrame, bands: bool = True) -> tuple[str, str]:
    """Where the runs come from, and what shows their spread: bands, or else dots."""
    runs = points.drop_duplicates("run_id")
    rewound = ", ".join(map(_point, sorted(points["rewind_epoch"].unique())))
    return (
        f"{tables.caption(runs)}; rewound to {rewound}.",
        "Lines: mean over seeds; " + ("bands: 95 percent t-intervals." if bands else "dots: runs."),
    )


def _point(rewind_epoch: str) -> str:
    """`epoch 0.5` or `iteration 500`."""
    number = rewind_epoch.removesuffix("it")
    return f"{'epoch' if number == rewind_epoch else 'iteration'} {number}"
