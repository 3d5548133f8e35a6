"""What many figures are put together from: panels in rows, legend entries, axes of powers of ten,
and a strip below such an axis for what it has no place for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from common.plots import style

Look = dict[str, object]  # keywords of Axes.plot


def entry(label: str, **look: object) -> Line2D:
    """A legend's entry for lines or marks that are drawn like this."""
    return Line2D([], [], label=label, **look)


def panels(
    count: int, columns: int, height: float, rest: float, shared: bool = True
) -> tuple[Figure, list[Axes]]:
    """`count` panels, at most `columns` in a row, each `height` inches, and `rest` for a legend and
    a caption; shared: one axis of each kind for all."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = style.new_figure(rest + height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    for axes in grid.flat[count:]:
        axes.remove()
    for axes in grid.flat[max(0, count - columns) : count]:  # the lowest panel of each column
        axes.tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


def label_outside(panels: Iterable[Axes], x: str = "", y: str = "") -> None:
    """Name the axes of the lowest row and of the first column."""
    for axes in panels:
        place = axes.get_subplotspec()
        axes.set_xlabel(x if place.is_last_row() else axes.get_xlabel())
        axes.set_ylabel(y if place.is_first_col() else axes.get_ylabel())


def title_method(axes: Axes, label: str, method: str, **look: object) -> None:
    """A panel's title in its method's colour."""
    axes.set_title(label, color=style.colour(method), weight="bold", **look)


def ticks_at(axis: Axis, places: Sequence[float], form: Callable[[float], str]) -> None:
    """Ticks at these places alone, written by `form`."""
    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: form(value))


def few_powers(axis: Axis, most: int) -> None:
    """So many powers of ten on a logarithmic axis, and nothing between them."""
    axis.set_major_locator(LogLocator(numticks=most))
    axis.set_minor_locator(NullLocator())


def logarithmic(
    axes: Axes,
    low: float,
    top: float,
    strip: float,
    form: Callable[[float], str] = style.percent,
    *,
    most: int = 20,
    nothing: str = "none",
) -> None:
    """A logarithmic axis from `low` to `top`, and below it, over a share of `strip` of the panel's
    height, a strip for what is zero and has no place on it.

    form: writes the powers of ten, at `most` so many; nothing: the strip's own label, in the first
    column.
    """
    bottom = low / (top / low) ** (strip / (1 - strip))
    axes.set_yscale("log")
    axes.set_ylim(bottom, top)
    powers = [10.0**e for e in range(-40, 20) if low <= 10.0**e <= top]
    ticks_at(axes.yaxis, powers[:: max(1, -(-len(powers) // most))], form)
    if strip:
        axes.axhspan(bottom, low, color=style.ALARM, alpha=0.1, lw=0, zorder=0)
    if strip and axes.get_subplotspec().is_first_col():
        look = {"color": style.ALARM, "fontsize": 7, "ha": "right", "va": "center"}
        axes.text(-0.015, strip / 2, nothing, transform=axes.transAxes, **look)


def cross_out(axes: Axes, x: Sequence[float], height: float, **look: object) -> None:
    """Crosses in the strip below a logarithmic axis, at this share of the panel's height."""
    if len(x):  # an empty line would still count for the layout
        heights = np.full(len(x), height)
        place = {"transform": axes.get_xaxis_transform()}
        axes.plot(x, heights, **style.COLLAPSED | place | look)


def draw_positive(
    axes: Axes, x: np.ndarray, values: pd.Series, height: float, **look: object
) -> None:
    """A line through what is above zero; small crosses at `height` of the strip for what is not."""
    axes.plot(x, values.where(values > 0), **look)
    dead = x[(values == 0).to_numpy()]
    cross_out(axes, dead, height, color=look["color"], markersize=3.5, mew=1)
