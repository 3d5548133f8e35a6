"""What ablations change and what scores gain: paired differences and their intervals, against zero.

Rows are methods and ablations, a panel for each sparsity. A filled mark is a difference whose 95
percent t-interval excludes zero; a hollow one says that none was found.
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.base.errors import ConfigurationError
from common.plots import style, tables
from common.plots.comparison import ablation_effects, each_interval, random_compared, with_width
from common.plots.panels import entry
from common.results.statistics import LEVEL, Interval
from common.results.words import signed

PANELS = 4  # sparsities shown at most
FAR = 20.0  # percentage points: what lies beyond does not stretch the axis, if anything lies below
ROW = 0.22  # inches

Key = tuple[str, str, str]  # method, variant, ablation


@style.styled
def effects(summary: pd.DataFrame) -> Figure:
    """What each ablation changes, method by method: `ablation_effects` as a picture, at four
    sparsities at most. Raises ConfigurationError as that, and if no ablation was run."""
    numbers = ablation_effects(summary)
    rows: list[tuple[str, Key | None]] = []
    for method in tables.methods(numbers):
        rows.append((style.method_label(*method), None))
        for ablation in tables.ablations(tables.of(numbers, method)):
            rows.append((style.ablation_style(ablation)[0], (*method, ablation)))
    runs = tables.prepared(summary)
    compared = [tables.of(runs, method) for method in tables.methods(numbers)]
    return _forest(numbers, rows, compared, "the unmodified method's")


@style.styled
def against_random(summary: pd.DataFrame) -> Figure:
    """What each method has over random pruning: `random_compared` as a picture, at four sparsities
    at most. Raises ConfigurationError as that, and if there is nothing to compare."""
    numbers = random_compared(summary)
    methods = tables.methods(numbers)
    rows = [(style.method_label(*method), (*method, "none")) for method in methods]
    runs = tables.prepared(summary)
    compared = [tables.of(runs, method, "none") for method in [("random", ""), *methods]]
    return _forest(numbers, rows, compared, "that of random pruning")


def _forest(
    numbers: pd.DataFrame,
    rows: list[tuple[str, Key | None]],
    compared: list[pd.DataFrame],
    baseline: str,
) -> Figure:
    """rows: from the top, a label and what is drawn beside it (None: a heading); compared: the runs
    behind the numbers."""
    if numbers.empty:
        raise ConfigurationError("summary: no two runs of one seed to compare")
    levels = tables.spread(numbers["sparsity"], PANELS)
    shown = numbers[numbers["sparsity"].isin(levels)]
    intervals = each_interval(shown)
    shared = _limit(intervals)
    figure = style.new_figure(1.6 + ROW * len(rows))
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for axes, level in zip(panels, levels, strict=True):
        part = shown[shown["sparsity"] == level]
        keys = part[["method", "variant", "ablation"]].itertuples(index=False, name=None)
        found = dict(zip(keys, each_interval(part), strict=True))
        visible = any(abs(interval.mean) <= shared for interval in found.values())
        limit = shared if visible else _limit([*found.values()])
        for height, (_, key) in enumerate(rows):
            if key in found:
                _draw(axes, height, found[key], limit, key)
        axes.axvline(0, color=style.INK, lw=0.9, zorder=1)
        axes.set_xlim(-limit, limit)
        axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        axes.xaxis.set_major_formatter(
            lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"
        )
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("Difference (points)")
        axes.set_title(f"{style.percent(level)} removed", loc="left", weight="bold")
        axes.grid(axis="y", visible=False)
    _name_rows(panels[0], rows)
    if legend := _handles(intervals):
        style.legend_above(figure, legend)
    runs = pd.concat(compared)
    style.write_caption(
        figure,
        tables.caption(runs[runs["sparsity"].isin(levels)]) + ".",
        f"Accuracy less {baseline} under the same seed, in percentage points; marks beyond the "
        f"axis are written out. {_counted(intervals)}",
    )
    return figure


def _draw(axes: Axes, height: int, interval: Interval, limit: float, key: Key) -> None:
    hue, marker = style.colour(key[0]), style.ablation_style(key[2])[2]
    look = {"color": hue, "ls": "none", "ms": 5.5, "mew": 1.1, "zorder": 3}
    if not interval.excludes_zero:
        look["mfc"] = "white"
    if interval.n == 1:
        look |= {"ms": 3.5, "alpha": 0.6}
    if abs(interval.mean) <= limit:
        if interval.n > 1:
            axes.hlines(height, interval.low, interval.high, color=hue, lw=1.3, zorder=2)
        axes.plot(interval.mean, height, marker=marker, **look)
        return
    side = math.copysign(1, interval.mean)
    axes.plot(0.96 * side * limit, height, marker=">" if side > 0 else "<", **look)
    number = with_width(interval, signed(interval.mean, 2))
    align = {"ha": "right" if side > 0 else "left", "va": "center"}
    axes.text(0.9 * side * limit, height, number, fontsize=7, **align)


def _limit(intervals: list[Interval]) -> float:
    """Where the axes end, on both sides of zero, in percentage points."""

    def end(interval: Interval) -> float:
        return abs(interval.mean) + (0.0 if interval.n == 1 else interval.half_width)

    near = [end(one) for one in intervals if abs(one.mean) <= FAR]
    return max(1.0, 1.08 * (min(max(near), FAR) if near else max(map(end, intervals))))


def _name_rows(axes: Axes, rows: list[tuple[str, Key | None]]) -> None:
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    headed = any(key is None for _, key in rows)
    for tick, (_, key), after in zip(
        axes.get_yticklabels(), rows, [*rows[1:], ("", None)], strict=True
    ):
        if method := (after[1] if key is None else None if headed else key):
            tick.set(color=style.colour(method[0]), weight="bold")


def _handles(intervals: list[Interval]) -> list[Line2D]:
    look = {"color": style.INK, "marker": "o", "ms": 5.5, "mew": 1.1, "lw": 1.3}
    several = [interval for interval in intervals if interval.n > 1]
    handles = []
    if any(interval.excludes_zero for interval in several):
        handles.append(entry("the interval excludes zero", **look))
    if not all(interval.excludes_zero for interval in several):
        handles.append(entry("it does not: no difference found", mfc="white", **look))
    if len(several) < len(intervals):
        look |= {"ms": 3.5, "ls": "none", "mfc": "white", "alpha": 0.6}
        handles.append(entry("one seed, which carries nothing", **look))
    return handles


def _counted(intervals: list[Interval]) -> str:
    """What bars are, how many there are, and how many would exclude zero if nothing differed."""
    several = [interval for interval in intervals if interval.n > 1]
    if not several:
        return ""
    found = sum(interval.excludes_zero for interval in several)
    return (
        f"Marks: mean over seeds; bars: its {100 * LEVEL:g} percent t-interval. "
        f"Of {len(several)} intervals {found} exclude zero; "
        f"about {(1 - LEVEL) * len(several):.2g} would by chance alone."
    )
