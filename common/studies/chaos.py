"""Iterative scoring: how far a mask hangs on rounding, and on how each round is scored.

A system is chaotic where a difference too small to matter grows until it does. Here the system is
the rounds of scoring and pruning, the difference a relative change of the initial weights, and what
it grows to is the share of the mask that is replaced.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from common.base import environment
from common.base.seeding import generator
from common.pruning import Method, find_method, prunable
from common.pruning import masks as masking
from common.pruning.masks import Masks
from common.pruning.rounds import Round, prune_rounds
from common.pruning.scores import Context
from common.studies.conservation import pinned_batchnorm
from common.studies.network import SETTING, Network, Setting
from common.studies.tables import PROVENANCE, Table, layer_rows
from common.training import loop

RELATIVE = 1e-6  # ten roundings of float32


@dataclass(frozen=True)
class Case:
    """A method in so many rounds, and how each round is scored.

    images_per_class: 0 for what the method asks for. batchnorm: `train` or `eval` mode, `none` for
    the method's own. new_images: other scoring images in every round.
    """

    method: str
    variant: str = ""
    iterations: int = 1
    images_per_class: int = 0
    batchnorm: str = "none"
    new_images: bool = False

    def chosen(self) -> Method:
        """The method as it is registered, but for these rounds and images."""
        method = replace(find_method(self.method, self.variant), iterations=self.iterations)
        images = self.images_per_class or method.images_per_class
        return replace(method, images_per_class=images)


# Method, variant: every one that can be scored in rounds, SynFlow and NTK-SAP without data.
METHODS = (
    *(("SNIP", "iterative"), ("SNIP", "force"), ("grasp", ""), ("prospr", "")),
    *(("synflow", ""), ("ntk_sap", "")),
)
TRAINED = (Case("SNIP", "iterative"), Case("SNIP", "iterative", 20))
# What may decide at which compression SNIP empties a layer: each changed alone.
SCORINGS = (
    Case("SNIP", "", 1, 10),
    Case("SNIP", "", 1, 10, "eval"),
    Case("SNIP", "iterative", 10, 1),
    Case("SNIP", "iterative", 100, 1),
    Case("SNIP", "iterative", 100, 1, "eval"),
    Case("SNIP", "iterative", 100, 1, new_images=True),
    Case("SNIP", "force", 100, 1),
    Case("SNIP", "force", 100, 1, "eval"),
)
UNIT = (*vars(Case("")), "exponent", "seed", "relative", *SETTING)
MASKS = (*UNIT, "layer", "size", "kept", "shared", *PROVENANCE)
# Trained with: (the mask of the weights, or of the perturbed ones; which weights are trained)
TRAININGS = (("own", "own"), ("perturbed", "own"), ("own", "perturbed"))
TRAINING = (*UNIT, "mask", "weights", "epochs", "test_accuracy", *PROVENANCE)
_RUN = [name for name in UNIT if name != "seed"]


@torch.no_grad()
def perturb(module: nn.Module, relative: float, stream: torch.Generator) -> None:
    """Every prunable weight w becomes w (1 + relative z), z standard normal."""
    for weight in prunable(module).values():
        noise = torch.randn(weight.shape, generator=stream).to(weight)
        weight.mul_(1 + relative * noise)


def prune(
    network: Network, case: Case, exponents: Sequence[float], relative: float = 0
) -> Iterator[Masks]:
    """The masks at the compressions 10^exponent from the seed's weights, perturbed; all else equal.
    In one round one scoring serves them all."""
    method, scores = case.chosen(), None
    for exponent in exponents:
        module, context = _initial(network, relative), network.context(method)

        def renew(done: Round, context: Context = context) -> None:
            other = replace(network, seed=10_000 * (network.seed + 1) + done.step)
            # The very list that the score reads.
            context.batches[:] = other.context(method).batches

        with pinned_batchnorm(module, case.batchnorm):
            if case.iterations == 1:
                scores = scores or method.score(module, context)
            observe = renew if case.new_images else None
            sparsity = 1 - 10.0**-exponent
            yield prune_rounds(module, method, sparsity, context, first=scores, observe=observe)


def measure(
    path: Path,
    cases: Sequence[Case],
    exponents: Sequence[float],
    seeds: Sequence[int],
    relatives: Sequence[float] = (0.0, RELATIVE),
    *,
    setting: Setting,
) -> None:
    """What each layer keeps at 10^exponent from perturbed weights, and how much of that is `shared`
    with the mask of the first of `relatives`, into the table `path`."""
    table = Table(path, MASKS, UNIT)
    for seed, case in itertools.product(seeds, cases):
        unit = {**vars(case), "seed": seed, **setting.names()}
        wanted = itertools.product(exponents, relatives)
        if all(table.has(**unit, exponent=at, relative=size) for at, size in wanted):
            continue
        network, first = setting.network(seed), {}
        for relative in relatives:
            pruned = prune(network, case, exponents, relative)
            for exponent, masks in zip(exponents, pruned, strict=True):
                own = first.setdefault(exponent, masks)
                fixed = {**unit, "exponent": exponent, "relative": relative, **setting.columns()}
                shared = [int((mask & own[name]).sum()) for name, mask in masks.items()]
                rows = zip(layer_rows(masks), shared, strict=True)
                table.add({**fixed, **row, "shared": both} for row, both in rows)


def measure_training(
    path: Path,
    cases: Sequence[Case],
    exponent: float,
    seeds: Sequence[int],
    relative: float = RELATIVE,
    *,
    setting: Setting,
) -> None:
    """Test accuracy of every one of TRAININGS, by the protocol, into the table `path`: what another
    mask makes of the same weights, and what the same perturbation of the weights alone makes."""
    table = Table(path, TRAINING, (*UNIT, "mask", "weights"))
    for seed, case in itertools.product(seeds, cases):
        unit = {**vars(case), "exponent": exponent, "seed": seed, **setting.names()}
        unit |= {"relative": relative}
        if all(table.has(**unit, mask=mask, weights=weights) for mask, weights in TRAININGS):
            continue
        network = setting.network(seed)
        by = {"own": 0.0, "perturbed": relative}
        masks = {name: next(prune(network, case, [exponent], at)) for name, at in by.items()}
        for mask, weights in TRAININGS:
            accuracy = _trained(network, _initial(network, by[weights]), masks[mask])
            fixed = {**unit, **setting.columns(), "epochs": network.hyper.epochs}
            table.add([{**fixed, "mask": mask, "weights": weights, "test_accuracy": accuracy}])


def replaced(masks: pd.DataFrame) -> pd.DataFrame:
    """Per perturbed mask: `replaced`, the share of its weights that the unperturbed one does not
    keep, `chance`, the share if each layer's were drawn at random, and `density_change`, the
    largest change of a layer's density as a share of that density."""
    rows = masks.assign(kept_first=_unperturbed(masks)["kept"])
    rows["lots"] = rows["kept"] * rows["kept_first"] / rows["size"]
    rows["change"] = (rows["kept"] - rows["kept_first"]).abs() / rows["kept_first"].clip(lower=1)
    rows = rows[rows["relative"] > 0].groupby([*_RUN, "seed"], sort=False)
    sums = rows[["kept", "shared", "lots"]].sum()
    found = pd.DataFrame(
        {
            "replaced": 1 - sums["shared"] / sums["kept"],
            "chance": 1 - sums["lots"] / sums["kept"],
            "density_change": rows["change"].max(),
        }
    )
    return found.reset_index()


