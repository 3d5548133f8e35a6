"""What the studies' figures share: captions, and layers coloured by their depth, from the input
(dark) to the output (light)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from common.plots import style
from common.plots.tables import one_wording
from common.results.reference import DATASETS, MODELS

COLUMNS = 3


def study_caption(table: pd.DataFrame) -> str:
    """Network, data set, protocol, seeds and hardware of a study's rows."""

    def value(column: str, names: dict[str, str]) -> str:
        return ", ".join(sorted({names.get(str(v), str(v)) for v in table[column].unique()}))

    seeds = sorted(int(seed) for seed in table["seed"].unique())
    shown = ", ".join(map(str, seeds))
    counted = f"{len(seeds)} seeds ({shown})" if len(seeds) > 1 else f"1 seed ({shown})"
    versions = value("torch_version", {})
    devices = value("device", one_wording(table["device"]))
    return (
        f"{value('model', MODELS)} on {value('dataset', DATASETS)}; protocol "
        f"{value('protocol', {})}; {counted}; {devices}; torch {versions}."
    )


def compression(value: float) -> str:
    """1000 -> `10^3`, in mathematical type; small ones with what digits they need."""
    exponent = np.log10(value)
    return f"$10^{{{exponent:.4g}}}$"


def depth_colours(count: int) -> list[tuple]:
    """A colour for each of `count` layers, input to output."""
    return [tuple(c) for c in mpl.colormaps["viridis"](np.linspace(0, 0.92, count))]


def depth_handles(names: Sequence[str], hues: Sequence[tuple]) -> list[Line2D]:
    """Legend entries of the first, the middle and the last layer."""
    picks = sorted({0, len(names) // 2, len(names) - 1})
    return [Line2D([], [], color=hues[i], marker="o", ms=3, label=names[i]) for i in picks]


def rows_of(table: pd.DataFrame, columns: Sequence[str], key: tuple) -> pd.DataFrame:
    """The rows whose `columns` have the values of `key`."""
    return table[(table[list(columns)] == pd.Series(key, index=list(columns))).all(axis=1)]


def grid(count: int, height: float, shared: bool = True) -> tuple[Figure, list[Axes]]:
    """`count` panels, COLUMNS in a row, each `height` inches."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = style.new_figure(1.1 + height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in grid.flat[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def strip(axes: Axes, low: float, height: float = 0.16) -> float:
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
