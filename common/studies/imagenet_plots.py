"""The figures of the study of masks at ImageNet's size: a column a network, a line a method."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.plots import style
from common.plots.panels import entry
from common.plots.tables import network_name
from common.results.reference import METHODS
from common.results.words import counted
from common.studies.captions import compression, rows_of, study_caption
from common.studies.imagenet import Line, labels

_LINE = list(vars(Line("")))
_NETWORK = ["model", "dataset"]
_MARKS = {"stem": "^", "shortcuts": "o", "linear": "s", "head": "v"}


@style.styled
def densities(layers: pd.DataFrame, summary: pd.DataFrame, exponent: float) -> Figure:
    """Each layer's density over the network's at one compression, from input to output; means over
    seeds. A layer without a weight in any seed is left out."""
    networks = _networks(summary)
    figure = style.new_figure(1.1 + 1.6 * len(networks))
    rows = figure.subplots(len(networks), 1, sharey=True, squeeze=False)[:, 0]
    at = layers[layers["exponent"] == exponent]
    for axes, network in zip(rows, networks, strict=True):
        part = rows_of(at, _NETWORK, network)
        names = list(dict.fromkeys(part["layer"]))
        total = part.groupby([*_LINE, "seed"])[["kept", "size"]].transform("sum")
        part = part.assign(relative=part["density"] / (total["kept"] / total["size"]))
        for line in _lines(part):
            means = rows_of(part, _LINE, line).groupby("layer", sort=False)["relative"].mean()
            means = means[names].where(means[names] > 0)
            look = style.method_look(line[:2]) | {"marker": "", "lw": 1.0}
            axes.plot(range(len(names)), means, **look)
            for role, mark in _MARKS.items():
                chosen = part.loc[part["role"] == role, "layer"].unique()
                places = [names.index(name) for name in chosen]
                look = {"color": style.colour(line[0]), "ms": 4, "ls": ""}
                axes.plot(places, means.iloc[places], mark, **look)
        axes.axhline(1, color=style.GREY, lw=0.8, zorder=0)
        axes.set(yscale="log", title=network_name(*network), ylabel="Density /\nnetwork's")
        axes.set_xlim(-1, len(names))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    rows[-1].set_xlabel("Layer, from input to output")
    marks = [entry(r, ls="", marker=m, color=style.INK) for r, m in _MARKS.items()]
    style.legend_above(figure, [*_handles(at, marked=False), *marks])
    told = f"Compression {compression(10.0**exponent)}."
    style.write_caption(figure, told, study_caption(summary), _fewer(summary))
    return figure


@style.styled
def collapse(summary: pd.DataFrame) -> Figure:
    """Layers without a weight, and kept weights that lie on no path from input to output, in
    percent, as compression grows; means over seeds."""
    networks = _networks(summary)
    figure = style.new_figure(5.0)
    panels = figure.subplots(2, len(networks), sharex=True, sharey="row", squeeze=False)
    table = summary.assign(
        dead=100 * summary["layers_collapsed"] / summary["layers"],
        off=100 * (1 - summary["effective"] / summary["kept"]),
    )
    for column, network in zip(panels.T, networks, strict=True):
        part = rows_of(table, _NETWORK, network)
        possible = float((part["prunable"] / part["layers"]).iloc[0])
        for axes, value in zip(column, ("dead", "off"), strict=True):
            _curves(axes, part, value)
            axes.axvline(possible, color=style.GREY, ls=":", lw=1)
        column[0].set_title(network_name(*network))
        column[1].set_xlabel("Compression")
    panels[0, 0].set_ylabel("Empty layers [%]")
    panels[1, 0].set_ylabel("On no path [%]")
    style.legend_above(figure, _handles(summary))
    told = "Dotted: one weight for each layer is left."
    style.write_caption(figure, told, study_caption(summary), _fewer(summary))
    return figure


@style.styled
def roles(shares: pd.DataFrame, summary: pd.DataFrame, chosen: Sequence[str]) -> Figure:
    """The density of some roles of layers as compression grows, means over seeds.

    shares: of `common.studies.imagenet.shares`.
    """
    networks = _networks(summary)
    figure = style.new_figure(0.9 + 1.9 * len(chosen))
    panels = figure.subplots(len(chosen), len(networks), sharex=True, sharey=True, squeeze=False)
    for row, role in zip(panels, chosen, strict=True):
        row[0].set_ylabel(f"Density: {role}")
        for axes, network in zip(row, networks, strict=True):
            part = rows_of(shares[shares["role"] == role], _NETWORK, network)
            if part.empty:
                axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")
            _curves(axes, part, "density")
            ends = [10.0 ** summary["exponent"].min(), 10.0 ** summary["exponent"].max()]
            axes.plot(ends, [1 / e for e in ends], color=style.GREY, ls=":", lw=1)
            axes.set(xscale="log", yscale="log", ylim=(1e-6, 1.5))
    for axes, network in zip(panels[0], networks, strict=True):
        axes.set_title(network_name(*network))
    for axes in panels[-1]:
        axes.set_xlabel("Compression")
    style.legend_above(figure, _handles(summary))
    told = "Dotted: the density of the whole network. Where nothing is left a line ends."
    style.write_caption(figure, told, study_caption(summary), _fewer(summary))
    return figure


def _curves(axes: Axes, part: pd.DataFrame, value: str) -> None:
    for line in _lines(part):
        means = rows_of(part, _LINE, line).groupby("exponent")[value].mean()
        means = means[(means > 0) | (value != "density")]  # no place on a logarithmic axis
        axes.plot(10.0**means.index, means, **style.method_look(line[:2]) | {"ms": 3, "lw": 1.1})
    axes.set_xscale("log")


def _handles(table: pd.DataFrame, marked: bool = True) -> list[Line2D]:
    found = []
    for line in _lines(table):
        one = pd.DataFrame([line], columns=_LINE)
        look = style.method_look(line[:2]) | ({} if marked else {"marker": ""})
        found.append(entry(labels(one)[0], ms=3, **look))
    return found


def _lines(table: pd.DataFrame) -> list[tuple]:
    found = set(table[_LINE].itertuples(index=False, name=None))
    order = style.ordered((line[0] for line in found), METHODS)
    return sorted(found, key=lambda line: (order.index(line[0]), *line[1:]))


def _networks(table: pd.DataFrame) -> list[tuple]:
    return list(dict.fromkeys(table[_NETWORK].itertuples(index=False, name=None)))


def _fewer(summary: pd.DataFrame) -> str:
    """Which networks have fewer seeds than another."""
    counts = summary.groupby(_NETWORK, sort=False)["seed"].nunique()
    told = [
        f"{network_name(*network)}: {counted(number, 'seed')}"
        for network, number in counts.items()
        if number < counts.max()
    ]
    return "; ".join(told) + "." * bool(told)