def collapsed(masks: pd.DataFrame) -> pd.DataFrame:
    """Per mask: the layers without a weight."""
    dead = masks.assign(collapsed=masks["kept"] == 0).groupby([*_RUN, "seed"], sort=False)
    return dead["collapsed"].sum().reset_index()


def accuracy_changes(training: pd.DataFrame) -> pd.DataFrame:
    """Per case and seed: test accuracy, and the points by which it changes with the `mask` of
    perturbed weights, and with perturbed `weights` under the same mask."""
    keys = [name for name in UNIT if name not in ("mask", "weights")]
    wide = training.set_index([*keys, "mask", "weights"])["test_accuracy"]
    wide = wide.unstack(["mask", "weights"])
    own, mask, weights = (wide[kind] for kind in TRAININGS)
    found = pd.DataFrame({"test_accuracy": own, "mask": mask - own, "weights": weights - own})
    return found.reset_index()


def _initial(network: Network, relative: float) -> nn.Module:
    module = network.fresh()
    perturb(module, relative, generator(network.seed, "perturbation"))
    return module


def _trained(network: Network, module: nn.Module, masks: Masks) -> float:
    masking.apply(module, masks)
    hyper = network.hyper
    precision = environment.resolve_precision(hyper.precision, network.device)
    loaders = network.loaders(hyper.batch_size)
    history = loop.train(module, masks, *loaders, hyper, hyper.epochs, precision)
    return history.rows[-1]["test_accuracy"]


def _unperturbed(masks: pd.DataFrame) -> pd.DataFrame:
    """Of each row the one of the same layer without perturbation."""
    keys = [name for name in (*UNIT, "layer") if name != "relative"]
    first = masks[masks["relative"] == 0].set_index(keys)
    found = first.loc[pd.MultiIndex.from_frame(masks[keys])]
    return found.set_index(masks.index)
