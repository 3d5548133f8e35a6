"""Conservation: does what flows into a hidden unit flow out of it, and do layers share one total?

Scores of the form w dR/dw, R any function of the network's output, are conserved: their sums over
the weights that enter a hidden unit and over those that leave it are equal, in a network without
residual paths whose activations are homogeneous (Tanaka et al. 2020, section 4). Three things take
a score out of this class: an absolute value, an R that is no function of the output, and BatchNorm
that normalises by the batch, since a unit's output then no longer depends on the scale of its
incoming weights.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from common import datasets
from common.base import environment
from common.base.errors import ConfigurationError
from common.base.seeding import generator
from common.models import MODELS
from common.pruning import find_method, prunable
from common.pruning import scores as scoring
from common.pruning.diagnostics import flow_through_units
from common.pruning.rounds import prune_rounds
from common.pruning.scores import Context, Scores
from common.runs.options import whole_from
from common.studies.network import SETTING, TANAKA2020, Network, Setting
from common.studies.tables import (
    PROVENANCE,
    Table,
    layer_rows,
    of_units,
    read_asked,
    select,
    values,
)


@dataclass(frozen=True)
class Kind:
    """A score: the method's own, or with its sign; BatchNorm in `train` or `eval` mode."""

    method: str
    signed: bool = False
    batchnorm: str = "none"  # the score runs no images through the network


KINDS: tuple[Kind, ...] = (
    Kind("random"),
    Kind("magnitude"),
    Kind("SNIP", False, "train"),
    Kind("SNIP", True, "train"),
    Kind("SNIP", True, "eval"),
    Kind("grasp", True, "train"),
    Kind("grasp", True, "eval"),
    Kind("synflow", False, "eval"),
    Kind("synflow", True, "train"),
    Kind("synflow", False, "train"),
)
# Networks without residual paths: one way in and one way out of every hidden unit.
CHAINS = tuple(name for name in MODELS if "resnet" not in name)
UNITS_SHOWN = 16  # of each layer, in units.csv
UNIT = ("method", "signed", "batchnorm", "seed")
LAYERS = (
    *(*UNIT, *SETTING, "images", "layer", "size", "total", "mean", "mean_absolute", "units"),
    *("discrepancy_median", "discrepancy_max", *PROVENANCE),
)
UNITS = (*UNIT, "layer", "unit", "incoming", "outgoing")
PRUNED_UNIT = ("batchnorm", "exponent", "seed")
PRUNED = (*PRUNED_UNIT, *SETTING, "layer", "size", "kept", *PROVENANCE)


def measure(
    folder: Path,
    seeds: Sequence[int],
    kinds: Sequence[Kind] = KINDS,
    *,
    images_per_class: int = 1,
    setting: Setting = TANAKA2020,
) -> None:
    """Every layer's total and its units' discrepancy, in float64, into layers.csv; some units of
    each layer, of the first seed, into units.csv.

    Raises ConfigurationError for a network with residual paths.
    """
    _require_chain(setting)
    seeds = values("seeds", seeds)
    images_per_class = whole_from(1)("images_per_class", images_per_class) or 1
    layers = Table(folder / "layers.csv", LAYERS, UNIT)
    units = Table(folder / "units.csv", UNITS, UNIT)
    for seed in seeds:
        for kind in kinds:
            unit = {**vars(kind), "seed": seed}
            if layers.has(**unit):
                continue
            network = setting.network(seed)
            scores = scores_of(network, kind, images_per_class)
            scored = find_method(kind.method).images_per_class > 0
            images = images_per_class * network.data.spec.classes if scored else 0
            fixed = {**unit, **setting.columns(), "images": images}
            layer_rows, unit_rows = _rows(scores, seed)
            if seed == seeds[0]:
                units.add({**unit, **row} for row in unit_rows)
            layers.add({**fixed, **row} for row in layer_rows)


def measure_pruned(
    folder: Path,
    exponents: Sequence[float],
    seeds: Sequence[int],
    *,
    setting: Setting = TANAKA2020,
) -> None:
    """What SynFlow keeps of each layer at the compressions 10^exponent, scored with BatchNorm in
    eval and in train mode, into pruned.csv."""
    exponents, seeds = values("exponents", exponents), values("seeds", seeds)
    table = Table(folder / "pruned.csv", PRUNED, PRUNED_UNIT)
    for seed in seeds:
        for exponent, mode in itertools.product(exponents, ("eval", "train")):
            unit = {"batchnorm": mode, "exponent": exponent, "seed": seed}
            if table.has(**unit):
                continue
            network = setting.network(seed)
            module = network.fresh()
            method = replace(find_method("synflow"), score=_absolute_synflow)
            with pinned_batchnorm(module, mode):
                masks = prune_rounds(module, method, 1 - 10.0**-exponent, network.context(method))
            fixed = {**unit, **setting.columns()}
            table.add({**fixed, **row} for row in layer_rows(masks))


