"""Layer collapse: which layers are left as compression grows, and how far each method gets.

A layer has collapsed when not one of its weights is left. A method's critical compression is the
highest at which it has not collapsed a layer; none can pass the maximum, prunable weights / layers,
at which one weight is left in each (Tanaka et al. 2020, section 3).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from common.base.seeding import generator
from common.pruning import Method, find_method, keep_count
from common.pruning.masks import Masks, select
from common.pruning.rounds import ScoreTransform, prune_rounds
from common.studies.network import SETTING, TANAKA2020, Network, Setting
from common.studies.tables import (
    PROVENANCE,
    Table,
    layer_rows,
    of_units,
    read,
    read_asked,
    values,
)


@dataclass(frozen=True)
class Line:
    """A method in so many rounds, scored on so many images of each class."""

    method: str
    iterations: int = 1
    images_per_class: int = 0

    def chosen(self) -> Method:
        """The method as it is registered, but for these rounds and images."""
        return replace(
            find_method(self.method),
            iterations=self.iterations,
            images_per_class=self.images_per_class,
        )


# Iterative SNIP is scored on one image of each class, since 100 rounds over ten of each take hours
# on a CPU; SNIP in one round is there with both, so that the images are not taken for the rounds.
LINES: tuple[Line, ...] = (
    Line("random"),
    Line("magnitude"),
    Line("SNIP", 1, 10),
    Line("SNIP", 1, 1),
    Line("SNIP", 10, 1),
    Line("SNIP", 100, 1),
    Line("grasp", 1, 10),
    Line("synflow", 1),
    Line("synflow", 100),
)
EXPONENTS = tuple(step / 4 for step in range(25))  # compressions up to 10^6
UNIT = ("method", "iterations", "images_per_class", "seed", "exponent")
LAYERS = (*UNIT, "layer", "size", "kept")
SUMMARY = (
    *UNIT,
    *(*SETTING, "compression", "prunable", "kept", "layers", "layers_collapsed", "seconds"),
    *PROVENANCE,
)


def lines_of(methods: object) -> Sequence[Line]:
    """[[method, rounds, scoring images of each class], ...] as lines; None: LINES.

    Raises ConfigurationError.
    """
    return LINES if methods is None else [Line(*one) for one in values("methods", methods)]


def measure(
    folder: Path,
    lines: Sequence[Line],
    exponents: Sequence[float] | None,
    seeds: Sequence[int],
    *,
    setting: Setting = TANAKA2020,
) -> None:
    """Prune to the compressions 10^exponent and write layers.csv and summary.csv into `folder`.

    exponents: None for EXPONENTS. What is in the tables already is not measured again.
    """
    exponents = EXPONENTS if exponents is None else values("exponents", exponents)
    seeds = values("seeds", seeds)
    layers = Table(folder / "layers.csv", LAYERS, UNIT)
    summary = Table(folder / "summary.csv", SUMMARY, UNIT)
    for seed in seeds:
        for line in lines:
            unit = {**vars(line), "seed": seed}
            left = [e for e in exponents if not summary.has(**unit, exponent=e)]
            if not left:
                continue
            network, started = setting.network(seed), time.perf_counter()
            for exponent, masks in masks_of(network, line, left):
                keys, rows = {**unit, "exponent": exponent}, layer_rows(masks)
                layers.add({**keys, **row} for row in rows)
                row = {
                    **keys,
                    **setting.columns(),
                    "compression": 10.0**exponent,
                    "prunable": sum(row["size"] for row in rows),
                    "kept": sum(row["kept"] for row in rows),
                    "layers": len(rows),
                    "layers_collapsed": sum(row["kept"] == 0 for row in rows),
                    "seconds": round(time.perf_counter() - started, 2),
                }
                summary.add([row])
                started = time.perf_counter()


def masks_of(
    network: Network,
    line: Line,
    exponents: Sequence[float],
    transform: ScoreTransform | None = None,
) -> Iterator[tuple[float, Masks]]:
    """(exponent, masks) for each of the exponents; one scoring serves them all in one round.

    transform: of the scores of every round, an inversion for instance.
    """
    method = line.chosen()
    total = sum(network.sizes().values())
    scores = None
    for exponent in exponents:
        sparsity, module = 1 - 10.0**-exponent, network.fresh()
        if line.iterations > 1 and exponent > 0:
            context = network.context(method)
            yield exponent, prune_rounds(module, method, sparsity, context, transform=transform)
            continue
        if scores is None:
            scores = method.score(module, network.context(method))
            scores = transform(scores) if transform else scores
        ties = generator(network.seed, "pruning", 1)
        yield exponent, select(scores, keep_count(total, sparsity), ties)


def tables(
    folder: Path,
    setting: Setting | None = None,
    methods: Sequence[tuple[str, int, int]] | None = None,
    exponents: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, layers) of a measurement: what is asked for, with None whatever there is.

    methods: (method, rounds, scoring images of each class). Raises ConfigurationError, which says
    what there is, where something was not measured.
    """
    asked = {"methods": methods, "exponents": exponents, "seeds": seeds}
    summary = read_asked(folder / "summary.csv", **(setting.names() if setting else {}), **asked)
    return summary, of_units(read(folder / "layers.csv"), summary, UNIT)


