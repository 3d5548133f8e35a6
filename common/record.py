"""What is told of a run: in words before it starts, in tables when it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from common import environment, results
from common.callbacks import History
from common.datasets import Dataset
from common.environment import ROOT
from common.experiment import Experiment
from common.pruning import Masks, diagnostics, keep_count, kept, prunable
from common.pruning.parameters import prunable_modules
from common.pruning.scores import Scores


class Record:
    """What is known of a run, step by step, and how it is told.

    scores: of the first round. masks: the final ones. history: of the training after pruning.
    prune_seconds: from the first score to the final mask. moved: where an earlier finished result
    of the same run was moved to, if there was one.
    """

    experiment: Experiment
    started_at: str
    device: torch.device
    precision: str
    data: Dataset
    model: nn.Module
    moved: Path | None = None
    scores: Scores | None = None
    masks: Masks | None = None
    history: History | None = None
    prune_seconds: float = 0.0

    def describe(self) -> dict[str, str]:
        """What will run, in words: {choice: what was chosen}."""
        experiment, hyper = self.experiment, self.experiment.hyper
        prunable_count = sum(weight.numel() for weight in prunable(self.model).values())
        left = keep_count(prunable_count, experiment.sparsity)
        rows = {
            "method": " ".join(filter(None, (experiment.method, experiment.variant))),
            "ablation": experiment.ablation,
            "sparsity": f"{experiment.sparsity:g}: {left:,} of {prunable_count:,} weights kept",
            "network": f"{experiment.model}, {hyper.init}, BatchNorm weights {hyper.batchnorm}",
            "data": f"{self.data.spec.title}: {len(self.data.train_labels):,} training and "
            f"{len(self.data.test_labels):,} test images",
            "protocol": f"{hyper.name} ({hyper.source})",
            "training": f"{experiment.epochs} epochs in batches of {experiment.batch_size}, SGD "
            f"{hyper.described()}, "
            f"momentum {hyper.momentum:g}, weight decay {hyper.weight_decay:g}",
            "device": f"{environment.hardware(self.device)}, {self.precision}",
            "results": _shown(experiment.folder),
        }
        for name, value in experiment.options.items():
            rows[name.replace("_", " ")] = "as the protocol has it" if value is None else str(value)
        if self.moved:
            rows["earlier result"] = f"moved to {_shown(self.moved)}"
        return rows

    def provenance(self) -> dict[str, object]:
        """Everything that the result may depend on, for run.json."""
        experiment = self.experiment
        return {
            "run_id": experiment.run_id,
            "method": experiment.method,
            "parameters": experiment.parameters(),
            "hyperparameters": dataclasses.asdict(experiment.hyper),
            "device": environment.hardware(self.device),
            "precision": self.precision,
            "versions": environment.versions(),
            "code_version": environment.code_version(),
            "started_at": self.started_at,
        }

    def layers(self) -> pd.DataFrame:
        """A row per prunable layer, first to last: the columns of layers.csv.

        score_mean, score_std: of the first round's scores; flops: multiply-adds of the dense
        layer for one image.
        """
        flops = diagnostics.multiply_adds(self.model, self.data.spec.shape)
        rows = []
        for name, (module, _) in prunable_modules(self.model).items():
            mask, score = self.masks[name], self.scores[name]
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
        return pd.DataFrame(rows, columns=results.LAYERS)

    def summary(self) -> dict[str, object]:
        """What came of the run: the columns of summary.csv."""
        experiment, history = self.experiment, self.history
        table, last = self.layers().to_dict("records"), history.rows[-1]
        size, left = (sum(row[column] for row in table) for column in ("size", "kept"))
        effective = diagnostics.effective_masks(self.model, self.masks, self.data.spec.shape)
        parameters = ("method", "variant", "ablation", "protocol", "dataset", "model", "sparsity")
        return {
            "run_id": experiment.run_id,
            **{name: getattr(experiment, name) for name in (*parameters, "seed", "epochs")},
            "variant": experiment.variant_told,
            "sparsity_actual": 1 - left / size,
            "compression": size / left if left else float("inf"),
            "test_accuracy": last["test_accuracy"],
            "best_test_accuracy": max(row["test_accuracy"] for row in history.rows),
            "train_accuracy": last["train_accuracy"],
            "test_loss": last["test_loss"],
            "layers_collapsed": len(diagnostics.collapsed_layers(self.masks)),
            "effective_sparsity": 1 - kept(effective) / size,
            "parameters_prunable": size,
            "parameters_kept": left,
            "flops_dense": sum(row["flops"] for row in table),
            # Every weight of a layer is used equally often, so this is exact.
            "flops_sparse": sum(row["flops"] // row["size"] * row["kept"] for row in table),
            "prune_seconds": self.prune_seconds,
            "train_seconds": history.seconds,
            "images_per_second": history.images / history.step_seconds if history.images else None,
            "device": environment.hardware(self.device),
            "precision": self.precision,
            "torch_version": torch.__version__,
            "code_version": environment.code_version(),
            "started_at": self.started_at,
        }


def _shown(folder: Path) -> str:
    """The folder as people here call it: from the repository on, where it lies in there."""
    inside = folder.is_relative_to(ROOT)
    return str(folder.relative_to(ROOT) if inside else folder)