def tables(
    folder: Path,
    setting: Setting,
    exponents: Sequence[float],
    seeds: Sequence[int],
    images_per_class: int = 1,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(units, layers, pruned) of a measurement, of what is asked for: layers of all the seeds,
    units and pruned of the first.

    Raises ConfigurationError for a network with residual paths and, saying what there is, where
    something was not measured.
    """
    _require_chain(setting)
    seeds, asked = values("seeds", seeds), setting.names()
    path = folder / "layers.csv"
    layers = read_asked(path, **asked, seeds=seeds)
    images = layers["images"] // datasets.DATASETS[setting.dataset].classes
    scored = layers.assign(images_per_class=images)[images > 0]
    select(scored, path, images_per_class=images_per_class)
    units = of_units(read_asked(folder / "units.csv", seeds=seeds[:1]), layers, UNIT)
    pruned = read_asked(folder / "pruned.csv", **asked, exponents=exponents, seeds=seeds[:1])
    return units, layers, pruned


def scores_of(network: Network, kind: Kind, images_per_class: int = 1) -> Scores:
    """The scores of a kind in float64: {parameter name: tensor}."""
    device = environment.float64_device(network.device)
    module = copy.deepcopy(network.fresh()).to(device).double()
    method = find_method(kind.method)
    if method.images_per_class:
        method = replace(method, images_per_class=images_per_class)
    context = network.context(method)
    context = replace(
        context, batches=[(x.to(device).double(), y.to(device)) for x, y in context.batches]
    )
    with pinned_batchnorm(module, kind.batchnorm):
        if kind.method == "SNIP" and kind.signed:
            return _signed_snip(module, context)
        if kind.method == "synflow" and not kind.signed:
            return _absolute_synflow(module, context)
        return method.score(module, context)


@contextlib.contextmanager
def pinned_batchnorm(module: nn.Module, mode: str) -> Iterator[None]:
    """BatchNorm in `train` or `eval` mode (`none`: as it comes), whatever the score asks for."""
    pinned = [m for m in module.modules() if isinstance(m, _BatchNorm)] if mode != "none" else []
    before = [layer.training for layer in pinned]
    for layer in pinned:
        layer.training = mode == "train"
        layer.train = lambda mode=True, layer=layer: layer
    try:
        yield
    finally:
        for layer, training in zip(pinned, before, strict=True):
            del layer.train
            layer.training = training


def discrepancy(incoming: torch.Tensor, outgoing: torch.Tensor) -> torch.Tensor:
    """abs(in - out) / (abs(in) + abs(out)): 0 where a unit conserves, 1 where one of the two is
    nothing beside the other, or has the other sign."""
    whole = (incoming.abs() + outgoing.abs()).clamp(min=torch.finfo(torch.float64).tiny)
    return (incoming - outgoing).abs() / whole


def slopes(layers: pd.DataFrame) -> pd.DataFrame:
    """Per kind of score: the slope of log(mean abs(score)) over log(size) across layers and seeds
    (-1: inversely proportional) and the correlation of the two."""
    rows = []
    for key, part in layers.groupby(list(UNIT[:-1]), sort=False):
        x, y = np.log(part["size"]), np.log(part["mean_absolute"])
        slope = np.polyfit(x, y, 1)[0]
        flat = y.std() < 1e-12
        rows.append((*key, slope, float("nan") if flat else np.corrcoef(x, y)[0, 1]))
    return pd.DataFrame(rows, columns=[*UNIT[:-1], "slope", "correlation"])


def _signed_snip(module: nn.Module, context: Context) -> Scores:
    gradients = scoring.loss_gradients(module, context.batches)
    return {name: gradients[name].mul_(w.detach()) for name, w in prunable(module).items()}


def _absolute_synflow(module: nn.Module, context: Context) -> Scores:
    """abs(w dR/dw) to the letter: batch statistics subtract, so that there are signs to drop."""
    return {name: score.abs_() for name, score in scoring.synflow(module, context).items()}


def _rows(scores: Scores, seed: int) -> tuple[list[dict], list[dict]]:
    names, layer_rows, unit_rows = list(scores), [], []
    for name, following in itertools.zip_longest(names, names[1:]):
        score, layer = scores[name].double(), name.removesuffix(".weight")
        row = {
            "layer": layer,
            "size": score.numel(),
            "total": float(score.sum()),
            "mean": float(score.mean()),
            "mean_absolute": float(score.abs().mean()),
            "units": len(score),
            "discrepancy_median": float("nan"),
            "discrepancy_max": float("nan"),
        }
        if following is not None:
            # Biases are zero at initialisation, and so are their scores.
            into, out = flow_through_units(score, scores[following].double())
            lost = discrepancy(into, out)
            row["discrepancy_median"] = float(lost.median())
            row["discrepancy_max"] = float(lost.max())
            chosen = torch.randperm(len(into), generator=generator(seed, "units shown"))
            for unit in chosen[:UNITS_SHOWN].sort().values.tolist():
                flows = {"incoming": float(into[unit]), "outgoing": float(out[unit])}
                unit_rows.append({"layer": layer, "unit": unit, **flows})
        layer_rows.append(row)
    return layer_rows, unit_rows


def _require_chain(setting: Setting) -> None:
    if setting.model not in CHAINS:
        raise ConfigurationError(
            "model: conservation is about networks without residual paths; "
            f"choose from: {', '.join(CHAINS)}"
        )
