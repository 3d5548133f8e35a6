"""The explorer's page: every finished run under figures/results beside what others published.

Data, charts (Altair) and words are inlined in the page; `static/explorer.js` shows what is chosen.
Colours, marks and names are those of the figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import product
from numbers import Integral, Real
from pathlib import Path

import altair as alt
import pandas as pd
import vl_convert
from docutils import nodes
from docutils.parsers.rst import Directive
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline

from common import datasets
from common.base.paths import ROOT
from common.plots import style, tables
from common.pruning import METHODS
from common.results import reference
from common.results.collected import collect
from common.results.statistics import MATCHED, NUMBERS, mean_interval

RESULTS = ROOT / "figures" / "results"
PAGE = "docs/explorer"
CELL = [*tables.SETTING, "method", "variant", "ablation", "sparsity"]
RUN = ["seed", "test_accuracy", "layers_collapsed", "prune_seconds", "device", "code_version"]
DASHES = {"-": [1, 0], "--": [6, 3], "-.": [6, 3, 1, 3], ":": [1.5, 3]}
LEVELS = {"dense": [1, 0], "chance": [1, 3]}
# A line's colour, dashes and mark stand in the data.
LINE = {"color": alt.Color("colour:N", scale=None), "detail": "series:N"}
DASH = alt.StrokeDash("dash:N", scale=None)
SHAPE = alt.Shape("shape:N", scale=None)


def collected() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, their layers) of the methods that prune at initialization, each run once."""
    summaries, layers = [], []
    for folder in sorted(path.parent for path in RESULTS.glob("*/summary.csv")):
        if "run_id" in pd.read_csv(folder / "summary.csv", nrows=0):
            found = collect(folder)
            summaries.append(tables.prepared(found.summary))
            layers.append(found.layers)
    runs = pd.concat(summaries, ignore_index=True)
    runs = runs[runs["method"].isin(METHODS)].drop_duplicates(MATCHED)
    return runs, pd.concat(layers, ignore_index=True).drop_duplicates(["method", "run_id", "layer"])


def page_data() -> dict:
    """What explorer.js needs, in short rows."""
    runs, layers = collected()
    cells, layer_names = _cells(runs, layers)
    published = _published()
    every = [*cells, *published]
    ablations = style.ordered([row["ablation"] for row in every], style.ABLATIONS)
    pairs = pd.DataFrame(every)[["method", "variant"]].drop_duplicates()
    pairs = tables.methods(pairs[pairs["method"].isin(METHODS)])
    chance = {name: 100 / spec.classes for name, spec in datasets.DATASETS.items()}
    return {
        "cells": cells,
        "layers": layer_names,
        "published": published,
        "sources": {
            name: {"name": source.name, "caution": source.caution}
            for name, source in reference.SOURCES.items()
        },
        "datasets": reference.DATASETS,
        "models": reference.MODELS,
        "chance": chance,
        "methods": [_method(*pair, ablations) for pair in pairs],
        "ablations": [_ablation(name) for name in ablations],
        "levels": LEVELS,
        "closeUp": 25,
        "charts": {"accuracy": accuracy_chart(), "densities": densities_chart()},
    }


def _cells(runs: pd.DataFrame, layers: pd.DataFrame) -> tuple[list[dict], list[list[str]]]:
    """What was run with several seeds, each a mark of the chart; and the names of the layers, which
    a cell has by their place. A dense network is one whatever its method."""
    dense = tables.is_dense(runs)
    densities = layers.merge(runs[["method", "run_id"]].assign(run=runs.index))
    runs.loc[dense, ["method", "variant", "ablation"]] = ["dense", "", "none"]
    runs["cell"] = runs.groupby(CELL, sort=False).ngroup()
    densities["cell"] = runs.loc[densities["run"], "cell"].to_numpy()
    kept = dict(iter(densities.groupby("cell")))
    cells, names = [], []
    for number, mine in runs.groupby("cell"):
        density = kept[number].groupby("layer", sort=False)["density"].mean()
        if list(density.index) not in names:
            names.append(list(density.index))
        cells.append(
            {name: _number(value) for name, value in mine.iloc[0][CELL].to_dict().items()}
            | {name: _number(value) for name, value in _numbers(mine).items()}
            | {"layers": names.index(list(density.index))}
            | {"density": [float(f"{value:.4g}") for value in density]}
            | {"runs": _rows(mine[RUN])}
        )
    return cells, names


def _numbers(runs: pd.DataFrame) -> dict[str, float]:
    interval = mean_interval(runs["test_accuracy"])
    return {name: getattr(interval, name) for name in NUMBERS}


def _published() -> list[dict]:
    """Every source's curves for the networks that are ours."""
    found = []
    for place in product(reference.SOURCES, reference.DATASETS, reference.MODELS):
        for line, rows in reference.curves(*place).groupby(["method", "variant", "ablation"]):
            points = [list(map(_number, row)) for row in rows[["sparsity", "test_accuracy"]].values]
            names = ("source", "dataset", "model", "method", "variant", "ablation")
            found.append(dict(zip(names, (*place, *line), strict=True)) | {"points": points})
    return found


def _rows(table: pd.DataFrame) -> list[dict]:
    return [{k: _number(v) for k, v in row.items()} for row in table.to_dict("records")]