def maximum(summary: pd.DataFrame) -> float:
    """The highest compression without a collapsed layer that there can be."""
    return float((summary["prunable"] / summary["layers"]).max())


def critical(summary: pd.DataFrame) -> pd.DataFrame:
    """Per line and seed: `reached`, the highest compression measured up to which no layer had
    collapsed, `collapsed`, the next one measured (NaN if there is none), and `measured`, how many.
    """
    rows, keys = [], ["method", "iterations", "images_per_class", "seed"]
    for key, part in summary.groupby(keys):
        part = part.sort_values("compression")
        dead = (part["layers_collapsed"] > 0).to_numpy()
        ratios = part["compression"].to_numpy()
        first = int(dead.argmax()) if dead.any() else len(dead)
        reached = ratios[first - 1] if first else np.nan
        beyond = ratios[first] if first < len(ratios) else np.nan
        rows.append((*key, reached, beyond, len(part)))
    return pd.DataFrame(rows, columns=[*keys, "reached", "collapsed", "measured"])


def first_collapsed(layers: pd.DataFrame) -> pd.DataFrame:
    """Per line: the layers that are without a weight where the first one is, in any seed, and the
    compression at which that happens. Lines that collapse nowhere are left out."""
    rows, keys = [], ["method", "iterations", "images_per_class"]
    for key, part in layers[layers["kept"] == 0].groupby(keys):
        at = part["exponent"].min()
        names = part.loc[part["exponent"] == at, "layer"].unique()
        rows.append((*key, 10.0**at, ", ".join(names)))
    return pd.DataFrame(rows, columns=[*keys, "compression", "layers"])


def agreement(layers: pd.DataFrame) -> pd.DataFrame:
    """How far seeds differ in the number of weights that a layer keeps, in units of sampling noise.

    Noise: the standard deviation of a binomial count with the layer's mean density d over seeds,
    sqrt(size d (1 - d)), each weight kept or not by itself. Per line and exponent, over layers and
    seeds: `noise`, the root mean square of the deviations from the mean over seeds in these units
    (1: nothing but sampling), `relative`, the largest difference between two seeds as a share of
    the mean count, among layers that keep 100 weights or more, and `seeds`.
    """
    keys = ["method", "iterations", "images_per_class", "exponent"]
    per = layers.groupby([*keys, "layer"], sort=False)["kept"]
    table = per.agg(["mean", "var", "min", "max", "count"]).reset_index()
    table["size"] = layers.groupby([*keys, "layer"], sort=False)["size"].first().to_numpy()
    table = table[(table["count"] > 1) & (table["mean"] > 0) & (table["mean"] < table["size"])]
    density = table["mean"] / table["size"]
    table["noise"] = table["var"] / (table["size"] * density * (1 - density))
    spread = (table["max"] - table["min"]) / table["mean"]
    table["relative"] = spread.where(table["mean"] >= 100)
    grouped = table.groupby(keys)
    found = grouped.agg(
        noise=("noise", "mean"), relative=("relative", "max"), seeds=("count", "max")
    )
    return found.assign(noise=found["noise"] ** 0.5).reset_index()
