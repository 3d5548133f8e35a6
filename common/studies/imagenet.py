"""What changes with size: masks that need no images, on ImageNet's networks and on CIFAR's.

Only the shape of an image is looked at, so nothing of ImageNet has to be there. SynFlow and NTK-SAP
prune in rounds that go on from one compression to the next, so many for each power of ten: one way
down serves all compressions, and ends where no weight for each layer is left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from common.base.errors import ConfigurationError
from common.plots.style import method_label
from common.pruning import find_method, kept
from common.pruning.diagnostics import effective_masks
from common.pruning.masks import Masks
from common.pruning.rounds import Round, prune_rounds
from common.results.reference import DATASETS, MODELS
from common.results.statistics import mean_interval
from common.results.words import LEAST, counted, spread
from common.studies.network import Network, Setting
from common.studies.tables import PROVENANCE, Table, of_units, read, read_asked, values

ROLES = ("stem", "body", "shortcuts", "linear", "head")
STEP = 0.5  # between exponents

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Line:
    """A method, and how it is scored.

    rounds: for each power of ten of compression; 0: a single one, whatever the compression. inputs:
    how many random ones a round looks at.
    """

    method: str
    variant: str = ""
    rounds: int = 0
    inputs: int = 0


# Of NTK-SAP's five passes over ten inputs of each class, 50,000 a round, two inputs are left: on a
# CPU each takes seconds.
LINES: tuple[Line, ...] = (
    Line("random"),
    Line("random", "erk"),
    Line("magnitude"),
    Line("synflow", "", 8),
    Line("ntk_sap", "single_pass", 4, 2),
)
UNIT = (*vars(Line("")), "model", "dataset", "seed", "exponent")
LAYERS = (*UNIT, "layer", "size", "kept")
SUMMARY = (
    *UNIT,
    *("protocol", "prunable", "kept", "effective", "layers", "layers_collapsed"),
    *PROVENANCE,
)


def measure(
    folder: Path,
    setting: Setting,
    exponents: Sequence[float] | None,
    seeds: Sequence[int],
    lines: Sequence[Line] = LINES,
) -> None:
    """Prune to the compressions 10^exponent and write layers.csv and summary.csv into `folder`.

    exponents: multiples of STEP; None for all until no weight for each layer is left. What is in
    the tables already is not measured again. Raises ConfigurationError for other exponents.
    """
    layers = Table(folder / "layers.csv", LAYERS, UNIT)
    summary = Table(folder / "summary.csv", SUMMARY, UNIT)
    for seed in values("seeds", seeds):
        network = setting.network(seed)
        sizes = network.sizes()
        wanted = exponents_to_the_end(sizes) if exponents is None else _multiples(exponents)
        for line in lines:
            unit = {**vars(line), "model": setting.model, "dataset": setting.dataset, "seed": seed}
            if all(summary.has(**unit, exponent=e) for e in wanted):
                continue
            found = prune(network, line, wanted, functools.partial(_counts, network))
            layers.add(
                {**unit, "exponent": e, "layer": n.removesuffix(".weight"), "size": size}
                | {"kept": left[n]}
                for e, (left, _) in found.items()
                for n, size in sizes.items()
            )
            summary.add(
                {
                    **unit,
                    "exponent": e,
                    **setting.columns(),
                    "prunable": sum(sizes.values()),
                    "kept": sum(left.values()),
                    "effective": effective,
                    "layers": len(sizes),
                    "layers_collapsed": sum(count == 0 for count in left.values()),
                }
                for e, (left, effective) in found.items()
            )


def _counts(network: Network, masks: Masks) -> tuple[dict[str, int], int]:
    """What each layer keeps, and how many weights of all are on a path from input to output."""
    left = {name: int(mask.sum()) for name, mask in masks.items()}
    return left, kept(effective_masks(network.module, masks, network.data.spec.shape))


def prune(
    network: Network, line: Line, exponents: Sequence[float], look: Callable[[Masks], Seen]
) -> dict[float, Seen]:
    """Exponent -> what `look` sees of the masks there, from the seed's weights."""
    method, found = find_method(line.method, line.variant), {}
    context = replace(network.context(method), inputs=line.inputs)
    if line.rounds:
        steps = {round(e * line.rounds): e for e in exponents}
        method = replace(method, iterations=max(steps))

        def observe(done: Round) -> None:
            if done.step in steps:
                found[steps[done.step]] = look(done.masks)

        end = 1 - 10.0 ** -max(exponents)
        prune_rounds(network.fresh(), method, end, context, observe=observe)
        return found
    scores = method.score(network.fresh(), context)
    for e in exponents:
        masks = prune_rounds(network.fresh(), method, 1 - 10.0**-e, context, first=scores)
        found[e] = look(masks)
    return found


def exponents_to_the_end(sizes: dict[str, int]) -> list[float]:
    """STEP, 2 STEP ... up to the first compression at which there is no weight for each layer."""
    most = math.log10(sum(sizes.values()) / len(sizes))
    return [STEP * n for n in range(1, math.ceil(most / STEP) + 1)]


def _multiples(exponents: Sequence[float]) -> list[float]:
    found = sorted(values("exponents", exponents))
    if any(e % STEP or not e for e in found):
        raise ConfigurationError(f"exponents={exponents!r} are not multiples of {STEP}")
    return found


