"""What is told of a run: in words before it starts, in tables when it ends."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from common.base import environment
from common.base.paths import ROOT
from common.base.version import code_version
from common.datasets import Dataset
from common.pruning import Masks, keep_count, kept, prunable
from common.pruning.outside import LOADED
from common.pruning.parameters import prunable_modules
from common.pruning.scores import Scores
from common.results import run_folder, schema
from common.runs import registry
from common.runs.experiment import Experiment
from common.training import parallel
from common.training.callbacks import History
from common.training.protocols import Protocol


@dataclass(frozen=True)
class Conditions:
    """Where, how and when a run is computed."""

    device: torch.device
    precision: str
    started_at: str


def describe(
    experiment: Experiment, conditions: Conditions, model: nn.Module, data: Dataset
) -> dict[str, str]:
    """What will run, in words: {choice: what was chosen}."""
    hyper = experiment.hyper
    prunable_count = sum(weight.numel() for weight in prunable(model).values())
    left = keep_count(prunable_count, experiment.sparsity)
    return {
        "method": " ".join(filter(None, (experiment.method, experiment.variant))),
        "ablation": experiment.ablation,
        "sparsity": f"{experiment.sparsity:g}: {left:,} of {prunable_count:,} weights kept",
        "network": f"{experiment.model}, {hyper.init}, BatchNorm weights {hyper.batchnorm}",
        "data": f"{data.spec.title}: {len(data.train_labels):,} training and "
        f"{len(data.test_labels):,} test images",
        "protocol": f"{hyper.name} ({hyper.source})",
        "training": training(hyper, experiment.epochs, experiment.batch_size),
        "device": f"{_hardware(conditions)}, {conditions.precision}",
        "results": shown(experiment.folder),
    }


def training(hyper: Protocol, epochs: int, batch_size: int) -> str:
    """How a network is trained, in words."""
    parts = hyper.micro_batch and hyper.micro_batch < batch_size
    split = f" ({hyper.micro_batch} images at a time)" if parts else ""
    return (
        f"{epochs} epochs in batches of {batch_size}{split}, SGD {hyper.schedule_in_words()}, "
        f"momentum {hyper.momentum:g}, weight decay {hyper.weight_decay:g}"
    )


def describe_options(experiment: Experiment) -> dict[str, str]:
    """The values of the trial's own parameters, in words."""
    return {
        name.replace("_", " "): "as the protocol has it" if value is None else str(value)
        for name, value in experiment.options.items()
    }


def provenance(experiment: Experiment, conditions: Conditions) -> dict[str, object]:
    """Everything that the result may depend on, for run.json."""
    return {
        "run_id": experiment.run_id,
        "method": experiment.method,
        "parameters": experiment.parameters(),
        **({"score": LOADED[experiment.method].spec} if experiment.method in LOADED else {}),
        "hyperparameters": dataclasses.asdict(experiment.hyper),
        "device": _hardware(conditions),
        "precision": conditions.precision,
        "versions": environment.versions(),
        "code_version": _code_version(experiment),
        "started_at": conditions.started_at,
    }


def _hardware(conditions: Conditions) -> str:
    """The device, how many share the run, and how many runs share a GPU: times and throughput go
    by it."""
    runs = os.environ.get(run_folder.SHARING, "1")
    shared = conditions.device.type == "cuda" and runs != "1"
    several = f", {parallel.size()} processes" * (parallel.size() > 1)
    hardware = environment.hardware(conditions.device)
    return hardware + several + f", shared by {runs} runs" * shared


def layers(model: nn.Module, masks: Masks, scores: Scores, flops: dict[str, int]) -> pd.DataFrame:
    """A row per prunable layer, first to last: the columns of layers.csv.

    scores: of the first round. flops: multiply-adds of the dense layer for one image, by parameter
    name.
    """
    rows = []
    for name, (module, _) in prunable_modules(model).items():
        mask, score = masks[name], scores[name]
        left = int(mask.sum())
        row = {
            "layer": name.removesuffix(".weight"),
            "kind": type(module).__name__,
            "shape": "x".join(map(str, mask.shape)),
            "size": mask.numel(),
            "kept": left,
            "density": left / mask.numel(),
            "score_mean": float(score.mean()),
            "score_std": float(score.std(correction=0)),
            "flops": flops[name],
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=schema.LAYERS)


def summary(
    experiment: Experiment,
    conditions: Conditions,
    layers: pd.DataFrame,
    effective: Masks,
    history: History,
    prune_seconds: float,
) -> dict[str, object]:
    """What came of the run: the columns of summary.csv.

    layers: of the function of that name. effective: masks of the weights on a path from input to
    output. history: of the training after pruning. prune_seconds: from the first score to the final
    mask.
    """
    table, last = layers.to_dict("records"), history.rows[-1]
    size, left = (sum(row[column] for row in table) for column in ("size", "kept"))
    parameters = ("method", "variant", "ablation", "protocol", "dataset", "model", "sparsity")
    return {
        "run_id": experiment.run_id,
        **{name: getattr(experiment, name) for name in (*parameters, "seed", "epochs")},
        "variant": experiment.variant_label,
        "sparsity_actual": 1 - left / size,
        "compression": size / left if left else float("inf"),
        "test_accuracy": last["test_accuracy"],
        "best_test_accuracy": max(row["test_accuracy"] for row in history.rows),
        "train_accuracy": last["train_accuracy"],
        "test_loss": last["test_loss"],
        "layers_collapsed": sum(row["kept"] == 0 for row in table),
        "effective_sparsity": 1 - kept(effective) / size,
        "parameters_prunable": size,
        "parameters_kept": left,
        "flops_dense": sum(row["flops"] for row in table),
        # Every weight of a layer is used equally often, so this is exact.
        "flops_sparse": sum(row["flops"] // row["size"] * row["kept"] for row in table),
        "prune_seconds": prune_seconds,
        "train_seconds": history.seconds,
        "images_per_second": history.images / history.step_seconds if history.images else None,
        "device": _hardware(conditions),
        "precision": conditions.precision,
        "torch_version": torch.__version__,
        "code_version": _code_version(experiment),
        "started_at": conditions.started_at,
    }


def _code_version(experiment: Experiment) -> str:
    """The commit, and beside it the file of a method from outside."""
    method = registry.find_method(experiment.method, experiment.variant)
    return " ".join(filter(None, (code_version(), method.origin)))


def shown(folder: Path) -> str:
    """The folder as people here call it: from the repository on, where it lies in there."""
    inside = folder.is_relative_to(ROOT)
    return str(folder.relative_to(ROOT) if inside else folder)
