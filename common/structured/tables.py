"""What a run of filter pruning tells beyond the three tables of every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from common.base import environment
from common.pruning import prunable
from common.results import schema
from common.results.schema import (
    COST,
    DENSE,
    LATENCIES,
    LATENCY_BATCHES,
    MASKED,
    SHAPES,
    SMALL,
)
from common.runs import filter_settings, record
from common.structured import cost as measuring
from common.structured.penalty import PENALTY

if TYPE_CHECKING:
    from common.structured.filter_run import FilterRun

SPARSE = (*schema.EPOCHS, *PENALTY)
FILTERS = ("epoch", "layer", "filter", "norm", "kept")


def describe(run: FilterRun, common: dict[str, str]) -> dict[str, str]:
    """What will run, in words; `common`: what every run tells of itself."""
    experiment, chosen, hyper = run.experiment, run.variant, run.sparse_hyper
    told = dict(common)
    sparsity, threshold = told.pop("sparsity"), experiment.options["threshold"]
    told["training"] = record.training(hyper, hyper.epochs, experiment.batch_size)
    told["penalty"] = "none"
    if chosen.penalised:
        step = "proximal step" if chosen.proximal else "subgradient step"
        told["penalty"] = f"lasso on {chosen.penalised}, λ = {run.penalty.strength:.3g}, {step}"
    if threshold is not None:
        told["removed"] = f"{chosen.removed} whose norm is at most {threshold:g}"
    elif chosen.removed == "weights":
        told["removed"] = f"the smallest weights; sparsity {sparsity}"
    else:
        order = f"by {chosen.by.upper()} norm, {filter_settings.SCOPES[chosen.scope]}"
        told["removed"] = f"channels {order}; sparsity {sparsity}"
    tuning = filter_settings.fine_tuning_hyper(experiment)
    told["fine-tuning"] = f"{experiment.epochs} epochs from {tuning.learning_rate:g}"
    return told


def sparse(run: FilterRun) -> pd.DataFrame:
    """The training with the penalty, a row per epoch: as epochs.csv has it, and the penalty.

    penalty: its value. groups, vanished: how many it has and how many of them are exactly zero.
    norm_*: quantiles of their norms (`Groups.norms`).
    """
    rows = [
        {**trained, **penal}
        for trained, penal in zip(run.sparse.rows, run.shrink.rows, strict=True)
    ]
    return pd.DataFrame(rows, columns=SPARSE)


def filters(run: FilterRun) -> pd.DataFrame:
    """Every channel's norm while the network trains with the penalty, and whether it stays.

    epoch: every one, or 41 evenly spaced ones of more. layer: the first that writes to the channel.
    Empty where the penalty is on single weights.
    """
    if run.variant.penalised == "weights":
        return pd.DataFrame(columns=FILTERS)
    parts = []
    for epoch, norms in run.shrink.snapshots.items():
        for layer, norm in norms.items():
            stays = run.kept[layer] if run.kept else torch.ones(len(norm), dtype=torch.bool)
            columns = {"filter": range(len(norm)), "norm": norm.tolist(), "kept": stays.tolist()}
            parts.append(pd.DataFrame({"epoch": epoch, "layer": layer, **columns}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(norm=[float(f"{norm:.5g}") for norm in table["norm"]])[[*FILTERS]]


def shapes(run: FilterRun) -> pd.DataFrame:
    """What is left of every layer. channels: whose it writes to, the network's outputs if empty.

    filters, filters_kept: how many, before and after. vanished: those whose norm was exactly zero
    when the training with the penalty ended.
    """
    of_layer = {layer: c.name for c in run.channels for layer in c.writers}
    after = prunable(run.small if run.small is not None else run.model)
    lasso = run.variant.penalised == "channels"
    norms = list(run.shrink.snapshots.values())[-1] if lasso else {}
    rows = []
    for name, weight in prunable(run.model).items():
        layer = name.removesuffix(".weight")
        channels = of_layer.get(layer, "")
        gone = int((norms[channels] == 0).sum()) if channels in norms else 0
        shapes = ("x".join(map(str, w.shape)) for w in (weight, after[name]))
        counts = len(weight), len(after[name]), gone
        rows.append(dict(zip(SHAPES, (layer, channels, *shapes, *counts), strict=True)))
    return pd.DataFrame(rows, columns=SHAPES)


def cost(run: FilterRun) -> pd.DataFrame:
    """A row per device and network: accuracies before and after fine-tuning, in percent; what
    `cost.size` counts; milliseconds of a forward pass of 1 and of 128 images."""
    trained = run.sparse.rows[-1]["test_accuracy"]
    ends = [(DENSE, run.trained, trained, None)]
    after = run.history.rows
    fine_tuned = after[-1]["test_accuracy"] if run.experiment.epochs else None
    if run.small is None:
        ends.append((MASKED, run.model, after[0]["test_accuracy"], fine_tuned))
    else:
        ends.append((SMALL, run.small, after[0]["test_accuracy"], fine_tuned))
        other = run.masked_history.rows
        compared = run.experiment.epochs and filter_settings.compares(run.experiment)
        last = other[-1]["test_accuracy"] if compared else None
        ends.append((MASKED, run.masked, other[0]["test_accuracy"], last))
    sizes = {name: measuring.size(model, run.shape) for name, model, *_ in ends}
    rows = []
    for device in dict.fromkeys((torch.device("cpu"), run.conditions.device)):
        networks = measuring.copies({name: model for name, model, *_ in ends}, device)
        times = {
            column: measuring.latency(networks, run.shape, batch, device)
            for column, batch in zip(LATENCIES, LATENCY_BATCHES, strict=True)
        }
        for name, _, accuracy, tuned in ends:
            row = {"device": environment.hardware(device), "network": name, **sizes[name]}
            row |= {"accuracy": accuracy, "accuracy_fine_tuned": tuned}
            rows.append(row | {column: found[name] for column, found in times.items()})
    return pd.DataFrame(rows, columns=COST)