def tables(
    folder: Path,
    protocol: str,
    networks: dict[str, Sequence[str]],
    exponents: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(summary, layers) of the networks, {data set: models}; with None whatever there is.

    Raises ConfigurationError, which says what there is, where something was not measured.
    """
    found = []
    for dataset, models in networks.items():
        asked = {"protocol": protocol, "dataset": dataset, "models": models}
        path = folder / "summary.csv"
        found.append(read_asked(path, **asked, exponents=exponents, seeds=seeds))
    summary = pd.concat(found, ignore_index=True)
    layers = of_units(read(folder / "layers.csv"), summary, UNIT)
    return summary, layers.assign(role=_roles(layers), density=layers["kept"] / layers["size"])


def _roles(layers: pd.DataFrame) -> pd.Series:
    """What part a layer has: the first is the stem, the last the head; projections on shortcuts;
    linear layers before the head, as VGG-16 has two at 224; and the rest."""
    names = layers.groupby(["model", "dataset"], sort=False)["layer"]
    role = pd.Series("body", index=layers.index)
    role[layers["layer"].str.contains("downsample|shortcut")] = "shortcuts"
    role[layers["layer"].str.startswith("classifier.")] = "linear"
    role[layers["layer"] == names.transform("first")] = "stem"
    role[layers["layer"] == names.transform("last")] = "head"
    return role


def reached(summary: pd.DataFrame) -> pd.DataFrame:
    """Per network, line and seed: `whole`, the highest measured exponent up to which every layer
    keeps a weight, `connected`, up to which a path leads from input to output, and `possible`, the
    exponent at which one weight for each layer is left; 0 where not even the lowest holds."""
    rows = []
    for key, part in summary.groupby([*vars(Line("")), "model", "dataset", "seed"], sort=False):
        part = part.sort_values("exponent")

        def highest(holds: pd.Series, part: pd.DataFrame = part) -> float:
            return float(part.loc[holds.cumprod().astype(bool), "exponent"].max())

        whole, connected = highest(part["layers_collapsed"] == 0), highest(part["effective"] > 0)
        possible = math.log10((part["prunable"] / part["layers"]).iloc[0])
        rows.append((*key, whole, connected, possible))
    names = (*vars(Line("")), "model", "dataset", "seed", "whole", "connected", "possible")
    return pd.DataFrame(rows, columns=names).fillna({"whole": 0, "connected": 0})


def shares(layers: pd.DataFrame) -> pd.DataFrame:
    """Per unit and role: `density` of all its layers together, `share` of the kept weights that lie
    there, and `relative`, the density over the whole network's."""
    found = layers.groupby([*UNIT, "role"])[["size", "kept"]].sum().reset_index()
    whole = found.groupby([*UNIT])[["size", "kept"]].transform("sum")
    density = found["kept"] / found["size"]
    relative = density / (whole["kept"] / whole["size"])
    return found.assign(density=density, share=found["kept"] / whole["kept"], relative=relative)


def relative_densities(layers: pd.DataFrame, exponent: float) -> pd.DataFrame:
    """Rows: method, network; columns: roles; cells: the role's density over the whole network's at
    this compression, mean over seeds with its 95 % interval, in words."""
    found = _named(shares(layers).query("exponent == @exponent"))

    def told(values: pd.Series) -> str:
        one = mean_interval(values)
        return f"{one.mean:.3g}" + (f" ± {one.half_width:.2g}" if one.n > 1 else " (one seed)")

    keys = ["method", "network", "role"]
    return _by_role(found.groupby(keys, sort=False)["relative"].agg(told).unstack())


def changes(
    layers: pd.DataFrame, exponent: float, large: Sequence[str], small: Sequence[str]
) -> pd.DataFrame:
    """Rows: methods; columns: roles; cells: how many times as dense a role is, relative to its
    network, in the `large` network (model, data set) as in the `small` one: the geometric mean over
    seeds with its 95 % interval, where that excludes 1."""
    found = _named(shares(layers).query("exponent == @exponent and kept > 0"))
    sides = [
        found[(found["model"] == m) & (found["dataset"] == d)].set_index(["method", "role", "seed"])
        for m, d in (large, small)
    ]
    ratio = np.log10(sides[0]["relative"] / sides[1]["relative"]).dropna()

    def told(values: pd.Series) -> str:
        one = mean_interval(values)
        mean, low, high = (f"{10**v:.3g}" for v in (one.mean, one.low, one.high))
        if one.n < LEAST:
            return f"{mean} ({counted(one.n, 'seed')})"
        if low == high == "1":  # closer than the digits that are shown
            return "1"
        return f"{mean} [{low}, {high}]" if one.excludes_zero else "no difference found"

    return _by_role(ratio.groupby(level=["method", "role"], sort=False).agg(told).unstack())


def reached_in_words(summary: pd.DataFrame) -> pd.DataFrame:
    """`reached`, a row per network and method: from the lowest to the highest of the seeds."""
    found = _named(reached(summary))
    columns = {name: lambda v: spread(v, "{:.3g}") for name in ("whole", "connected", "possible")}
    columns["seed"] = "nunique"
    table = found.groupby(["network", "method"], sort=False).agg(columns)
    return table.rename(columns={"seed": "seeds"})


def _named(table: pd.DataFrame) -> pd.DataFrame:
    network = table["model"].map(MODELS) + ", " + table["dataset"].map(DATASETS)
    return table.assign(method=labels(table), network=network)


def _by_role(table: pd.DataFrame) -> pd.DataFrame:
    return table[[role for role in ROLES if role in table]].fillna("–")


def labels(table: pd.DataFrame) -> list[str]:
    """`SynFlow, 8 rounds a power of ten`, for every row."""
    found = []
    for row in table[["method", "variant", "rounds", "inputs"]].itertuples(index=False):
        # NTK-SAP's variant is its number of passes.
        told = method_label(row.method, "ERK" if row.variant == "erk" else "")
        found.append(told + (f", {row.rounds} rounds a power of ten" if row.rounds else ""))
    return found
