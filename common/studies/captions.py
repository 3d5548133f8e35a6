"""What the studies' figures share: captions, and layers coloured by their depth, from the input
(dark) to the output (light)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from common.plots.panels import entry
from common.plots.tables import one_wording
from common.results.reference import DATASETS, MODELS


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
    return [entry(names[i], color=hues[i], marker="o", ms=3) for i in picks]


def rows_of(table: pd.DataFrame, columns: Sequence[str], key: tuple) -> pd.DataFrame:
    """The rows whose `columns` have the values of `key`."""
    return table[(table[list(columns)] == pd.Series(key, index=list(columns))).all(axis=1)]