def _number(value: object) -> object:
    """A value that JSON has; the digits that nobody sees are left out."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, Integral) else value


def _method(method: str, variant: str, ablations: list[str]) -> dict:
    hue = style.colour(method)
    page = f"trials/{method}/rendered"
    return {
        "key": f"{method}/{variant}".rstrip("/"),
        "method": method,
        "variant": variant,
        "label": style.method_label(method, variant),
        "shape": outline(style.marker(method)),
        "colours": {a: to_hex(style.lighter(hue, style.ablation_style(a)[3])) for a in ablations},
        "page": f"../{page}.html" if (ROOT / f"{page}.ipynb").is_file() else None,
    }


def _ablation(name: str) -> dict:
    label, dashes, _, _ = style.ablation_style(name)
    return {"key": name, "label": label, "dash": DASHES.get(dashes) or list(dashes[1])}


def outline(marker: str) -> str:
    """A matplotlib marker as the path that Vega draws, in a square from -1 to 1."""
    mark = MarkerStyle(marker)
    path = mark.get_path().transformed(mark.get_transform())
    scale = 1.0 / max(abs(path.vertices).max(), 1e-9)
    letters = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C"}
    parts = []
    for points, code in path.iter_segments(simplify=False):
        pairs = (points.reshape(-1, 2) * [scale, -scale]).round(3)
        parts.append("Z" if code == Outline.CLOSEPOLY else letters[code] + _coordinates(pairs))
    return "".join(parts)


def _coordinates(pairs: Iterable[Iterable[float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in pairs)


def accuracy_chart() -> dict:
    """Accuracy against weights removed, logarithmic in those that stay."""
    axis = alt.Axis(values=alt.ExprRef("ticks"), labelExpr="format(100 - datum.value, '.6~g')")
    across = _domain("least", "most", type="log", reverse=True)
    x = alt.X("stay:Q", title="Weights removed (%)", axis=axis, scale=across)
    up = _domain("low", "high", zero=False)
    y = alt.Y("accuracy:Q", title="Test accuracy, last epoch (%)", scale=up)
    points = _chart("points")
    layers = [
        _chart("levels").mark_rule(color=style.INK, clip=True).encode(y=y, strokeDash=DASH),
        _chart("points").mark_line(clip=True).encode(x, y, strokeDash=DASH, **LINE),
        _chart("bars").mark_rule(clip=True).encode(x=x, y=y, y2="upper:Q", **LINE),
        _chart("dots").mark_circle(size=14, opacity=1, clip=True).encode(x, y, **LINE),
        points.mark_point(size=60, opacity=1, clip=True).encode(
            x, y, shape=SHAPE, fill=alt.Fill("fill:N", scale=None), **LINE
        ),
        # What a finger hits.
        points.mark_circle(size=600, opacity=0.001, clip=True, cursor="pointer").encode(x, y),
    ]
    values = {"low": 0, "high": 100, "least": 1, "most": 100, "ticks": []}
    params = [alt.param(name=name, value=value) for name, value in values.items()]
    return _finished(alt.layer(*layers).add_params(*params), 400)


def densities_chart() -> dict:
    """The share of weights that each layer keeps, logarithmic; layers without any are crossed."""
    x = alt.X("layer:O", title=None, sort=None, axis=alt.Axis(labelAngle=-90, labelLimit=110))
    y = alt.Y("kept:Q", title="Weights kept (%)", scale=alt.Scale(type="log", nice=False))
    kept, gone = _chart("kept"), _chart("gone")
    layers = [
        kept.mark_line().encode(x, y, strokeDash=DASH, **LINE),
        kept.mark_point(filled=True, size=30, opacity=1).encode(x, y, shape=SHAPE, **LINE),
        gone.mark_point(size=50, shape=outline("x"), strokeWidth=2, opacity=1).encode(x, y, **LINE),
    ]
    return _finished(alt.layer(*layers), 300)


def _chart(name: str) -> alt.Chart:
    """A chart of rows that explorer.js hands it under this name."""
    return alt.Chart(alt.NamedData(name))


def _domain(low: str, high: str, **scale: object) -> alt.Scale:
    """A scale between two parameters that explorer.js sets."""
    ends = {"domainMin": alt.ExprRef(low), "domainMax": alt.ExprRef(high)}
    return alt.Scale(nice=False, **ends, **scale)


def _finished(chart: alt.LayerChart, height: int) -> dict:
    axis = {"gridColor": "#ececec", "labelFontSize": 12, "titleFontSize": 13}
    return (
        chart.properties(width="container", height=height, background="white")
        .configure(font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(titleFontWeight="normal", **axis)
        .to_dict()
    )


class Explorer(Directive):
    """Where explorer.js builds its controls and charts, and the data of both."""

    def run(self) -> list[nodes.Node]:
        data = json.dumps(page_data(), separators=(",", ":"), allow_nan=False)
        text = data.replace("</", "<\\/")
        html = (
            '<div id="explorer-place"><noscript>The explorer needs JavaScript; the same numbers '
            "stand among the figures.</noscript></div>"
            f'<script type="application/json" id="explorer-data">{text}</script>'
        )
        return [nodes.raw("", html, format="html")]


def add_scripts(app: object, pagename: str, *_: object) -> None:
    if pagename == PAGE:
        for name in ("vega.js", "explorer.js"):
            app.add_js_file(name, loading_method="defer")


def write_vega(app: object) -> None:
    """Vega, Vega-Lite and their embedding, one file for all charts."""
    place = Path(app.outdir, "_static", "vega.js")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"(() => {{{vl_convert.javascript_bundle()}}})()", encoding="utf-8")


def setup(app: object) -> dict:
    app.add_directive("explorer", Explorer)
    app.connect("builder-inited", write_vega)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True}
